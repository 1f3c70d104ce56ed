// The functions of valleys.paper.walks.functions: values, closed-form gradients, and what part of each is worth a look.
// `lowest` is the least value (of f2 near -0.6 and 0.6); `scale`, a height from which
// slopes are drawn flatter, and `cap`, one above which all is drawn alike; `rates`, learning rates to begin with.

const TURN = 2 * Math.PI;

const FUNCTIONS = {
  cardioid: {
    name: "(cardioid)²",
    formula: "f(x, y) = ((x² + y² + x)² − (x² + y²))²",
    says: "A closed valley. Its whole floor is equally low, but not equally wide.",
    start: [0.5, 1],
    rates: { sgd: 0.003, adam: 0.03, lamb: 0.03, vanilla: 0.03 },
    view: [-2.5, -1.52, 1.1, 1.78],
    lowest: 0,
    scale: 0.03,
    cap: 12,
    minima: [],
    f([x, y]) {
      const rho = x * x + y * y;
      return (rho * (rho + 2 * x) - y * y) ** 2;
    },
    gradient([x, y]) {
      const rho = x * x + y * y;
      const twice = 2 * (rho * (rho + 2 * x) - y * y);
      return [twice * (4 * x * (rho + x) + 2 * rho), twice * (4 * y * (rho + x) - 2 * y)];
    },
  },
  rosenbrock: {
    name: "Rosenbrock",
    formula: "f(x, y) = (1 − x)² + 100 (y − x²)²",
    says: "A bent valley whose floor falls very slowly to the one minimum, at (1, 1).",
    start: [-1.2, 1],
    rates: { sgd: 0.0003, adam: 0.01, lamb: 0.03, vanilla: 0.03 },
    view: [-2.1, -0.75, 2.1, 2.5],
    lowest: 0,
    scale: 1,
    cap: 900,
    minima: [[1, 1]],
    f: ([x, y]) => (1 - x) ** 2 + 100 * (y - x * x) ** 2,
    gradient([x, y]) {
      const off = y - x * x;
      return [-2 * (1 - x) - 400 * x * off, 200 * off];
    },
  },
  beale: {
    name: "Beale",
    formula: "f(x, y) = (1.5 − x + xy)² + (2.25 − x + xy²)² + (2.625 − x + xy³)²",
    says: "A flat, bent valley with steep corners, and its minimum at (3, 0.5).",
    start: [1, 1.5],
    rates: { sgd: 0.0003, adam: 0.01, lamb: 0.003, vanilla: 0.003 },
    view: [-2.2, -1.9, 4.6, 2.4],
    lowest: 0,
    scale: 0.3,
    cap: 800,
    minima: [[3, 0.5]],
    f: ([x, y]) => (1.5 - x * (1 - y)) ** 2 + (2.25 - x * (1 - y ** 2)) ** 2 + (2.625 - x * (1 - y ** 3)) ** 2,
    gradient([x, y]) {
      const [y2, y3] = [y ** 2, y ** 3];
      const [p, q, r] = [1.5 - x * (1 - y), 2.25 - x * (1 - y2), 2.625 - x * (1 - y3)];
      return [2 * (p * (y - 1) + q * (y2 - 1) + r * (y3 - 1)), 2 * x * (p + 2 * q * y + 3 * r * y2)];
    },
  },
  himmelblau: {
    name: "Himmelblau",
    formula: "f(x, y) = (x² + y − 11)² + (x + y² − 7)²",
    says: "Four minima, all of value 0, of different widths.",
    start: [-0.5, -5],
    rates: { sgd: 0.0001, adam: 0.03, lamb: 0.003, vanilla: 0.003 },
    view: [-5.6, -5.6, 5.6, 5.6],
    lowest: 0,
    scale: 12,
    cap: 500,
    minima: [
      [3, 2],
      [-2.805118086952745, 3.131312518250573],
      [-3.779310253377747, -3.283185991286170],
      [3.584428340330492, -1.848126526964404],
    ],
    f: ([x, y]) => (x * x + y - 11) ** 2 + (x + y * y - 7) ** 2,
    gradient([x, y]) {
      const [p, q] = [x * x + y - 11, x + y * y - 7];
      return [4 * x * p + 2 * q, 2 * p + 4 * y * q];
    },
  },
  rastrigin: {
    name: "Rastrigin",
    formula: "f(x, y) = 20 + x² − 10 cos 2πx + y² − 10 cos 2πy",
    says: "A bowl full of equally sharp minima; the lowest is at the origin.",
    start: [4.2, 3.3],
    rates: { sgd: 0.001, adam: 0.1, lamb: 0.01, vanilla: 0.01 },
    view: [-5.12, -5.12, 5.12, 5.12],
    lowest: 0,
    scale: 25,
    cap: 90,
    minima: [[0, 0]],
    f: (point) => point.reduce((sum, x) => sum + (x * x + 20 * Math.sin(Math.PI * x) ** 2), 0),
    gradient: (point) => point.map((x) => 2 * x + 10 * TURN * Math.sin(TURN * x)),
  },
  f1: {
    name: "f₁ of Fig. 8",
    formula: "f₁(x) = 1 / (0.05 x sin² 2x + ln(x + 1)),  x > 0",
    says: "Minima without end, each lower than the one before and behind a higher barrier.",
    start: [2.3],
    rates: { sgd: 0.03, adam: 0.03, lamb: 0.003, vanilla: 0.003 },
    view: [0.35, 0.2, 14.5, 1.5],
    lowest: 0,
    minima: [[4.085332314326505], [5.589321248828754], [7.12959273103164]],
    f: ([x]) => (x > 0 ? 1 / (0.05 * x * Math.sin(2 * x) ** 2 + Math.log1p(x)) : Number.isNaN(x) ? x : Infinity),
    gradient([x]) {
      if (!(x > 0)) return [0];
      const sine = Math.sin(2 * x);
      const bottom = 0.05 * x * sine * sine + Math.log1p(x);
      return [-(0.05 * sine * sine + 0.2 * x * sine * Math.cos(2 * x) + 1 / (1 + x)) / (bottom * bottom)];
    },
  },
  f2: {
    name: "f₂ of Fig. 8",
    formula: "f₂(x) = 1 − exp(−900 (x − 0.6)²) − exp(−900 (x + 0.6)²) − exp(−25 x²)",
    says: "A wide minimum between two narrow ones.",
    start: [0.95],
    rates: { sgd: 0.01, adam: 0.01, lamb: 0.1, vanilla: 0.1 },
    view: [-1.15, -0.12, 1.15, 1.12],
    lowest: -0.0001234136118035689,
    minima: [[-0.5999979430500482], [0], [0.5999979430500482]],
    f: ([x]) => -Math.expm1(-25 * x * x) - (Math.exp(-900 * (x - 0.6) ** 2) + Math.exp(-900 * (x + 0.6) ** 2)),
    gradient([x]) {
      const pit = (middle) => 1800 * (x - middle) * Math.exp(-900 * (x - middle) ** 2);
      return [pit(0.6) + pit(-0.6) + 50 * x * Math.exp(-25 * x * x)];
    },
  },
};
