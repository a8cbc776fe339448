// A live session: microphone to server, and what the server hears back.

import { realtime } from "/page/api.js";
import { toBase64, toPcm } from "/page/sound.js";

const EVENT = "conversation.item.input_audio_transcription.";

export class Microphone {
  // `on` has partial(text), segment(segment), samples(float32, rate), wrong(message), and lost() where the session
  // ends before it is stopped.
  constructor(on) {
    this.on = on;
    this.waiting = 0;
  }

  async start() {
    try {
      await this.open();
    } catch (error) {
      await this.release();
      throw error;
    }
    this.listening = true;
  }

  async open() {
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, autoGainControl: true } });
    this.context = new AudioContext();
    if (this.context.sampleRate > 48000) {
      await this.context.close();
      this.context = new AudioContext({ sampleRate: 48000 });
    }
    this.rate = this.context.sampleRate;
    await this.context.audioWorklet.addModule("/page/recorder.js");
    await this.connect();
    const source = this.context.createMediaStreamSource(this.stream);
    this.node = new AudioWorkletNode(this.context, "recorder");
    this.node.port.onmessage = ({ data }) => this.take(data);
    source.connect(this.node);
  }

  connect() {
    this.socket = realtime();
    this.socket.onmessage = ({ data }) => this.hear(JSON.parse(data));
    this.closed = new Promise((done) => (this.socket.onclose = done));
    this.closed.then(() => this.listening && this.on.lost());
    return new Promise((opened, failed) => {
      this.socket.onopen = () => {
        const input = { format: { type: "audio/pcm", rate: this.rate } };
        this.send({ type: "session.update", session: { type: "transcription", audio: { input } } });
        opened();
      };
      this.socket.onerror = () => failed(new Error("the server does not take a microphone now"));
    });
  }

  send(event) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(event));
  }

  take(samples) {
    const pcm = toPcm(samples);
    this.send({ type: "input_audio_buffer.append", audio: toBase64(new Uint8Array(pcm.buffer)) });
    this.on.samples(samples, pcm, this.rate);
  }

  hear(event) {
    if (event.type === EVENT + "partial") this.on.partial(event.transcript);
    if (event.type === "input_audio_buffer.committed") this.waiting++;
    if (event.type === EVENT + "failed") this.on.wrong(event.error.message);
    if (event.type === EVENT + "completed") {
      const words = event.words || [];
      const [first, last] = [words[0], words[words.length - 1]];
      this.on.partial("");
      this.on.segment({ text: event.transcript, words, start: event.start, end: event.end, first, last });
    }
    if ((event.type === EVENT + "completed" || event.type === EVENT + "failed") && --this.waiting === 0) this.settled?.();
    if (event.type === "error" && event.error.code !== "input_audio_buffer_commit_empty") this.on.wrong(event.error.message);
    if (event.type === "error" && event.error.code === "input_audio_buffer_commit_empty" && !this.waiting) this.settled?.();
  }

  async release() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.node?.disconnect();
    await this.context?.close();
  }

  // Ends the recording at once and the session when the last words are there.
  async stop() {
    this.listening = false;
    await this.release();
    const settled = new Promise((done) => (this.settled = done));
    this.send({ type: "input_audio_buffer.commit" });
    await Promise.race([settled, this.closed]);
    this.socket.close();
  }
}
