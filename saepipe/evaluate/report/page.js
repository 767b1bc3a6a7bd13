// Behaviour of the page: theme, charts rendered as they come into view, saved files, opened runs.
"use strict";

const root = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const THEME = "saepipe-theme";

// A browser may deny storage to a file; the theme then lasts as long as the page.
function recall() {
  try { return localStorage.getItem(THEME); } catch { return null; }
}
function remember(theme) {
  try { localStorage.setItem(THEME, theme); } catch { /* see above */ }
}

function setTheme(theme) {
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
}
const isDark = () => (root.dataset.theme ?? (systemDark.matches ? "dark" : "light")) === "dark";

root.classList.add("scripted"); // in the head, before anything is painted
setTheme(recall());

// --- charts

const rendered = new Map(); // figure -> promise of its Vega view

function vegaConfig(figure) {
  const card = getComputedStyle(figure), note = getComputedStyle(figure.querySelector("figcaption p"));
  const ink = card.color, grid = card.borderTopColor, muted = note.color, font = card.fontFamily;
  const words = { labelColor: muted, titleColor: ink, labelFontSize: 11, titleFontSize: 11, titleFontWeight: 500 };
  const width = figure.querySelector(".plot").clientWidth, columns = width < 340 ? 1 : width < 440 ? 2 : 3;
  const legend = width < 560
    ? { orient: "bottom", columns, labelLimit: width / columns - 50 }
    : { orient: "right", columns: 1, labelLimit: 180 };
  return {
    font, background: card.backgroundColor, aria: false,
    view: { stroke: null },
    axis: { ...words, gridColor: grid, domainColor: grid, tickColor: grid, labelOverlap: true, titlePadding: 8 },
    legend: { ...words, ...legend, symbolStrokeWidth: 2 },
    header: words,
    title: { color: ink, subtitleColor: muted, fontSize: 12, fontWeight: 500 },
    text: { color: ink }, rule: { color: muted },
  };
}

function render(figure) {
  const plot = figure.querySelector(".plot"), spec = JSON.parse(figure.querySelector(".spec").textContent);
  const rendering = vegaEmbed(plot, spec, {
    mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false, tooltip: { disableDefaultStyle: true },
    config: vegaConfig(figure), ast: true, // ast: without eval, which the page's policy forbids
    loader: { rel: "noreferrer" }, // of the links to a feature browser
    logLevel: 1, // errors only: an empty layer needs no warning
  });
  rendering.catch((error) => {
    console.error(error);
    plot.textContent = `This chart could not be rendered (${error.message}). Its table is below.`;
  });
  rendered.set(figure, rendering);
  return rendering;
}
const once = (figure) => rendered.get(figure) ?? render(figure);

function rerender() {
  for (const [figure, rendering] of rendered) {
    render(figure);
    rendering.then((old) => old.finalize(), () => {});
  }
}

// --- files

function quoted(text) {
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
function csv(figure) {
  const rows = [...figure.querySelectorAll("table tr")];
  return rows.map((row) => [...row.cells].map((cell) => quoted(cell.textContent.trim())).join(",") + "\n").join("");
}

async function png(view) {
  const canvas = await view.toCanvas(2); // twice the pixels on the screen
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

const FILES = {
  svg: async (figure) => [await (await once(figure)).view.toSVG(), "image/svg+xml", "svg"],
  png: async (figure) => [await png((await once(figure)).view), "image/png", "png"],
  csv: (figure) => [csv(figure), "text/csv", "csv"],
  spec: (figure) => [figure.querySelector(".spec").textContent, "application/json", "vl.json"],
};

async function save(figure, kind) {
  const [content, type, extension] = await FILES[kind](figure);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = `${figure.id}.${extension}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// --- runs

function openRun() {
  const run = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!(run instanceof HTMLDetailsElement)) return;
  run.open = true;
  run.scrollIntoView();
  run.querySelector("summary").focus({ preventScroll: true });
}

// --- start

function themeButton(button) {
  const show = () => button.setAttribute("aria-pressed", isDark());
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    setTheme(theme);
    remember(theme);
    show();
    rerender();
  });
  systemDark.addEventListener("change", () => { show(); rerender(); });
  show();
}

function printing() {
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    setTheme("light");
    rerender();
    document.querySelectorAll(".chart").forEach(once);
  });
  addEventListener("afterprint", () => { setTheme(before); rerender(); });
}

function renderInView(figures) {
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      once(target);
    }
  }, { rootMargin: "400px" });
  figures.forEach((figure) => watcher.observe(figure));
}

function markCurrentSection(links) {
  const link = new Map([...links].map((a) => [document.getElementById(a.hash.slice(1)), a]));
  const watcher = new IntersectionObserver((entries) => {
    const seen = entries.find((entry) => entry.isIntersecting);
    if (!seen) return;
    links.forEach((a) => a.removeAttribute("aria-current"));
    link.get(seen.target).setAttribute("aria-current", "true");
  }, { rootMargin: "-10% 0% -80% 0%" });
  link.forEach((_, section) => watcher.observe(section));
}

// Tells on which sides of each table there is more.
function markScrollers(scrollers) {
  const mark = (scroller) => {
    const { scrollLeft, scrollWidth, clientWidth } = scroller.firstElementChild;
    scroller.classList.toggle("left", scrollLeft > 1);
    scroller.classList.toggle("right", scrollLeft + clientWidth < scrollWidth - 1);
  };
  const watcher = new ResizeObserver((entries) => entries.forEach(({ target }) => mark(target.closest(".scroller"))));
  for (const scroller of scrollers) {
    const scroll = scroller.firstElementChild;
    scroll.addEventListener("scroll", () => mark(scroller), { passive: true });
    watcher.observe(scroll);
    watcher.observe(scroll.firstElementChild);
  }
}

addEventListener("DOMContentLoaded", () => {
  themeButton(document.querySelector("#theme"));
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-save]");
    if (button) save(button.closest(".chart"), button.dataset.save);
  });
  document.addEventListener("toggle", ({ target }) => { // forget a run that was closed, so that its link opens it again
    if (!target.open && location.hash === `#${target.id}`) history.replaceState(null, "", "#");
  }, { capture: true });
  addEventListener("hashchange", openRun);
  openRun();
  printing();
  markScrollers(document.querySelectorAll(".scroller"));
  markCurrentSection(document.querySelectorAll("nav a"));
  renderInView(document.querySelectorAll(".chart"));
});
