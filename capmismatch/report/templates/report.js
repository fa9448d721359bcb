"use strict";
// Sort a table by the clicked column: numbers as numbers, empty cells last, a second click turns the order round.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = button.closest("table").tBodies[0], column = head.cellIndex;
    const turn = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const key = (row) => row.cells[column].dataset.key;
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const [x, y] = [Number(a), Number(b)];
      return turn * (isNaN(x) || isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y);
    };
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
  });
}
// A picture grows to its own size and back.
for (const picture of document.querySelectorAll("button.picture")) {
  picture.addEventListener("click", () => picture.classList.toggle("large"));
}
// What is folded opens where a link leads into it, and in print.
const unfold = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let fold = target && target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();
addEventListener("beforeprint", () => { for (const fold of document.querySelectorAll("details")) fold.open = true; });
