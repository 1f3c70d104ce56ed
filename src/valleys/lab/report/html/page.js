
"use strict";
// Headings become buttons here and not in the page: without this script there is nothing to press.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const original = [...body.rows];
  headings.forEach((heading, column) => {
    const numeric = heading.classList.contains("number");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[column];
        if (!numeric) return cell.textContent.trim();
        return "value" in cell.dataset ? Number(cell.dataset.value.replace("inf", "Infinity")) : null;
      };
      const compare = (a, b) => {
        if (a === null || b === null) return (a === null) - (b === null); // nothing to sort by: last, both ways
        const order = numeric ? (a < b ? -1 : a > b ? 1 : 0) : a.localeCompare(b, "en", { numeric: true });
        return down ? -order : order;
      };
      const keyed = original.map((row) => [key(row), row]);
      keyed.sort((a, b) => compare(a[0], b[0]));
      body.append(...keyed.map((entry) => entry[1]));
    });
  });
}

// Charts are drawn when they come near the window, in the colours of the reader's scheme.
const dark = matchMedia("(prefers-color-scheme: dark)");
const colors = new Map(Object.entries(JSON.parse(document.getElementById("colors").textContent)));

function themed(value) {
  if (Array.isArray(value)) return value.map(themed);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, themed(entry)]));
  }
  if (typeof value !== "string" || value[0] !== "#") return value;
  const name = colors.get(value.slice(0, 7).toLowerCase());
  const color = name && getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return color ? color + value.slice(7) : value;
}

function draw(place) {
  const figure = place.figure ?? (place.figure = JSON.parse(place.nextElementSibling.textContent));
  const ink = themed("#1b1f24");
  const layout = {
    ...themed(figure.layout), paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", uirevision: "kept",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink },
    hoverlabel: { bgcolor: themed("#f5f7f9"), bordercolor: themed("#59626d"), font: { color: ink } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: themed("#59626d"), activecolor: ink },
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
  };
  const choices = { data: {}, layout: {} };
  for (const control of figure.controls) {
    Object.assign(choices.data, control.choices[control.active].data);
    Object.assign(choices.layout, control.choices[control.active].layout);
  }
  const data = themed(figure.data).map((trace, number) => {
    for (const [key, values] of Object.entries(choices.data)) trace[key] = values[number];
    return trace;
  });
  const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };
  place.drawn = true;
  return Plotly.react(place, data, layout, config).then(() => Plotly.relayout(place, choices.layout));
}

for (const place of document.querySelectorAll(".plot")) {
  const figure = place.figure = JSON.parse(place.nextElementSibling.textContent);
  for (const control of figure.controls) {
    const row = document.createElement("div");
    row.className = "control";
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", control.name);
    control.choices.forEach((choice, number) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = choice.label;
      button.setAttribute("aria-pressed", String(number === control.active));
      button.addEventListener("click", () => {
        control.active = number;
        [...row.children].forEach((other, k) => other.setAttribute("aria-pressed", String(k === number)));
        Plotly.update(place, choice.data, { ...choice.layout, "xaxis.autorange": true, "yaxis.autorange": true });
      });
      row.append(button);
    });
    place.before(row);
  }
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting && !entry.target.drawn) draw(entry.target);
  }
}, { rootMargin: "300px" });
for (const place of document.querySelectorAll(".plot")) near.observe(place);
const redraw = () => document.querySelectorAll(".plot").forEach((place) => place.drawn && draw(place));
dark.addEventListener("change", redraw);
addEventListener("beforeprint", () => document.querySelectorAll(".plot").forEach((place) => draw(place)));
addEventListener("afterprint", redraw);
