// A conversation beside the transcript.

import { chat } from "/page/api.js";
import { blobToBase64 } from "/page/sound.js";

export class Chat {
  // `recording` gives { text, wav() } of what was heard last; `model` its name.
  constructor(page, model, recording) {
    Object.assign(this, { ...page, model, recording });
    this.placeholder = this.messages.firstElementChild;
    this.forget();
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    this.question.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.form.requestSubmit();
      }
    });
    this.forgetButton.addEventListener("click", () => this.forget());
  }

  forget() {
    this.running?.abort();
    this.said = [];
    this.messages.replaceChildren(this.placeholder);
  }

  show(role, text, note = "") {
    this.placeholder.remove();
    const bubble = document.createElement("div");
    bubble.className = `message ${role}`;
    bubble.textContent = text;
    if (note) bubble.append(Object.assign(document.createElement("small"), { textContent: note }));
    this.messages.append(bubble);
    this.messages.scrollTop = this.messages.scrollHeight;
    return bubble;
  }

  async content(text) {
    const about = this.about.value;
    if (about === "text") return [`${text}\n\n${this.recording().text}`, "with the transcript"];
    if (about !== "sound") return [text, ""];
    const data = await blobToBase64(await this.recording().wav());
    return [[{ type: "text", text: `${text}\n` }, { type: "input_audio", input_audio: { data, format: "wav" } }], "with the recording"];
  }

  async ask() {
    const text = this.question.value.trim();
    if (!text || this.running) return;
    this.running = new AbortController();
    this.question.value = "";
    let bubble;
    try {
      const [content, note] = await this.content(text);
      this.show("user", text, note);
      bubble = this.show("assistant waiting", "");
      const messages = [...this.said, { role: "user", content }];
      let answer = "";
      for await (const more of chat(messages, this.model(), this.running.signal)) {
        bubble.textContent = answer += more;
        this.messages.scrollTop = this.messages.scrollHeight;
      }
      this.said = [...messages, { role: "assistant", content: answer }];
      this.about.value = "";
    } catch (error) {
      if (bubble && !bubble.textContent) bubble.remove();
      if (error.name !== "AbortError") this.show("wrong", error.message);
    } finally {
      bubble?.classList.remove("waiting");
      this.running = null;
    }
  }
}
