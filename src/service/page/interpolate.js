// Samples on the way from one to another.

import { el, get, say, send } from "./client.js";
import { Samples } from "./draw.js";
import { taskFields, taskSettings } from "./forms.js";
import { chosen, showJob } from "./result.js";

export async function interpolate(run, main) {
  const go = el("button", { class: "main" }, "Interpolate");
  const form = el("form", { class: "card" }, ...taskFields(run.tasks.interpolate || {}), go);
  const out = el("section", { "aria-label": "Result" });
  const slots = el("div", { class: "slots" });
  main.className = "two";
  main.replaceChildren(form, el("div", {}, slots, out));

  const fill = async () => {
    slots.replaceChildren(...(await Promise.all(["A", "B"].map(async (slot) => {
      const box = el("div", { class: "slot" }, slot === "A" ? "from" : "to");
      if (!chosen[slot]) {
        box.append(el("a", { href: "#/gallery" }, "choose a sample"));
        return box;
      }
      const data = await get(`/jobs/${chosen[slot].job}/samples`);
      const count = chosen[slot].index + 1;
      const all = new Samples(run, count, { label: "Sample" });
      await all.show(data);
      box.append(all.canvases[chosen[slot].index]);
      return box;
    }))));
    go.disabled = !(chosen.A && chosen.B);
  };
  form.onsubmit = async (event) => {
    event.preventDefault();
    say("");
    go.disabled = true;
    try {
      const settings = taskSettings(form, run.tasks.interpolate);
      const job = await send("POST", "/tasks/interpolate", { samples: [chosen.A, chosen.B], settings });
      await showJob(run, job, out, (settings.n_between ?? run.tasks.interpolate.n_between) + 2);
    } catch (error) {
      say(error.message);
    }
    go.disabled = false;
  };
  await fill();
}
