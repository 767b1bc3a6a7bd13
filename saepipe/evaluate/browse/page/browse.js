"use strict";
// Shows the view in the address: a run's list, a latent, or two latents side by side.

let runs, blocks, reads_text;
let view = { keys: {}, help: {} };
let turn = 0;

// #run=topk/seed-0&latent=12&with=jumprelu/seed-0&by=firing, or #run=topk/seed-0&text=The king&heat=12
function address({ run, latent, other, by, text, heat }) {
  const parts = { run: runs[run].label };
  if (text !== undefined) Object.assign(parts, { text }, heat !== undefined && { heat });
  else if (latent !== undefined) Object.assign(parts, { latent }, other !== undefined && { with: runs[other].label }, by && { by });
  else for (const key of ["q", "only", "sort", "y"]) if (list[key]) parts[key] = list[key];
  const encoded = (value) => encodeURIComponent(value).replaceAll("%2F", "/");
  return "#" + Object.entries(parts).map(([key, value]) => `${key}=${encoded(value)}`).join("&");
}

async function show() {
  const mine = ++turn, asked = new URLSearchParams(location.hash.slice(1));
  try {
    const made = await viewOf(asked);
    if (mine === turn) view = made;
  } catch (error) {
    if (mine === turn) view = failed(error);
  }
  if (mine !== turn) return; // the address has changed meanwhile
  document.title = `${view.title} · saepipe browse`;
  document.getElementById("main").replaceChildren(...view.content.flat().filter(Boolean));
  document.getElementById("keys").replaceChildren(...Object.entries(view.help).map(([keys, what]) =>
    h("span", {}, keys.split(" ").map((key) => h("kbd", {}, key)), ` ${what}`)));
  window.scrollTo(0, 0);
  if (mine > 1) document.querySelector("h1").focus({ preventScroll: true });
  view.after?.();
}

async function viewOf(asked) {
  const find = (label) => runs.findIndex((run) => run.label === label);
  const run = asked.has("run") ? find(asked.get("run")) : 0;
  if (run < 0) throw new Error(`No open run is called ${asked.get("run")}.`);
  document.getElementById("run").value = run;
  const table = await Table.open(run);
  if (asked.has("text")) return textView(table, asked.get("text"), asked.has("heat") ? Number(asked.get("heat")) : null);
  if (!asked.has("latent")) {
    if (asked.has("run")) for (const key of ["q", "only", "sort", "y"]) list[key] = asked.get(key) ?? "";
    if (list.run !== run) list.place = 0;
    return listView(table);
  }
  const latent = Number(asked.get("latent"));
  if (!Number.isInteger(latent) || !isLatent(table, latent)) {
    throw new Error(`${table.about.label} has no latent ${asked.get("latent")}.`);
  }
  if (!asked.has("with")) return latentView(table, latent);
  const other = find(asked.get("with"));
  if (other < 0) throw new Error(`No open run is called ${asked.get("with")}.`);
  return compareView(table, latent, other, asked.get("by"));
}

function failed(error) {
  return {
    title: "Not found",
    content: [
      h("h1", { tabindex: -1 }, "This page cannot be shown"),
      h("p", { role: "alert" }, error.message),
      h("p", {}, h("a", { href: "#" }, "Back to the list")),
    ],
    keys: { Escape: () => (location.hash = "#") },
    help: { Esc: "list" },
  };
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input, textarea, select");
  if (typing && event.key !== "Escape" && !(event.key === "ArrowDown" && typing.id === "search")) return;
  if (typing && !typing.matches("#search")) return typing.blur();
  const action = view.keys[event.key] ?? (event.key === "/" && searchTheList);
  if (!action) return;
  event.preventDefault();
  action();
}

function searchTheList() {
  list.asked = true;
  location.hash = address({ run: Number(document.getElementById("run").value) });
}

// In the format of RUN/notes.json, so that notes written in the files can be copied into the run.
async function exportNotes() {
  const { run, label } = runs[document.getElementById("run").value];
  const { notes } = await Table.open(document.getElementById("run").value);
  const kept = Object.fromEntries(Object.entries(notes).filter(([, text]) => text));
  const text = JSON.stringify({ run, notes: kept }, null, 2) + "\n";
  const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  h("a", { href, download: `notes ${label.replaceAll("/", " ")}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}

async function start() {
  history.replaceState(null, "", location.pathname + location.hash); // remove the token, which the cookie has replaced
  try {
    ({ runs, blocks, reads_text } = await source.get("runs"));
  } catch (error) {
    return document.getElementById("main").replaceChildren(h("p", { role: "alert" }, error.message));
  }
  const select = document.getElementById("run");
  select.append(...runs.map(({ label }, run) => h("option", { value: run }, label)));
  select.addEventListener("change", () => (location.hash = address({ run: Number(select.value) })));
  document.getElementById("own").addEventListener("click", () =>
    (location.hash = address({ run: Number(select.value), text: "" })));
  document.getElementById("export").addEventListener("click", exportNotes);
  addEventListener("keydown", press);
  addEventListener("hashchange", show);
  await show();
}

start();
