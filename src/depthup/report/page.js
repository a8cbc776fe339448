"use strict";
// Draws the pictures from the data in the page. Names reach the page as text only, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs;
const names = (part) => Object.keys(runs[0][part]);
const find = (selector) => document.querySelector(selector);

// ------------------------------------------------------------------------------------------------- small helpers

const COLORS = { full: "full", lora: "lora", depth_upscale: "depth_upscale", "depth_upscale+lora": "hybrid" };
const color = (run) => `var(--${COLORS[run.method] ?? "other"})`;
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const number = (value) => (Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3)));
const percent = (fraction) => `${(100 * fraction).toFixed(1)} %`;
const range = ([low, high]) => `${(100 * low).toFixed(1)} to ${percent(high)}`;
const kind = (run) =>
  [run.method ?? "method unknown", run.speech_only && "speech only", run.layer, run.layer && `scope ${run.scope}`].filter(Boolean).join(", ");

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function html(name, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(name), attributes);
  node.append(...children);
  return node;
}

const canvas = document.createElement("canvas").getContext("2d");
function textWidth(text) {
  canvas.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  return canvas.measureText(text).width;
}

// As much of a text as fits into so many pixels.
function shorten(text, width) {
  if (textWidth(text) <= width) return text;
  let kept = text.length;
  while (kept && textWidth(`${text.slice(0, kept)}…`) > width) kept--;
  return `${text.slice(0, kept)}…`;
}

const tip = find("#tip");
function explain(node, text) {
  const show = (x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = `${clamp(x + 14, 4, innerWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${y + 18 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 10 : y + 18}px`;
  };
  node.setAttribute("tabindex", 0);
  node.setAttribute("aria-label", text);
  node.setAttribute("role", "img");
  node.classList.add("mark");
  node.addEventListener("pointermove", (event) => show(event.clientX, event.clientY));
  node.addEventListener("focus", () => show(node.getBoundingClientRect().right, node.getBoundingClientRect().top));
  for (const end of ["pointerleave", "blur"]) node.addEventListener(end, () => (tip.hidden = true));
  return node;
}

function marker(run, x, y, size = 7) {
  const look = { fill: color(run), stroke: "var(--card)", "stroke-width": 1.5 };
  if (run.layer === "transformer") return svg("rect", { x: x - size + 1, y: y - size + 1, width: 2 * size - 2, height: 2 * size - 2, ...look });
  if (run.layer) return svg("path", { d: `M${x} ${y - size - 1}l${size + 1} ${2 * size}h${-2 * size - 2}z`, ...look });
  return svg("circle", { cx: x, cy: y, r: size, ...look });
}

// A choice above a picture; nothing where there is nothing to choose.
function choice(label, options, redraw) {
  if (options.length < 2) return "";
  const select = html("select", {}, ...options.map((option, i) => html("option", { value: i }, option.name)));
  select.addEventListener("change", () => redraw(options[select.value]));
  return html("label", {}, `${label} `, select);
}

const drawings = []; // what must be drawn again when the width changes
let resizing, drawnWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === drawnWidth) return; // a phone's address bar comes and goes
  drawnWidth = innerWidth;
  clearTimeout(resizing);
  resizing = setTimeout(() => drawings.forEach((draw) => draw()), 120);
});

// -------------------------------------------------------------------------------------------------------- scales

// From sizes >= 0 to [0, 1]. Logarithmic above the smallest one where a linear axis would crowd the small ones.
function scale(values) {
  const sizes = values.filter((value) => value > 0);
  const top = 1.06 * Math.max(...sizes, sizes.length ? 0 : 1);
  const least = Math.max(Math.min(...sizes), top / 1000);
  const log = sizes.length > 0 && top / least > 30;
  const at = log ? (value) => Math.log1p(value / least) / Math.log1p(top / least) : (value) => value / top;
  const decade = 10 ** Math.floor(Math.log10(top / 5));
  const step = decade * [1, 2, 5, 10].find((factor) => top / (factor * decade) <= 7);
  let candidates = Array.from({ length: sizes.length ? Math.floor(top / step) + 1 : 1 }, (_, i) => i * step);
  if (log) {
    const decades = Array.from({ length: 8 }, (_, i) => 10 ** (Math.floor(Math.log10(top)) - 7 + i));
    candidates = [0, ...decades.flatMap((ten) => [ten, 3 * ten]).filter((tick) => tick >= least / 2 && tick <= top)];
  }
  const ticks = candidates.filter((tick, i) => i === 0 || !log || at(tick) > 0.09);
  return { at, ticks, log };
}

// -------------------------------------------------------------------------------------------------------- groups

const MOST_VALUES = 12;

function groups() {
  const options = names("asr").flatMap((test) => {
    const fields = new Set(runs.flatMap((run) => Object.keys(run.asr[test]?.groups ?? {})));
    return [...fields].map((field) => ({ name: `${field}, ${test}`, get: (run) => run.asr[test]?.groups?.[field] }));
  }).filter(({ get }) => runs.some((run) => Object.keys(get(run)?.values ?? {}).length > 1));
  if (!options.length) return find("#groups").remove();
  let [chosen] = options;
  const controls = html("div", { className: "controls" }, choice("by", options, (option) => { chosen = option; draw(); }));
  const host = html("div"), said = html("p", { className: "quiet" });
  find("#groups .card").append(controls, host, said);

  function draw() {
    const rows = runs.filter((run) => chosen.get(run)).map((run) => {
      const found = chosen.get(run);
      const sorted = Object.entries(found.values).sort((a, b) => a[1].wer - b[1].wer);
      const values = sorted.length > MOST_VALUES ? [...sorted.slice(0, MOST_VALUES / 2), ...sorted.slice(-MOST_VALUES / 2)] : sorted;
      return { run, found, values, count: sorted.length };
    });
    const width = host.clientWidth, lane = 8, left = 8, right = width - 14;
    const axis = scale(rows.flatMap(({ values }) => values.flatMap(([, value]) => [100 * value.wer, 100 * value.interval[1]])));
    const x = (fraction) => left + (right - left) * axis.at(100 * fraction);
    const height = rows.reduce((sum, { values }) => sum + 32 + lane * values.length, 34);
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    const grid = svg("g", { class: "axis" });
    for (const tick of axis.ticks)
      grid.append(svg("line", { x1: x(tick / 100), x2: x(tick / 100), y1: 0, y2: height - 30 }), svg("text", { x: x(tick / 100), y: height - 16, "text-anchor": tick ? "middle" : "start" }, number(tick)));
    grid.append(svg("text", { x: right, y: height - 2, "text-anchor": "end" }, `WER (%)${axis.log ? ", log scale" : ""}`));
    picture.append(grid);
    let top = 0;
    for (const { run, found, values, count } of rows) {
      const gap = `gap ${(100 * found.gap).toFixed(1)}`, whole = `${gap} points: ${found.best} to ${found.worst}`;
      const room = right - left - textWidth(run.label) - 20;
      picture.append(svg("text", { x: left, y: top + 15, class: "halo", "font-weight": 600 }, shorten(run.label, 0.8 * (right - left - textWidth(gap) - 10))));
      picture.append(svg("text", { x: right, y: top + 15, "text-anchor": "end", class: "halo quiet" }, textWidth(whole) < room ? whole : gap));
      const [low, high] = [x(found.values[found.best].wer), x(found.values[found.worst].wer)];
      picture.append(svg("rect", { x: low, y: top + 21, width: Math.max(1, high - low), height: lane * values.length + 2, fill: color(run), opacity: 0.14 }));
      values.forEach(([name, value], i) => {
        const y = top + 26 + lane * i;
        const dot = svg("g", {},
          svg("rect", { x: 0, y: y - lane / 2, width, height: lane, fill: "transparent" }),
          svg("line", { x1: x(value.interval[0]), x2: x(value.interval[1]), y1: y, y2: y, stroke: color(run), opacity: 0.45, "stroke-width": 1.5 }),
          svg("circle", { cx: x(value.wer), cy: y, r: 3.5, fill: color(run) }));
        picture.append(explain(dot, `${name}\n${run.label}\nWER ${percent(value.wer)} (95 %: ${range(value.interval)})\n${value.words} words, ${value.clips} clips`));
      });
      top += 32 + lane * values.length;
    }
    const most = Math.max(...rows.map(({ count }) => count));
    said.textContent = `One dot for each ${chosen.name.split(",")[0]} with its 95 % interval; the shade spans the gap between the best and the worst.`
      + (most > MOST_VALUES ? ` Of up to ${most} values the ${MOST_VALUES / 2} best and the ${MOST_VALUES / 2} worst of each run are shown.` : "");
    host.replaceChildren(picture);
  }
  drawings.push(draw);
}

// ---------------------------------------------------------------------------------------------------------- cost

function bars(title, get, show) {
  const most = Math.max(...runs.map((run) => get(run) ?? 0));
  const rows = runs.map((run) => {
    const value = get(run);
    const bar = html("i");
    bar.style.width = `${(value && value / most) * 60}%`;
    bar.style.background = color(run);
    const said = value === null ? html("em", { className: "quiet" }, "not measured") : show(value);
    return html("div", { className: "bar" }, html("span", {}, run.label), html("div", {}, ...(value === null ? [] : [bar]), said));
  });
  return html("div", { className: "card" }, html("h3", {}, title), ...rows);
}

function cost() {
  find("#cost .panels").append(
    bars("trainable, of full fine-tuning", (run) => run.share_of_full, percent),
    bars("peak memory", (run) => run.peak_memory_gb, (value) => `${number(value)} GB`),
    bars("time of a step", (run) => run.step_seconds, (value) => `${number(value)} s`));
}

// -------------------------------------------------------------------------------------------------------- curves

function curves() {
  const panels = find("#curves .panels");
  const along = [{ name: "hours of audio", key: "audio_hours" }, { name: "steps", key: "step" }];
  let [chosen] = along;
  find("#curves .controls").append(choice("along", along, (option) => { chosen = option; drawings.forEach((draw) => draw()); }));
  for (const [key, title] of [["loss", "training loss"], ["eval_wer", "validation WER (%)"], ["eval_loss", "validation loss"]]) {
    const series = runs.map((run) => ({ run, points: run.history.filter((entry) => (entry[key] ?? null) !== null) })).filter(({ points }) => points.length);
    if (!series.length) continue;
    const host = html("div");
    const warm = key === "loss" && runs.some((run) => run.ctc_steps) ? [html("p", { className: "quiet" }, "Pale: CTC warm-up, another loss.")] : [];
    panels.append(html("div", { className: "card" }, html("h3", {}, title), host, ...warm));
    drawings.push(() => host.replaceChildren(lines(series, key, host.clientWidth)));
  }
  if (!panels.children.length) find("#curves").remove();

  function lines(series, key, width) {
    const height = 280, named = width > 400 ? 185 : 12, frame = [40, 8, width - named, height - 40], factor = key === "eval_wer" ? 100 : 1;
    const all = series.flatMap(({ points }) => points);
    const [horizontal, vertical] = [scale(all.map((entry) => entry[chosen.key])), scale(all.map((entry) => factor * entry[key]))];
    const last = Math.max(...all.map((entry) => entry[chosen.key])) || 1;
    const x = (entry) => frame[0] + ((frame[2] - frame[0]) * entry[chosen.key]) / last;
    const y = (value) => frame[3] - (frame[3] - frame[1]) * vertical.at(value);
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    const grid = svg("g", { class: "axis" });
    for (const tick of vertical.ticks)
      grid.append(svg("line", { x1: frame[0], x2: frame[2], y1: y(tick), y2: y(tick) }), svg("text", { x: frame[0] - 6, y: y(tick) + 4, "text-anchor": "end" }, number(tick)));
    for (const share of [0, 0.5, 1])
      grid.append(svg("text", { x: frame[0] + share * (frame[2] - frame[0]), y: frame[3] + 16, "text-anchor": ["start", "middle", "end"][2 * share] }, number(share * last)));
    grid.append(svg("text", { x: frame[2], y: height - 6, "text-anchor": "end" }, chosen.name + (vertical.log ? "; vertical log scale" : "")));
    picture.append(grid);
    for (const { run, points } of series) {
      const path = (entries) => `M${entries.map((entry) => `${x(entry)} ${y(factor * entry[key])}`).join("L")}`;
      const look = { fill: "none", stroke: color(run), "stroke-width": 1.8, "stroke-linejoin": "round", "stroke-dasharray": run.layer === "transformer" ? "5 3" : "none" };
      const warm = key === "loss" ? points.filter((entry) => entry.step <= run.ctc_steps) : [];
      const group = svg("g", { class: "series" });
      if (warm.length) group.append(svg("path", { d: path(warm), ...look, opacity: 0.35 }));
      if (warm.length < points.length) group.append(svg("path", { d: path(points.slice(warm.length)), ...look }));
      for (const entry of points) {
        const told = `${run.label}\n${kind(run)}\nstep ${entry.step}, ${number(entry.audio_hours)} h of audio\n${number(factor * entry[key])}`;
        const dot = explain(svg("circle", { cx: x(entry), cy: y(factor * entry[key]), r: 6, fill: "transparent" }), told);
        if (points.length > 1) dot.removeAttribute("tabindex");
        group.append(svg("circle", { cx: x(entry), cy: y(factor * entry[key]), r: points.length > 40 ? 0 : 2.2, fill: color(run) }), dot);
      }
      group.addEventListener("pointerenter", () => { picture.classList.add("picking"); group.classList.add("picked"); });
      group.addEventListener("pointerleave", () => { picture.classList.remove("picking"); group.classList.remove("picked"); });
      picture.append(group);
    }
    if (named > 12) picture.append(...endLabels());
    return picture;

    // Names at the ends of the lines, lowest first, each moved up until it stands free of the one below.
    function endLabels() {
      let free = Infinity;
      return series
        .map(({ run, points }) => ({ run, entry: points.at(-1) }))
        .sort((a, b) => a.entry[key] - b.entry[key])
        .map(({ run, entry }) => {
          free = Math.min(y(factor * entry[key]) + 4, free - 12.5, frame[3] + 4);
          return svg("text", { x: x(entry) + 7, y: free, fill: color(run), style: `fill: ${color(run)}; font-size: 11px` }, shorten(run.label, named - 10));
        });
    }
  }
}

// -------------------------------------------------------------------------------------------------------- tables

function sortable(table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value;
    const order = (a, b) => (head.className ? a - b : a.localeCompare(b));
    const rows = [...body.rows].sort((a, b) => {
      if (!value(a) || !value(b)) return !value(a) - !value(b); // what was not measured stays last
      return (down ? -1 : 1) * order(value(a), value(b));
    });
    body.append(...rows);
  }));
}

scatter();
groups();
cost();
curves();
drawings.forEach((draw) => draw()); // only now that everything stands has each picture its width
document.querySelectorAll("table").forEach(sortable);
