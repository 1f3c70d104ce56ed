// The page: settings in, walks out, and a head that moves along them.

const element = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");

const page = {
  settings: null, both: null, preset: null, frame: null, span: null,
  k: 0, playing: false, since: 0, from: 0,
};

// A slider's thousandths to a value and back
const logarithmic = (low, high) => [
  (t) => Number((low * (high / low) ** t).toPrecision(3)),
  (x) => Math.log(Math.max(x, low) / low) / Math.log(high / low),
];
const remembering = (longest) => [
  (t) => Number((1 - 1 / longest ** t).toPrecision(t > 0.9 ? 6 : 4)),
  (beta) => Math.log(1 / (1 - beta)) / Math.log(longest),
];
const fromZero = (low, high) => {
  const [there, back] = logarithmic(low, high);
  return [(t) => (t === 0 ? 0 : there(t)), (x) => (x < low ? 0 : back(x))];
};

// alpha's slider is linear in c, which the paper wants between -1 and 1
const SCALES = {
  lr: logarithmic(1e-5, 1),
  alpha: [
    (t) => Number((((2 * t - 1) * 0.99) / (1 - page.settings.b1)).toPrecision(3)),
    (alpha) => (strength({ alpha, b1: page.settings.b1 }) / 0.99 + 1) / 2,
  ],
  b1: remembering(1000),
  b2: remembering(1000),
  b3: remembering(10000),
  lam: fromZero(1e-4, 1),
  noise: fromZero(1e-3, 100),
  steps: [(t) => Math.round(10 * 500 ** t), (x) => Math.log(Math.max(x, 10) / 10) / Math.log(500)],
};

function number(x) {
  if (x === 0) return "0";
  const size = Math.abs(x);
  const text = size >= 1e-3 && size < 1e5 ? String(Number(x.toPrecision(4))) : x.toExponential(2);
  return minus(text.replace("e-", "e−").replace("e+", "e"));
}

const memory = (beta) => {
  const steps = 1 / (1 - beta);
  return `memory 1/(1 − β) = <b>${steps < 10 ? number(Number(steps.toPrecision(3))) : Math.round(steps)}</b> steps`;
};

function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["adapted", "plain", "ink", "soft", "rule", "halo", "low", "middle", "high", "contour", "card"];
  const found = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  const font = getComputedStyle(document.body).fontFamily;
  return { ...found, shade: Number(style.getPropertyValue("--light")), font };
}

// What was asked for last is shown first
function change(changes, preset = null) {
  const atEnd = !page.both || page.k === page.settings.steps;
  page.settings = { ...page.settings, ...changes };
  page.preset = preset;
  page.both = walks(page.settings);
  page.k = atEnd ? page.settings.steps : Math.min(page.k, page.settings.steps);
  page.from = Math.min(page.from, page.k);
  showSettings();
  drawGround();
  draw();
  remember();
}

let waiting = 0;
function remember() {
  clearTimeout(waiting);
  waiting = setTimeout(() => history.replaceState(null, "", encode(page.settings)), 150);
}

function drawGround() {
  const it = FUNCTIONS[page.settings.f];
  const canvas = element("ground");
  const wanted = [page.settings.f, canvas.clientWidth, canvas.clientHeight, devicePixelRatio, colours().card].join();
  const size = { width: canvas.clientWidth, height: canvas.clientHeight, density: Math.min(devicePixelRatio || 1, 2) };
  page.frame = one(it) ? curveFrame(it, size, page.span ?? span(it, page.both)) : mapFrame(it, size);
  if (wanted === canvas.dataset.drawn) return;
  canvas.dataset.drawn = wanted;
  sheet(canvas);
  if (!one(it)) drawRelief(canvas, it, page.frame, colours());
}

function draw() {
  const { settings, both, frame, k } = page;
  const it = FUNCTIONS[settings.f];
  const { pen } = sheet(element("walks"));
  const palette = colours();
  if (one(it)) drawCurve(pen, it, frame, both, k, settings.steps, palette);
  else drawMap(pen, it, frame, both, k, palette);
  drawHeights(element("heights"), it, both, k, settings.steps, palette);
  const [x, y] = frame.at(settings.start);
  element("start").style.left = `${x}px`;
  element("start").style.top = `${y}px`;
  element("start").setAttribute("aria-label", `Start of both walks: ${settings.start.map(number).join(", ")}`);
  showNumbers();
}

function showNumbers() {
  const { settings, both, k } = page;
  const fates = [];
  for (const side of ["adapted", "plain"]) {
    const path = both[side];
    const at = Math.min(k, last(path));
    const shown = {
      now: path.values[at],
      lowest: path.lowest[at],
      length: path.lengths[at],
      distance: norm(path.points[at].map((entry, i) => entry - settings.start[i])),
    };
    for (const [key, value] of Object.entries(shown)) element(`${side}-${key}`).textContent = number(value);
    const name = RULES[settings.rule][side];
    if (path.diverged !== null && k >= path.diverged) fates.push(`${name} diverged at step ${path.diverged}.`);
    else if (outside(path.points[at])) fates.push(`${name} is outside the picture.`);
  }
  const fate = fates.join(" ");
  if (element("fate").textContent !== fate) element("fate").textContent = fate;
  element("step").textContent = `${k.toLocaleString("en")} / ${settings.steps.toLocaleString("en")}`;
  element("scrub").max = settings.steps;
  element("scrub").value = k;
  fill(element("scrub"));
  if (!page.playing) {
    const { adapted, plain } = RULES[settings.rule];
    element("summary").textContent =
      `${FUNCTIONS[settings.f].name}, step ${k}: ${adapted} at f ${element("adapted-now").textContent} after a path ` +
      `of ${element("adapted-length").textContent}; ${plain} at f ${element("plain-now").textContent} after ` +
      `${element("plain-length").textContent}. ${fate}`;
  }
}

function outside(point) {
  const [x, y] = page.frame.at(point);
  return x < 0 || y < 0 || x > page.frame.width || y > page.frame.height;
}

// The part of a track behind its thumb
function fill(slider) {
  const share = (100 * (slider.value - slider.min)) / (slider.max - slider.min);
  slider.style.setProperty("--track", `linear-gradient(90deg, var(--ink) ${share}%, var(--rule) ${share}%)`);
}

function showSettings() {
  const { settings } = page;
  const it = FUNCTIONS[settings.f];
  const { plain, adapted, uses } = RULES[settings.rule];
  element("function").value = settings.f;
  element("rule").value = settings.rule;
  element("seed").value = settings.seed;
  for (const [key, [, place]] of Object.entries(SCALES)) {
    const slider = element(key);
    const shown = String(settings[key]);
    slider.value = Math.round(1000 * clamp(place(settings[key]), [0, 1]));
    slider.setAttribute("aria-valuetext", shown);
    element(`${key}-value`).value = minus(shown);
    if (key !== "alpha") fill(slider);
    if (!["b2", "b3", "lam"].includes(key)) continue;
    document.querySelector(`[data-knob=${key}]`).hidden = !uses.includes(key);
  }
  const c = strength(settings);
  element("alpha-hint").innerHTML =
    `c = α(1 − β₁) = <b>${number(Number(c.toPrecision(3)))}</b> · ` +
    (c < 0 ? "explores" : c > 0 ? "exploits" : "no effect");
  for (const key of ["b1", "b2", "b3"]) element(`${key}-hint`).innerHTML = memory(settings[key]);
  const broken = !(Math.abs(c) < 1);
  element("warning").hidden = !broken;
  element("warning").textContent = broken
    ? `The paper asks for |α| < 1/(1 − β₁) = ${number(Number((1 / (1 - settings.b1)).toPrecision(3)))}. Here |c| is ` +
      `${number(Number(Math.abs(c).toPrecision(3)))}, not below 1.`
    : "";
  element("adapted-name").textContent = adapted;
  element("plain-name").textContent = plain;
  element("adapted-head").textContent = adapted;
  element("plain-head").textContent = plain;
  element("formula").textContent = it.formula;
  element("says").textContent = it.says;
  element("note").textContent = page.preset === null ? ownNote() : PRESETS[page.preset].note;
  [...element("presets").children].forEach((chip, i) => chip.setAttribute("aria-pressed", String(i === page.preset)));
}

function ownNote() {
  const { plain, adapted } = RULES[page.settings.rule];
  const fed = `Your own setting: ${adapted} is ${plain} fed with g + α a.`;
  return `${fed} At α = 0 both walks are one.`.replace(/ ([+=α]) /g, "\u00a0$1\u00a0");
}

function seek(k) {
  page.k = clamp(k, [0, page.settings.steps]);
  draw();
}

function pause() {
  page.playing = false;
  showPlaying();
}

function showPlaying() {
  element("play").setAttribute("aria-label", page.playing ? "Pause" : "Play");
  element("play-sign").setAttribute("d", page.playing ? "M5 3h4v14H5zM11 3h4v14h-4z" : "M5 3v14l12-7z");
}

// Who prefers no motion gets the whole walk at once
function play() {
  if (still.matches) return seek(page.settings.steps);
  if (page.k >= page.settings.steps) page.k = 0;
  page.playing = true;
  page.from = page.k;
  page.since = performance.now();
  showPlaying();
  requestAnimationFrame(tick);
  return undefined;
}

function tick(now) {
  if (!page.playing) return;
  const seconds = clamp(page.settings.steps / 60, [4, 9]);
  const gone = Math.max(0, (now - page.since) / 1000 / seconds);
  const k = Math.min(page.settings.steps, page.from + Math.floor(gone * page.settings.steps));
  if (k === page.settings.steps) page.playing = false;
  if (k !== page.k || !page.playing) seek(k);
  if (page.playing) requestAnimationFrame(tick);
  else showPlaying();
}

function choose(number) {
  const { settings } = PRESETS[number];
  pause();
  page.k = 0;
  change(settings, number);
  play();
}

// A start by pointer: a mouse drags from anywhere, a finger by the handle, so that it can scroll the page elsewhere
function follow(event) {
  const box = element("walks").getBoundingClientRect();
  const found = page.frame.place(event.clientX - box.left, event.clientY - box.top);
  change({ start: found.map((entry) => clamp(Number(entry.toPrecision(4)), [-REACH, REACH])) });
}

function dragging(target, wanted) {
  target.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !wanted(event)) return;
    target.setPointerCapture(event.pointerId);
    pause();
    page.k = page.settings.steps;
    if (page.settings.start.length === 1) page.span = span(FUNCTIONS[page.settings.f], page.both); // an axis that stays
    if (target.id !== "start") follow(event);
    const move = (moved) => follow(moved);
    const end = () => {
      page.span = null;
      change({});
      target.removeEventListener("pointermove", move);
      target.removeEventListener("pointerup", end);
      target.removeEventListener("pointercancel", end);
    };
    target.addEventListener("pointermove", move);
    target.addEventListener("pointerup", end);
    target.addEventListener("pointercancel", end);
  });
}

function nudge(event) {
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const way = ways[event.key];
  if (!way) return;
  event.preventDefault();
  const size = page.frame.nudge * (event.shiftKey ? 5 : 1);
  pause();
  const moved = page.settings.start.map((entry, i) => Number((entry + way[i] * size).toPrecision(4)));
  change({ start: moved.map((entry) => clamp(entry, [-REACH, REACH])) });
}

function listen() {
  for (const [key, [there]] of Object.entries(SCALES)) {
    element(key).addEventListener("input", () => change({ [key]: admit(key, there(element(key).value / 1000)) }));
  }
  for (const key of [...Object.keys(SCALES), "seed"]) {
    const box = element(key === "seed" ? "seed" : `${key}-value`);
    box.addEventListener("change", () => {
      const said = box.value.trim().replace("−", "-").replace(",", ".");
      if (said !== "" && Number.isFinite(Number(said))) change({ [key]: admit(key, Number(said)) });
      else showSettings();
    });
  }
  element("function").addEventListener("change", ({ target }) => {
    const { start, rates } = FUNCTIONS[target.value];
    change({ f: target.value, start, lr: rates[page.settings.rule] });
  });
  element("rule").addEventListener("change", ({ target }) => {
    change({ rule: target.value, lr: FUNCTIONS[page.settings.f].rates[target.value] });
  });
  element("reseed").addEventListener("click", () => change({ seed: (page.settings.seed + 1) % 4294967296 }));
  element("restart").addEventListener("click", () => change({ start: FUNCTIONS[page.settings.f].start }));
  element("play").addEventListener("click", () => (page.playing ? pause() : play()));
  for (const [id, to] of Object.entries({ rewind: () => 0, back: () => page.k - 1, forward: () => page.k + 1 })) {
    element(id).addEventListener("click", () => {
      pause();
      seek(to());
    });
  }
  element("scrub").addEventListener("input", ({ target }) => {
    pause();
    seek(Number(target.value));
  });
  element("copy").addEventListener("click", async ({ target }) => {
    history.replaceState(null, "", encode(page.settings));
    const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
    target.textContent = copied ? "Copied" : "See the address bar";
    setTimeout(() => (target.textContent = "Copy link"), 1800);
  });
  dragging(element("walks"), (event) => event.pointerType === "mouse");
  element("walks").addEventListener("click", (event) => {
    if (event.pointerType !== "mouse") follow(event);
  });
  dragging(element("start"), () => true);
  element("start").addEventListener("keydown", nudge);
  // The event's own address: by now, remember() may have written ours over the one that was followed.
  window.addEventListener("hashchange", ({ newURL }) => change(decode(new URL(newURL).hash)));
  const redraw = () => {
    drawGround();
    draw();
  };
  const sizes = new ResizeObserver(redraw);
  sizes.observe(element("plot"));
  sizes.observe(element("heights").parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

function begun() {
  PRESETS.forEach(({ name }, i) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.textContent = name;
    chip.addEventListener("click", () => choose(i));
    element("presets").append(chip);
  });
  const options = (id, entries) => entries.forEach(([value, text]) => element(id).append(new Option(text, value)));
  options("function", Object.entries(FUNCTIONS).map(([key, { name }]) => [key, name]));
  options("rule", Object.entries(RULES).map(([key, { adapted }]) => [key, adapted]));
  document.querySelectorAll("main [hidden]:not(#warning)").forEach((part) => (part.hidden = false));
  page.settings = decode(location.hash);
  listen();
  change({}, encode(page.settings) === encode(PRESETS[0].settings) ? 0 : null);
  if (!still.matches) {
    page.k = 0;
    play();
  }
}

begun();
