"use strict";
// Where the page gets its data and leaves its notes: scripts beside it, and this browser's own storage.

const held = {}; // by name
const scripts = new Map(); // by file: a promise

function keep(resources) {
  Object.assign(held, resources);
}

const source = {
  notes: "kept in this browser",

  async get(name) {
    if (!(name in held)) await script(fileOf(name));
    if (!(name in held)) throw new Error(`There is no ${name} in these files.`);
    return name.endsWith("/notes") ? { ...held[name], ...written(name.split("/")[0]) } : held[name];
  },

  async writeNote(run, latent, text) {
    localStorage.setItem(shelf(run), JSON.stringify({ ...written(run), [latent]: text.trim() }));
  },
};

// 0/latent/123 lies with its neighbours in 0/latent/1.
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

// The notes that were written here, "" where one was removed; of this run and no other that lies at this address.
function written(run) {
  return JSON.parse(localStorage.getItem(shelf(run)) ?? "{}");
}

function shelf(run) {
  return `saepipe notes ${held.runs.runs[run].run}`;
}
