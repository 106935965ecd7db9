"use strict";
// The table of the sweep: columns of numbers, or of level codes, as typed arrays; scales, colours and fronts over it.

const page = JSON.parse(document.getElementById("data").textContent);

function bytes(text) {
  const plain = atob(text), out = new Uint8Array(plain.length);
  for (let i = 0; i < plain.length; i++) out[i] = plain.charCodeAt(i);
  return out.buffer;
}

const columns = page.columns.map((c) => ({
  ...c,
  values: c.levels ? new Uint16Array(bytes(c.data)) : new Float64Array(bytes(c.data)),
}));
const byName = new Map(columns.map((c) => [c.name, c]));

function shownNumber(v) {
  if (Number.isNaN(v)) return "–";
  if (Number.isInteger(v) && Math.abs(v) < 1e7) return v.toLocaleString("en");
  const size = Math.abs(v);
  return size >= 1e-3 && size < 1e6 ? String(Number(v.toPrecision(5))) : v.toExponential(3);
}

function shownValue(column, i) {
  const v = column.values[i];
  return column.levels ? String(column.levels[v]) : shownNumber(v);
}

function extent(column, rows) {
  let low = Infinity, high = -Infinity;
  const v = column.values;
  for (const i of rows) {
    if (v[i] < low) low = v[i];
    if (v[i] > high) high = v[i];
  }
  return rows.length ? [low, high] : [0, 1];
}

// Whether a logarithmic axis shows a column better: the middle nine tenths of its values differ by a large factor.
function wideSpread(column) {
  const step = Math.max(1, Math.floor(page.count / 2000)), some = [];
  for (let i = 0; i < page.count; i += step) if (!Number.isNaN(column.values[i])) some.push(column.values[i]);
  some.sort((a, b) => a - b);
  const at = (share) => some[Math.floor(share * (some.length - 1))];
  return !column.levels && some[0] > 0 && at(0.95) / at(0.05) > 30;
}

// A scale takes a value to 0 .. 1; levels stand at equal distances in the order of the sweep file.
function makeScale(column, rows, log) {
  let [low, high] = column.levels ? [0, column.levels.length - 1] : extent(column, rows);
  const logarithmic = log && low > 0 && !column.levels;
  if (low === high) [low, high] = logarithmic ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  const f = logarithmic ? Math.log10 : (v) => v;
  const pad = 0.03 * (f(high) - f(low)), a = f(low) - pad, b = f(high) + pad;
  const at = (v) => (f(v) - a) / (b - a);
  const back = (t) => (logarithmic ? 10 ** (a + t * (b - a)) : a + t * (b - a));
  return { at, back, low, high, log: logarithmic, ticks: ticksOf(column, low, high, logarithmic) };
}

function ticksOf(column, low, high, log) {
  if (column.levels) {
    const step = Math.ceil(column.levels.length / 12);
    return column.levels.map((t, i) => [i, String(t)]).filter(([i]) => i % step === 0);
  }
  const out = [];
  if (log) {
    const decades = Math.log10(high / low);
    const factors = decades > 5 ? [1] : decades > 1.5 ? [1, 3] : [1, 1.5, 2, 3, 4, 5, 7];
    const step = Math.ceil(decades / 8);
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += step) {
      for (const k of factors) out.push(k * 10 ** e);
    }
  } else {
    const raw = (high - low) / 6, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw);
    for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) out.push(v);
  }
  return out.filter((v) => v >= low * (1 - 1e-9) - 1e-300 && v <= high * (1 + 1e-9)).map((v) => [v, shownTick(v)]);
}

function shownTick(v) {
  const size = Math.abs(v);
  return size !== 0 && (size >= 1e5 || size < 1e-3) ? v.toExponential(0).replace("e+", "e") : String(Number(v.toPrecision(4)));
}

// Viridis at nine places, straight lines between; words get colours that differ also to the colour-blind (Okabe, Ito).
const RAMP = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121],
  [144, 215, 67], [253, 231, 37]];
const WORDS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7500", "#444444"];
const SHADES = 48;

function ramp(t) {
  const s = Math.min(Math.max(t, 0), 1) * (RAMP.length - 1), i = Math.min(Math.floor(s), RAMP.length - 2);
  return `rgb(${RAMP[i].map((c, k) => Math.round(c + (s - i) * (RAMP[i + 1][k] - c))).join(",")})`;
}

function palette(column, rows) {
  const count = column.levels ? column.levels.length : Infinity;
  if (count <= WORDS.length) {
    const colors = column.ordered ? column.levels.map((_, k) => ramp(k / Math.max(1, count - 1))) : WORDS.slice(0, count);
    return { colors, of: (i) => column.values[i] };
  }
  const scale = makeScale(column, rows, wideSpread(column)), v = column.values;
  const colors = Array.from({ length: SHADES }, (_, k) => ramp(k / (SHADES - 1)));
  return { colors, scale, of: (i) => Math.min(SHADES - 1, Math.max(0, Math.round(scale.at(v[i]) * (SHADES - 1)))) };
}

// Rows by rising value of a column, without those that have none; sorted once and remembered.
const orders = new Map();

function orderOf(column) {
  if (!orders.has(column.name)) {
    const v = column.values, rows = [];
    for (let i = 0; i < page.count; i++) if (!Number.isNaN(v[i])) rows.push(i);
    orders.set(column.name, Int32Array.from(rows).sort((i, j) => v[i] - v[j]));
  }
  return orders.get(column.name);
}

// The rows that no other row of their group beats, each group along x. One walk by rising cost in x: a row is kept
// if its cost in y is the least so far, or if it equals the row that set the least in both.
function fronts(mask, x, y, xSign, ySign, group) {
  const order = orderOf(x), found = new Map(), count = order.length;
  for (let k = 0; k < count; k++) {
    const i = order[xSign > 0 ? k : count - 1 - k], cost = ySign * y.values[i];
    if (!mask[i] || Number.isNaN(cost)) continue;
    const key = group ? group.values[i] : 0, at = x.values[i];
    let own = found.get(key);
    if (!own) found.set(key, (own = { rows: [], best: Infinity, at: NaN }));
    if (cost < own.best) {
      // Rows of the same x that came earlier cost more, so this one beats them.
      while (own.rows.length && x.values[own.rows[own.rows.length - 1]] === at) own.rows.pop();
      own.rows.push(i);
      own.best = cost;
      own.at = at;
    } else if (cost === own.best && at === own.at) own.rows.push(i);
  }
  return [...found].map(([key, own]) => ({ key, rows: own.rows }));
}
