"use strict";
// Loads the page's data from, and stores its notes on, the server that the page came from.

const source = {
  notes: "kept in the run's folder",
  noText: "There is no model to read a text: start saepipe browse with --model auto.",

  async get(name) {
    return (await asked(`data/${name}`)).json();
  },

  async writeNote(run, latent, text) {
    const headers = { "Content-Type": "application/json" };
    await asked(`data/${run}/notes/${latent}`, { method: "PUT", headers, body: JSON.stringify({ text }) });
  },

  async read(run, text) {
    const headers = { "Content-Type": "application/json" };
    return (await asked(`text/${run}`, { method: "PUT", headers, body: JSON.stringify({ text }) })).json();
  },
};

async function asked(where, how) {
  const answer = await fetch(where, how).catch(() => {
    throw new Error("The server does not answer. Is saepipe browse still running?");
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}
