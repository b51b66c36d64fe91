// What was made before: search, thumbs, links.

import { el, get, say } from "./client.js";
import { Samples } from "./draw.js";

export async function gallery(run, main, parameters) {
  const search = el("input", { name: "text", type: "search", value: parameters.get("text") || "", placeholder: "such as heun, denoise, a seed", maxlength: 100 });
  const thumb = el("select", { name: "thumb" }, ...[["", "all"], ["1", "good"], ["-1", "bad"]].map(([value, text]) => el("option", { value, selected: value === (parameters.get("thumb") || "") }, text)));
  const form = el("form", { class: "row", role: "search" }, el("label", {}, "Search", search), el("label", {}, "Opinion", thumb), el("button", { class: "main" }, "Search"));
  const list = el("div", { class: "gallery" });
  const more = el("button", { type: "button", hidden: true, onclick: () => load(last) }, "More");
  let last = null;

  const card = (job) => {
    const count = Math.min(job.kind === "interpolate" ? 10 : job.n, 8);
    const samples = new Samples(run, count);
    get(`/jobs/${job.id}/samples`).then((data) => samples.show(data)).catch(() => samples.node.replaceChildren("removed"));
    const { n, seed, settings, ...rest } = job.settings;
    const text = [`${job.kind}, seed ${job.seed}`, ...Object.entries({ ...rest, ...settings }).map(([k, v]) => `${k} ${typeof v === "object" ? JSON.stringify(v) : v}`)].join(", ");
    const mark = { 1: "Good: ", "-1": "Bad: " }[job.thumb] || "";
    return el("a", { href: `#/job/${job.id}`, class: "card" }, samples.node, el("p", { class: "faint" }, mark + text), el("p", { class: "faint" }, new Date(job.created * 1000).toLocaleString()));
  };
  const load = async (before = null) => {
    const words = new URLSearchParams({ text: search.value, limit: 24 });
    if (thumb.value) words.set("thumb", thumb.value);
    if (before) words.set("before", before);
    const jobs = await get(`/jobs?${words}`);
    if (!before) list.replaceChildren();
    list.append(...jobs.map(card));
    if (!list.children.length) list.append(el("p", {}, "Nothing was found."));
    last = jobs.at(-1)?.number;
    more.hidden = jobs.length < 24;
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    const words = new URLSearchParams(Object.entries({ text: search.value, thumb: thumb.value }).filter(([, value]) => value));
    history.replaceState(null, "", `#/gallery?${words}`);
    load().catch((error) => say(error.message));
  };
  main.className = "";
  main.replaceChildren(form, el("h2", {}, "Results"), list, el("p", {}, more));
  await load();
}
