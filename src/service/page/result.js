// A job on the page: its steps while it runs, its samples, and what can be done with them.

import { download, el, follow, get, say, send } from "./client.js";
import { Samples } from "./draw.js";

export const chosen = { A: null, B: null }; // {job, index}, to interpolate between

export const query = (settings) => {
  const { condition, images, ...rest } = settings;
  const found = new URLSearchParams(rest);
  for (const [name, value] of Object.entries(condition || {})) {
    if (Array.isArray(value)) value.forEach((number, i) => found.set(`condition.${name}.${i}`, number));
    else found.set(`condition.${name}`, value);
  }
  return found.toString();
};

// Show a job in a node until it ends, and then its result.
export async function showJob(run, job, node, count = job.n) {
  const bar = el("progress", { max: 1, value: 0, "aria-label": "Progress" });
  const state = el("span", { class: "faint", role: "status" }, "waiting");
  const stop = el("button", { type: "button", onclick: () => send("DELETE", `/jobs/${job.id}`).catch((e) => say(e.message)) }, "Cancel");
  const steps = new Samples(run, count);
  node.replaceChildren(bar, el("div", { class: "actions" }, state, stop), steps.node);
  let drawing = Promise.resolve();
  const end = await follow(job.id, (name, news) => {
    if (name === "state") state.textContent = news.state;
    if (name !== "step") return;
    bar.max = news.steps;
    bar.value = news.step;
    state.textContent = `step ${news.step} of ${news.steps}`;
    if (news.picture || news.numbers) drawing = drawing.then(() => steps.show(news, news.first)).catch(() => {});
  });
  await drawing;
  await showResult(run, end, node);
  return end;
}

// Show a job that has ended.
export async function showResult(run, job, node) {
  if (job.state !== "done") {
    node.replaceChildren(el("p", {}, `This job is ${job.state}. ${job.error || ""}`));
    return;
  }
  const isTask = job.kind !== "samples";
  const data = await get(`/jobs/${job.id}/samples`);
  const count = data.shape ? data.shape[0] : await countOf(run, data, job);
  const samples = new Samples(run, count, { onselect: () => {} });
  const parts = [samples.node, actions(run, job, samples)];
  if (isTask && job.kind !== "interpolate") {
    const given = new Samples(run, job.n, { label: "Input" });
    await given.show(await get(`/jobs/${job.id}/samples?name=given`)).catch(() => {});
    parts.unshift(el("h2", {}, "Input"), given.node, el("h2", {}, "Result"));
  }
  node.replaceChildren(...parts, facts(job));
  await samples.show(data);
}

async function countOf(run, data, job) {
  const image = new Image();
  image.src = data.picture;
  await image.decode();
  return Math.max(1, Math.round(image.width / (run.shape[2] || image.height)));
}

function actions(run, job, samples) {
  const at = () => ({ job: job.id, index: samples.selected });
  const rate = (thumb) => async (event) => {
    const pressed = event.currentTarget.getAttribute("aria-pressed") === "true";
    const rated = await send("PUT", `/jobs/${job.id}/thumb`, { thumb: pressed ? 0 : thumb });
    good.setAttribute("aria-pressed", rated.thumb === 1);
    bad.setAttribute("aria-pressed", rated.thumb === -1);
  };
  const good = el("button", { type: "button", "aria-pressed": job.thumb === 1, onclick: rate(1) }, "Good");
  const bad = el("button", { type: "button", "aria-pressed": job.thumb === -1, onclick: rate(-1) }, "Bad");
  const pick = (slot) => () => {
    chosen[slot] = at();
    say("");
    location.hash = "#/interpolate";
  };
  const images = run.kind === "images";
  return el(
    "div", { class: "actions" }, good, bad,
    images ? el("button", { type: "button", onclick: () => { location.hash = `#/edit?job=${job.id}&index=${samples.selected}`; } }, "Edit the chosen one") : null,
    el("button", { type: "button", onclick: pick("A") }, "Interpolate from it"),
    el("button", { type: "button", onclick: pick("B") }, "… to it"),
    el("button", { type: "button", onclick: () => download(`/jobs/${job.id}/samples.npz`, `${job.id}.npz`).catch((e) => say(e.message)) }, "Download"),
  );
}

function facts(job) {
  const info = Object.entries(job.info).map(([name, value]) => `${name}: ${value}`);
  const again = job.kind === "samples" ? el("a", { href: `#/generate?${query(job.settings)}` }, "Same settings") : null;
  return el(
    "div", {},
    el("p", { class: "faint" }, `seed ${job.seed}, ${job.seconds.toFixed(2)} s, weights ${job.digest}. ${info.join(", ")}`),
    el("p", {}, el("a", { href: `#/job/${job.id}` }, "Link to this result"), again ? " · " : "", again),
    el("details", {}, el("summary", {}, "On the command line"), el("pre", {}, job.command)),
  );
}
