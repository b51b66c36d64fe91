// Which view is shown follows from the address: #/VIEW?SETTINGS, or #/job/ID.

import { get, say } from "./client.js";
import { edit } from "./edit.js";
import { gallery } from "./gallery.js";
import { generate, job } from "./generate.js";
import { interpolate } from "./interpolate.js";
import { showRun } from "./run.js";

const VIEWS = { generate, edit, interpolate, gallery, run: showRun };
let run = null;

async function show() {
  const [path, words = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id] = path.split("/");
  const view = VIEWS[name] ? name : name === "job" && id ? "job" : "generate";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  say("");
  const main = document.getElementById("main");
  try {
    run ||= await get("/run");
    document.getElementById("title").textContent = document.title = run.name;
    await (view === "job" ? job(run, main, id) : VIEWS[view](run, main, new URLSearchParams(words)));
  } catch (error) {
    say(error.message);
  }
}

addEventListener("hashchange", show);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the view
  document.getElementById("main").focus();
});
show();
