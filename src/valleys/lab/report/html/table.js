
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
