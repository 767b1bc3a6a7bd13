"use strict";
// Elements and numbers. Tokens and names come from datasets and configs, so they are inserted as text only.

function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => (child ?? false) !== false));
  return element;
}

const plain = new Intl.NumberFormat("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
const rough = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const whole = new Intl.NumberFormat("en");

function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  if (Math.abs(value) < 0.001) return value.toExponential(1).replace("-", "−");
  return plain.format(value).replace("-", "−");
}

function percent(value) {
  if (Number.isNaN(value)) return "–";
  if (value === 0) return "0 %";
  return value < 0.0001 ? "< 0.01 %" : `${plain.format(value * 100)} %`;
}

// A token as readable text, with dimmed signs for invisible characters.
const SIGNS = { "\n": "↵", "\r": "␍", "\t": "⇥", " ": "·" };

function token(text) {
  if (text === "") return [h("i", {}, "∅")];
  return text.split(/([\n\r\t]|^ +| +$)/).filter(Boolean).map((part) =>
    part[0] in SIGNS ? h("i", {}, [...part].map((sign) => SIGNS[sign]).join("")) : part);
}

function chips(tokens, name = "chip") {
  return tokens.map((text) => [h("span", { class: name }, token(text)), " "]);
}

function say(text) {
  document.getElementById("status").textContent = text;
}
