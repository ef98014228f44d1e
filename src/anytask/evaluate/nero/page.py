"""The page of the NERO report: its skeleton, its looks, and the script that links the views."""

PAGE = """<main>
<header><h1>{title}</h1><p class="facts">{facts}</p></header>
<nav aria-label="What is shown">
<label>metric <select id="metric"></select></label>
<label>against <select id="reference"></select></label>
<label id="class-box">class <select id="class"></select></label>
<label>sample map <select id="method"></select></label>
<label>colour <select id="colour"><option value="mean">mean of the orbit</option><option value="variance">variance
of the orbit</option></select></label>
</nav>
<section><h2>All samples</h2><p class="how" id="aggregate-how"></p><div id="aggregate" class="plot"></div></section>
<section><h2>Sample map</h2><p class="how">Samples with similar orbits are close. Click one.</p>
<div id="map" class="plot"></div><p class="note" id="map-note"></p>
<label class="slide">sample <input id="sample" type="range" min="0" step="1"><output id="sample-text"></output></label>
</section>
<section><h2>One sample</h2><p class="how" id="individual-how"></p><div id="individual" class="plot"></div>
<p class="note" id="individual-note"></p></section>
<section><h2>Input and output</h2><p class="how" id="detail-how"></p>
<label class="slide">element <input id="element" type="range" min="0" step="1"><output id="element-text"></output>
</label>
<div class="detail"><canvas id="input" width="288" height="288" aria-label="transformed input"></canvas>
<div id="answers" class="plot"></div></div><p class="note" id="detail-note"></p></section>
<section class="wide"><h2>Summary</h2><div class="scroll">{summary}</div>
<p class="note">The first four numbers are of the curve over all samples. The spread is the standard deviation along
each sample's own orbit, averaged. Self-agreement is how much of the orbit is for the consensus: a consensus can be
wrong with confidence, so never read a value against it without this number.</p></section>
{failures}
</main>"""

STYLE = """
:root { --ink: #2b3138; --soft: #6b747d; --line: #e3e7eb; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f8; color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 18px; display: grid; gap: 16px;
  grid-template-columns: repeat(2, minmax(0, 1fr)); }
header, nav, .wide { grid-column: 1 / -1; }
h1 { font-size: 25px; margin: 6px 0 2px; } h2 { font-size: 16px; margin: 0; }
.facts, .how, .note { color: var(--soft); margin: 2px 0 6px; font-size: 13.5px; }
nav { position: sticky; top: 0; z-index: 5; background: #f6f7f8; padding: 8px 0; display: flex; flex-wrap: wrap;
  gap: 8px 18px; }
label { font-size: 14px; color: var(--soft); }
select { font: inherit; color: var(--ink); margin-left: 4px; max-width: 220px; }
section { background: white; border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; min-width: 0; }
.plot { width: 100%; min-height: 60px; }
.slide { display: flex; align-items: center; gap: 10px; margin: 4px 0; } .slide input { flex: 1; min-width: 60px; }
.slide output { color: var(--ink); min-width: 8.5em; }
.detail { display: grid; grid-template-columns: minmax(0, 288px) minmax(0, 1fr); gap: 14px; align-items: start; }
.detail.stacked { grid-template-columns: minmax(0, 1fr); }
canvas { width: 100%; max-width: 288px; touch-action: none; cursor: grab; image-rendering: pixelated; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 13.5px; }
th, td { padding: 4px 10px; text-align: left; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
@media (max-width: 860px) { main { grid-template-columns: minmax(0, 1fr); padding: 10px; } nav { position: static; }
  .detail { grid-template-columns: minmax(0, 1fr); } section { padding: 12px; } }
"""

SCRIPT = r"""
"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const G = D.group, M = G.labels.length, N = D.samples.length, K = D.models.length;
const $ = id => document.getElementById(id);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const floats = text => new Float32Array(bytes(text).buffer);
const cache = {};
const once = (key, make) => cache[key] === undefined ? (cache[key] = make()) : cache[key];
const S = { metric: D.metrics[0].key, reference: D.references[0].key, cls: 0, method: D.methods[0], colour: "mean",
  sample: 0, element: G.start };
const key = () => S.reference + "/" + S.metric;
const metric = () => D.metrics.find(m => m.key === S.metric);
const values = () => once("v" + key(), () => floats(D.values[key()]));
const E = (j, k, i) => values()[(j * M + k) * N + i];
const fine = v => v !== null && Number.isFinite(v);
const config = { displayModeBar: false, responsive: true };
const plain = text => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function intensity() {  // mean or variance along each orbit, (models, samples)
  return once("i" + key() + S.colour, () => D.models.map((_, j) => Array.from({ length: N }, (_, i) => {
    let w = 0, sum = 0, square = 0;
    for (let k = 0; k < M; k++) {
      const v = E(j, k, i);
      if (fine(v)) { w += G.weights[k]; sum += G.weights[k] * v; square += G.weights[k] * v * v; }
    }
    if (!w) return null;
    const mean = sum / w;
    return S.colour === "mean" ? mean : Math.max(0, square / w - mean * mean);
  })));
}

function ranked() {  // samples in order of the first model's intensity
  return once("r" + key() + S.colour, () => {
    const v = intensity()[0];
    return Array.from({ length: N }, (_, i) => i).sort((a, b) => (v[a] ?? Infinity) - (v[b] ?? Infinity));
  });
}

function inClass(j, i) {
  return S.cls === 0 || (D.labels[j] && D.labels[j][i].includes(D.classes[S.cls - 1]));
}

// -- orbits: the figure comes from Python, the values and the cursor from here --------------------------------------

function orbitFigure(curves) {
  const template = D.plots[S.metric], data = [], cursors = [], shapes = [];
  let low = Infinity, high = -Infinity;
  for (const curve of curves) for (const v of curve) if (fine(v)) { low = Math.min(low, v); high = Math.max(high, v); }
  const limits = metric().limits || (low <= high ? [Math.min(0, low), high > low ? high : low + 1] : [0, 1]);
  let j = 0;
  const per = template.data.filter(t => t.customdata).length / K;
  let seen = 0;
  for (const source of template.data) {
    if (!source.customdata) continue;
    const t = Object.assign({}, source);
    j = D.models.length > 1 && t.type !== "barpolar" ? Math.floor(seen / per) : seen % K;
    seen++;
    const at = k => k < 0 ? null : (fine(curves[j][k]) ? curves[j][k] : null);
    const mapped = t.customdata.map(k => Array.isArray(k) ? k.map(at) : at(k));
    if (t.type === "heatmap") t.z = mapped;
    else if (t.type === "barpolar") t.marker = Object.assign({}, t.marker, { color: mapped });
    else if (t.type === "scatterpolar") t.r = mapped;
    else t.y = mapped;
    data.push(t);
    cursor(t, data.length === 1, cursors, shapes, limits);
  }
  data.push(...cursors);
  const layout = JSON.parse(JSON.stringify(template.layout));
  layout.template = D.template;
  layout.shapes = shapes;
  const room = 0.03 * (limits[1] - limits[0]);
  if (layout.coloraxis) { layout.coloraxis.cmin = limits[0]; layout.coloraxis.cmax = limits[1]; }
  if (G.layout === "polar") layout.polar.radialaxis.range = [limits[0], limits[1] + room];
  if (G.layout === "line") layout.yaxis.range = [limits[0] - room, limits[1] + room];
  return { data, layout };
}

function cursor(t, first, cursors, shapes, limits) {
  const k = S.element;
  if (t.type === "scatterpolar" && first) {
    cursors.push({ type: "scatterpolar", mode: "lines", theta: [G.coords[k][0], G.coords[k][0]], r: limits,
      line: { color: "#2b3138", width: 1.5, dash: "dot" }, name: G.labels[k], hoverinfo: "skip" });
  } else if (t.type === "barpolar" && t.customdata.includes(k)) {
    const place = t.customdata.indexOf(k);
    cursors.push({ type: "scatterpolar", subplot: t.subplot, mode: "markers", theta: [t.theta[place]],
      r: [t.base[place] + t.r[place] / 2], hoverinfo: "skip", showlegend: false,
      marker: { symbol: "cross-thin", size: 15, line: { width: 3, color: "white" } } });
  } else if (t.type === "heatmap") {
    t.customdata.forEach((row, r) => row.forEach((index, c) => {
      if (index !== k) return;
      const box = (axis, p) => {  // category axes count from 0, numeric ones have their own steps
        if (!axis || typeof axis[0] === "string") return [p - 0.5, p + 0.5];
        const step = axis.length > 1 ? Math.abs(axis[1] - axis[0]) : 1;
        return [axis[p] - step / 2, axis[p] + step / 2];
      };
      const [x0, x1] = box(t.x, c), [y0, y1] = box(t.y, r);
      shapes.push({ type: "rect", xref: t.xaxis || "x", yref: t.yaxis || "y", x0, x1, y0, y1,
        fillcolor: "rgba(0,0,0,0)", opacity: 1, line: { color: "#d55e00", width: 3 } });
    }));
  } else if (t.type === "scatter" && first) {
    const place = t.customdata.indexOf(k);
    shapes.push({ type: "line", x0: t.x[place], x1: t.x[place], yref: "paper", y0: 0, y1: 1,
      line: { color: "#2b3138", width: 1.5, dash: "dot" } });
  }
}

function drawAggregate() {
  const curves = D.curves[key()][S.cls].slice(0, K);
  const f = orbitFigure(curves);
  Plotly.react("aggregate", f.data, f.layout, config);
  const what = S.cls === 0 ? "all samples" : "class " + D.classes[S.cls - 1];
  const how = S.metric === "map" ? "mAP over " : "Mean over ";
  $("aggregate-how").textContent = how + what + ". Click to choose an element.";
}

function drawIndividual() {
  const i = S.sample;
  const f = orbitFigure(D.models.map((_, j) => Array.from({ length: M }, (_, k) => E(j, k, i))));
  Plotly.react("individual", f.data, f.layout, config);
  $("individual-how").textContent = "The orbit of " + sampleName(i) + ". Click to choose an element.";
  const notes = D.models.map((name, j) => {
    if (D.failed[j][i]) return name + " failed on this sample.";
    const parts = [];
    if (D.consensus[j]) parts.push("consensus " + D.consensus[j][i]);
    if (D.agreement[j]) parts.push("self-agreement " + (100 * D.agreement[j][i]).toFixed(0) + " %");
    return parts.length ? name + ": " + parts.join(", ") + "." : "";
  });
  $("individual-note").textContent = notes.filter(Boolean).join(" ");
}

const sampleName = i => "sample " + D.samples[i] + (D.labels[0] ? ", class " + D.labels[0][i].join(", ") : "");

// -- the sample map ---------------------------------------------------------------------------------------------------

function drawMap() {
  const name = key() + "/" + S.method, P = once("p" + name, () => floats(D.points[name]));
  const colours = intensity(), m = metric();
  const layout = JSON.parse(JSON.stringify(D.map.layout));
  layout.template = D.template;
  const all = colours.flat().filter(fine);
  layout.coloraxis.cmin = Math.min(...all);
  layout.coloraxis.cmax = Math.max(...all) > Math.min(...all) ? Math.max(...all) : Math.min(...all) + 1;
  layout.coloraxis.colorbar.title.text = S.colour + " of " + plain(m.label);
  layout.coloraxis.colorscale = D.scales[m.higher && S.colour === "mean" ? 0 : 1];
  const data = [];
  D.models.forEach((_, j) => {
    const base = D.map.data.filter(t => t.customdata)[j];
    const rows = Array.from({ length: N }, (_, i) => i).filter(i => inClass(j, i));
    data.push(Object.assign({}, base, {
      x: rows.map(i => P[2 * (j * N + i)]), y: rows.map(i => P[2 * (j * N + i) + 1]), customdata: rows,
      text: rows.map(i => plain(sampleName(i))),
      marker: Object.assign({}, base.marker, { color: rows.map(i => colours[j][i]) }),
      hovertemplate: "%{text}<br>" + S.colour + ": %{marker.color:.3g}<extra></extra>" }));
    data.push({ type: "scatter", mode: "markers", x: [P[2 * (j * N + S.sample)]], y: [P[2 * (j * N + S.sample) + 1]],
      xaxis: base.xaxis, yaxis: base.yaxis, hoverinfo: "skip", showlegend: false,
      marker: { size: 17, color: "rgba(0,0,0,0)", line: { width: 3, color: "#d55e00" } } });
  });
  Plotly.react("map", data, layout, config);
  $("map-note").textContent = D.notices[name] || "";
  const order = ranked();
  $("sample").max = N - 1;
  $("sample").value = order.indexOf(S.sample);
  $("sample-text").textContent = sampleName(S.sample);
}

// -- the detail view --------------------------------------------------------------------------------------------------

function drawDetail() {
  const X = D.details, row = X.rows.indexOf(D.samples[S.sample]);
  $("element").max = M - 1;
  $("element").value = S.element;
  $("element-text").textContent = G.labels[S.element];
  const canvas = $("input"), c = canvas.getContext("2d");
  c.clearRect(0, 0, canvas.width, canvas.height);
  $("detail-how").textContent = sampleName(S.sample) + " under " + G.labels[S.element]
    + ({ polar: ". Drag around the picture to turn it.", grid: ". Drag the picture to shift it." }[G.layout] || "");
  if (row < 0) {
    Plotly.purge("answers");
    $("detail-note").textContent = X.rows.length ? "No detail is kept for this sample. " + X.why : X.why;
    return;
  }
  $("detail-note").textContent = X.why;
  const place = X.place[S.element], at = place * X.rows.length + row;
  drawInput(c, canvas, X, at);
  if (D.task === "classification") drawClasses(X, at);
  else if (D.task === "detection") drawBoxes(c, canvas, X, place, row);
  else if (D.task === "field") drawFields(X, at);
  else drawNumbers(X, at);
}

function drawInput(c, canvas, X, at) {
  const I = X.input;
  if (I.kind === "picture") {
    const raw = once("pictures", () => bytes(I.values)), size = I.height * I.width * I.channels;
    const small = document.createElement("canvas");
    small.width = I.width;
    small.height = I.height;
    const image = new ImageData(I.width, I.height);
    for (let p = 0; p < I.height * I.width; p++) {
      for (let q = 0; q < 3; q++) image.data[4 * p + q] = raw[at * size + I.channels * p + (I.channels === 3 ? q : 0)];
      image.data[4 * p + 3] = 255;
    }
    small.getContext("2d").putImageData(image, 0, 0);
    const scale = 288 / Math.max(I.width, I.height);
    canvas.width = Math.round(scale * I.width);
    canvas.height = Math.round(scale * I.height);
    c.imageSmoothingEnabled = false;
    c.drawImage(small, 0, 0, canvas.width, canvas.height);
  } else if (I.kind === "points") {
    const raw = once("points", () => floats(I.values)), n = 3 * I.count;
    const span = once("span", () => raw.reduce((a, v) => Math.max(a, Math.abs(v)), 0) * 1.5 || 1);
    for (let p = 0; p < I.count; p++) {  // seen from the front, a little from the right and above
      const [x, y, z] = raw.subarray(at * n + 3 * p, at * n + 3 * p + 3);
      const u = 0.87 * x - 0.5 * y, v = 0.94 * z - 0.3 * (0.5 * x + 0.87 * y), depth = (0.5 * x + 0.87 * y) / span;
      c.fillStyle = "rgba(0, 114, 178, " + (0.55 - 0.4 * depth) + ")";
      c.beginPath();
      c.arc(144 * (1 + u / span), 144 * (1 - v / span), 3, 0, 7);
      c.fill();
    }
  } else {
    const raw = once("numbers", () => floats(I.values)), w = I.width;
    let top = 1e-9;
    for (let p = 0; p < w; p++) top = Math.max(top, Math.abs(raw[at * w + p]));
    c.fillStyle = "#6b747d";
    for (let p = 0; p < w; p++) {
      const h = 130 * raw[at * w + p] / top;
      c.fillRect(288 * p / w + 1, h > 0 ? 144 - h : 144, Math.max(1, 288 / w - 2), Math.abs(h));
    }
  }
}

function answersLayout(more) {
  return Object.assign({ template: D.template, height: 300, margin: { l: 40, r: 10, t: 30, b: 60 }, barmode: "group",
    font: D.map.layout.font, legend: { orientation: "h", x: 0, y: 1.16 } }, more);
}

function drawClasses(X, at) {
  const data = D.models.map((name, j) => {
    const w = X.outputs[j].width, raw = once("o" + j, () => new Uint16Array(bytes(X.outputs[j].p).buffer));
    const p = Array.from(raw.subarray(at * w, at * w + w), v => v / 65535);
    const order = p.map((_, c) => c).sort((a, b) => p[b] - p[a]).slice(0, 12).sort((a, b) => a - b);
    const right = D.references[0].key === "truth" ? D.labels[j][S.sample] : [];
    return { type: "bar", name: plain(name), x: order.map(c => plain(D.columns[j][c])), y: order.map(c => p[c]),
      marker: { color: D.colours[j], line: { width: 2.5,
        color: order.map(c => right.includes(D.columns[j][c]) ? "#2b3138" : "rgba(0,0,0,0)") } },
      hovertemplate: "class %{x}: %{y:.3f}" };
  });
  const title = D.references[0].key === "truth" ? "true class outlined" : "class";
  Plotly.react("answers", data, answersLayout({ xaxis: { type: "category", title: { text: title } },
    yaxis: { range: [0, 1.02], title: { text: "probability" } } }), config);
}

function drawBoxes(c, canvas, X, place, row) {
  const [h, w] = X.shape, lines = [];
  const draw = (boxes, colour, dash, who) => boxes.forEach(([x1, y1, x2, y2, score, label]) => {
    c.strokeStyle = colour;
    c.lineWidth = 2.5;
    c.setLineDash(dash);
    const sx = canvas.width / w, sy = canvas.height / h;
    c.strokeRect(x1 * sx, y1 * sy, (x2 - x1) * sx, (y2 - y1) * sy);
    lines.push([colour, who + "  " + label + (dash.length ? "" : "  " + score.toFixed(2)) + "  ["
      + [x1, y1, x2, y2].map(v => v.toFixed(0)).join(", ") + "]"]);
  });
  const truth = D.references[0].key === "truth";
  D.models.forEach((name, j) => {
    if (X.targets[j] && (j === 0 || !truth)) {
      const who = truth ? "true" : "consensus of " + name;
      draw(X.targets[j].boxes[place][row], truth ? "#e69f00" : D.colours[j], [6, 4], who);
    }
    draw(X.outputs[j].boxes[place][row], D.colours[j], [], name);
  });
  c.setLineDash([]);
  Plotly.react("answers", [], answersLayout({ xaxis: { visible: false }, yaxis: { visible: false },
    annotations: lines.slice(0, 14).map(([colour, text], k) => ({ text: plain(text), x: 0, y: 1 - k / 14, xref: "paper",
      yref: "paper", xanchor: "left", showarrow: false, font: { color: colour, size: 12 } })) }), config);
}

function drawFields(X, at) {
  const data = [];
  D.models.forEach((name, j) => {
    const O = X.outputs[j], size = 2 * O.rows * O.columns;
    const target = X.targets[j] && once("t" + j, () => floats(X.targets[j].uv)).subarray(at * size, at * size + size);
    const field = once("o" + j, () => floats(O.uv)).subarray(at * size, at * size + size);
    let top = 1e-9;
    for (let p = 0; p < size / 2; p++) {
      top = Math.max(top, Math.hypot(field[p], field[size / 2 + p]));
      if (target) top = Math.max(top, Math.hypot(target[p], target[size / 2 + p]));
    }
    const arrows = (f, colour, label, width) => {
      const x = [], y = [];
      for (let p = 0; p < size / 2; p++) {
        const u = 0.9 * f[p] / top, v = (X.down ? 1 : -1) * 0.9 * f[size / 2 + p] / top;
        const a = p % O.columns + 0.5 - u / 2, b = Math.floor(p / O.columns) + 0.5 - v / 2, s = a + u, t = b + v;
        x.push(a, s, s - 0.3 * (u + 0.6 * v), null, s, s - 0.3 * (u - 0.6 * v), null);
        y.push(b, t, t - 0.3 * (v - 0.6 * u), null, t, t - 0.3 * (v + 0.6 * u), null);
      }
      data.push({ type: "scatter", mode: "lines", x, y, name: label, line: { color: colour, width }, hoverinfo: "skip",
        showlegend: j === 0 || colour !== "#e69f00", xaxis: "x" + (j ? j + 1 : ""), yaxis: "y" + (j ? j + 1 : "") });
    };
    const truth = D.references[0].key === "truth";
    if (target) arrows(target, "#e69f00", truth ? "true" : "consensus", 4);
    arrows(field, D.colours[j], plain(name), 1.8);
  });
  const layout = answersLayout({ grid: { rows: 1, columns: K, pattern: "independent" } });
  D.models.forEach((_, j) => {
    const n = j ? j + 1 : "";
    layout["xaxis" + n] = { range: [0, X.outputs[j].columns], visible: false, constrain: "domain" };
    layout["yaxis" + n] = { range: [X.outputs[j].rows, 0], visible: false, scaleanchor: "x" + n };
  });
  layout.margin = { l: 10, r: 10, t: 30, b: 10 };
  Plotly.react("answers", data, layout, config);
}

function drawNumbers(X, at) {
  const data = D.models.map((name, j) => {
    const w = X.outputs[j].width, raw = once("o" + j, () => floats(X.outputs[j].numbers));
    return { type: "bar", name: plain(name), x: Array.from({ length: w }, (_, p) => p), marker: { color: D.colours[j] },
      y: Array.from(raw.subarray(at * w, at * w + w)) };
  });
  const T = X.targets[0];
  if (T) {
    const w = T.width, raw = once("t0", () => floats(T.numbers));
    data.push({ type: "scatter", mode: "markers", name: D.references[0].key === "truth" ? "true" : "consensus",
      x: Array.from({ length: w }, (_, p) => p), y: Array.from(raw.subarray(at * w, at * w + w)),
      marker: { symbol: "line-ew-open", size: 22, color: "#e69f00", line: { width: 4 } } });
  }
  Plotly.react("answers", data, answersLayout({ xaxis: { title: { text: "output" }, dtick: 1 } }), config);
}

// -- linking ----------------------------------------------------------------------------------------------------------

function draw(what) {
  const views = { aggregate: drawAggregate, map: drawMap, individual: drawIndividual, detail: drawDetail };
  for (const name of what || Object.keys(views)) views[name]();
}
function setSample(i) { S.sample = i; draw(["map", "individual", "detail"]); }
function setElement(k) {
  if (k === S.element || k === undefined || k < 0) return;
  S.element = k;
  draw(["aggregate", "individual", "detail"]);
}
function fill(id, entries, name, what) {
  for (const [value, text] of entries) {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    $(id).append(option);
  }
  $(id).addEventListener("change", () => { S[name] = name === "cls" ? Number($(id).value) : $(id).value; draw(what); });
}

fill("metric", D.metrics.map(m => [m.key, m.label + (m.higher ? "" : " (lower is better)")]), "metric");
fill("reference", D.references.map(r => [r.key, r.label]), "reference");
fill("class", [[0, "all"], ...D.classes.map((c, k) => [k + 1, c])], "cls", ["aggregate", "map"]);
const METHODS = { pca: "PCA", ica: "ICA", isomap: "Isomap", tsne: "t-SNE", umap: "UMAP" };
fill("method", D.methods.map(m => [m, METHODS[m]]), "method", ["map"]);
$("colour").addEventListener("change", () => { S.colour = $("colour").value; draw(["map"]); });
document.querySelector(".detail").classList.toggle("stacked", D.task === "field");
if (!D.classes.length) $("class-box").style.display = "none";
$("sample").addEventListener("input", () => setSample(ranked()[Number($("sample").value)]));
$("element").addEventListener("input", () => setElement(Number($("element").value)));
S.sample = D.details.rows.length ? D.samples.indexOf(D.details.rows[0]) : 0;
draw();
const picked = event => {
  const p = event.points[0], all = p.data.customdata;
  if (p.customdata !== undefined) return p.customdata;
  return all && Array.isArray(p.pointNumber) ? all[p.pointNumber[0]][p.pointNumber[1]] : undefined;
};
$("aggregate").on("plotly_click", event => setElement(picked(event)));
$("individual").on("plotly_click", event => setElement(picked(event)));
$("map").on("plotly_click", event => { const i = picked(event); if (i !== undefined) setSample(i); });

let drag = null;
const pointer = event => {
  const box = $("input").getBoundingClientRect();
  return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2, box.width];
};
function nearest(wanted) {
  let best = 0, least = Infinity;
  G.coords.forEach((c, k) => {
    const d = c.reduce((a, v, axis) => a + (v - wanted[axis]) ** 2, 0);
    if (d < least) { least = d; best = k; }
  });
  return best;
}
$("input").addEventListener("pointerdown", event => {
  if (G.layout !== "polar" && G.layout !== "grid") return;
  drag = { from: pointer(event), coords: G.coords[S.element].slice() };
  $("input").setPointerCapture(event.pointerId);
});
$("input").addEventListener("pointermove", event => {
  if (!drag) return;
  const [x, y, width] = pointer(event);
  if (G.layout === "polar") {
    const turned = (Math.atan2(-y, x) - Math.atan2(-drag.from[1], drag.from[0])) * 180 / Math.PI;
    const angle = drag.coords[0] + turned, low = G.coords[0][0];
    setElement(nearest([low + ((angle - low) % 360 + 360) % 360]));
  } else {
    const scale = (D.details.shape ? D.details.shape[1] : 1) / width;
    setElement(nearest([drag.coords[0] + (x - drag.from[0]) * scale, drag.coords[1] + (y - drag.from[1]) * scale]));
  }
});
for (const end of ["pointerup", "pointercancel"]) $("input").addEventListener(end, () => { drag = null; });
"""
