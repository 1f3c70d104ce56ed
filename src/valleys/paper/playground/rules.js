// valleys.reference in plain doubles: a point is an array of numbers, and is one layer. States go in and come out.

const zeros = (theta) => theta.map(() => 0);
const norm = (x) => Math.sqrt(x.reduce((sum, entry) => sum + entry * entry, 0));
const mix = (beta, old, next) => old.map((entry, i) => beta * entry + (1 - beta) * next[i]);

// a_k = b1 a_{k-1} + (1-b1)(g_k - g_{k-1}),   g~_k = g_k + alpha a_k
function explore(g, memory, { alpha, b1 }) {
  const a = mix(b1, memory.a, g.map((entry, i) => entry - memory.g[i]));
  return [g.map((entry, i) => entry + alpha * a[i]), { a, g }];
}

// phi(|theta|) / (|r| + eps2 phi(|theta|)); 1 where theta or r is zero, at most 1 where g is zero
function trustRatio(theta, r, g, { eps2, eps3 }) {
  const w = norm(theta) + eps3;
  const ratio = norm(theta) === 0 || norm(r) === 0 ? 1 : w / (norm(r) + eps2 * w);
  return norm(g) > 0 ? ratio : Math.min(ratio, 1);
}

// Alg. 3
function esgd(theta, g, state, symbols) {
  const [adapted, memory] = explore(g, state.memory, symbols);
  const m = state.m.map((entry, i) => symbols.b2 * entry + adapted[i]);
  return [theta.map((entry, i) => entry - symbols.lr * m[i]), { ...state, memory, m }];
}

// The moments of g + alpha a, and what a step makes of them before decay: mh / (sqrt(vh) + eps1)
function moments(g, state, symbols, corrected) {
  const [adapted, memory] = explore(g, state.memory, symbols);
  const { b2, b3, eps1 } = symbols;
  const k = state.k + 1;
  const m = mix(b2, state.m, adapted);
  const v = mix(b3, state.v, adapted.map((entry) => entry * entry));
  const [mc, vc] = corrected ? [1 - b2 ** k, 1 - b3 ** k] : [1, 1];
  return [m.map((entry, i) => entry / mc / (Math.sqrt(v[i] / vc) + eps1)), { memory, m, v, k }];
}

// Alg. 4; with lam, AdamW's decay: theta shrinks by lr lam before the step
function eadam(theta, g, state, symbols) {
  const [r, next] = moments(g, state, symbols, true);
  const { lr, lam } = symbols;
  return [theta.map((entry, i) => entry * (1 - lr * lam) - lr * r[i]), next];
}

// Alg. 2, and without bias correction Alg. 1
function layerwise(theta, g, state, symbols, corrected) {
  const [direction, next] = moments(g, state, symbols, corrected);
  const r = direction.map((entry, i) => entry + symbols.lam * theta[i]);
  const ratio = trustRatio(theta, r, g, symbols);
  return [theta.map((entry, i) => entry - symbols.lr * ratio * r[i]), next];
}

const alto = (theta, g, state, symbols) => layerwise(theta, g, state, symbols, true);
const altoVanilla = (theta, g, state, symbols) => layerwise(theta, g, state, symbols, false);

const RULES = {
  sgd: { plain: "SGD", adapted: "ESGD", step: esgd, uses: ["b2"] },
  adam: { plain: "Adam", adapted: "EAdam", step: eadam, uses: ["b2", "b3", "lam"] },
  lamb: { plain: "LAMB", adapted: "ALTO", step: alto, uses: ["b2", "b3", "lam"] },
  vanilla: { plain: "LAMB Vanilla", adapted: "ALTO Vanilla", step: altoVanilla, uses: ["b2", "b3", "lam"] },
};

const begin = (theta) => {
  const nothing = zeros(theta);
  return { memory: { a: nothing, g: nothing }, m: nothing, v: nothing, k: 0 };
};
