"use strict";
// A text of one's own: its tokens, the latents that are active on it, and the heat of one of them.

const SOME = 30; // latents listed

async function textView(table, text, heat) {
  const about = table.about.label;
  const box = h("textarea", { rows: 4, maxlength: 8000, "aria-label": "Your own text", onkeydown: sends }, text);
  const go = (asked) => (location.hash = address({ run: table.run, text: box.value, ...asked }));
  function sends(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) go({});
  }
  const content = [
    h("div", { class: "head" },
      h("p", { class: "crumb" }, h("a", { href: address({ run: table.run }) }, about)),
      h("h1", { tabindex: -1 }, "Your own text")),
  ];
  const keys = { Escape: () => (location.hash = address({ run: table.run })), v: showValues, t: () => box.focus() };
  const help = { "Ctrl Enter": "read", t: "text", v: "values", Esc: "list" };
  if (!reads_text) content.push(h("p", { class: "told" }, source.noText));
  else {
    content.push(h("div", { class: "own" }, box, h("button", { type: "button", onclick: () => go({}) }, "Read")));
    if (text.trim()) content.push(...answer(table, text, await source.read(table.run, text), heat));
  }
  return { title: `Your own text · ${about}`, content, keys, help, after: () => text || box.focus() };
}

function answer(table, text, { tokens, known, cut, latents }, heat) {
  if (!latents.length) return [h("p", { class: "told" }, "No latent is active on this text.")];
  const one = latents.find(({ latent }) => latent === heat) ?? (Number.isInteger(heat) ? idle(heat, tokens) : latents[0]);
  const shown = h("p", { class: "text own-text" });
  const side = h("div", {});
  // With a token, lists the latents that are active on it; without, those of the whole text.
  function pick(at) {
    const told = tokens.map((token, i) => {
      const word = tokenOf(token, known[i] ? one.acts[i] : null, one.max_act, i === at, i);
      return known[i] ? h("button", { type: "button", class: "pick", "aria-pressed": String(i === at),
        "aria-label": `Latents active on ${token}`, onclick: () => pick(i === at ? null : i) }, word) : word;
    });
    shown.replaceChildren(...told.flat());
    const act = ({ acts, max_act }) => (at === null ? Math.max(...acts) : acts[at]) / (max_act || 1);
    const active = latents.filter((found) => act(found) > 0).sort((a, b) => act(b) - act(a));
    side.replaceChildren(part(at === null ? "Active latents" : `Active on “${tokens[at].trim() || tokens[at]}”`,
      h("p", { class: "quiet" }, `${whole.format(active.length)}, by share of the largest activation in the store`),
      active.length ? listed(active.slice(0, SOME), act) : h("p", {}, "None.")));
  }
  const listed = (found, act) => bars(found.map((other) => [choiceOf(other), act(other)]), 1);
  function choiceOf({ latent }) {
    const words = h("span", { class: "few" });
    table.tokensOf(latent).then((tokens) => fill(words, {}, tokens.length ? chips(tokens.slice(0, 4)) : ["dead in the store"]));
    const href = address({ run: table.run, text, heat: latent });
    return [h("a", { href, "aria-current": latent === one.latent && "true" }, String(latent)), " ", words];
  }
  pick(null);
  return [
    cut > 0 && h("p", { class: "told warn" }, `The last ${whole.format(cut)} tokens are left out: a context is full.`),
    h("div", { class: "two" },
      h("section", { class: "part", "aria-label": "Text" },
        h("h2", {}, "Heat of ", h("a", { href: address({ run: table.run, latent: one.latent }) }, `latent ${one.latent}`),
          one.idle && ", not active here"), shown,
        h("p", { class: "quiet" }, "Choose a token for its latents, or a latent for its heat.")),
      h("aside", {}, side)),
  ];
}

function idle(latent, tokens) {
  return { latent, idle: true, max_act: 1, acts: tokens.map(() => 0) };
}
