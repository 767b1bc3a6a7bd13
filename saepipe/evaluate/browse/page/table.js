"use strict";
// All latents of one run: columns, roles and notes are loaded at once, tokens in blocks.

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
    const told = (named, key) => Object.fromEntries(Object.entries(roles)
      .map(([latent, all]) => [latent, all.filter((one) => one.named === named).flatMap((one) => one[key])])
      .filter(([, found]) => found.length));
    return Object.assign(this, {
      roles: told(true, "text"), roles_about: told(true, "about"), leads: told(false, "text"), notes,
    });
  }

  // The top tokens of a latent, when its block is loaded.
  async tokensOf(latent) {
    await this.block(Math.floor(latent / this.size));
    return this.tokens[latent];
  }

  block(block) {
    return (this.loading[block] ??= source.get(`${this.run}/tokens/${block}`).then((lists) => {
      lists.forEach((list, place) => (this.tokens[block * this.size + place] = list));
    }));
  }

  // Loads all blocks and calls back after each; loaded blocks cost nothing.
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

  // The text that a search looks through: tokens, subjects of roles, and the note, one per line.
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

  // The latents to show, in order. `sort` is a column; a "-" before it sorts the largest first.
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

  // Latents without a value come last in both directions.
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

// The words that a latent's text must all contain: parts of a line, or whole lines in quotation marks.
function wordsOf(q) {
  const words = q.toLowerCase().replace(/[“”„]/g, '"').match(/"[^"]+"|[^\s"]+/g) ?? [];
  return words.map((word) => word.replaceAll('"', "\n"));
}

// Little-endian float32 in base64.
function floats(packed) {
  const bytes = Uint8Array.from(atob(packed), (sign) => sign.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}
