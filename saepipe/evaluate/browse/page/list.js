"use strict";
// Map and list of all latents of a run: search, sort, filter. Only the rows in view are in the document.

const ROW = 44; // pixels, as in browse.css
const SPARE = 8; // extra rows above and below those in view
const list = { run: null, q: "", only: "", sort: "", y: "", found: [], place: 0 };
const FILTERS = {
  "": "All", alive: "Alive", dead: "Dead", dense: "Dense (over 10 %)", role: "With a role", note: "With a note",
};
const EXTRA = ["num_active", "decoder_norm", "top_coactive_score"]; // shown on wide screens, or if sorted by

function columnsOf(table) {
  const first = Object.keys(LABELS).filter((key) => key in table.columns);
  const numbers = [...first, ...Object.keys(table.columns).filter((key) => !(key in LABELS))];
  const some = { role: table.roles, note: table.notes };
  const words = Object.keys(some).filter((key) => Object.values(some[key]).some((told) => told.length));
  return ["latent", "tokens", ...numbers, ...words];
}

function labelOf(key) {
  const words = { latent: "Latent", tokens: "Top tokens", role: "Role", note: "Note", ...LABELS };
  return words[key] ?? key.replaceAll("_", " ");
}

function listView(table) {
  const columns = columnsOf(table);
  const total = whole.format(table.about.d_sae);
  const count = h("p", { class: "count" });
  const body = h("tbody");
  const head = h("tr", { "aria-rowindex": 1 });
  const caption = h("caption", { class: "unseen" }, `Latents of ${table.about.label}`);
  const grid = h("table", {}, caption, h("thead", {}, head), body);
  const rows = h("div", { class: "rows", onscroll: () => requestAnimationFrame(() => render()) }, grid);
  const search = h("input", {
    type: "search", id: "search", placeholder: "token, “whole token”, role, note, number",
    oninput: () => change({ q: search.value }),
  });
  const only = h("select", { onchange: () => change({ only: only.value }) },
    Object.entries(FILTERS).map(([value, label]) => h("option", { value }, label)));
  const sort = h("select", { onchange: () => change({ sort: sort.value }) }, columns.flatMap((key) => sorts(key)));
  const map = new LatentMap(table, { choose: (y) => change({ y }), dead: () => change({ only: "dead" }) });
  let range = "", pending = false;

  function change(asked) {
    Object.assign(list, asked, { place: 0 });
    rows.scrollTop = 0;
    history.replaceState(null, "", address({ run: table.run }));
    update();
  }

  function update() {
    list.found = table.latents(list);
    const found = list.found.length;
    count.textContent = list.q || list.only ? `${whole.format(found)} of ${total} latents` : `${total} latents`;
    if (list.q && !table.whole) count.textContent += ", still searching …";
    say(count.textContent);
    search.value = list.q;
    only.value = list.only;
    sort.value = list.sort || "latent";
    head.replaceChildren(...columns.map(heading));
    grid.setAttribute("aria-rowcount", found + 1);
    map.update(list.found);
    render(true);
  }

  function heading(key) {
    const down = list.sort === `-${key}`, up = (list.sort || "latent") === key;
    const turn = down ? key : up ? `-${key}` : isNumber(key) ? `-${key}` : key;
    return h("th", { scope: "col", class: classOf(key), "aria-sort": down ? "descending" : up ? "ascending" : null },
      h("button", { type: "button", onclick: () => change({ sort: turn }) }, labelOf(key),
        h("span", { "aria-hidden": true }, down ? " ↓" : up ? " ↑" : "")));
  }

  function render(force = false) {
    const first = Math.max(0, Math.floor(rows.scrollTop / ROW) - SPARE);
    const last = Math.min(list.found.length, first + Math.ceil(rows.clientHeight / ROW) + 2 * SPARE);
    if (!force && range === `${first} ${last}`) return;
    range = `${first} ${last}`;
    const within = body.contains(document.activeElement);
    const spacer = (count) => h("tr", { class: "spacer", "aria-hidden": true, "--rows": count });
    body.replaceChildren(spacer(first), ...list.found.slice(first, last).map((latent, i) => row(latent, first + i)),
      spacer(list.found.length - last));
    if (within) focusRow();
  }

  function row(latent, place) {
    const href = address({ run: table.run, latent });
    const tokens = table.tokens[latent], roles = table.roles[latent] ?? [];
    const cells = {
      latent: () => h("a", { href, "data-place": place }, String(latent)),
      tokens: () => (tokens ? h("div", { class: "fade" }, tokensFound(tokens)) : waiting(latent)),
      role: () => h("div", { class: "twoline", title: roles.join("\n") }, roles.join("; ")),
      note: () => h("div", { class: "twoline" }, table.notes[latent] ?? ""),
      density: () => (table.columns.density[latent] ? percent(table.columns.density[latent]) : "dead"),
    };
    const dead = table.columns.density[latent] === 0;
    const onclick = (event) => follow(event, place, href);
    const onpointerenter = () => map.point(latent);
    return h("tr", { "aria-rowindex": place + 2, class: dead && "dead", onclick, onpointerenter },
      columns.map((key) => h("td", { class: classOf(key) }, cells[key]?.() ?? number(table.columns[key][latent]))));
  }

  // Tokens that match the search come first.
  function tokensFound(tokens) {
    const words = wordsOf(list.q);
    const hit = (one) => words.some((word) => `\n${one.trim().toLowerCase()}\n`.includes(word));
    return [chips(tokens.filter(hit), "chip hit"), chips(tokens.filter((one) => !hit(one)))];
  }

  function waiting(latent) {
    table.tokensOf(latent).then(soon);
    return "…";
  }

  // Renders once for all rows that waited for one block.
  function soon() {
    if (!pending) requestAnimationFrame(() => ((pending = false), render(true)));
    pending = true;
  }

  function follow(event, place, href) {
    list.place = place;
    if (!event.target.closest("a") && !String(getSelection())) location.hash = href;
  }

  function focusRow() {
    body.querySelector(`[data-place="${list.place}"]`)?.focus({ preventScroll: true });
    map.point(list.found[list.place]);
  }

  function move(by) {
    if (!list.found.length) return;
    const within = body.contains(document.activeElement);
    const to = within ? Number(document.activeElement.dataset.place) + by : list.place;
    list.place = Math.max(0, Math.min(list.found.length - 1, to));
    reveal();
    render();
    focusRow();
  }

  function reveal() {
    const top = list.place * ROW, seen = rows.clientHeight - 2 * ROW; // without the heading
    if (top < rows.scrollTop) rows.scrollTop = top;
    if (top > rows.scrollTop + seen) rows.scrollTop = top - seen;
  }

  function classOf(key) {
    const sorted = list.sort.replace(/^-/, "") === key;
    const kinds = [isNumber(key) && "number", EXTRA.includes(key) && "extra", sorted && "sorted"];
    return [`c-${key}`, ...kinds.filter(Boolean)].join(" ");
  }

  function isNumber(key) {
    return key in table.columns;
  }

  function sorts(key) {
    const [up, down] = isNumber(key) ? ["smallest first", "largest first"] : ["A to Z", "Z to A"];
    const ways = key === "latent" ? [["", "0 first"], ["-", "last first"]] : [["-", down], ["", up]];
    return ways.map(([sign, way]) => h("option", { value: sign + key }, `${labelOf(key)}, ${way}`));
  }

  return {
    title: table.about.label,
    content: [
      h("h1", { class: "unseen", tabindex: -1 }, `Latents of ${table.about.label}`),
      h("form", { class: "bar", role: "search", onsubmit: (event) => (event.preventDefault(), move(0)) },
        h("label", { class: "grow" }, h("span", {}, "Search"), search), h("label", {}, h("span", {}, "Show"), only),
        h("label", {}, h("span", {}, "Sort"), sort), count),
      map.element, rows,
    ],
    after() {
      list.run = table.run;
      update();
      reveal();
      render();
      if (list.asked) search.select();
      else if (list.place) focusRow();
      list.asked = false;
      table.allTokens(() => list.q && rows.isConnected && update());
    },
    keys: {
      j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
      "/": () => search.select(), m: () => map.canvas.focus(), Escape: () => (search === document.activeElement ? move(0) : change({ q: "" })),
    },
    help: { "/": "search", "j k ↓ ↑": "move", m: "map", Enter: "open", Esc: "clear the search" },
  };
}
