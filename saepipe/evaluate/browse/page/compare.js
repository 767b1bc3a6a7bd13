"use strict";
// A latent beside its counterpart in another run, and what changed.

const REAL = 0.5; // below this cosine there is no counterpart to speak of

async function compareView(table, latent, other) {
  const [match, ours, its] = await Promise.all([
    source.get(`${table.run}/match/${other}/${latent}`), source.get(`${table.run}/latent/${latent}`), Table.open(other)]);
  const theirs = match.latent === null ? null : await source.get(`${other}/latent/${match.latent}`);
  const sides = [[table, ours], [its, theirs]].filter(([, one]) => one);
  const rest = runs.map((_, run) => run).filter((run) => run !== table.run);
  const next = rest[(rest.indexOf(other) + 1) % rest.length];
  const go = (asked) => () => (location.hash = address(asked));
  return {
    title: `Latent ${latent} beside ${its.about.label}`,
    content: [
      h("div", { class: "head" },
        h("p", { class: "crumb" }, h("a", { href: address({ run: table.run, latent }) }, `${table.about.label} / ${latent}`)),
        h("h1", { tabindex: -1 }, `Latent ${latent}, side by side`),
        h("nav", { class: "beside", "aria-label": "Other runs" }, rest.map((run) =>
          h("a", { class: "button", href: address({ run: table.run, latent, other: run }), "aria-current": run === other && "true" }, runs[run].label)))),
      counterpart(match, its),
      theirs && changes(ours, theirs, await Promise.all([table.tokensOf(latent), its.tokensOf(match.latent)]), table, its),
      h("div", { class: "pair heads" }, sides.map(([side, one]) => h("div", {},
        h("a", { href: address({ run: side.run, latent: one.index }) }, name(side, one)),
        [...(side.roles[one.index] ?? []), side.notes[one.index]].filter(Boolean).map((told) => h("p", {}, told))))),
      groupsOf(...sides.map(([, one]) => one)).map((group) => together(group, sides)),
    ],
    keys: { Escape: go({ run: table.run, latent }), v: showValues, c: go({ run: table.run, latent, other: next }) },
    help: { v: "values", ...(rest.length > 1 && { c: "next run" }), "/": "search", Esc: "the latent" },
  };
}

function name(side, one) {
  return `${side.about.label} / ${one.index}`;
}

function together(which, sides) {
  return part(groupName(which, sides[0][0].about), h("div", { class: "pair" }, sides.map(([side, one]) =>
    h("section", { "aria-label": name(side, one) }, h("p", { class: "whose" }, name(side, one)), group(one, which)))));
}

function counterpart(match, its) {
  if (match.latent === null) return h("p", { class: "told warn" }, `There is no counterpart in ${its.about.label}: ${match.reason}.`);
  const cosine = match.cosine.toFixed(2);
  if (match.cosine < REAL) {
    return h("p", { class: "told warn" }, `There is no real counterpart in ${its.about.label}: the nearest is latent ${match.latent}, and the cosine of their decoder rows is only ${cosine}.`);
  }
  return h("p", { class: "told" }, `The counterpart in ${its.about.label} is latent ${match.latent}: the cosine of their decoder rows is ${cosine}.`);
}

function changes(ours, theirs, [mine, others], table, its) {
  const rows = [
    ["Density", ours.density, theirs.density, percent], ["Mean act.", ours.mean_act, theirs.mean_act, number], ["Max act.", ours.max_act, theirs.max_act, number]];
  const words = (pairs) => pairs?.map(([text]) => text);
  return part("What changed", h("table", { class: "changes" },
    h("thead", {}, h("tr", {}, h("td", {}), [table, its].map((side) => h("th", { scope: "col" }, side.about.label)), h("th", { scope: "col" }, "change"))),
    h("tbody", {}, rows.map(([name, a, b, shown]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, shown(a)), h("td", {}, shown(b)),
      h("td", {}, a && b ? `× ${number(b / a)}` : "–"))))),
    h("dl", { class: "gains" },
      gained("Top tokens", mine, others), gained("Promotes", words(ours.positive_logits), words(theirs.positive_logits)),
      gained("Suppresses", words(ours.negative_logits), words(theirs.negative_logits))));
}

function gained(name, ours, theirs) {
  if (!ours || !theirs) return null;
  const less = (some, others) => some.filter((one) => !others.includes(one));
  const groups = { both: ours.filter((one) => theirs.includes(one)), lost: less(ours, theirs), gained: less(theirs, ours) };
  return h("div", {}, h("dt", {}, name), Object.entries(groups).map(([group, tokens]) =>
    h("dd", { class: group }, h("span", { class: "group" }, group), h("span", {}, tokens.length ? chips(tokens) : h("i", {}, "none")))));
}
