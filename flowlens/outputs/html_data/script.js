"use strict";
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const box = table.closest(".tablebox"), name = table.caption.textContent;
  const text = (cell) => (cell.querySelector("[aria-hidden]") ? cell.textContent.slice(cell.firstChild.textContent.length).trim() : cell.textContent);
  const value = (cell) => cell.dataset.v ?? text(cell);
  const add = (parent, tag, properties = {}, words = "") => {
    const made = document.createElement(tag);
    Object.assign(made, properties);
    made.append(words);
    parent.append(made);
    return made;
  };

  const tools = document.createElement("div");
  tools.className = "tools";
  const search = add(add(tools, "label", {}, "Filter "), "input", { type: "search", autocomplete: "off" });
  search.setAttribute("aria-label", `Filter ${name}`);
  let select = null;
  const status = [...(rows[0]?.cells ?? [])].findIndex((cell) => cell.classList.contains("s"));
  if (status >= 0 && !table.classList.contains("grid")) {
    select = add(add(tools, "label", {}, `${heads[status].textContent} `), "select");
    select.setAttribute("aria-label", `${heads[status].textContent} in ${name}`);
    add(select, "option", { value: "" }, "all");
    for (const word of new Set(rows.map((row) => text(row.cells[status])))) add(select, "option", { value: word }, word);
  }
  const save = add(tools, "button", { type: "button" }, "Save as CSV");
  const shown = add(tools, "output");
  shown.setAttribute("aria-live", "polite");
  box.prepend(tools);

  // Made when a row is first asked for, so that a long page opens at once.
  const haystacks = new Map();
  const haystack = (row) => {
    if (!haystacks.has(row)) haystacks.set(row, [...row.cells].map(text).join("\n").toLowerCase());
    return haystacks.get(row);
  };
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const fits = words.every((word) => haystack(row).includes(word)) && (!select?.value || text(row.cells[status]) === select.value);
      row.hidden = !fits;
      count += fits;
    }
    const total = Number(table.dataset.total);
    shown.textContent = `${count.toLocaleString("en")} of ${total.toLocaleString("en")} rows`;
  };
  search.addEventListener("input", filter);
  select?.addEventListener("change", filter);
  filter();

  const order = new Intl.Collator("en", { numeric: true });
  heads.forEach((head, n) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numeric = head.classList.contains("n");
      const compare = (one, other) => {
        const a = value(one.cells[n]), b = value(other.cells[n]);
        // What is empty stays at the end.
        if (a === "" || b === "") return (a === "") - (b === "");
        const way = numeric ? Number(a) - Number(b) : order.compare(a, b);
        return down ? -way : way;
      };
      rows.sort(compare);
      body.append(...rows);
    });
  });

  // On paper stands what was left and in which order, to a limit.
  addEventListener("beforeprint", () => {
    let count = 0;
    for (const row of rows) row.classList.toggle("late", !row.hidden && ++count > Number(table.dataset.paper));
  });

  save.addEventListener("click", () => {
    const quoted = (word) => `"${word.replaceAll('"', '""')}"`;
    // A spreadsheet runs what begins like a formula, in full-width signs too.
    const guarded = (word) => (/^[=+\-@\t\r]/.test(word.slice(0, 1).normalize("NFKC")) ? `'${word}` : word);
    const lines = [
      heads.map((head) => quoted(guarded(head.textContent))),
      ...rows
        .filter((row) => !row.hidden)
        .map((row) => [...row.cells].map((cell, n) => quoted(heads[n].classList.contains("n") ? value(cell) : guarded(value(cell))))),
    ];
    const csv = lines.map((line) => line.join(",") + "\r\n").join("");
    const kept = rows.filter((row) => !row.hidden).length, total = Number(table.dataset.total);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
    link.download = kept === total ? `${table.id}.csv` : `${table.id}-${kept}-of-${total}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
