"use strict";
// Headers become buttons that sort their table. Reads numbers and words that stand in cells; writes no markup.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (!body || body.rows.length < 3) continue;
  const given = Array.from(body.rows);
  Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
    const key = (row) => {
      const text = row.cells[column].textContent.trim().replace("\u2212", "-").replace(/^< /, "");
      const number = parseFloat(text);
      return { text, number, empty: text === "" };
    };
    const isNumeric = header.classList.contains("num");
    const button = document.createElement("button");
    button.type = "button";
    while (header.firstChild) button.appendChild(header.firstChild);
    header.appendChild(button);
    button.addEventListener("click", () => {
      const was = header.getAttribute("aria-sort");
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      const first = isNumeric ? "descending" : "ascending";
      const second = isNumeric ? "ascending" : "descending";
      const now = was === first ? second : was === second ? null : first;
      let rows = given;
      if (now !== null) {
        header.setAttribute("aria-sort", now);
        const sign = now === "ascending" ? 1 : -1;
        rows = given.map((row) => ({ row, key: key(row) })).sort((a, b) => {
          if (a.key.empty !== b.key.empty) return a.key.empty ? 1 : -1;
          if (isNumeric && a.key.number !== b.key.number) return sign * (a.key.number - b.key.number);
          return isNumeric ? 0 : sign * a.key.text.localeCompare(b.key.text);
        }).map((entry) => entry.row);
      }
      rows.forEach((row) => body.appendChild(row));
    });
  });
}
