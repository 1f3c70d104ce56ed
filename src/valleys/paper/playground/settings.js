// What a walk depends on: its limits, the presets, and its place in the address.

const LIMITS = {
  lr: [1e-6, 10],
  alpha: [-1000, 1000],
  b1: [0, 0.999],
  b2: [0, 0.999],
  b3: [0, 0.9999],
  lam: [0, 1],
  noise: [0, 100],
  seed: [0, 4294967295],
  steps: [1, 5000],
};

const WHOLE = ["seed", "steps"];
const REACH = 100; // of a coordinate of the start

const ORDINARY = { b2: 0.9, b3: 0.999, lam: 0, noise: 0, seed: 1 };

const PRESETS = [
  {
    name: "Fig. 1, cardioid",
    note: "Adam stops where it meets the floor; EAdam goes on along it. Start and rates are ours, chosen to show it.",
    settings: {
      ...ORDINARY, f: "cardioid", rule: "adam", lr: 0.2, alpha: -160, b1: 0.995, b2: 0.5, steps: 600,
      start: [-1.5, 1.5],
    },
  },
  {
    name: "Fig. 1, Rosenbrock",
    note: "Both soon reach the floor; EAdam then goes along it faster. Start and rates are ours, chosen to show it.",
    settings: {
      ...ORDINARY, f: "rosenbrock", rule: "adam", lr: 0.03, alpha: -50, b1: 0.99, steps: 600, start: [-1.2, 1],
    },
  },
  {
    name: "Fig. 8, f₁",
    note: "ALTO as in the paper. LAMB, its plain twin, stays in the first minimum. Rate and β₃ are ours.",
    settings: {
      ...ORDINARY, f: "f1", rule: "lamb", lr: 0.003, alpha: -80, b1: 0.99, b2: 0.95, b3: 0.99, steps: 800, start: [2.3],
    },
  },
  {
    name: "Fig. 8, f₂",
    note: "ALTO as in the paper, whose rival is Adam. LAMB gets to the wide minimum too: E is not the reason.",
    settings: {
      ...ORDINARY, f: "f2", rule: "lamb", lr: 0.1, alpha: -90, b1: 0.99, b2: 0.9, b3: 0.99, steps: 100, start: [0.95],
    },
  },
  {
    name: "Large-batch rule",
    note: "The paper's α and β₁ for batches of 1,000 and more: c is only −0.05, so the two walks part slowly.",
    settings: { alpha: -5, b1: 0.99 },
  },
  {
    name: "Small-batch rule",
    note: "The paper's α and β₁ for batches below 1,000: a positive α settles sooner.",
    settings: { alpha: 0.5, b1: 0.01 },
  },
];

// How much E pulls, whatever the memory; the paper's constraint is |c| < 1
const strength = ({ alpha, b1 }) => alpha * (1 - b1);

const clamp = (x, [low, high]) => Math.min(high, Math.max(low, x));

const admit = (key, x) => clamp(WHOLE.includes(key) ? Math.round(x) : x, LIMITS[key]);

function encode(settings) {
  const fields = ["f", "rule", ...Object.keys(LIMITS)].map((key) => `${key}=${settings[key]}`);
  return `#${fields.join("&")}&start=${settings.start.join(",")}`;
}

// What an address says, and where it says nothing sensible, the first preset
function decode(hash) {
  const said = new Map(hash.replace(/^#/, "").split("&").map((field) => field.split("=")));
  const number = (text) => (text === undefined || text.trim() === "" ? NaN : Number(text));
  const settings = { ...PRESETS[0].settings };
  if (Object.hasOwn(RULES, said.get("rule"))) settings.rule = said.get("rule");
  if (Object.hasOwn(FUNCTIONS, said.get("f"))) {
    settings.f = said.get("f");
    settings.start = FUNCTIONS[settings.f].start;
  }
  for (const key of Object.keys(LIMITS)) {
    const value = number(said.get(key));
    if (Number.isFinite(value)) settings[key] = admit(key, value);
  }
  const start = (said.get("start") ?? "").split(",").map(number);
  const within = start.every((entry) => Math.abs(entry) <= REACH);
  if (within && start.length === settings.start.length) settings.start = start;
  return settings;
}
