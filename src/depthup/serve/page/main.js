// The page: microphone or file in, words out, and a chat beside them.

import { Refused, key, models, setKey, transcribe } from "/page/api.js";
import { Chat } from "/page/chat.js";
import { Microphone } from "/page/microphone.js";
import { toPcm, toWav } from "/page/sound.js";
import { FORMATS, Transcript, short } from "/page/transcript.js";
import { Wave } from "/page/wave.js";

const at = (id) => document.getElementById(id);
const audio = at("audio");
const LARGEST = 60e6; // bytes of a file whose shape is drawn; a browser decodes it whole
const HEARD_RATE = 16000;

let model = null;
let microphone = null;
let transcribing = null;
let wav = null; // what was heard, for the chat: a promise of a blob
let until = Infinity; // where a word that is played ends

const transcript = new Transcript(at("transcript"), (start, end) => {
  if (!audio.src) return;
  until = end + 0.05;
  audio.currentTime = Math.max(0, start - 0.03);
  audio.play();
});
const wave = new Wave(at("wave"), (seconds) => {
  if (!audio.src) return;
  audio.currentTime = seconds;
  tick();
});
const chat = new Chat(
  { messages: at("messages"), form: at("form"), question: at("question"), about: at("about"), forgetButton: at("forget") },
  () => model.id,
  () => ({ text: transcript.text, wav: () => wav }),
);

function say(text, wrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("wrong", wrong);
}

function wrong(error) {
  if (error.name === "AbortError") return say("Stopped.");
  if (error.name === "NotAllowedError") return say("The browser does not let this page hear the microphone.", true);
  if (error instanceof Refused && error.status === 401) return askKey();
  say(error.message, true);
}

function refresh() {
  const any = transcript.segments.length > 0;
  for (const button of document.querySelectorAll(".actions button:not(#stop)")) button.disabled = !any;
  at("about").querySelector("[value=text]").disabled = !any;
  at("about").querySelector("[value=sound]").disabled = !wav;
  at("stop").hidden = !transcribing;
  at("record").disabled = !model || !!transcribing;
  at("record").setAttribute("aria-pressed", String(!!microphone));
  at("record-label").textContent = microphone ? "Stop" : "Record";
  at("play").disabled = !audio.src || !!microphone;
}

function begin() {
  audio.pause();
  if (audio.src) URL.revokeObjectURL(audio.src);
  audio.removeAttribute("src");
  wav = null;
  transcript.clear();
  wave.reset();
  at("about").value = "";
}

function playFrom(blob) {
  audio.src = URL.createObjectURL(blob);
  wave.show(0);
}

async function record() {
  begin();
  const parts = [];
  const on = {
    partial: (text) => transcript.write(text),
    segment: (segment) => (transcript.add(segment), refresh()),
    wrong: (message) => say(message, true),
    lost: () => stopRecording(true),
    samples: (samples, pcm, rate) => {
      parts.push(pcm);
      wave.push(samples, rate);
      at("clock").textContent = short(wave.seconds);
    },
  };
  microphone = new Microphone(on);
  microphone.parts = parts;
  say("Opening the microphone …");
  refresh();
  try {
    await microphone.start();
    say("Listening. Speak, and pause when you are done with a sentence.");
  } catch (error) {
    microphone = null;
    wrong(error);
  }
  refresh();
}

// `lost` where the server went away first.
async function stopRecording(lost = false) {
  const ended = microphone;
  microphone = null;
  say("Writing the last words …");
  refresh();
  await ended.stop();
  transcript.write("");
  const blob = toWav(ended.parts, ended.rate);
  wav = Promise.resolve(blob);
  playFrom(blob);
  if (lost) say("The server ended the session; the last words were not written down.", true);
  else say(transcript.segments.length ? "Done. Click a word to hear it." : "Nothing was said.");
  refresh();
}

// The file's sound as the model hears it, mono at its rate.
async function decoded(file) {
  const context = new OfflineAudioContext(1, 1, HEARD_RATE);
  const sound = await context.decodeAudioData(await file.arrayBuffer());
  const mono = new Float32Array(sound.length);
  for (let c = 0; c < sound.numberOfChannels; c++) {
    const channel = sound.getChannelData(c);
    for (let i = 0; i < mono.length; i++) mono[i] += channel[i] / sound.numberOfChannels;
  }
  return mono;
}

async function draw(file) {
  if (file.size > LARGEST) return;
  try {
    const mono = await decoded(file);
    wave.push(mono, HEARD_RATE);
    wave.show(0);
    wav = Promise.resolve(toWav([toPcm(mono)], HEARD_RATE));
    refresh();
  } catch {
    // A browser that cannot decode the file can neither draw nor play it; the server may still read it.
  }
}

async function open(file) {
  if (microphone || !model) return;
  transcribing?.abort();
  begin();
  transcribing = new AbortController();
  playFrom(file);
  draw(file);
  say(`Hearing ${file.name} …`);
  refresh();
  let text = "";
  let shown = 0;
  try {
    for await (const event of transcribe(file, model.id, transcribing.signal)) {
      if (event.type === "transcript.text.delta") text += event.delta;
      if (event.type === "transcript.text.segment") {
        transcript.add(event);
        shown = transcript.text.length;
        refresh();
      }
      transcript.write(text.slice(shown).trim());
      if (event.type === "transcript.text.done") say(event.text ? "Done. Click a word to hear it." : "Nothing was said.");
    }
  } catch (error) {
    wrong(error);
  } finally {
    transcript.write("");
    transcribing = null;
    refresh();
  }
}

function tick() {
  wave.show(audio.currentTime);
  transcript.follow(audio.currentTime);
  const length = Number.isFinite(audio.duration) ? ` / ${short(audio.duration)}` : "";
  at("clock").textContent = short(audio.currentTime) + length;
  if (audio.currentTime >= until) {
    audio.pause();
    until = Infinity;
  }
  if (!audio.paused) requestAnimationFrame(tick);
}

function askKey() {
  at("key").hidden = false;
  const given = prompt("This server wants a key.", key());
  if (given !== null) {
    setKey(given.trim());
    connect();
  } else say("This server wants a key.", true);
}

async function connect() {
  try {
    [model] = await models();
    at("model").textContent = model.id;
    if (!model.chat) {
      at("form").hidden = true;
      at("messages").firstElementChild.textContent = "The base of this model has no chat template; it transcribes.";
    }
    say("");
  } catch (error) {
    wrong(error);
  }
  refresh();
}

at("record").addEventListener("click", () => (microphone ? stopRecording() : record()));
at("file").addEventListener("change", ({ target }) => {
  if (target.files.length) open(target.files[0]);
  target.value = "";
});
at("stop").addEventListener("click", () => transcribing?.abort());
at("key").addEventListener("click", askKey);
at("play").addEventListener("click", () => {
  until = Infinity;
  if (audio.paused) audio.play();
  else audio.pause();
});
at("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(FORMATS.txt(transcript.segments));
  say("Copied.");
});
for (const button of document.querySelectorAll("[data-format]")) {
  button.addEventListener("click", () => {
    const text = FORMATS[button.dataset.format](transcript.segments);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = `transcript.${button.dataset.format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}
const SHAPES = { play: "M8 5v14l11-7z", pause: "M7 5h4v14H7zM14 5h4v14h-4z" };
for (const name of ["play", "pause"]) {
  audio.addEventListener(name, () => {
    at("play-shape").setAttribute("d", name === "play" ? SHAPES.pause : SHAPES.play);
    at("play").setAttribute("aria-label", name === "play" ? "Pause" : "Play");
    tick();
  });
}
for (const name of ["seeked", "loadedmetadata"]) audio.addEventListener(name, tick);
addEventListener("keydown", (event) => {
  if (event.altKey && event.code === "KeyR" && !at("record").disabled) {
    event.preventDefault();
    at("record").click();
  }
});
for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    at("hear").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
}
connect();
