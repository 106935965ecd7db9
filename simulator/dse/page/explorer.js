// The page: choices and filters on the left, the designs in the middle, the chosen one on the right.

const $ = (id) => document.getElementById(id);
const every = Array.from({ length: page.count }, (_, i) => i);
const state = { x: "", y: "", color: "", group: "", logx: false, logy: false, maxx: false, maxy: false, chosen: -1 };
const filters = new Map(); // column name -> { low, high } of numbers, or { off: Set } of levels
const RADIUS = 9; // how near, in pixels, the pointer has to be
const MOST_LINES = 2500; // more would be slow, and a solid block
let kept = every, mask = new Uint8Array(page.count).fill(1), view = null, lines = null;

function refilter() {
  const tests = [...filters].map(([name, f]) => {
    const v = byName.get(name).values;
    return f.off ? (i) => !f.off.has(v[i]) : (i) => v[i] >= f.low && v[i] <= f.high;
  });
  kept = tests.length ? every.filter((i) => tests.every((t) => t(i))) : every;
  mask = new Uint8Array(page.count);
  for (const i of kept) mask[i] = 1;
  const failed = page.failed ? `; ${page.failed.toLocaleString("en")} more points failed` : "";
  $("shown").textContent = `${kept.length.toLocaleString("en")} of ${page.count.toLocaleString("en")} designs${failed}`;
  redraw();
}

function sized(canvas) {
  const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, box.width, box.height);
  pen.font = "12px system-ui, sans-serif";
  return { pen, width: box.width, height: box.height };
}

function redraw() {
  drawPlot();
  drawParallel();
}

function drawPlot() {
  const { pen, width, height } = sized($("plot"));
  const x = byName.get(state.x), y = byName.get(state.y), color = byName.get(state.color);
  const area = { left: 74, top: 12, right: width - 92, bottom: height - 44 };
  const sx = makeScale(x, kept, state.logx), sy = makeScale(y, kept, state.logy), shades = palette(color, kept);
  const px = new Float32Array(page.count), py = new Float32Array(page.count);
  for (const i of kept) {
    px[i] = area.left + sx.at(x.values[i]) * (area.right - area.left);
    py[i] = area.bottom - sy.at(y.values[i]) * (area.bottom - area.top);
  }
  drawFrame(pen, area, x, y, sx, sy);
  drawDesigns(pen, width, height, px, py, shades);
  const group = state.group ? byName.get(state.group) : null;
  const front = fronts(mask, x, y, state.maxx ? -1 : 1, state.maxy ? -1 : 1, group);
  drawFronts(pen, front, px, py, shades);
  drawLegend(pen, area, width, color, shades);
  view = { px, py, front, grid: indexed(px, py) };
  if (state.chosen >= 0) ring(pen, px[state.chosen], py[state.chosen]);
}

// A square a design, written as pixels: a hundred thousand calls to the canvas would take most of a second.
function drawDesigns(pen, width, height, px, py, shades) {
  const ratio = pen.getTransform().a, wide = Math.round(width * ratio), tall = Math.round(height * ratio);
  const layer = new OffscreenCanvas(wide, tall), brush = layer.getContext("2d");
  const image = brush.createImageData(wide, tall), pixels = new Uint32Array(image.data.buffer);
  const side = Math.round((kept.length > 20000 ? 2 : kept.length > 2000 ? 3 : 5) * ratio);
  const inks = shades.colors.map(ink);
  for (const i of kept) {
    if (Number.isNaN(px[i] + py[i])) continue;
    const left = Math.round(px[i] * ratio - side / 2), top = Math.round(py[i] * ratio - side / 2), color = inks[shades.of(i)];
    for (let r = Math.max(0, top); r < Math.min(tall, top + side); r++) {
      pixels.fill(color, r * wide + Math.max(0, left), r * wide + Math.min(wide, left + side));
    }
  }
  brush.putImageData(image, 0, 0);
  pen.drawImage(layer, 0, 0, width, height);
}

// A colour as the four bytes of a pixel.
function ink(color) {
  const [r, g, b] = color.startsWith("#") ? [1, 3, 5].map((k) => parseInt(color.slice(k, k + 2), 16)) : color.match(/\d+/g).map(Number);
  return new Uint32Array(new Uint8Array([r, g, b, 255]).buffer)[0];
}

function drawFrame(pen, area, x, y, sx, sy) {
  pen.strokeStyle = "#e6e9ed";
  pen.fillStyle = "#5d6875";
  pen.lineWidth = 1;
  pen.textAlign = "center";
  for (const [v, text] of sx.ticks) {
    const at = area.left + sx.at(v) * (area.right - area.left);
    segment(pen, at, area.top, at, area.bottom);
    pen.fillText(text, at, area.bottom + 15);
  }
  pen.textAlign = "right";
  for (const [v, text] of sy.ticks) {
    const at = area.bottom - sy.at(v) * (area.bottom - area.top);
    segment(pen, area.left, at, area.right, at);
    pen.fillText(text, area.left - 6, at + 4);
  }
  pen.fillStyle = "#1c2430";
  pen.textAlign = "center";
  pen.fillText(x.label, (area.left + area.right) / 2, area.bottom + 35);
  pen.save();
  pen.translate(14, (area.top + area.bottom) / 2);
  pen.rotate(-Math.PI / 2);
  pen.fillText(y.label, 0, 0);
  pen.restore();
}

function segment(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

function drawFronts(pen, front, px, py, shades) {
  for (const { rows } of front) {
    pen.strokeStyle = "#c2410c";
    pen.lineWidth = 1.4;
    pen.beginPath();
    rows.forEach((i, k) => (k ? pen.lineTo(px[i], py[i]) : pen.moveTo(px[i], py[i])));
    pen.stroke();
    for (const i of rows) {
      pen.fillStyle = shades.colors[shades.of(i)];
      pen.beginPath();
      pen.arc(px[i], py[i], 4, 0, 7);
      pen.fill();
      pen.stroke();
    }
  }
}

function drawLegend(pen, area, width, color, shades) {
  const left = width - 84;
  pen.textAlign = "left";
  pen.fillStyle = "#1c2430";
  const name = color.label.length > 13 ? `…${color.label.slice(-12)}` : color.label;
  pen.fillText(name, left, area.top + 4);
  if (!shades.scale) {
    color.levels.forEach((text, k) => {
      pen.fillStyle = shades.colors[k];
      pen.fillRect(left, area.top + 14 + 18 * k, 10, 10);
      pen.fillStyle = "#1c2430";
      pen.fillText(String(text).slice(0, 11), left + 15, area.top + 23 + 18 * k);
    });
    return;
  }
  const top = area.top + 14, tall = Math.min(160, area.bottom - top);
  shades.colors.forEach((c, k) => {
    pen.fillStyle = c;
    pen.fillRect(left, top + tall * (1 - (k + 1) / SHADES), 10, tall / SHADES + 1);
  });
  pen.fillStyle = "#1c2430";
  for (const [v, text] of shades.scale.ticks) pen.fillText(text, left + 15, top + tall * (1 - shades.scale.at(v)) + 4);
}

function ring(pen, x, y) {
  pen.strokeStyle = "#000";
  pen.lineWidth = 2;
  pen.beginPath();
  pen.arc(x, y, 8, 0, 7);
  pen.stroke();
}

// Designs by square of the screen, so that finding the one below the pointer does not walk over all of them.
function indexed(px, py) {
  const cells = new Map();
  for (const i of kept) {
    const key = Math.floor(px[i] / RADIUS) + 65536 * Math.floor(py[i] / RADIUS);
    const own = cells.get(key);
    if (own) own.push(i);
    else cells.set(key, [i]);
  }
  return cells;
}

// The design below the pointer; one of the front wins, since it is drawn on top.
function nearest(x, y) {
  const around = [], column = Math.floor(x / RADIUS), row = Math.floor(y / RADIUS);
  for (let r = row - 1; r <= row + 1; r++) {
    for (let c = column - 1; c <= column + 1; c++) for (const i of view.grid.get(c + 65536 * r) || []) around.push(i);
  }
  const onFront = closest(view.front.flatMap((f) => f.rows), x, y, 0.6 * RADIUS);
  return onFront >= 0 ? onFront : closest(around, x, y, RADIUS);
}

function closest(rows, x, y, reach) {
  let best = -1, least = reach * reach;
  for (const i of rows) {
    const d = (view.px[i] - x) ** 2 + (view.py[i] - y) ** 2;
    if (d < least) [best, least] = [i, d];
  }
  return best;
}

// Parallel coordinates: one upright axis a column, one line a design; a drag along an axis filters by its range.
function drawParallel() {
  const { pen, width, height } = sized($("parallel"));
  const shown = columns.filter((c) => c.role === "axis" || c.objective || c.name === state.color);
  const top = 30, bottom = height - 12, gap = (width - 120) / Math.max(1, shown.length - 1);
  lines = shown.map((column, k) => {
    return { column, at: 60 + k * gap, scale: makeScale(column, every, wideSpread(column)), top, bottom };
  });
  const shades = palette(byName.get(state.color), kept);
  const step = Math.max(1, Math.ceil(kept.length / MOST_LINES));
  pen.globalAlpha = Math.max(0.12, Math.min(0.8, 150 / Math.max(1, kept.length / step)));
  for (let k = 0; k < kept.length; k += step) polyline(pen, kept[k], shades.colors[shades.of(kept[k])], 1);
  pen.globalAlpha = 1;
  for (const { rows } of view.front) for (const i of rows) polyline(pen, i, "#c2410c", 1.2);
  if (state.chosen >= 0) polyline(pen, state.chosen, "#000", 2.2);
  for (const line of lines) drawUpright(pen, line, gap);
  const drawn = Math.ceil(kept.length / step).toLocaleString("en");
  $("lines").textContent = `${drawn} of ${kept.length.toLocaleString("en")} lines drawn; the front in red. ` +
    "Drag along an upright axis to filter by its range; click it to show all of it again.";
}

function polyline(pen, i, color, thick) {
  pen.strokeStyle = color;
  pen.lineWidth = thick;
  pen.beginPath();
  for (const { column, at, scale, top, bottom } of lines) {
    pen.lineTo(at, bottom - scale.at(column.values[i]) * (bottom - top));
  }
  pen.stroke();
}

// Text over many lines is read only with a border of paper around it.
function outlined(pen, text, x, y) {
  pen.strokeStyle = "rgba(255,255,255,.85)";
  pen.lineWidth = 3;
  pen.strokeText(text, x, y);
  pen.fillText(text, x, y);
}

function drawUpright(pen, { column, at, scale, top, bottom }, gap) {
  pen.strokeStyle = "#1c2430";
  pen.lineWidth = 1;
  segment(pen, at, top, at, bottom);
  pen.fillStyle = "#1c2430";
  pen.textAlign = "center";
  const fitting = Math.max(6, Math.floor(gap / 6.6));
  const name = column.label.length > fitting ? `…${column.label.slice(1 - fitting)}` : column.label;
  pen.fillText(name, at, 14);
  pen.textAlign = "left";
  for (const [v, text] of scale.ticks) outlined(pen, text.slice(0, 10), at + 5, bottom - scale.at(v) * (bottom - top) + 4);
  const f = filters.get(column.name);
  if (f && !f.off) {
    const [a, b] = [f.low, f.high].map((v) => bottom - scale.at(Math.min(Math.max(v, scale.low), scale.high)) * (bottom - top));
    pen.fillStyle = "rgba(194,65,12,.25)";
    pen.fillRect(at - 5, b, 10, a - b);
  }
}
