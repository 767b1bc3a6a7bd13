"use strict";
// One latent: its examples, logits, neighbours, counterparts, roles and note.

async function latentView(table, latent) {
  const one = await source.get(`${table.run}/latent/${latent}`);
  const others = runs.map((_, run) => run).filter((run) => run !== table.run);
  const note = noteBox(table, latent);
  const go = (to) => () => isLatent(table, to) && (location.hash = address({ run: table.run, latent: to }));
  const [before, after] = [-1, 1].map((by) => besideIt(table, latent, by));
  return {
    title: `Latent ${latent} · ${table.about.label}`,
    content: [
      h("div", { class: "head" },
        h("p", { class: "crumb" }, h("a", { href: address({ run: table.run }) }, table.about.label)),
        h("h1", { tabindex: -1 }, `Latent ${latent}`),
        h("nav", { class: "beside", "aria-label": "Neighbouring latents" },
          h("a", { class: "button", href: address({ run: table.run, text: "", heat: latent }) }, "Try a text"),
          placeInList(table, latent), link(table, before, "←", "previous"), link(table, after, "→", "next"))),
      facts(one, table),
      h("div", { class: "two" },
        h("section", { "aria-label": "Examples" }, examples(one, table.about)),
        h("aside", {}, sides(one, table, others, note))),
    ],
    keys: {
      j: go(after), ArrowRight: go(after), k: go(before), ArrowLeft: go(before), v: showValues,
      n: () => note.querySelector("textarea").focus(),
      c: () => others.length && (location.hash = address({ run: table.run, latent, other: others[0] })),
      Escape: () => (location.hash = address({ run: table.run })),
    },
    help: {
      "j k → ←": "next, previous", v: "values", n: "note", ...(others.length && { c: "compare" }),
      "/": "search", Esc: "list",
    },
  };
}

function sides(one, table, others, note) {
  const roles = table.roles[one.index], leads = table.leads[one.index];
  return [
    part("Note", note),
    (roles || leads) && part("Role", roleList(roles), leads && weak(leads)),
    others.length > 0 && part("In the other runs", counterparts(table, one.index, others)),
    one.num_active > 0 && part("Activations", histogram(one)),
    part("Promotes", logits(one.positive_logits, table.about)),
    part("Suppresses", logits(one.negative_logits, table.about)),
    part("Nearest by decoder cosine", ranked(one.neighbours, table)),
    part("Active together with", ranked(one.coactive, table)),
  ];
}

function roleList(roles) {
  if (!roles) return h("p", { class: "quiet" }, "None that its F1 supports.");
  return h("ul", {}, roles.map((role) => h("li", {}, role)));
}

// What evaluations chose the latent for, without an F1 that would make it a role.
function weak(leads) {
  return h("details", {}, h("summary", {}, `Weak leads: ${leads.length}`), h("ul", {}, leads.map((lead) => h("li", {}, lead))));
}

function isLatent(table, latent) {
  return latent >= 0 && latent < table.about.d_sae;
}

// The next latent in the list that was open before; by number if there was none.
function besideIt(table, latent, by) {
  const place = list.run === table.run ? list.found.indexOf(latent) : -1;
  return place < 0 ? latent + by : list.found[place + by];
}

function placeInList(table, latent) {
  const place = list.run === table.run ? list.found.indexOf(latent) : -1;
  return place >= 0 && h("span", {}, `${whole.format(place + 1)} of ${whole.format(list.found.length)} in the list`);
}

function link(table, latent, sign, name) {
  if (!isLatent(table, latent)) return null;
  const href = address({ run: table.run, latent });
  return h("a", { class: "button", href, rel: name, "aria-label": `${name} latent` }, sign);
}

function showValues() {
  say(document.body.classList.toggle("values") ? "Values are shown." : "Values are hidden.");
}

function part(title, ...content) {
  return h("section", { class: "part" }, h("h2", {}, title), ...content);
}

function facts(one, table) {
  const seen = whole.format(table.about.num_tokens);
  if (!one.num_active) return h("p", { class: "told" }, `Dead: active on none of ${seen} tokens.`);
  const told = {
    Density: percent(one.density), "Active tokens": whole.format(one.num_active), "Mean act.": number(one.mean_act),
    "Max act.": number(one.max_act), "Nearest cosine": number(table.columns.top_neighbour_cosine?.[one.index]),
  };
  const pair = ([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  return h("dl", { class: "facts" }, Object.entries(told).map(pair));
}

function logits(pairs, about) {
  if (!pairs) return h("p", { class: "quiet" }, `No logits: ${about.no_logits}.`);
  return bars(pairs.map(([text, value]) => [h("span", { class: "chip" }, token(text)), value]));
}

function ranked(pairs, table) {
  if (!pairs.length) return h("p", { class: "quiet" }, "None.");
  return bars(pairs.map(([latent, value]) => {
    const tokens = h("span", { class: "few" });
    table.tokensOf(latent).then((found) => fill(tokens, {}, found.length ? chips(found.slice(0, 4)) : ["dead"]));
    return [[h("a", { href: address({ run: table.run, latent }) }, String(latent)), " ", tokens], value];
  }));
}

function bars(entries, full) {
  const most = full ?? Math.max(...entries.map(([, value]) => Math.abs(value)));
  const line = ([what, value]) => h("li", { "--share": Math.abs(value) / most || 0 },
    h("span", { class: "what" }, what), h("span", { class: "number" }, number(value)));
  return h("ol", { class: "bars" }, entries.map(line));
}

function noteBox(table, latent) {
  const told = h("span", { class: "quiet", role: "status" }, source.notes);
  const ends = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && save();
  const label = `Note on latent ${latent}`;
  const settings = { rows: 3, maxlength: 20000, "aria-label": label, onchange: save, onkeydown: ends };
  const text = h("textarea", settings, table.notes[latent] ?? "");
  async function save() {
    if (text.value.trim() === (table.notes[latent] ?? "")) return;
    told.textContent = "Saving …";
    try {
      await table.note(latent, text.value);
      told.textContent = `Saved, ${source.notes}.`;
    } catch (error) {
      told.textContent = `Not saved: ${error.message}`;
    }
  }
  return h("div", { class: "note" }, text, h("div", {}, h("button", { type: "button", onclick: save }, "Save"), told));
}
