"use strict";
// Where the page gets its data and leaves its notes: the server that it came from.

const source = {
  notes: "kept in the run's folder",

  async get(name) {
    const answer = await fetch(`data/${name}`);
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  },

  async writeNote(run, latent, text) {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(`data/${run}/notes/${latent}`, { method: "PUT", headers, body: JSON.stringify({ text }) });
    if (!answer.ok) throw new Error(await answer.text());
  },
};
