"use strict";
const $ = (id) => document.getElementById(id);
const gallery = JSON.parse($("data").textContent);
const rows = new Map([...document.querySelectorAll("details.row")].map((e) => [e.dataset.name, e]));
const view = { sort: "title", down: false, chosen: new Set() };
const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#57606a", "#8a7500"];
const PREFIX = { "-12": "p", "-9": "n", "-6": "µ", "-3": "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E" };

function amount(value, unit) {
  const most = unit === "s" ? 0 : 18;
  const power = Math.min(Math.max(3 * Math.floor(Math.log10(value * 1.0005) / 3), -12), most);
  const scaled = value / 10 ** power;
  const digits = Math.max(0, 2 - Math.floor(Math.log10(scaled * 1.0005)));
  const text = scaled.toFixed(digits);
  return (text.includes(".") ? text.replace(/\.?0+$/, "") : text) + " " + PREFIX[power] + unit;
}

const lengthIndex = () => gallery.lengths.indexOf(Number($("length").value));

function key(entry) {
  const at = lengthIndex();
  const value = { traffic: entry.traffic[at], gpu: entry.gpu[at], array: entry.array[at],
    title: entry.title.toLowerCase(), kind: entry.kind, passes: entry.naive, intensity: entry.intensity }[view.sort];
  return value;
}

function order(a, b) {
  const [x, y] = [key(a), key(b)];
  if (x === y) return a.title < b.title ? -1 : 1;
  if (x === null) return 1; // what cannot be predicted stands last, whichever way
  if (y === null) return -1;
  return (x < y ? -1 : 1) * (view.down ? -1 : 1);
}

function fits(entry) {
  const words = $("words").value.trim().toLowerCase().split(/\s+/);
  const text = `${entry.name} ${entry.title} ${entry.kind} ${entry.source}`.toLowerCase();
  const limit = (id) => ($(id).value === "" ? null : Number($(id).value));
  const time = entry.gpu[lengthIndex()];
  return words.every((w) => text.includes(w))
    && (!$("kind").value || entry.kind === $("kind").value)
    && (limit("passes") === null || entry.naive <= limit("passes"))
    && (limit("from") === null || entry.intensity >= limit("from"))
    && (limit("to") === null || entry.intensity <= limit("to"))
    && (limit("within") === null || (time !== null && time * 1e3 <= limit("within")));
}

function fill(entry) {
  const at = lengthIndex();
  const row = rows.get(entry.name);
  for (const [name, unit] of [["traffic", "B"], ["gpu", "s"], ["array", "s"]]) {
    const cell = row.querySelector(`[data-column=${name}]`);
    const value = entry[name][at];
    cell.textContent = value === null ? "–" : amount(value, unit);
    cell.classList.toggle("none", value === null);
    if (name === "gpu") cell.classList.toggle("guess", value !== null && entry.guess[at]);
  }
}

function show() {
  let shown = 0;
  const sorted = [...gallery.entries].sort(order);
  for (const entry of sorted) {
    const row = rows.get(entry.name);
    fill(entry);
    row.hidden = !fits(entry);
    shown += row.hidden ? 0 : 1;
    $("rows").append(row);
  }
  $("count").textContent = `${shown} of ${gallery.entries.length}`;
  for (const button of document.querySelectorAll("#head button")) {
    button.setAttribute("aria-pressed", String(button.dataset.sort === view.sort));
    button.classList.toggle("down", view.down && button.dataset.sort === view.sort);
  }
}

function svg(tag, attributes, text) {
  const made = document.createElementNS("http" + "://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function compare() {
  $("compare").classList.toggle("on", view.chosen.size > 0);
  const what = $("what").value;
  const unit = what === "traffic" ? "B" : "s";
  const lines = gallery.entries.filter((e) => view.chosen.has(e.name));
  const values = lines.flatMap((e) => e[what]).filter((v) => v > 0);
  $("together").replaceChildren();
  if (!lines.length) return;
  const [wide, high, left, right, top, bottom] = [860, 380, 76, 190, 12, 42];
  const low = Math.floor(Math.log10(Math.min(...values, 1e-3))), most = Math.ceil(Math.log10(Math.max(...values, 1e-3)));
  const [first, last] = [Math.log2(gallery.lengths[0]), Math.log2(gallery.lengths.at(-1))];
  const x = (n) => left + (Math.log2(n) - first) / (last - first) * (wide - left - right);
  const y = (v) => high - bottom - (Math.log10(v) - low) / Math.max(most - low, 1) * (high - top - bottom);
  const drawing = svg("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": $("what").selectedOptions[0].text });
  const step = Math.max(1, Math.ceil((most - low) / 8));
  for (let p = low; p <= most; p += step) {
    drawing.append(svg("line", { class: "grid", x1: left, x2: wide - right, y1: y(10 ** p), y2: y(10 ** p) }),
      svg("text", { x: left - 7, y: y(10 ** p) + 4, "text-anchor": "end" }, amount(10 ** p, unit)));
  }
  for (const [k, n] of gallery.lengths.entries()) {
    drawing.append(svg("text", { x: x(n), y: high - bottom + 16, "text-anchor": "middle" }, gallery.shown[k]));
  }
  drawing.append(svg("line", { class: "axis", x1: left, x2: wide - right, y1: high - bottom, y2: high - bottom }),
    svg("text", { class: "label", x: (left + wide - right) / 2, y: high - 6, "text-anchor": "middle" }, "length [elements]"),
    svg("text", { class: "label", transform: `translate(12 ${(top + high - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" },
      `${$("what").selectedOptions[0].text} [${unit}]`));
  const names = [];
  for (const [k, entry] of lines.entries()) {
    const colour = PALETTE[k % PALETTE.length];
    const dash = k < PALETTE.length ? "" : "5 3";
    const points = gallery.lengths.map((n, i) => [x(n), entry[what][i], what === "gpu" && entry.guess[i]]).filter((p) => p[1] > 0);
    if (!points.length) { names.push([entry, colour, high - bottom, " (refused)"]); continue; }
    drawing.append(svg("polyline", { class: "line", stroke: colour, "stroke-dasharray": dash, points: points.map((p) => `${p[0]},${y(p[1])}`).join(" ") }));
    for (const p of points) {
      drawing.append(svg("circle", { class: p[2] ? "dot hollow" : "dot", cx: p[0], cy: y(p[1]), r: 3.4, stroke: colour, fill: p[2] ? "" : colour }));
    }
    names.push([entry, colour, y(points.at(-1)[1]), ""]);
  }
  names.sort((a, b) => a[2] - b[2]);
  let below = -Infinity;
  for (const [entry, colour, place, remark] of names) {
    below = Math.max(place + 4, below + 14);
    drawing.append(svg("text", { x: wide - right + 10, y: below, style: `fill:${colour};font-size:12px` }, entry.title.slice(0, 34) + remark));
  }
  $("together").append(drawing);
}

for (const control of $("tools").querySelectorAll("input, select")) control.addEventListener("input", show);
$("reset").addEventListener("click", () => setTimeout(show));
for (const button of document.querySelectorAll("#head button")) {
  button.addEventListener("click", () => {
    view.down = view.sort === button.dataset.sort && !view.down;
    view.sort = button.dataset.sort;
    show();
  });
}
for (const [name, row] of rows) {
  const box = row.querySelector("summary input");
  box.addEventListener("click", (event) => event.stopPropagation());
  box.addEventListener("change", () => {
    if (box.checked) view.chosen.add(name); else view.chosen.delete(name);
    compare();
  });
}
$("what").addEventListener("change", compare);
$("clear").addEventListener("click", () => {
  for (const name of view.chosen) rows.get(name).querySelector("summary input").checked = false;
  view.chosen.clear();
  compare();
});
if (location.hash && rows.has(location.hash.slice(1))) rows.get(location.hash.slice(1)).open = true;
show();
document.body.dataset.ready = String(Math.round(performance.now()));
