"use strict";
// Counterparts of a latent in another run: by decoder cosine, and by firing on the same tokens.

const REAL = 0.5; // below this cosine, or Jaccard index and correlation, the best latent is not called a counterpart
const WAYS = { decoder: "decoder", firing: "same tokens" };

function isReal(way, found) {
  return (way === "decoder" ? found.cosine : Math.max(found.jaccard, found.correlation)) >= REAL;
}

// The way to a counterpart that a view shows, if the address asks for none.
function wayOf(match, asked) {
  if (asked in WAYS) return asked;
  return Object.keys(WAYS).find((way) => match[way].latent !== null && isReal(way, match[way])) ??
    Object.keys(WAYS).find((way) => match[way].latent !== null) ?? "decoder";
}

function agrees(match) {
  return match.decoder.latent !== null && match.decoder.latent === match.firing.latent;
}

function measures({ cosine, jaccard, correlation }) {
  const told = { cosine, "Jaccard": jaccard, correlation };
  const shown = Object.entries(told).filter(([, value]) => value !== null);
  return shown.map(([name, value]) => `${name} ${value.toFixed(2).replace("-", "−")}`).join(", ");
}

// In the latent's own view: a line per run, or two if both ways lead to different latents.
function counterparts(table, latent, others) {
  return h("ul", { class: "counterparts" }, others.map((other) => {
    const told = h("div", { class: "quiet" }, "…");
    source.get(`${table.run}/match/${other}/${latent}`)
      .then((match) => told.replaceChildren(...verdicts(match).map((line) => h("p", {}, line))));
    return h("li", {}, h("a", { href: address({ run: table.run, latent, other }) }, runs[other].label), told);
  }));
}

function verdicts(match) {
  if (agrees(match)) {
    const real = Object.keys(WAYS).some((way) => isReal(way, match[way]));
    return [`${real ? "latent" : "no real counterpart; nearest is"} ${match.decoder.latent}: ${measures(match.decoder)}`];
  }
  return Object.entries(WAYS).map(([way, by]) => {
    const found = match[way];
    if (found.latent === null) return `by ${by}: none, ${found.reason}`;
    return `by ${by}: ${isReal(way, found) ? "latent" : "no real counterpart; nearest is"} ${found.latent}, ${measures(found)}`;
  });
}

// Beside another latent: what was found in both ways, the shown one marked.
function counterpart(match, shown, { table, latent, other }) {
  const label = runs[other].label;
  const real = match[shown].latent !== null && isReal(shown, match[shown]);
  const line = ([way, by]) => {
    const found = match[way], current = way === shown || (agrees(match) && "true");
    if (found.latent === null) return h("p", {}, `By ${by}: none, ${found.reason}.`);
    const href = address({ run: table.run, latent, other, by: way });
    const name = `latent ${found.latent}`, weak = isReal(way, found) ? "" : "no real counterpart; nearest is ";
    return h("p", {}, `By ${by}: ${weak}`, current ? h("b", {}, name) : h("a", { href }, name), `, ${measures(found)}.`);
  };
  const size = match.tokens && h("p", { class: "quiet" },
    `Jaccard index and correlation are of ${whole.format(match.tokens)} random tokens that both stores sampled.`);
  return h("div", { class: real ? "told" : "told warn" },
    h("p", {}, real ? `Counterparts in ${label}:` : `${label} has no real counterpart.`), Object.entries(WAYS).map(line), size);
}
