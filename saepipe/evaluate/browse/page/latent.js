"use strict";
// One latent: where it fires, what it writes, what is near it, what people say of it.

async function latentView(table, latent) {
  const one = await source.get(`${table.run}/latent/${latent}`);
  const place = list.run === table.run ? list.found.indexOf(latent) : -1;
  const beside = (by) => (place < 0 ? latent + by : list.found[place + by]);
  const go = (to) => () => to >= 0 && to < table.about.d_sae && (location.hash = address({ run: table.run, latent: to }));
  const others = runs.map((_, run) => run).filter((run) => run !== table.run);
  const note = noteBox(table, latent);
  const link = (to, sign, name) => to >= 0 && to < table.about.d_sae
    ? h("a", { class: "button", href: address({ run: table.run, latent: to }), rel: name, "aria-label": `${name} latent` }, sign) : null;
  return {
    title: `Latent ${latent} · ${table.about.label}`,
    content: [
      h("div", { class: "head" },
        h("p", { class: "crumb" }, h("a", { href: address({ run: table.run }) }, table.about.label)),
        h("h1", { tabindex: -1 }, `Latent ${latent}`),
        h("nav", { class: "beside", "aria-label": "Latents beside" },
          place >= 0 && h("span", {}, `${whole.format(place + 1)} of ${whole.format(list.found.length)} in the list`),
          link(beside(-1), "←", "previous"), link(beside(1), "→", "next"))),
      facts(one, table),
      h("div", { class: "two" },
        h("section", { "aria-label": "Examples" }, examples(one, table.about)),
        h("aside", {},
          part("Note", note),
          table.roles[latent] && part("Role", h("ul", {}, table.roles[latent].map((role) => h("li", {}, role)))),
          others.length > 0 && part("In the other runs", counterparts(table, latent, others)),
          one.num_active > 0 && part("Activations", histogram(one)),
          part("Promotes", logits(one.positive_logits, table.about)),
          part("Suppresses", logits(one.negative_logits, table.about)),
          part("Nearest by decoder cosine", ranked(one.neighbours, table)),
          part("Fires together with", ranked(one.coactive, table)))),
    ],
    keys: {
      j: go(beside(1)), ArrowRight: go(beside(1)), k: go(beside(-1)), ArrowLeft: go(beside(-1)), v: showValues,
      n: () => note.querySelector("textarea").focus(),
      c: () => others.length && (location.hash = address({ run: table.run, latent, other: others[0] })),
      Escape: () => (location.hash = address({ run: table.run })),
    },
    help: { "j k → ←": "next, previous", v: "values", n: "note", ...(others.length && { c: "compare" }), "/": "search", Esc: "list" },
  };
}

function showValues() {
  say(document.body.classList.toggle("values") ? "Values are shown." : "Values are hidden.");
}

function part(title, ...content) {
  return h("section", { class: "part" }, h("h2", {}, title), ...content);
}

function facts(one, table) {
  if (!one.num_active) return h("p", { class: "told" }, `Dead: active on none of ${whole.format(table.about.num_tokens)} tokens.`);
  const nearest = table.columns.top_neighbour_cosine?.[one.index];
  const told = { Density: percent(one.density), "Active tokens": whole.format(one.num_active), "Mean act.": number(one.mean_act),
    "Max act.": number(one.max_act), "Nearest cosine": number(nearest) };
  return h("dl", { class: "facts" }, Object.entries(told).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

// The strongest first; then a random sample of all active tokens, from strong to weak.
function examples(one, about) {
  const names = groupsOf(one);
  if (!names.length) return part("Examples", h("p", {}, "None: it was never active."));
  return names.map((name) => part(groupName(name, about), group(one, name)));
}

function group(one, name) {
  const found = one.examples.filter((example) => example.group === name);
  return h("ol", { class: "examples" }, (name === "top" ? found : found.reverse()).map((example) => exampleOf(example, one.max_act)));
}

function groupsOf(...latents) {
  const names = new Set(latents.flatMap((one) => one.examples.map((example) => example.group)));
  return [...names].sort((a, b) => (a === "top" ? -1 : b === "top" ? 1 : b.localeCompare(a, "en", { numeric: true })));
}

function groupName(name, about) {
  if (name === "top") return "Strongest";
  const from = Number(name.slice(1)), n = about.num_quantiles;
  return `Drawn at random, group ${from} of ${n}${from === n ? ": the stronger" : from === 1 ? ": the weaker" : ""}`;
}

function exampleOf({ tokens, acts, peak, position, start, document: text }, max) {
  const words = tokens.map((one, i) => tokenOf(one, acts[i], max, i === peak, start + i));
  return h("li", {},
    h("span", { class: "peak", title: `document ${text}, position ${position}` }, h("span", { class: "unseen" }, "peak "), number(acts[peak])),
    h("p", { class: "text" }, start > 0 && h("i", {}, "… "), words));
}

// Heat is told thrice: by colour, by the line below, and as a number (on hover, or with v).
function tokenOf(text, act, max, isPeak, position) {
  const [, gap, word] = text.match(/^( *)(.*)$/s);
  const shown = inText(word || gap);
  const told = act === null
    ? h("span", { class: "unknown", title: `position ${position}: no activation is stored` }, shown)
    : h(isPeak ? "strong" : "span", act ? { class: "hot", "--heat": Math.min(1, act / max).toFixed(3), title: `${number(act)} at position ${position}` } : {},
      shown, act ? h("small", { class: "value" }, rough.format(act)) : null);
  return word ? [gap, told] : told;
}

function inText(text) {
  if (text === "") return h("i", {}, "∅");
  return text.split(/([\n\r\t])/).filter(Boolean).map((one) => (one in SIGNS && one !== " " ? h("i", {}, SIGNS[one]) : one));
}

// Bins of equal ratio stand equally wide.
function histogram({ histogram: { edges, counts } }) {
  const most = Math.max(...counts), width = 300 / counts.length, peak = counts.indexOf(most);
  const bin = (i) => `${number(edges[i])} to ${number(edges[i + 1])}: ${whole.format(counts[i])} tokens`;
  const bars = counts.map((count, i) => svg("rect", { x: i * width + 0.5, y: 90 - 88 * (count / most), width: Math.max(1, width - 1), height: 88 * (count / most) },
    svg("title", {}, bin(i))));
  const middle = edges.length >> 1;
  const label = (i, anchor) => svg("text", { x: i * width, y: 106, "text-anchor": anchor }, number(edges[i]));
  return [
    svg("svg", { viewBox: "0 0 300 110", class: "histogram", role: "img", "aria-label": `Active tokens by activation; most in ${bin(peak)}` },
      bars, svg("line", { x1: 0, x2: 300, y1: 90.5, y2: 90.5 }), label(0, "start"), counts.length > 3 && label(middle, "middle"), label(counts.length, "end")),
    h("details", {}, h("summary", {}, "As a table"),
      h("table", { class: "small" }, h("tr", {}, h("th", { scope: "col" }, "activation"), h("th", { scope: "col" }, "tokens")),
        counts.map((count, i) => h("tr", {}, h("td", {}, `${number(edges[i])} to ${number(edges[i + 1])}`), h("td", {}, whole.format(count)))))),
  ];
}

function logits(pairs, about) {
  if (!pairs) return h("p", { class: "quiet" }, `No logits: ${about.no_logits}.`);
  return bars(pairs.map(([text, value]) => [h("span", { class: "chip" }, token(text)), value]));
}

function ranked(pairs, table) {
  if (!pairs.length) return h("p", { class: "quiet" }, "None.");
  return bars(pairs.map(([latent, value]) => {
    const tokens = h("span", { class: "few" });
    table.tokensOf(latent).then((found) => tokens.append(...(found.length ? chips(found.slice(0, 4)).flat() : ["dead"])));
    return [[h("a", { href: address({ run: table.run, latent }) }, String(latent)), " ", tokens], value];
  }));
}

function bars(entries) {
  const most = Math.max(...entries.map(([, value]) => Math.abs(value)));
  return h("ol", { class: "bars" }, entries.map(([what, value]) =>
    h("li", { "--share": Math.abs(value) / most || 0 }, h("span", { class: "what" }, what), h("span", { class: "number" }, number(value)))));
}

function noteBox(table, latent) {
  const told = h("span", { class: "quiet", role: "status" }, source.notes);
  const text = h("textarea", { rows: 3, maxlength: 20000, "aria-label": `Note on latent ${latent}`, onchange: save, onkeydown: (event) =>
    event.key === "Enter" && (event.ctrlKey || event.metaKey) && save() }, table.notes[latent] ?? "");
  async function save() {
    if (text.value.trim() === (table.notes[latent] ?? "")) return;
    told.textContent = "Saving …";
    await table.note(latent, text.value).then(() => (told.textContent = `Saved, ${source.notes}.`), (error) => (told.textContent = `Not saved: ${error.message}`));
  }
  return h("div", { class: "note" }, text, h("div", {}, h("button", { type: "button", onclick: save }, "Save"), told));
}

function counterparts(table, latent, others) {
  return h("ul", { class: "counterparts" }, others.map((other) => {
    const line = h("li", {}, `${runs[other].label} …`);
    source.get(`${table.run}/match/${other}/${latent}`).then((match) => line.replaceChildren(
      h("a", { href: address({ run: table.run, latent, other }) }, runs[other].label), " ", h("span", { class: "quiet" }, verdict(match))));
    return line;
  }));
}

function verdict(match) {
  if (match.latent === null) return `none: ${match.reason}`;
  const cosine = `cosine ${match.cosine.toFixed(2)}`;
  return match.cosine < REAL ? `no real counterpart (nearest ${match.latent}, ${cosine})` : `latent ${match.latent}, ${cosine}`;
}
