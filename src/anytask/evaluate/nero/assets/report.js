"use strict";
/* The linked views of a NERO result. Figures come from Python with their style; what is chosen is filled in here. */

const $ = id => document.getElementById(id);
const INK = "#2b3138", CLEAR = "rgba(0,0,0,0)", METHODS = { pca: "PCA", ica: "ICA", isomap: "Isomap", tsne: "t-SNE", umap: "UMAP" };
const REFERENCES = { truth: "ground truth", consensus: "consensus" };
const fine = v => v !== null && v !== undefined && Number.isFinite(v);
const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;" };
const plain = text => String(text).replace(/[&<>"']/g, c => ESCAPES[c]);
const bold = text => "<b>" + plain(text) + "</b>";
const copy = value => JSON.parse(JSON.stringify(value));
const number = v => fine(v) ? String(Number(v.toPrecision(3))) : "–";
const percent = v => fine(v) ? (100 * v).toFixed(0) + " %" : "–";
const range = n => Array.from({ length: n }, (_, i) => i);
const mean = values => values.length ? values.reduce((a, v) => a + v, 0) / values.length : null;
let D, G, M, N, S, axes;
const cache = new Map();
const once = (key, make) => { if (!cache.has(key)) cache.set(key, make()); return cache.get(key); };

async function inflate(id) {
  const raw = Uint8Array.from(atob($(id).textContent), c => c.charCodeAt(0));
  $(id).remove();
  return new Response(new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// -- what is chosen --------------------------------------------------------------------------------------------------

const key = () => S.reference + "/" + S.metric;
const metric = () => D.metrics.find(m => m.key === S.metric);
const orbit = (j, i) => D.values[key()][j].map(row => row[i]);
const curve = (j, reference = S.reference) => D.curves[reference + "/" + S.metric][S.subset][j];
const inside = i => S.subset === 0 || D.members[S.subset].has(i);
const sampleName = i => "sample " + D.samples[i];
const classOf = i => D.labels ? ", " + D.kind + " " + D.labels[S.models[0]][i].join(", ") : "";
const capital = text => text.charAt(0).toUpperCase() + text.slice(1);

function intensity(j) {  // mean or variance of every orbit, from the lowest value up, so that a flat orbit is exactly flat
  return once(["i", key(), S.by, j].join(), () => range(N).map(i => {
    const values = orbit(j, i), good = range(M).filter(k => fine(values[k]));
    if (!good.length) return null;
    const low = Math.min(...good.map(k => values[k])), sum = f => good.reduce((a, k) => a + G.weights[k] * f(values[k]), 0);
    const all = sum(() => 1), m = low + sum(v => v - low) / all;
    return S.by === "mean" ? m : sum(v => (v - m) ** 2) / all;
  }));
}

function ranked() {  // the chosen samples in order of the first model's intensity, failed ones last
  return once(["r", key(), S.by, S.subset, S.models[0]].join(), () => {
    const v = intensity(S.models[0]);
    return range(N).filter(inside).sort((a, b) => (v[a] ?? Infinity) - (v[b] ?? Infinity));
  });
}

function mostVaried() {
  const by = S.by;
  S.by = "variance";
  const v = intensity(S.models[0]), order = ranked().filter(i => fine(v[i]));
  S.by = by;
  return order.length ? order[order.length - 1] : ranked()[0] ?? 0;
}

// -- drawing ---------------------------------------------------------------------------------------------------------

function template(kinds) {
  const found = copy(kinds[S.models.length - 1]), names = new Map(S.models.map((j, place) => [bold(D.models[place]), bold(D.models[j])]));
  found.layout.template = D.template;
  for (const a of found.layout.annotations || [])
    for (const [old, name] of names) if (a.text.startsWith(old)) { a.text = name + a.text.slice(old.length); break; }
  for (const t of found.data) {
    const j = S.models[t.meta.model];
    if (j === undefined || t.meta.part === "target" || t.meta.part === "error") continue;
    t.name = plain(D.models[j]);
    if (t.type === "bar") t.marker.color = D.colors[j];
    else if (t.line && D.task + t.meta.part !== "fieldoutput") t.line.color = D.colors[j];
    if (t.fill) t.fillcolor = D.colors[j] + "14";
  }
  return found;
}

function show(id, f) {
  const round = f.data.some(t => t.type.includes("polar"));  // there, Plotly tells of clicks only where it zooms
  Object.assign(f.layout, { dragmode: round ? "zoom" : false, clickmode: "event", uirevision: "kept", paper_bgcolor: "white", plot_bgcolor: "white" });
  if (f.layout.scene) f.layout.scene.dragmode = "turntable";
  if (window.matchMedia("(max-width: 760px)").matches) stack(f.layout);
  Plotly.react(id, f.data, f.layout, { displayModeBar: false, responsive: true });
}

function stack(layout) {  // panels under one another on narrow screens
  const panels = Object.keys(layout).filter(n => /^(xaxis|polar|scene)\d*$/.test(n) && layout[n].domain)
    .sort((a, b) => (a.match(/\d+/) || [1])[0] - (b.match(/\d+/) || [1])[0]);
  const across = n => n.startsWith("xaxis") ? layout[n].domain : layout[n].domain.x;
  if (panels.every(n => across(n)[0] === across(panels[0])[0])) return;
  const round = panels[0].startsWith("polar"), titled = panels.some(n => layout[n].title && layout[n].title.text);
  const below = titled || round ? 34 : 0, side = 300, gap = 64 + below, top = 44, foot = 96 + below;
  const inner = panels.length * side + (panels.length - 1) * gap;
  panels.forEach((n, k) => {
    const high = 1 - k * (side + gap) / inner, low = Math.max(0, high - side / inner);
    if (n.startsWith("xaxis")) { layout[n].domain = [0, 1]; layout[n.replace("x", "y")].domain = [low, high]; }
    else layout[n].domain = { x: [0, 1], y: [low, high] };
    const title = (layout.annotations || [])[k];
    if (title && title.yref === "paper") Object.assign(title, { x: 0.5, xanchor: "center", y: high + 8 / inner, yanchor: "bottom", yshift: 0 });
  });
  Object.assign(layout, { height: inner + top + foot, margin: { l: round ? 36 : 8, r: round ? 36 : 8, t: top, b: foot } });
  if (layout.coloraxis) Object.assign(layout.coloraxis.colorbar, { y: -(34 + below) / inner, len: 0.9 });
  if (layout.legend && layout.legend.y < 0) layout.legend.y = -(44 + below) / inner;
}

function limitsOf(curves) {
  const all = curves.flat(3).filter(fine), low = Math.min(0, ...all), high = Math.max(...all);
  return metric().limits || (all.length ? [low, high > low ? high : low + 1] : [0, 1]);
}

function fillOrbit(f, curves) {
  const limits = limitsOf(curves), k = S.element, layout = f.layout, room = 0.03 * (limits[1] - limits[0]);
  for (const t of f.data) {
    if (t.meta.mark !== undefined) {
      const here = G.layout === "polar" || G.coords[k][0] === t.meta.mark;
      t.theta = G.layout === "polar" ? [G.coords[k][0], G.coords[k][0]] : [G.coords[k][1]];
      t.r = G.layout === "polar" ? limits : [here ? G.coords[k][2] + t.meta.step / 2 : null];
      if (G.layout === "polar") t.name = plain(G.labels[k]);
      continue;
    }
    const values = curves[t.meta.model], at = index => index < 0 ? null : values[index];
    const filled = t.customdata.map(index => Array.isArray(index) ? index.map(at) : at(index));
    if (t.type === "heatmap") t.z = filled;
    else if (t.type === "barpolar") t.marker.color = filled;
    else t[t.type === "scatterpolar" ? "r" : "y"] = filled;
  }
  if (layout.coloraxis) [layout.coloraxis.cmin, layout.coloraxis.cmax] = limits;
  if (G.layout === "polar") layout.polar.radialaxis.range = [limits[0], limits[1] + room];
  if (G.layout === "line") layout.yaxis.range = [limits[0] - room, limits[1] + room];
  return moveFrames(f);
}

function moveFrames(f) {
  const frame = ((f.layout.meta || {}).frames || [])[S.element];
  for (const s of f.layout.shapes || []) {
    if (s.type === "line") s.x0 = s.x1 = frame[0];
    else [s.x0, s.x1, s.y0, s.y1] = frame;
  }
  return f;
}

function drawAggregate() {
  show("aggregate", fillOrbit(template(D.plots[S.metric]), S.models.map(j => curve(j))));
  $("aggregate-how").textContent = (S.metric === "map" ? "mAP over " : "The mean over ") + D.subsets[S.subset] + " for every element. Click one to look at it.";
}

function drawIndividual() {
  const i = S.sample, d = D.details[D.samples[i]];
  if (D.tiles && d) {
    const f = template(D.tiles[S.metric]), [tall, wide] = f.layout.meta.tile;
    let peak = 0;
    for (const t of f.data) {
      const maps = range(M).map(k => errorMap(d, S.models[t.meta.model], G.place[k]));
      t.z = t.customdata.map((row, r) => row.map((k, c) => k < 0 || !maps[k] ? null : maps[k][r % tall][c % wide]));
      peak = Math.max(peak, ...t.z.flat().filter(fine));
    }
    [f.layout.coloraxis.cmin, f.layout.coloraxis.cmax] = [0, peak || 1];
    show("individual", moveFrames(f));
  } else show("individual", fillOrbit(template(D.plots[S.metric]), S.models.map(j => orbit(j, i))));
  $("individual-how").textContent = "The orbit of " + sampleName(i) + classOf(i) + ". Click an element to see it.";
  const broken = D.failures.filter(f => f[1] === D.samples[i] && S.models.some(j => D.models[j] === f[0]));
  $("failed").replaceChildren(...broken.map(f => notice(f[0] + " could not be evaluated on sample " + f[1] + (f[2] ? " at " + f[2] : "") + ": " + f[3])));
}

function drawMap() {
  const name = key() + "/" + S.method, f = template(D.map), P = D.points[name], m = metric(), colors = S.models.map(intensity);
  if (!P) {
    $("map-note").textContent = "It is being computed …";
    more("method=" + S.method, "map-note", got => { Object.assign(D.points, got.points); Object.assign(D.notices, got.notices); draw(["map"]); });
    return;
  }
  for (const t of f.data) {
    const place = t.meta.mark ?? t.meta.model, j = S.models[place];
    if (t.meta.mark !== undefined) { t.x = [P[j][S.sample][0]]; t.y = [P[j][S.sample][1]]; continue; }
    Object.assign(t, { x: P[j].map(p => p[0]), y: P[j].map(p => p[1]), customdata: range(N), text: range(N).map(i => plain(sampleName(i) + classOf(i))),
      hovertemplate: "%{text}<br>" + S.by + " of " + plain(m.label) + ": %{marker.color:.3g}<extra></extra>" });
    t.marker.color = colors[place];
    if (S.subset) Object.assign(t, { selectedpoints: range(N).filter(inside), unselected: { marker: { opacity: 0.12 } } });
  }
  const all = colors.flat().filter(fine), low = Math.min(...all), high = Math.max(...all), axis = f.layout.coloraxis;
  Object.assign(axis, { cmin: low, cmax: high > low ? high : low + 1, reversescale: !(m.higher && S.by === "mean") });
  axis.colorbar.title.text = S.by + " of " + plain(m.label);
  show("map", f);
  $("map-note").textContent = D.notices[name] || "";
}

function drawWalk() {
  const i = S.sample, order = ranked(), place = order.indexOf(i);
  $("rank").max = order.length;
  $("rank").value = place + 1;
  const numbered = place < 0 ? "" : " Number " + (place + 1) + " of " + order.length + ", counted from the smallest " + S.by + " for " + D.models[S.models[0]] + ".";
  $("about").textContent = capital(sampleName(i)) + classOf(i) + "." + numbered + " " + capital(S.by) + " of " + metric().label + " over its orbit: "
    + S.models.map(j => D.models[j] + " " + number(intensity(j)[i])).join(", ") + ".";
  axes.forEach(axis => { axis.input.value = axis.positions[S.element]; });
  $("where").replaceChildren(tag("strong", G.labels[S.element]), ", element " + (S.element + 1) + " of " + M);
}

// -- one sample under one element ------------------------------------------------------------------------------------

function errorMap(d, j, e) {
  const out = d.outputs[j] && d.outputs[j][e], right = d.targets[j] && d.targets[j][e];
  const error = { mse: (a, b) => (a * a + b * b) / 2, rmse: (a, b) => Math.sqrt((a * a + b * b) / 2), mae: (a, b) => (Math.abs(a) + Math.abs(b)) / 2 }[S.metric] || Math.hypot;
  return out && right && out[0].map((row, r) => row.map((_, c) => error(out[0][r][c] - right[0][r][c], out[1][r][c] - right[1][r][c])));
}

function arrows(field, longest) {
  const x = [], y = [], stride = Math.max(1, Math.ceil(Math.max(field[0].length, field[0][0].length) / 16)), half = Math.floor(stride / 2);
  for (let r = half; r < field[0].length; r += stride) for (let c = half; c < field[0][0].length; c += stride) {
    const scale = 0.9 * stride / longest, u = field[0][r][c] * scale, v = (D.down ? 1 : -1) * field[1][r][c] * scale;
    const a = c + 0.5 - u / 2, b = r + 0.5 - v / 2, s = a + u, t = b + v;
    x.push(a, s, s - 0.3 * (u + 0.6 * v), null, s, s - 0.3 * (u - 0.6 * v), null);
    y.push(b, t, t - 0.3 * (v - 0.6 * u), null, t, t - 0.3 * (v + 0.6 * u), null);
  }
  return { x, y };
}

const FILL = {
  input(t, x) {
    if (t.type === "scatter3d") Object.assign(t, { x: x.map(p => p[0]), y: x.map(p => p[1]), z: x.map(p => p[2]) });
    else if (t.type === "bar") t.y = x;
    else {
      const stride = Math.ceil(Math.max(...D.size) / D.side), columns = Math.ceil(D.size[1] / stride), depth = t.type === "image" ? 3 : 1;
      const pixel = at => depth === 1 ? x.charCodeAt(at) - 48 : range(3).map(q => (x.charCodeAt(3 * at + q) - 48) * 255 / 63);
      const z = range(x.length / depth / columns).map(r => range(columns).map(c => pixel(r * columns + c)));
      Object.assign(t, { z, dx: stride, dy: stride, x0: stride / 2, y0: stride / 2 }, t.type === "heatmap" ? { zmin: 0, zmax: 63 } : {});
    }
  },
  classification(t, out, right, j) {
    const order = range(out ? out.length : 0).sort((a, b) => out[b] - out[a]).slice(0, 12).sort((a, b) => a - b), names = D.columns[j];
    const truth = D.references[0] === "truth" ? D.labels[j][S.sample] : [];
    Object.assign(t, { x: order.map(c => plain(names[c])), y: order.map(c => out[c]) });
    t.marker.line.color = order.map(c => truth.includes(names[c]) ? INK : CLEAR);
  },
  detection(t, out, right, j, lines) {
    const mine = t.meta.part === "target", truth = D.references[0] === "truth", boxes = (mine ? right : out) || [];
    const name = !mine ? D.models[j] : truth ? "true" : "consensus of " + D.models[j];
    Object.assign(t, { x: [], y: [], text: [], name: plain(name) });
    if (mine && !truth) t.line.color = D.colors[j];
    for (const [x1, y1, x2, y2, score, label] of boxes) {
      const said = plain(label) + (mine ? "" : "  " + score.toFixed(2));
      t.x.push(x1, x2, x2, x1, x1, null);
      t.y.push(y1, y1, y2, y2, y1, null);
      t.text.push(...Array(6).fill(plain(name) + ": " + said));
      lines.push(bold(name) + "  " + said + "  [" + [x1, y1, x2, y2].map(v => v.toFixed(0)).join(", ") + "]");
    }
  },
  field(t, out, right, j) {
    const longest = Math.max(1e-9, ...[out, right].flatMap(f => f ? f[0].flatMap((row, r) => row.map((u, c) => Math.hypot(u, f[1][r][c]))) : []));
    if (t.meta.part === "error") t.z = errorMap(D.details[D.samples[S.sample]], j, G.place[S.element]) || [];
    else Object.assign(t, (t.meta.part === "target" ? right : out) ? arrows(t.meta.part === "target" ? right : out, longest) : { x: [], y: [] });
  },
  regression(t, out, right) {
    t.y = (t.meta.part === "target" ? right : out) || [];
    t.x = range(t.y.length);
  },
};

function drawDetail() {
  const d = D.details[D.samples[S.sample]], e = G.place[S.element];
  $("detail-how").textContent = capital(sampleName(S.sample)) + classOf(S.sample) + " under " + G.labels[S.element] + ": what the models see, and what they answer."
    + (D.detail ? { polar: " Drag around the image to turn it.", grid: " Drag the image to shift it." }[G.layout] || "" : "");
  $("detail-note").textContent = d ? "" : D.more && D.detail ? "It is being fetched …" : D.why;
  drawFacts(d, e);
  if (!d || !D.detail) {
    Plotly.purge("detail");
    if (D.more && D.detail) more("sample=" + D.samples[S.sample], "detail-note", got => { Object.assign(D.details, got); draw(["individual", "detail"]); });
    return;
  }
  const f = template(D.detail), lines = [];
  for (const t of f.data) {
    const j = S.models[t.meta.model];
    if (t.meta.part === "input") FILL.input(t, d.input[e]);
    else FILL[D.task](t, d.outputs[j] && d.outputs[j][e], d.targets[j] && d.targets[j][e], j, lines);
  }
  const bars = f.data.filter(t => t.meta.part === "output");
  if (D.task === "classification") f.layout[bars[0].xaxis.replace("x", "xaxis")].categoryarray = [...new Set(bars.flatMap(t => t.x))];
  if (D.task === "detection") f.layout.annotations.at(-1).text = lines.slice(0, 14).join("<br>") || "nothing was detected";
  if (D.task === "field") {
    const maps = f.data.filter(t => t.meta.part === "error"), peak = Math.max(0, ...maps.flatMap(t => t.z.flat()).filter(fine));
    const shown = ["mse", "rmse", "mae"].includes(S.metric) ? S.metric : "aee";
    Object.assign(f.layout.coloraxis, { cmin: 0, cmax: peak || 1 });
    f.layout.coloraxis.colorbar.title.text = shown.toUpperCase();
    for (const t of maps) {
      t.hovertemplate = shown.toUpperCase() + " %{z:.3f}";
      const n = t.xaxis === "x" ? "" : t.xaxis.slice(1);
      if (t.z.length) { f.layout["xaxis" + n].range = [0, t.z[0].length]; f.layout["yaxis" + n].range = [t.z.length, 0]; }
    }
  }
  show("detail", f);
}

async function more(query, note, take) {  // what the page does not hold, where there is somebody to ask
  try {
    const got = await fetch(D.more + "?" + query);
    if (!got.ok) throw new Error(await got.text());
    take(await got.json());
  } catch (error) { $(note).textContent = "This cannot be had: " + error.message; }
}

// -- words and tables ------------------------------------------------------------------------------------------------

function tag(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

function notice(text, kind = "warn") {
  const made = tag("div", text);
  made.className = "notice " + kind;
  made.setAttribute("role", kind === "warn" ? "alert" : "status");
  return made;
}

function modelTag(j) {
  const dot = tag("span");
  dot.className = "dot";
  dot.style.backgroundColor = D.colors[j];
  return tag("span", dot, D.models[j]);
}

function table(id, head, rows, from = Infinity) {
  const line = (cells, kind) => tag("tr", ...cells.map((cell, c) => { const made = tag(kind, cell); if (c >= from) made.className = "n"; return made; }));
  $(id).replaceChildren(tag("table", tag("thead", line(head, "th")), tag("tbody", ...rows.map(cells => line(cells, "td")))));
}

function answer(out, j) {
  if (!out) return "–";
  if (D.task === "classification") { const best = out.indexOf(Math.max(...out)); return D.columns[j][best] + " (" + percent(out[best]) + ")"; }
  if (D.task === "detection") {
    const best = out.reduce((a, b) => b[4] > a[4] ? b : a, [0, 0, 0, 0, -1, ""]);
    return out.length ? best[5] + (out.length > 1 ? " and " + (out.length - 1) + " more" : "") : "no box";
  }
  if (D.task === "field") return "mean length " + number(mean(out[0].flatMap((row, r) => row.map((u, c) => Math.hypot(u, out[1][r][c])))));
  return out.slice(0, 6).map(number).join(", ") + (out.length > 6 ? ", …" : "");
}

function drawFacts(d, e) {
  const i = S.sample, rows = [], put = (name, cell) => rows.push([name, ...S.models.map(cell)]), truth = D.references[0] === "truth";
  put(metric().label, j => number(D.values[key()][j][S.element][i]));
  if (d) put("answer", j => answer(d.outputs[j] && d.outputs[j][e], j));
  if (truth && D.labels) put("ground truth", j => D.labels[j][i].join(", "));
  else if (truth && d && D.task !== "field") put("ground truth", j => answer(d.targets[j] && d.targets[j][e], j));
  if (D.consensus.some(Boolean)) {
    if (D.consensus.some(c => c && c.said)) put("consensus", j => D.consensus[j] ? D.consensus[j].said[i] : "–");
    put("orbit that agrees with the consensus", j => D.consensus[j] ? percent(D.consensus[j].agreement[i]) : "–");
  }
  table("facts", ["", ...S.models.map(modelTag)], rows);
}

function drawHeadline() {
  const m = metric(), better = m.higher ? (a, b) => a < b : (a, b) => a > b;
  const parts = S.models.map(j => {
    const c = curve(j), good = range(M).filter(k => fine(c[k]));
    if (!good.length) return D.models[j] + ": nothing to measure";
    const worst = good.reduce((a, k) => better(c[k], c[a]) ? k : a);
    const average = good.reduce((a, k) => a + G.weights[k] * c[k], 0) / good.reduce((a, k) => a + G.weights[k], 0);
    const start = G.identity === null ? "" : number(c[G.identity]) + " at " + G.labels[G.identity] + ", ";
    return D.models[j] + ": " + start + number(average) + " on average over the orbit, " + number(c[worst]) + " at its worst (" + G.labels[worst] + ")";
  });
  $("headline").textContent = capital(m.label) + " over " + D.counts[S.subset] + " samples. " + parts.join(". ") + ".";
}

function drawTables() {
  const all = D.summary[S.subset];
  const of = j => all.find(r => r.model === D.models[j]);
  const words = { identity: "unchanged inputs", mean: "mean over the orbit", worst: "worst element", gap: "gap", sample_std: "spread along one orbit", sample_gap: "gap along one orbit" };
  const against = REFERENCES[S.reference], rows = [];
  for (const m of D.metrics) for (const j of S.models) {
    const row = all.find(r => r.model === D.models[j] && r.metric === m.key && r.reference === S.reference);
    rows.push([modelTag(j), m.label + (m.higher ? " ↑" : " ↓"), ...Object.keys(words).map(name => number(row[name]))]);
  }
  table("summary", ["model", "metric, against " + against, ...Object.values(words)], rows, 2);
  $("consensus").hidden = !D.consensus.some(Boolean);
  const facts = { agreement: "orbit that agrees with it", coverage: "orbit with an answer", residual: "residual", consensus_correct: "is the real label",
    consensus_error: D.error_name + " against the real labels", correlation: "curves correlate" };
  const table_ = S.models.map(j => ({ ...of(j), correlation: correlation(j) }));
  const kept = Object.keys(facts).filter(name => table_.some(row => fine(row[name]) && (name !== "coverage" || row[name] < 1)));
  const share = new Set(["agreement", "coverage", "consensus_correct"]);
  table("consensus-table", ["", ...kept.map(name => facts[name])],
    S.models.map((j, place) => [modelTag(j), ...kept.map(name => (share.has(name) ? percent : number)(table_[place][name]))]), 1);
  const doubted = S.models.filter((j, place) => fine(table_[place].agreement) && table_[place].agreement < 0.7);
  $("doubt").replaceChildren(...(doubted.length ? [notice("Much of the orbit disagrees with the consensus of "
    + doubted.map(j => D.models[j] + " (" + percent(of(j).agreement) + ")").join(" and of ") + ": don't take it for the truth.")] : []));
}

function correlation(j) {
  if (D.references.length < 2) return null;
  const [a, b] = ["truth", "consensus"].map(reference => curve(j, reference)), good = range(M).filter(k => fine(a[k]) && fine(b[k]));
  const [x, y] = [a, b].map(c => good.map(k => c[k])), [mx, my] = [mean(x), mean(y)];
  if (good.length < 3 || [x, y].some(c => Math.max(...c) - Math.min(...c) < 1e-9)) return null;
  const sum = f => good.reduce((total, _, p) => total + f(x[p] - mx, y[p] - my), 0);
  return sum((p, q) => p * q) / Math.sqrt(sum(p => p * p) * sum((_, q) => q * q));
}

function drawNotices() {
  const found = [], count = new Set(D.failures.map(f => f[0] + "\n" + f[1])).size;
  if (count) {
    const items = D.failures.slice(0, 50).map(f => tag("li", f[0] + ", sample " + f[1] + (f[2] ? " at " + f[2] : "") + ": " + f[3]));
    if (D.failures.length > 50) items.push(tag("li", "and " + (D.failures.length - 50) + " more"));
    const said = count + (count === 1 ? " sample" : " samples") + " could not be evaluated, and " + (count === 1 ? "is" : "are") + " left out.";
    found.push(notice(tag("details", tag("summary", said), tag("ul", ...items))));
  }
  if (D.references[0] !== "truth") found.push(notice("Without labels, each model is compared with its own consensus over the orbit. A consensus can be "
    + "wrong with confidence: see how much of the orbit agrees with it.", "info"));
  $("notices").replaceChildren(...found);
}

// -- linking ---------------------------------------------------------------------------------------------------------

const VIEWS = { headline: drawHeadline, aggregate: drawAggregate, map: drawMap, walk: drawWalk, individual: drawIndividual, detail: drawDetail, tables: drawTables };
function draw(what) { for (const name of what || Object.keys(VIEWS)) VIEWS[name](); }
function setSample(i) {
  if (i === undefined || i < 0 || i >= N) return;
  S.sample = i;
  draw(["map", "walk", "individual", "detail"]);
}
function setElement(k) {
  if (k === undefined || k < 0 || k >= M || k === S.element) return;
  S.element = k;
  draw(["aggregate", "walk", "individual", "detail"]);
}
function step(by) {
  const order = ranked(), place = order.indexOf(S.sample);
  setSample(order[Math.min(Math.max(place + by, 0), order.length - 1)]);
}

function fill(id, entries, name, what) {
  $(id).replaceChildren(...entries.map(([value, text]) => Object.assign(tag("option", text), { value })));
  $(id).disabled = entries.length < 2;
  $(id).addEventListener("change", () => {
    S[name] = name === "subset" ? Number($(id).value) : $(id).value;
    if (name === "subset" && !inside(S.sample) && ranked().length) S.sample = mostVaried();
    draw(what);
  });
}

function makeModels() {
  D.models.forEach((name, j) => {
    const box = Object.assign(tag("input"), { type: "checkbox", checked: S.models.includes(j), value: j });
    box.addEventListener("change", () => {
      const chosen = [...$("models").querySelectorAll("input")].filter(b => b.checked).map(b => Number(b.value));
      if (!chosen.length) { box.checked = true; return; }
      S.models = chosen;
      draw();
    });
    $("models").append(tag("label", box, modelTag(j)));
  });
  $("models").hidden = D.models.length < 2;
}

function makeAxes() {  // a slider per axis, or a single one where the elements fill no grid
  const columns = G.axes.map((_, a) => [...new Set(G.coords.map(c => c[a]))].sort((p, q) => p - q));
  const places = G.coords.map(c => c.map((v, a) => columns[a].indexOf(v))), at = new Map(places.map((p, k) => [p.join(), k]));
  const grid = G.axes.length <= 3 && at.size === M && columns.reduce((n, c) => n * c.length, 1) === M;
  axes = (grid ? G.axes : ["element"]).map((name, a) => {
    const input = Object.assign(tag("input"), { type: "range", min: 0, step: 1, max: (grid ? columns[a].length : M) - 1, id: "axis-" + a });
    input.addEventListener("input", () => setElement(grid ? at.get(axes.map(axis => axis.input.value).join()) : Number(input.value)));
    return { input, positions: grid ? places.map(p => p[a]) : range(M), label: tag("label", name, input) };
  });
  $("axes").replaceChildren(...axes.filter(axis => Number(axis.input.max) > 0).map(axis => axis.label));
}

function makeDrag() {
  let drag = null;
  const picture = () => $("detail").querySelector('.nsewdrag[data-subplot="xy"]');
  const pointer = event => {
    const box = picture().getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2, box.width, box.height];
  };
  const nearest = wanted => range(M).reduce((best, k) => away(k, wanted) < away(best, wanted) ? k : best, 0);
  const away = (k, wanted) => G.coords[k].reduce((a, v, axis) => a + (v - wanted[axis]) ** 2, 0);
  if (!["polar", "grid"].includes(G.layout) || !D.size) return;
  $("detail").classList.add("turns");
  $("detail").addEventListener("pointerdown", event => {
    const from = picture() && pointer(event);
    if (!from || Math.abs(from[0]) > from[2] / 2 || Math.abs(from[1]) > from[3] / 2) return;
    drag = { from, coords: G.coords[S.element].slice() };
    $("detail").setPointerCapture(event.pointerId);
  }, true);
  $("detail").addEventListener("pointermove", event => {
    if (!drag) return;
    const [x, y, width] = pointer(event);
    if (G.layout === "polar") {
      const turned = (Math.atan2(-y, x) - Math.atan2(-drag.from[1], drag.from[0])) * 180 / Math.PI;
      const angle = drag.coords[0] + turned, low = G.coords[0][0];
      setElement(nearest([low + ((angle - low) % 360 + 360) % 360]));
    } else {
      const scale = D.size[1] / width;
      setElement(nearest([drag.coords[0] + (x - drag.from[0]) * scale, drag.coords[1] + (y - drag.from[1]) * scale]));
    }
  });
  for (const end of ["pointerup", "pointercancel"]) $("detail").addEventListener(end, () => { drag = null; });
}

async function start() {
  if (window.frameElement) {  // inside the app, whose frame is as tall as the page
    document.documentElement.classList.add("inside");
    new ResizeObserver(() => { window.frameElement.style.height = document.body.scrollHeight + "px"; }).observe(document.body);
  }
  const [code, text] = await Promise.all([inflate("plotly"), inflate("data")]);
  document.head.append(tag("script", code));
  D = JSON.parse(text);
  G = D.group, M = G.labels.length, N = D.samples.length;
  D.members = D.members.map(rows => new Set(rows));
  S = { models: range(D.models.length), metric: D.metrics[0].key, reference: D.references[0], subset: 0, method: D.methods[0], by: "mean", sample: 0, element: G.identity ?? 0 };
  $("header").firstElementChild.textContent = D.title;
  $("facts-of-all").textContent = D.facts;
  fill("metric", D.metrics.map(m => [m.key, m.label + (m.higher ? "" : " (lower is better)")]), "metric");
  fill("reference", D.references.map(r => [r, REFERENCES[r]]), "reference");
  fill("subset", D.subsets.map((name, s) => [s, name]), "subset");
  fill("method", D.methods.map(m => [m, METHODS[m]]), "method", ["map"]);
  $("by").addEventListener("change", () => { S.by = $("by").value; draw(["map", "walk"]); });
  makeModels();
  makeAxes();
  const first = mostVaried(), kept = D.samples.findIndex(i => D.details[i]);
  S.sample = D.details[D.samples[first]] || D.more || kept < 0 ? first : kept;
  drawNotices();
  draw();
  makeDrag();
  const picked = event => {
    const p = event.points[0], all = p.data.customdata;
    if (p.customdata !== undefined) return p.customdata;
    return all && Array.isArray(p.pointNumber) ? all[p.pointNumber[0]][p.pointNumber[1]] : undefined;
  };
  for (const [id, choose] of [["aggregate", setElement], ["individual", setElement], ["map", setSample]])
    $(id).on("plotly_click", event => choose(picked(event)));
  $("rank").addEventListener("input", () => setSample(ranked()[Number($("rank").value) - 1]));
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  for (const button of document.querySelectorAll("[data-save]")) button.addEventListener("click", () =>
    Plotly.downloadImage(button.dataset.save, { format: "png", filename: "nero-" + button.dataset.save, scale: 2 }));
  window.matchMedia("(max-width: 760px)").addEventListener("change", () => draw());
  document.documentElement.dataset.ready = "yes";
}
start();
