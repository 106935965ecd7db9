// What the reader does: choose axes, filter, point, click, copy.

function options(select, names, chosen) {
  select.replaceChildren(...names.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

function choose(name, value) {
  state[name] = value;
  if (name === "x" || name === "y") {
    for (const [key, set] of [["log", wideSpread(byName.get(value))], ["max", page.maximize.includes(value)]]) {
      state[key + name] = set;
      $(key + name).checked = set;
    }
  }
}

function buildChoices() {
  const all = columns.map((c) => [c.name, c.label]);
  for (const id of ["x", "y", "color"]) {
    options($(id), all, page.start[id]);
    choose(id, page.start[id]);
  }
  const levels = columns.filter((c) => c.levels && c.role === "axis").map((c) => [c.name, c.label]);
  options($("group"), [["", "nothing"], ...levels], page.start.group);
  state.group = page.start.group;
  for (const id of ["x", "y", "color", "group"]) {
    $(id).addEventListener("change", () => { choose(id, $(id).value); redraw(); });
  }
  for (const id of ["logx", "logy", "maxx", "maxy"]) {
    $(id).addEventListener("change", () => { state[id] = $(id).checked; redraw(); });
  }
}

function element(tag, properties, ...children) {
  const out = Object.assign(document.createElement(tag), properties);
  out.append(...children);
  return out;
}

function levelFilter(column) {
  const boxes = column.levels.map((text, code) => {
    const box = element("input", { type: "checkbox", checked: !filters.get(column.name)?.off?.has(code) });
    box.addEventListener("change", () => {
      const f = filters.get(column.name) || { off: new Set() };
      if (box.checked) f.off.delete(code);
      else f.off.add(code);
      if (f.off.size) filters.set(column.name, f);
      else filters.delete(column.name);
      refilter();
    });
    return element("label", {}, box, String(text));
  });
  return element("div", { className: "levels" }, ...boxes);
}

function rangeFilter(column) {
  const [least, most] = extent(column, every), f = filters.get(column.name);
  const input = (side, value, hint) => {
    const box = element("input", { type: "number", step: "any", placeholder: shownNumber(hint), value: value ?? "" });
    box.setAttribute("aria-label", `${side} of ${column.label}`);
    return box;
  };
  const low = input("least", f && f.low > -Infinity ? f.low : null, least);
  const high = input("greatest", f && f.high < Infinity ? f.high : null, most);
  const change = () => {
    const given = { low: low.value === "" ? -Infinity : +low.value, high: high.value === "" ? Infinity : +high.value };
    if (given.low === -Infinity && given.high === Infinity) filters.delete(column.name);
    else filters.set(column.name, given);
    refilter();
  };
  for (const box of [low, high]) box.addEventListener("change", change);
  return element("div", { className: "range" }, low, high);
}

function buildFilters() {
  $("filters").replaceChildren(...columns.map((column) => {
    const few = column.levels && column.levels.length <= 40;
    if (column.levels && !few) return element("div", {});
    const body = few ? levelFilter(column) : rangeFilter(column);
    const out = element("div", { className: "filter" }, element("b", { textContent: column.label }), body);
    out.dataset.column = column.name;
    return out;
  }));
}

function valueRows(i) {
  return columns.map((c) => element("tr", {}, element("td", { textContent: c.label }), element("td", { textContent: shownValue(c, i) })));
}

function hover(event) {
  const box = $("plot").getBoundingClientRect(), tip = $("tip");
  const i = nearest(event.clientX - box.left, event.clientY - box.top);
  tip.style.display = i < 0 ? "none" : "block";
  if (i < 0) return;
  tip.replaceChildren(element("table", {}, ...valueRows(i)));
  tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.max(8, Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8))}px`;
}

function quoted(value) {
  const text = String(value);
  return typeof value === "number" || /^[A-Za-z0-9_][\w ./=,+-]*$/.test(text) ? text : JSON.stringify(text);
}

function yamlOf(i) {
  const fixed = Object.entries(page.inputs).map(([k, v]) => `${k}: ${quoted(v)}`);
  const axes = columns.filter((c) => c.role === "axis").map((c) => {
    const value = c.levels ? c.levels[c.values[i]] : c.values[i];
    return `  ${c.name}: [${quoted(c.unit ? `${value} ${c.unit}` : value)}]`;
  });
  return [...fixed, "axes:", ...axes].join("\n");
}

function pick(event) {
  const box = $("plot").getBoundingClientRect();
  const i = nearest(event.clientX - box.left, event.clientY - box.top);
  if (i >= 0) show(i);
}

function show(i) {
  state.chosen = i;
  $("values").replaceChildren(...valueRows(i));
  $("yaml").textContent = yamlOf(i);
  $("advice").textContent = "The design with the black ring. Click another one.";
  drawSchedule(i);
  redraw();
}

let brush = null;

function startBrush(event) {
  const box = $("parallel").getBoundingClientRect(), x = event.clientX - box.left;
  const line = lines.find((l) => Math.abs(l.at - x) < 14);
  brush = line ? { line, from: event.clientY - box.top } : null;
}

function endBrush(event) {
  if (!brush) return;
  const { column, scale, top, bottom } = brush.line, box = $("parallel").getBoundingClientRect();
  const value = (y) => scale.back((bottom - y) / (bottom - top));
  const to = event.clientY - box.top, [low, high] = [value(brush.from), value(to)].sort((a, b) => a - b);
  if (Math.abs(to - brush.from) < 4) filters.delete(column.name);
  else if (column.levels) filters.set(column.name, { off: new Set(column.levels.map((_, k) => k).filter((k) => k < low || k > high)) });
  else filters.set(column.name, { low: Number(low.toPrecision(6)), high: Number(high.toPrecision(6)) });
  brush = null;
  buildFilters();
  refilter();
}

buildChoices();
buildFilters();
$("plot").addEventListener("pointermove", hover);
$("plot").addEventListener("pointerleave", () => { $("tip").style.display = "none"; });
$("plot").addEventListener("click", pick);
$("parallel").addEventListener("pointerdown", startBrush);
window.addEventListener("pointerup", endBrush);
window.addEventListener("resize", redraw);
$("reset").addEventListener("click", () => { filters.clear(); buildFilters(); refilter(); });
$("copy").addEventListener("click", () => navigator.clipboard.writeText($("yaml").textContent));
refilter();
// The page opens with a design in its hand: the middle of the longest front.
const longest = view.front.reduce((best, f) => (f.rows.length > best.length ? f.rows : best), []);
if (longest.length) show(longest[Math.floor(longest.length / 2)]);
document.body.dataset.ready = String(Math.round(performance.now()));
