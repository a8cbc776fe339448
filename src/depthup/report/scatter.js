"use strict";
// The picture of WER against what hearing cost the text. Uses the helpers of page.js.

function costs() {
  const found = [];
  if (runs.some((run) => run.degradation.mean.points !== null))
    found.push({ name: "mean text degradation (points)", get: (run) => run.degradation.mean.points, factor: 100 });
  for (const text of names("drift")) {
    found.push({ name: `perplexity change on ${text} (%)`, get: ({ drift: { [text]: d } }) => d && d.perplexity / d.perplexity_base - 1, factor: 100 });
    found.push({ name: `KL from the base on ${text} (nats)`, get: ({ drift: { [text]: d } }) => d && d.kl, factor: 1 });
  }
  return found;
}

function scatter() {
  const card = find("#scatter .card");
  const tests = names("asr").map((name) => ({ name }));
  const options = costs();
  if (!tests.length || !options.length) {
    card.append("This picture needs runs measured both on recordings (WER) and on text: depthup evaluate RUN --asr MANIFEST --text FILE --text-tasks TASKS");
    return;
  }
  let [test] = tests, [cost] = options;
  const controls = html("div", { className: "controls" });
  controls.append(choice("test set", tests, (chosen) => { test = chosen; draw(); }), choice("cost", options, (chosen) => { cost = chosen; draw(); }));
  const host = html("div"), under = html("div", { className: "legend" }), left = html("p", { className: "quiet" });
  card.append(controls, host, legend(), under, left);

  function draw() {
    const shown = runs.filter((run) => run.asr[test.name] && cost.get(run) !== null);
    const missing = runs.filter((run) => !shown.includes(run)).map((run) => run.label);
    const why = options[0].factor === 100 && options[0].name.startsWith("perplexity") ? "No text task was measured, so the cost shown is drift from the base. " : "";
    left.textContent = why + (missing.length ? `Not in the picture, for want of a measurement: ${missing.join(", ")}.` : "");
    const width = host.clientWidth, height = clamp(0.62 * width, 380, 600);
    const frame = [58, 12, width - 12, height - 58];
    const span = [frame[2] - frame[0], frame[3] - frame[1]];
    const xs = signedAxis(shown.map((run) => cost.factor * cost.get(run)), frame[0], span[0]);
    const wer = shown.map((run) => run.asr[test.name]);
    const vertical = scale(wer.flatMap((report) => [report.wer, report.interval[1]].map((value) => 100 * value)));
    const y = (fraction) => frame[3] - span[1] * vertical.at(100 * fraction);
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    picture.append(better(frame), axes());
    const numbered = width < 600 || shown.length > 16; // names would not fit
    const points = shown.map((run, i) => ({
      run, x: xs.points[i], y: y(wer[i].wer), high: y(wer[i].interval[1]), low: y(wer[i].interval[0]),
      text: numbered ? String(runs.indexOf(run) + 1) : shorten(run.label, 220),
    }));
    for (const { run, x, high, low } of points)
      picture.append(svg("path", { d: `M${x - 4} ${high}h8m-4 0V${low}m-4 0h8`, stroke: color(run), "stroke-width": 1.5, fill: "none", opacity: 0.55 }));
    const places = placeLabels(points, frame);
    points.forEach(({ x, y: height_, run }, i) => {
      if (places[i].steps.length) picture.append(svg("line", { x1: x, y1: height_, x2: places[i].end[0], y2: places[i].end[1], stroke: "var(--quiet)", "stroke-width": 0.7 }));
    });
    points.forEach(({ run, x, y: top, text }, i) => {
      const facts = [`WER ${percent(wer[i].wer)} (95 %: ${range(wer[i].interval)})`, `${cost.name}: ${number(cost.factor * cost.get(run))}`];
      if (run.share_of_full !== null) facts.push(`trains ${percent(run.share_of_full)} of full fine-tuning's parameters`);
      picture.append(explain(marker(run, x, top), [run.label, kind(run), ...facts].join("\n")));
      picture.append(svg("text", { x: places[i].x, y: places[i].y + 4, "text-anchor": "middle", class: "halo label" }, text));
    });
    under.replaceChildren(...(numbered ? shown.map((run) => html("span", {}, `${runs.indexOf(run) + 1} ${run.label}`)) : []));
    host.replaceChildren(shown.length ? picture : "No run has both measurements chosen here.");

    function axes() {
      const group = svg("g", { class: "axis" });
      if (xs.band) {
        group.append(svg("rect", { x: xs.band[0], y: frame[1], width: xs.band[1], height: span[1], fill: "var(--quiet)", opacity: 0.07 }));
        group.append(svg("text", { x: xs.band[0] + xs.band[1] / 2, y: frame[1] + 15, "text-anchor": "middle" }, "nothing lost"));
      }
      for (const tick of vertical.ticks) {
        const at = y(tick / 100);
        group.append(svg("line", { x1: frame[0], x2: frame[2], y1: at, y2: at }), svg("text", { x: frame[0] - 7, y: at + 4, "text-anchor": "end" }, number(tick)));
      }
      let last = -Infinity;
      for (const [tick, at] of xs.ticks) {
        if (at - last < 34) continue;
        last = at;
        if (tick || !xs.band) group.append(svg("line", { x1: at, x2: at, y1: frame[1], y2: frame[3] }));
        group.append(svg("text", { x: at, y: frame[3] + 17, "text-anchor": "middle" }, number(tick)));
      }
      const title = cost.name + (xs.log ? ", log scale" : "");
      const middle = (frame[1] + frame[3]) / 2;
      group.append(svg("text", { x: frame[2], y: height - 12, "text-anchor": "end" }, title));
      group.append(svg("text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, `WER on ${test.name} (%)${vertical.log ? ", log scale" : ""}`));
      return group;
    }
  }
  drawings.push(draw);
}

function better([left, , , bottom]) {
  const stops = [[0, 0.22], [1, 0]].map(([offset, opacity]) => svg("stop", { offset, "stop-color": "var(--better)", "stop-opacity": opacity }));
  return svg("g", {},
    svg("radialGradient", { id: "glow", gradientUnits: "userSpaceOnUse", cx: left, cy: bottom, r: 190 }, ...stops),
    svg("path", { d: `M${left} ${bottom}v-190a190 190 0 0 1 190 190z`, fill: "url(#glow)" }),
    svg("text", { x: 6, y: bottom + 46, style: "fill: var(--better); font-weight: 600" }, "↙ better"));
}

function legend() {
  const entry = (run, text) => html("span", {}, svg("svg", { width: 16, height: 16 }, marker(run, 8, 8, 6)), text);
  const methods = [...new Set(runs.map((run) => run.method))], layers = [...new Set(runs.map((run) => run.layer))];
  const grey = { method: undefined };
  return html("div", { className: "legend" },
    ...methods.map((method) => entry({ method, layer: null }, method ?? "method unknown")),
    ...layers.map((layer) => entry({ ...grey, layer }, layer ?? "no inserted layer")));
}

// Pixels for signed values. Those that are exactly 0 get a band of their own, so that runs there stand side by side.
function signedAxis(values, left, width) {
  const { at, ticks, log } = scale(values.map(Math.abs));
  const reach = (sign) => Math.max(0, ...values.map((value) => at(Math.max(0, sign * value))));
  const zeros = values.filter((value) => value === 0).length;
  const [below, above] = [reach(-1), reach(1)];
  const edge = below || above ? 16 : 0;
  const band = below || above ? Math.min(zeros && zeros * 44 + 44, 0.6 * width) : width;
  const unit = below || above ? (width - band - edge) / (1.06 * below + 1.06 * above) : 0;
  const middle = left + 1.06 * below * unit + band / 2;
  const place = (value) => middle + Math.sign(value) * (band / 2 + unit * at(Math.abs(value)));
  let seen = 0;
  const marks = [...ticks.slice(1).reverse().map((tick) => -tick), 0, ...ticks.slice(1)];
  return {
    log,
    band: zeros && [middle - band / 2, band],
    points: values.map((value) => (value ? place(value) : middle + ((++seen - 0.5) / zeros - 0.5) * band)),
    ticks: marks.map((tick) => [tick, place(tick)]).filter(([, x]) => x >= left && x <= left + width),
  };
}

// Where to write each text beside its point, with a line to it if it is far: the first place that hides least.
function placeLabels(points, frame) {
  const overlap = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const around = (x, y, dx, dy) => [x - dx, y - dy, x + dx, y + dy];
  const sides = [[1, 0], [-1, 0], [1, -1], [1, 1], [-1, -1], [-1, 1], [1, -0.5], [1, 0.5], [-1, -0.5], [-1, 0.5], [0, -1], [0, 1]];
  const bar = (point) => [point.x - 3, point.high, point.x + 3, point.low];
  const taken = []; // labels written so far, and the steps of their lines
  const sum = (boxes, box) => boxes.reduce((total, other) => total + overlap(box, other), 0);
  return points.map((point) => {
    const width = textWidth(point.text), others = points.filter((other) => other !== point);
    let best = { cost: Infinity };
    for (const far of [0, 12, 26, 42, 60, 80, 104, 130]) {
      for (const [dx, dy] of sides) {
        const x = point.x + dx * (11 + width / 2 + (dy ? 0.5 : 1) * far);
        const y = point.y + dy * (15 + far);
        const box = around(x, y, width / 2 + 3, 8);
        const end = [clamp(point.x, box[0], box[2]), clamp(point.y, box[1] + 3, box[3] - 3)];
        const steps = far > 12 ? [0.2, 0.4, 0.6, 0.8].map((t) => around(point.x + t * (end[0] - point.x), point.y + t * (end[1] - point.y), 3, 3)) : [];
        const inside = overlap(box, frame) / ((width + 6) * 16);
        const cost =
          far * 2 + (dy ? 6 : 0) + 50000 * (1 - inside) + 40 * sum(taken, box) + 3 * sum(points.map(bar), box) +
          6 * sum(points.map((other) => around(other.x, other.y, 8, 8)), box) +
          steps.reduce((total, step) => total + 8 * sum(taken, step) + 3 * sum(others.map(bar), step), 0);
        if (cost < best.cost) best = { cost, x, y, box, steps, end };
      }
    }
    taken.push(best.box, ...best.steps);
    return best;
  });
}
