// The walks on their map, on their curve, and their heights over the steps.

const BROADEST = 36; // how far a view of one variable may widen to keep the walks in sight

const last = (path) => path.points.length - 1;

// A canvas in its size on the screen, cleared, in CSS pixels
function sheet(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const density = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  const pen = canvas.getContext("2d");
  pen.setTransform(density, 0, 0, density, 0, 0);
  pen.lineJoin = "round";
  pen.lineCap = "round";
  return { pen, width, height, density };
}

// From the page to the plane and back: both axes have one scale
function mapFrame(it, { width, height, density }) {
  const [left, bottom, right, top] = it.view;
  const unit = Math.max((right - left) / width, (top - bottom) / height);
  const [middleX, middleY] = [(left + right) / 2, (bottom + top) / 2];
  return {
    width, height, density,
    x: (px) => middleX + (px - width / 2) * unit,
    y: (py) => middleY - (py - height / 2) * unit,
    px: (x) => width / 2 + (x - middleX) / unit,
    py: (y) => height / 2 - (y - middleY) / unit,
    place: (point, py) => [middleX + (point - width / 2) * unit, middleY - (py - height / 2) * unit],
    at([x, y]) {
      return [this.px(x), this.py(y)];
    },
    nudge: 8 * unit,
  };
}

// From where to where an axis must go to keep the walks in sight
function span(it, both) {
  const seen = [both.plain, both.adapted].flatMap((path) => path.points.map(([x]) => clamp(x, [-BROADEST, BROADEST])));
  return [seen.reduce((a, b) => Math.min(a, b), it.view[0]), seen.reduce((a, b) => Math.max(a, b), it.view[2])];
}

// The curve above, the steps running down below it, on one axis
function curveFrame(it, { width, height, density }, [left, right]) {
  const margin = { left: 46, right: 14, top: 58, gap: 34, bottom: 14 };
  const middle = margin.top + (height - margin.top - margin.gap - margin.bottom) * 0.56;
  const unit = ((right - left) * 1.02) / (width - margin.left - margin.right);
  const tall = (it.view[3] - it.view[1]) / (middle - margin.top);
  return {
    width, height, density, margin, middle,
    x: (px) => left + (px - margin.left) * unit,
    px: (x) => margin.left + (x - left) / unit,
    py: (value) => middle - (value - it.view[1]) / tall,
    place: (px) => [left + (px - margin.left) * unit],
    at([x]) {
      return [this.px(x), clamp(this.py(it.f([x])), [margin.top - 20, middle])];
    },
    nudge: 4 * unit,
  };
}

const one = (it) => it.start.length === 1;

function ticks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(Number(at.toPrecision(6)));
  return found;
}

const minus = (text) => String(text).replace("-", "−");

function label(pen, text, x, y, colours, { align = "center", halo = false } = {}) {
  pen.font = `11px ${colours.font}`;
  pen.textAlign = align;
  pen.textBaseline = "middle";
  if (halo) {
    pen.strokeStyle = colours.halo;
    pen.lineWidth = 3;
    pen.strokeText(text, x, y);
  }
  pen.fillStyle = halo ? colours.ink : colours.soft;
  pen.fillText(text, x, y);
}

function drawMapTicks(pen, frame, colours) {
  const many = frame.width / 90;
  for (const x of ticks(frame.x(40), frame.x(frame.width - 20), many)) {
    label(pen, minus(x), frame.px(x), frame.height - 12, colours, { halo: true });
  }
  for (const y of ticks(frame.y(frame.height - 40), frame.y(64), frame.height / 90)) {
    label(pen, minus(y), 10, frame.py(y), colours, { align: "left", halo: true });
  }
}

// Two strokes, the wider one in the ground's colour: a line stays a line where it crosses the other
function trace(pen, spots, colour, width, colours) {
  if (spots.length < 2) return;
  pen.beginPath();
  spots.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  for (const [style, wide] of [[colours.halo, width + 1.6], [colour, width]]) {
    pen.strokeStyle = style;
    pen.lineWidth = wide;
    pen.stroke();
  }
}

function ball(pen, [x, y], colour, square, colours) {
  pen.beginPath();
  if (square) pen.rect(x - 7.5, y - 7.5, 15, 15);
  else pen.arc(x, y, 6.5, 0, 2 * Math.PI);
  pen.fillStyle = colour;
  pen.strokeStyle = colours.halo;
  pen.lineWidth = 2;
  pen.stroke();
  pen.fill();
}

function drawStart(pen, [x, y], colours) {
  pen.beginPath();
  pen.arc(x, y, 9, 0, 2 * Math.PI);
  pen.fillStyle = colours.halo;
  pen.fill();
  pen.strokeStyle = colours.ink;
  pen.lineWidth = 1.75;
  pen.stroke();
  pen.beginPath();
  pen.arc(x, y, 3, 0, 2 * Math.PI);
  pen.fillStyle = colours.ink;
  pen.fill();
}

function drawMinima(pen, it, frame, colours) {
  for (const minimum of it.minima) {
    const [x, y] = frame.at(minimum);
    pen.beginPath();
    pen.moveTo(x - 5, y);
    pen.lineTo(x + 5, y);
    pen.moveTo(x, y - 5);
    pen.lineTo(x, y + 5);
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 1.5;
    pen.stroke();
  }
}

const sides = (both, colours) => [
  { path: both.plain, colour: colours.plain, square: true, width: 4.2 },
  { path: both.adapted, colour: colours.adapted, square: false, width: 1.8 },
];

function drawMap(pen, it, frame, both, k, colours) {
  drawMapTicks(pen, frame, colours);
  drawMinima(pen, it, frame, colours);
  const held = sides(both, colours);
  for (const { path, colour, width } of held) {
    trace(pen, path.points.slice(0, k + 1).map((point) => frame.at(point)), colour, width, colours);
  }
  drawStart(pen, frame.at(both.plain.points[0]), colours);
  for (const { path, colour, square } of held) {
    ball(pen, frame.at(path.points[Math.min(k, last(path))]), colour, square, colours);
  }
}

function drawCurve(pen, it, frame, both, k, steps, colours) {
  const { margin, middle, width, height } = frame;
  const [right, low] = [width - margin.right, middle + margin.gap];
  pen.strokeStyle = colours.rule;
  pen.lineWidth = 1;
  for (const value of ticks(it.view[1], it.view[3], 5)) {
    pen.beginPath();
    pen.moveTo(margin.left, frame.py(value));
    pen.lineTo(right, frame.py(value));
    pen.stroke();
    label(pen, minus(value), margin.left - 8, frame.py(value), colours, { align: "right" });
  }
  for (const x of ticks(frame.x(margin.left), frame.x(right), width / 90)) {
    pen.beginPath();
    pen.moveTo(frame.px(x), low);
    pen.lineTo(frame.px(x), height - margin.bottom);
    pen.stroke();
    label(pen, minus(x), frame.px(x), middle + margin.gap / 2, colours);
  }
  const shape = [];
  for (let px = margin.left; px <= right; px += 0.5) {
    const value = it.f([frame.x(px)]);
    if (Number.isFinite(value)) shape.push([px, Math.max(frame.py(value), -50)]);
  }
  pen.save();
  pen.beginPath();
  pen.rect(margin.left, 0, right - margin.left, middle);
  pen.clip();
  pen.beginPath();
  pen.moveTo(shape[0][0], middle);
  shape.forEach((spot) => pen.lineTo(...spot));
  pen.lineTo(shape[shape.length - 1][0], middle);
  pen.fillStyle = colours.middle;
  pen.fill();
  pen.beginPath();
  shape.forEach((spot, i) => (i ? pen.lineTo(...spot) : pen.moveTo(...spot)));
  pen.strokeStyle = colours.ink;
  pen.lineWidth = 1.5;
  pen.stroke();
  pen.restore();
  drawTimes(pen, frame, both, k, steps, colours);
  drawStart(pen, frame.at(both.plain.points[0]), colours);
  for (const { path, colour, square } of sides(both, colours)) {
    ball(pen, frame.at(path.points[Math.min(k, last(path))]), colour, square, colours);
  }
}

// Position over time; time runs downwards, so that both pictures share x
function drawTimes(pen, frame, both, k, steps, colours) {
  const { margin, middle, width, height } = frame;
  const low = middle + margin.gap;
  const when = (step) => low + ((height - margin.bottom - low) * step) / steps;
  const wanted = ticks(0, steps, 4).filter((step) => Number.isInteger(step));
  wanted.forEach((step) => label(pen, step, margin.left - 8, when(step), colours, { align: "right" }));
  pen.save();
  pen.beginPath();
  pen.rect(margin.left, low - 8, width - margin.left - margin.right, height - low + 8);
  pen.clip();
  for (const { path, colour, square, width: wide } of sides(both, colours)) {
    const spots = path.points.slice(0, k + 1).map(([x], step) => [frame.px(x), when(step)]);
    trace(pen, spots, colour, wide, colours);
    ball(pen, spots[spots.length - 1], colour, square, colours);
  }
  pen.restore();
}

// f above its least value, on a logarithmic axis
function drawHeights(canvas, it, both, k, steps, colours) {
  const { pen, width, height } = sheet(canvas);
  const margin = { left: 52, right: 12, top: 10, bottom: 24 };
  // A walk that leaves for infinity would flatten all the rest
  const most = 1e3 * Math.max(both.plain.values[0] - it.lowest, 1e-3);
  const above = (path) => path.values.map((value) => Math.log10(clamp(value - it.lowest, [1e-12, most])));
  const held = sides(both, colours).map((side) => ({ ...side, logs: above(side.path) }));
  const all = held.flatMap(({ logs }) => logs);
  let [low, high] = [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))].map(
    (entry, i) => (i ? Math.ceil(entry + 0.05) : Math.floor(entry)),
  );
  if (high - low < 1) high = low + 1;
  const px = (step) => margin.left + ((width - margin.left - margin.right) * step) / steps;
  const py = (log) => height - margin.bottom - ((height - margin.top - margin.bottom) * (log - low)) / (high - low);
  pen.strokeStyle = colours.rule;
  pen.lineWidth = 1;
  const every = Math.ceil((high - low) / 5);
  for (let power = low; power <= high; power += every) {
    pen.beginPath();
    pen.moveTo(margin.left, py(power));
    pen.lineTo(width - margin.right, py(power));
    pen.stroke();
    const raised = String(power).replace(/./g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);
    label(pen, `10${raised}`, margin.left - 8, py(power), colours, { align: "right" });
  }
  for (const step of ticks(0, steps, Math.max(3, width / 110)).filter(Number.isInteger)) {
    label(pen, step.toLocaleString("en"), px(step), height - 10, colours);
  }
  pen.beginPath();
  pen.moveTo(px(k), margin.top);
  pen.lineTo(px(k), height - margin.bottom);
  pen.strokeStyle = colours.soft;
  pen.setLineDash([3, 4]);
  pen.stroke();
  pen.setLineDash([]);
  for (const { path, logs, colour, square, width: wide } of held) {
    trace(pen, logs.map((log, step) => [px(step), py(log)]), colour, Math.min(wide, 3), colours);
    const at = Math.min(k, last(path));
    ball(pen, [px(at), py(logs[at])], colour, square, colours);
  }
}
