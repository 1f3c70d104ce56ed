// Two walks from one start, with one noise: the rule at alpha, and the same rule at alpha 0.

const FAR = 1e6; // a point beyond it is on its way to infinity

const EPSILONS = {
  sgd: {},
  adam: { eps1: 1e-8 },
  lamb: { eps1: 1e-6, eps2: 1e-6, eps3: 1e-10 },
  vanilla: { eps1: 1e-6, eps2: 1e-6, eps3: 1e-10 },
};

// Independent N(0, 1) numbers by Box and Muller's method from the generator "mulberry32"
function normals(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(TURN * uniform());
}

function walk(settings, alpha) {
  const { f, gradient } = FUNCTIONS[settings.f];
  const { step } = RULES[settings.rule];
  const symbols = { ...settings, ...EPSILONS[settings.rule], alpha };
  const draw = normals(settings.seed);
  let theta = settings.start;
  let state = begin(theta);
  const path = { points: [theta], values: [f(theta)], lowest: [f(theta)], lengths: [0], diverged: null };
  for (let k = 1; k <= settings.steps; k++) {
    const g = gradient(theta).map((entry) => entry + settings.noise * draw());
    const before = theta;
    [theta, state] = step(theta, g, state, symbols);
    const value = f(theta);
    if (!Number.isFinite(value) || !(norm(theta) < FAR)) {
      path.diverged = k;
      break;
    }
    path.points.push(theta);
    path.values.push(value);
    path.lowest.push(Math.min(path.lowest[k - 1], value));
    path.lengths.push(path.lengths[k - 1] + norm(theta.map((entry, i) => entry - before[i])));
  }
  return path;
}

const walks = (settings) => ({ plain: walk(settings, 0), adapted: walk(settings, settings.alpha) });
