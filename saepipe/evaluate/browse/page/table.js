"use strict";
// All latents of one run: their columns, roles and notes at once, their tokens block by block.

const LABELS = {
  density: "Density", mean_act: "Mean act.", max_act: "Max act.", top_neighbour_cosine: "Nearest cosine",
  num_active: "Active tokens", decoder_norm: "Decoder norm", top_coactive_score: "Most co-active",
};
const DENSE = 0.1;

class Table {
  static open(run) {
    return (Table.opened[run] ??= new Table(run).load());
  }

  constructor(run) {
    Object.assign(this, { run, about: runs[run], size: blocks.tokens, tokens: [], texts: [], loading: {} });
  }

  async load() {
    const names = ["columns", "roles", "notes"];
    const [columns, roles, notes] = await Promise.all(names.map((name) => source.get(`${this.run}/${name}`)));
    this.columns = Object.fromEntries(Object.entries(columns).map(([key, packed]) => [key, floats(packed)]));
    const each = (key) => Object.entries(roles).map(([latent, told]) => [latent, told.flatMap((one) => one[key])]);
    const [texts, about] = ["text", "about"].map((key) => Object.fromEntries(each(key)));
    return Object.assign(this, { roles: texts, roles_about: about, notes });
  }

  // The top tokens of a latent, once its block is here.
  async tokensOf(latent) {
    await this.block(Math.floor(latent / this.size));
    return this.tokens[latent];
  }

  block(block) {
    return (this.loading[block] ??= source.get(`${this.run}/tokens/${block}`).then((lists) => {
      lists.forEach((list, place) => (this.tokens[block * this.size + place] = list));
    }));
  }

  // Calls back after each block; the blocks that are here already cost nothing.
  async allTokens(heard = () => {}) {
    for (let block = 0; block * this.size < this.about.d_sae; block++) {
      await this.block(block);
      heard();
    }
    this.whole = true;
  }

  async note(latent, text) {
    await source.writeNote(this.run, latent, text);
    this.notes[latent] = text.trim();
    delete this.texts[latent];
  }

  // What a search looks through: a token, what a role is about, or a note, each a line.
  text(latent) {
    const known = this.texts[latent];
    if (known !== undefined) return known;
    const tokens = this.tokens[latent];
    const told = [...(this.roles_about[latent] ?? []), this.notes[latent] ?? ""];
    const lines = [...(tokens ?? []).map((one) => one.trim()), ...told];
    const text = `\n${lines.join("\n")}\n`.toLowerCase();
    if (tokens) this.texts[latent] = text;
    return text;
  }

  // The latents to show, in order. `sort` is a column, with a "-" in front for the largest first.
  latents({ q = "", only = "", sort = "" }) {
    const words = wordsOf(q);
    const wanted = this.filters()[only] ?? (() => true);
    const found = [];
    for (let latent = 0; latent < this.about.d_sae; latent++) {
      if (wanted(latent) && words.every((word) => word === String(latent) || this.text(latent).includes(word))) {
        found.push(latent);
      }
    }
    return sort ? found.sort(this.order(sort)) : found;
  }

  filters() {
    const { density } = this.columns;
    return {
      alive: (latent) => density[latent] > 0,
      dead: (latent) => density[latent] === 0,
      dense: (latent) => density[latent] > DENSE,
      role: (latent) => latent in this.roles,
      note: (latent) => Boolean(this.notes[latent]),
    };
  }

  // Those without a value come last, whatever the direction.
  order(sort) {
    const key = sort.replace(/^-/, ""), sign = sort.startsWith("-") ? -1 : 1;
    const lacks = (value) => value === undefined || value === "" || Number.isNaN(value);
    const value = this.value(key);
    return (a, b) => {
      const x = value(a), y = value(b);
      if (lacks(x) || lacks(y)) return lacks(x) - lacks(y) || a - b;
      return x < y ? -sign : x > y ? sign : a - b;
    };
  }

  value(key) {
    if (key === "latent") return (latent) => latent;
    if (key === "tokens") return (latent) => this.tokens[latent]?.[0]?.trim().toLowerCase();
    if (key === "role") return (latent) => this.roles[latent]?.[0];
    if (key === "note") return (latent) => this.notes[latent];
    const column = this.columns[key] ?? [];
    return (latent) => column[latent];
  }
}
Table.opened = {};

// What a latent's text must hold, all of it: a part of a line, or, between quotation marks, a whole one.
function wordsOf(q) {
  const words = q.toLowerCase().replace(/[“”„]/g, '"').match(/"[^"]+"|[^\s"]+/g) ?? [];
  return words.map((word) => word.replaceAll('"', "\n"));
}

// Little-endian float32 in base64.
function floats(packed) {
  const bytes = Uint8Array.from(atob(packed), (sign) => sign.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}
