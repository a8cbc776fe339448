// What was said: segments of words with times, shown, followed while they are heard, and kept as files.

const clock = (seconds, point) => {
  const ms = Math.round(seconds * 1000);
  const pad = (n, width = 2) => String(n).padStart(width, "0");
  const whole = Math.floor(ms / 1000);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60].map((n) => pad(n));
  return `${parts.join(":")}${point}${pad(ms % 1000, 3)}`;
};
export const short = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

export const FORMATS = {
  txt: (segments) => segments.map((s) => s.text).join("\n") + "\n",
  srt: (segments) =>
    segments.map((s, n) => `${n + 1}\n${clock(s.start, ",")} --> ${clock(s.end, ",")}\n${s.text}\n`).join("\n"),
  vtt: (segments) =>
    "WEBVTT\n\n" +
    segments
      .map((s) => `${clock(s.start, ".")} --> ${clock(s.end, ".")}\n${s.text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;")}\n`)
      .join("\n"),
};

export class Transcript {
  constructor(place, onWord) {
    this.place = place;
    this.onWord = onWord;
    this.placeholder = place.firstElementChild;
    place.addEventListener("keydown", (event) => this.move(event));
    this.clear();
  }

  clear() {
    this.segments = [];
    this.words = [];
    this.coming = null;
    this.place.replaceChildren(this.placeholder);
  }

  get text() {
    return this.segments.map((segment) => segment.text).join(" ");
  }

  // Text that is being written and may still change.
  write(text) {
    if (!text && !this.coming) return;
    if (!this.coming) {
      this.coming = document.createElement("p");
      this.coming.className = "segment coming";
    }
    this.coming.textContent = text;
    if (text) this.show(this.coming);
    else this.coming.remove();
  }

  add(segment) {
    if (!segment.text) return;
    const line = document.createElement("p");
    line.className = "segment";
    const time = document.createElement("time");
    time.textContent = short(segment.start);
    const body = document.createElement("span");
    if (segment.flagged) {
      body.className = "doubtful";
      body.title = "Here the model may have written what was not said";
    }
    const timed = segment.words && segment.words.length ? segment.words : [{ word: segment.text, ...segment }];
    for (const word of timed) body.append(this.button(word, segment), " ");
    line.append(time, body);
    this.segments.push(segment);
    this.show(line, this.coming && this.coming.isConnected ? this.coming : null);
  }

  button(word, segment) {
    const button = document.createElement("button");
    button.className = "word";
    button.textContent = word.word;
    button.tabIndex = this.words.length ? -1 : 0;
    button.setAttribute("aria-label", `${word.word}, ${short(word.start)}`);
    button.addEventListener("click", () => this.onWord(word.start, word.end));
    this.words.push({ button, start: word.start, end: word.end, segment });
    return button;
  }

  show(line, before = null) {
    this.placeholder.remove();
    const atEnd = this.place.scrollHeight - this.place.scrollTop - this.place.clientHeight < 60;
    this.place.insertBefore(line, before);
    if (atEnd) this.place.scrollTop = this.place.scrollHeight;
  }

  follow(seconds) {
    for (const { button, start, end } of this.words) button.classList.toggle("now", start <= seconds && seconds < end);
  }

  // One word is reached by Tab, the others by arrows.
  move(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const at = this.words.findIndex(({ button }) => button === document.activeElement);
    const next = this.words[at + step];
    if (at < 0 || !next) return;
    event.preventDefault();
    this.words[at].button.tabIndex = -1;
    next.button.tabIndex = 0;
    next.button.focus();
  }
}
