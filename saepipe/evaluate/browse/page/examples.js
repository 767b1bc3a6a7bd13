"use strict";
// Examples of a latent, token by token, and the histogram of its activations.

// The strongest examples, then a random sample of all active tokens, from strong to weak.
function examples(one, about) {
  const names = groupsOf(one);
  if (!names.length) return part("Examples", h("p", {}, "None: this latent was never active."));
  return names.map((name) => part(groupName(name, about), group(one, name)));
}

function groupsOf(...latents) {
  const names = new Set(latents.flatMap((one) => one.examples.map((example) => example.group)));
  const rank = (name) => (name === "top" ? Infinity : Number(name.slice(1)));
  return [...names].sort((a, b) => rank(b) - rank(a));
}

function groupName(name, about) {
  if (name === "top") return "Strongest";
  const place = Number(name.slice(1)), last = about.num_quantiles;
  const which = place === last ? " (strongest)" : place === 1 ? " (weakest)" : "";
  return `Random sample, group ${place} of ${last}${which}`;
}

function group(one, name) {
  const found = one.examples.filter((example) => example.group === name);
  if (name !== "top") found.reverse();
  return h("ol", { class: "examples" }, found.map((example) => exampleOf(example, one.max_act)));
}

function exampleOf(example, max) {
  const { tokens, acts, peak, position, start } = example;
  const words = tokens.map((text, i) => tokenOf(text, acts[i], max, i === peak, start + i));
  const where = `document ${example.document}, position ${position}`;
  return h("li", {},
    h("span", { class: "peak", title: where }, h("span", { class: "unseen" }, "peak "), number(acts[peak])),
    h("p", { class: "text" }, start > 0 && h("i", {}, "… "), words));
}

// Activation is shown in three ways: by colour, by the line below, and as a number (on hover, or with v).
function tokenOf(text, act, max, isPeak, position) {
  const [, gap, word] = text.match(/^( *)(.*)$/s);
  const told = heated(inText(word || gap), act, max, isPeak ? "strong" : "span", position);
  return word ? [gap, told] : told;
}

function heated(shown, act, max, tag, position) {
  if (act === null) return h(tag, { class: "unknown", title: `position ${position}: no activation is stored` }, shown);
  if (act === 0) return h(tag, {}, shown);
  const heat = Math.min(1, act / max).toFixed(3);
  return h(tag, { class: "hot", "--heat": heat, title: `${number(act)} at position ${position}` },
    shown, h("small", { class: "value" }, rough.format(act)));
}

function inText(text) {
  if (text === "") return h("i", {}, "∅");
  const parts = text.split(/([\n\r\t])/).filter(Boolean);
  return parts.map((part) => (part !== " " && part in SIGNS ? h("i", {}, SIGNS[part]) : part));
}

// Bins have equal ratios, so they are shown equally wide.
function histogram({ histogram: { edges, counts } }) {
  const most = Math.max(...counts), width = 300 / counts.length;
  const bin = (i) => `${number(edges[i])} to ${number(edges[i + 1])}`;
  const told = (i) => `${bin(i)}: ${whole.format(counts[i])} tokens`;
  const bars = counts.map((count, i) => {
    const height = (88 * count) / most;
    const box = { x: i * width + 0.5, y: 90 - height, width: Math.max(1, width - 1), height };
    return svg("rect", box, svg("title", {}, told(i)));
  });
  const label = (i, anchor) => svg("text", { x: i * width, y: 106, "text-anchor": anchor }, number(edges[i]));
  const summary = `Active tokens by activation; most in ${told(counts.indexOf(most))}`;
  const rows = counts.map((count, i) => h("tr", {}, h("td", {}, bin(i)), h("td", {}, whole.format(count))));
  return [
    svg("svg", { viewBox: "0 0 300 110", class: "histogram", role: "img", "aria-label": summary },
      bars, svg("line", { x1: 0, x2: 300, y1: 90.5, y2: 90.5 }),
      label(0, "start"), counts.length > 3 && label(edges.length >> 1, "middle"), label(counts.length, "end")),
    h("details", {}, h("summary", {}, "As a table"), h("table", { class: "small" },
      h("tr", {}, h("th", { scope: "col" }, "activation"), h("th", { scope: "col" }, "tokens")), rows)),
  ];
}
