"use strict";
// Loads the page's data from scripts next to it, and stores its notes in this browser.

const held = {}; // by name
const scripts = new Map(); // by file: a promise

function keep(resources) {
  Object.assign(held, resources);
}

const source = {
  notes: "kept in this browser",
  noText: "These are files, which have no model to read a text. On the machine with the runs: saepipe browse RUN --model auto",

  async get(name) {
    if (!(name in held)) await script(fileOf(name));
    if (!(name in held)) throw new Error(`These files do not contain ${name}.`);
    return name.endsWith("/notes") ? { ...held[name], ...written(name.split("/")[0]) } : held[name];
  },

  async writeNote(run, latent, text) {
    localStorage.setItem(shelf(run), JSON.stringify({ ...written(run), [latent]: text.trim() }));
  },
};

// 0/latent/123 is in the file 0/latent/1, with the other latents of its block.
function fileOf(name) {
  const [run, kind, ...numbers] = name.split("/");
  const size = kind === "latent" || kind === "match" ? held.runs.blocks[kind] : 1;
  return [run, kind, ...numbers.slice(0, -1), ...numbers.slice(-1).map((number) => Math.floor(number / size))]
    .filter((part) => part !== undefined)
    .join("/");
}

function script(file) {
  if (!scripts.has(file)) {
    scripts.set(file, new Promise((done, failed) => {
      const element = document.createElement("script");
      element.src = `data/${file}.js`;
      element.onload = done;
      element.onerror = () => failed(new Error(`data/${file}.js is missing.`));
      document.head.append(element);
    }));
  }
  return scripts.get(file);
}

// Notes written in this browser, "" for a removed one; kept by the run's fingerprint, not by the address of the files.
function written(run) {
  return JSON.parse(localStorage.getItem(shelf(run)) ?? "{}");
}

function shelf(run) {
  return `saepipe notes ${held.runs.runs[run].run}`;
}
