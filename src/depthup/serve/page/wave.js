// The shape of a sound on a canvas: grows while recorded, shows and sets the position when played.

import { short } from "/page/transcript.js";

const COLUMNS = 1200;

export class Wave {
  constructor(canvas, onSeek) {
    this.canvas = canvas;
    this.onSeek = onSeek;
    this.reset();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    const seek = (event) => {
      const box = canvas.getBoundingClientRect();
      if (this.seconds) onSeek(this.seconds * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      seek(event);
    });
    canvas.addEventListener("pointermove", (event) => event.buttons && seek(event));
    canvas.addEventListener("keydown", (event) => {
      const to = {
        ArrowLeft: this.at - 2, ArrowDown: this.at - 2, ArrowRight: this.at + 2, ArrowUp: this.at + 2,
        PageDown: this.at - 10, PageUp: this.at + 10, Home: 0, End: this.seconds,
      }[event.key];
      if (to === undefined || !this.seconds) return;
      event.preventDefault();
      onSeek(Math.min(this.seconds, Math.max(0, to)));
    });
  }

  reset() {
    this.peaks = [];
    this.per = 0.02; // seconds in each peak, doubled when there are too many
    this.part = { peak: 0, seconds: 0 };
    this.seconds = 0;
    this.at = 0;
    this.draw();
  }

  push(samples, rate) {
    let from = 0;
    while (from < samples.length) {
      const count = Math.min(samples.length - from, Math.max(1, Math.ceil((this.per - this.part.seconds) * rate)));
      for (let i = from; i < from + count; i++) this.part.peak = Math.max(this.part.peak, Math.abs(samples[i]));
      this.part.seconds += count / rate;
      from += count;
      if (this.part.seconds < this.per - 1e-9) break;
      this.peaks.push(this.part.peak);
      this.part = { peak: 0, seconds: 0 };
      if (this.peaks.length > COLUMNS) {
        this.peaks = this.peaks.filter((_, i) => i % 2 === 0).map((p, i) => Math.max(p, this.peaks[2 * i + 1] || 0));
        this.per *= 2;
      }
    }
    this.seconds += samples.length / rate;
    this.draw();
  }

  show(at) {
    this.at = at;
    this.canvas.setAttribute("aria-valuemax", this.seconds.toFixed(1));
    this.canvas.setAttribute("aria-valuenow", at.toFixed(1));
    this.canvas.setAttribute("aria-valuetext", `${short(at)} of ${short(this.seconds)}`);
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const scale = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !this.peaks) return;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const ink = canvas.getContext("2d");
    ink.scale(scale, scale);
    const style = getComputedStyle(canvas);
    const [done, left] = [style.getPropertyValue("--accent"), style.getPropertyValue("--wave")];
    const step = 4;
    const bars = Math.floor(width / step);
    const loudest = Math.max(0.05, ...this.peaks);
    for (let bar = 0; bar < bars; bar++) {
      const [first, end] = [bar, bar + 1].map((n) => Math.floor((n * this.peaks.length) / bars));
      const peak = this.peaks.length ? Math.max(0, ...this.peaks.slice(first, Math.max(end, first + 1))) / loudest : 0;
      const tall = Math.max(3, peak * (height - 6));
      ink.fillStyle = this.seconds && bar / bars <= this.at / this.seconds && this.at > 0 ? done : left;
      if (!this.peaks.length) ink.fillStyle = left;
      ink.beginPath();
      ink.roundRect(bar * step, (height - tall) / 2, step - 1.5, tall, 1.2);
      ink.fill();
    }
  }
}
