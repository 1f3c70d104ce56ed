// A function of two variables as a shaded relief with contour lines.

const LEVELS = 10;

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const blend = (a, b, t) => a.map((entry, i) => entry + (b[i] - entry) * t);

// Heights are compressed, so that a floor and a cliff fit into one picture
function heights(it, frame, columns, rows, step) {
  const top = Math.log1p((it.cap - it.lowest) / it.scale);
  const z = new Float32Array(columns * rows);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const value = it.f([frame.x(column * step), frame.y(row * step)]);
      z[row * columns + column] = Math.log1p(Math.max(0, value - it.lowest) / it.scale) / top;
    }
  }
  return z;
}

function drawRelief(canvas, it, frame, colours) {
  const step = Math.max(0.75, 1 / frame.density);
  const [columns, rows] = [Math.ceil(frame.width / step) + 1, Math.ceil(frame.height / step) + 1];
  const z = heights(it, frame, columns, rows, step);
  const [low, middle, high] = [colours.low, colours.middle, colours.high].map(channels);
  const tint = (t) => (t < 0.4 ? blend(low, middle, t / 0.4) : blend(middle, high, (t - 0.4) / 0.6));
  const tints = Array.from({ length: 257 }, (_, i) => tint(i / 256)).flat();
  const image = new ImageData(columns, rows); // which rounds, and keeps to 0...255
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const at = row * columns + column;
      const across = z[at + (column + 1 < columns ? 1 : 0)] - z[at - (column > 0 ? 1 : 0)];
      const down = z[at + (row + 1 < rows ? columns : 0)] - z[at - (row > 0 ? columns : 0)];
      const [dx, dy] = [(45 * across) / step, (45 * down) / step];
      const light = 1 + (colours.shade * (dx + dy)) / Math.sqrt(1 + dx * dx + dy * dy);
      const colour = 3 * Math.round(256 * Math.min(1, z[at]));
      for (let i = 0; i < 3; i++) image.data[4 * at + i] = tints[colour + i] * light;
      image.data[4 * at + 3] = 255;
    }
  }
  const sheet = new OffscreenCanvas(columns, rows);
  sheet.getContext("2d").putImageData(image, 0, 0);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(sheet, 0, 0, columns, rows, 0, 0, columns * step, rows * step);
  drawContours(pen, it, frame, colours);
}

function drawContours(pen, it, frame, colours) {
  const step = 3;
  const [columns, rows] = [Math.ceil(frame.width / step) + 1, Math.ceil(frame.height / step) + 1];
  const z = heights(it, frame, columns, rows, step);
  pen.strokeStyle = colours.contour;
  pen.lineWidth = 0.8;
  pen.beginPath();
  for (let number = 1; number <= 2 * LEVELS; number++) {
    const level = (number - 0.5) / LEVELS;
    for (let row = 0; row + 1 < rows; row++) {
      for (let column = 0; column + 1 < columns; column++) crossSquare(pen, z, columns, row, column, level, step);
    }
  }
  pen.stroke();
}

// Where a level crosses the four edges of a square, joined two by two
function crossSquare(pen, z, columns, row, column, level, step) {
  const at = row * columns + column;
  const corners = [z[at], z[at + 1], z[at + columns + 1], z[at + columns]];
  const places = [[0, 0], [1, 0], [1, 1], [0, 1]];
  const met = [];
  for (let edge = 0; edge < 4; edge++) {
    const [from, to] = [corners[edge], corners[(edge + 1) % 4]];
    if (from < level === to < level) continue;
    const [x, y] = blend(places[edge], places[(edge + 1) % 4], (level - from) / (to - from));
    met.push([(column + x) * step, (row + y) * step]);
  }
  for (let i = 0; i + 1 < met.length; i += 2) {
    pen.moveTo(...met[i]);
    pen.lineTo(...met[i + 1]);
  }
}
