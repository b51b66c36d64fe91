// New samples, out of the noise step by step.

import { el, get, say, send } from "./client.js";
import { field, fill, number, samplerFields, settingsOf } from "./forms.js";
import { query, showJob, showResult } from "./result.js";

export function generate(run, main, parameters) {
  const go = el("button", { class: "main" }, "Generate");
  const form = el(
    "form", { class: "card" },
    field("Samples", number("n", { min: 1, max: run.limits.n, value: Math.min(16, run.limits.n) })),
    ...samplerFields(run, true), go,
  );
  const out = el("section", { "aria-label": "Samples" }, el("p", { class: "faint" }, "The samples appear here, step by step."));
  fill(form, parameters);
  form.onsubmit = async (event) => {
    event.preventDefault();
    say("");
    go.disabled = true;
    try {
      const job = await send("POST", "/samples", settingsOf(form, run));
      history.replaceState(null, "", `#/generate?${query(job.settings)}`);
      await showJob(run, job, out);
    } catch (error) {
      say(error.message);
    }
    go.disabled = false;
  };
  main.className = "two";
  main.replaceChildren(form, out);
}

export async function job(run, main, id) {
  const found = await get(`/jobs/${id}`);
  const out = el("section", { "aria-label": "Result" });
  main.className = "";
  const asked = Object.entries(found.settings).map(([name, value]) => `${name} ${JSON.stringify(value)}`).join(", ");
  main.replaceChildren(el("h2", {}, found.kind), el("p", { class: "faint" }, asked), out);
  await (["queued", "running"].includes(found.state) ? showJob(run, found, out) : showResult(run, found, out));
}
