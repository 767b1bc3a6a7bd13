"use strict";
// A latent next to its counterpart in another run, and the changes.

async function compareView(table, latent, other, by) {
  const [match, ours, its] = await Promise.all([
    source.get(`${table.run}/match/${other}/${latent}`),
    source.get(`${table.run}/latent/${latent}`),
    Table.open(other),
  ]);
  const way = wayOf(match, by), found = match[way].latent;
  const theirs = found === null ? null : await source.get(`${other}/latent/${found}`);
  const pair = [[table, ours], [its, theirs]].filter(([, one]) => one);
  const tokens = await Promise.all(pair.map(([side, one]) => side.tokensOf(one.index)));
  const rest = runs.map((_, run) => run).filter((run) => run !== table.run);
  const next = rest[(rest.indexOf(other) + 1) % rest.length];
  const go = (asked) => () => (location.hash = address(asked));
  return {
    title: `Latent ${latent} compared with ${its.about.label}`,
    content: [
      h("div", { class: "head" },
        h("p", { class: "crumb" }, h("a", { href: address({ run: table.run, latent }) }, nameOf([table, ours]))),
        h("h1", { tabindex: -1 }, `Latent ${latent}, side by side`),
        h("nav", { class: "beside", "aria-label": "Other runs" },
          rest.map((run) => choice(table, latent, run, run === other)))),
      counterpart(match, way, { table, latent, other }),
      theirs && part("What changed", figures(pair), words(pair, tokens)),
      h("div", { class: "pair heads" }, pair.map(heading)),
      groupsOf(...pair.map(([, one]) => one)).map((which) => together(which, pair)),
    ],
    keys: {
      Escape: go({ run: table.run, latent }), v: showValues, c: go({ run: table.run, latent, other: next }),
    },
    help: { v: "values", ...(rest.length > 1 && { c: "next run" }), "/": "search", Esc: "the latent" },
  };
}

function nameOf([side, one]) {
  return `${side.about.label} / ${one.index}`;
}

function choice(table, latent, run, isCurrent) {
  const href = address({ run: table.run, latent, other: run });
  return h("a", { class: "button", href, "aria-current": isCurrent && "true" }, runs[run].label);
}

function heading(sided) {
  const [side, one] = sided;
  const told = [...(side.roles[one.index] ?? []), side.notes[one.index]].filter(Boolean);
  const href = address({ run: side.run, latent: one.index });
  return h("div", {}, h("a", { href }, nameOf(sided)), told.map((line) => h("p", {}, line)));
}

function together(which, pair) {
  const about = pair[0][0].about;
  return part(groupName(which, about), h("div", { class: "pair" }, pair.map((sided) =>
    h("section", { "aria-label": nameOf(sided) }, h("p", { class: "whose" }, nameOf(sided)), group(sided[1], which)))));
}

function figures(pair) {
  const rows = [["Density", "density", percent], ["Mean act.", "mean_act", number], ["Max act.", "max_act", number]];
  const head = (text) => h("th", { scope: "col" }, text);
  return h("table", { class: "changes" },
    h("thead", {}, h("tr", {}, h("td"), pair.map(([side]) => head(side.about.label)), head("change"))),
    h("tbody", {}, rows.map(([label, key, shown]) => {
      const [a, b] = pair.map(([, one]) => one[key]);
      const change = a && b ? `× ${number(b / a)}` : "–";
      const cells = [shown(a), shown(b), change].map((text) => h("td", {}, text));
      return h("tr", {}, h("th", { scope: "row" }, label), cells);
    })));
}

function words([[, ours], [, theirs]], tokens) {
  const texts = (pairs) => pairs?.map(([text]) => text);
  return h("dl", { class: "gains" },
    gained("Top tokens", ...tokens),
    gained("Promotes", texts(ours.positive_logits), texts(theirs.positive_logits)),
    gained("Suppresses", texts(ours.negative_logits), texts(theirs.negative_logits)));
}

function gained(title, ours, theirs) {
  if (!ours || !theirs) return null;
  const groups = {
    both: ours.filter((one) => theirs.includes(one)),
    lost: ours.filter((one) => !theirs.includes(one)),
    gained: theirs.filter((one) => !ours.includes(one)),
  };
  return h("div", {}, h("dt", {}, title), Object.entries(groups).map(([which, found]) =>
    h("dd", { class: which }, h("span", { class: "group" }, which),
      h("span", {}, found.length ? chips(found) : h("i", {}, "none")))));
}
