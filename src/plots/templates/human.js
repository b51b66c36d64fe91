"use strict";
const $ = (id) => document.getElementById(id);
const page = JSON.parse($("questions").textContent);
const truth = JSON.parse(atob(page.truth)); // [real, generated, right answer] of each question
const n = page.questions.length;
const singles = page.questions.filter((pictures) => pictures.length === 1).length;
const place = `human-${page.key}-${n}`; // in localStorage
const CHOICES = {
  single: [["real", "Real", "R"], ["generated", "Generated", "G"]],
  pair: [["left", "Left", "←"], ["right", "Right", "→"]],
};
const KEYS = { r: "real", g: "generated", ArrowLeft: "left", ArrowRight: "right" };
let state = load();
let shown = 0; // when the question was, in milliseconds

// ---- what is kept: { id, name, answers: [{ answer, seconds }] } ----

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(place));
    if (kept && Array.isArray(kept.answers) && kept.answers.length <= n) return kept;
  } catch {} // none, or a browser that keeps nothing for files: then a reload starts again
  const id = Array.from(crypto.getRandomValues(new Uint8Array(3)), (b) => b.toString(16).padStart(2, "0")).join("");
  return { id, name: "", answers: [] };
}

function save() {
  try { localStorage.setItem(place, JSON.stringify(state)); } catch {}
}

// ---- asking ----

const kindOf = (i) => (page.questions[i].length === 1 ? "single" : "pair");
const now = () => state.answers.length;

function show() {
  const over = now() >= n;
  $("quiz").hidden = over;
  $("end").hidden = !over;
  document.body.classList.toggle("begun", now() > 0);
  $("how").hidden = over;
  if (over) return showEnd();
  const kind = kindOf(now());
  $("choice").className = kind;
  [$("first"), $("second")].forEach((img, side) => {
    img.hidden = side === 1 && kind === "single";
    [img.width, img.height] = page.size;
    img.src = page.questions[now()][side] || "data:,";
    img.alt = kind === "single" ? `The ${page.noun} to judge` : `The ${page.noun} on the ${side ? "right" : "left"}`;
  });
  [$("left"), $("right")].forEach((button, side) => {
    const [answer, text, key] = CHOICES[kind][side];
    const label = kind === "single" ? text : `${text} is generated`;
    Object.assign(button, { value: answer, innerHTML: `${label} <kbd>${key}</kbd>` });
  });
  $("undo").disabled = now() === 0;
  $("bar").max = n;
  $("bar").value = now();
  $("count").textContent = `${now() + 1} of ${n}`;
  $("asked").textContent =
    kind === "single" ? `Is this ${page.noun} real or generated?` : `Which ${page.noun} is the generated one?`;
  shown = performance.now();
}

function answer(given) {
  if (now() >= n || !CHOICES[kindOf(now())].some(([name]) => name === given)) return;
  state.answers.push({ answer: given, seconds: (performance.now() - shown) / 1000 });
  save();
  show();
}

function undo() {
  if (now() === 0 || now() >= n) return; // once the result is known, no answer is changed
  state.answers.pop();
  save();
  show();
}

document.addEventListener("keydown", (event) => {
  // Ctrl+R reloads, a key held down answers once, and at the end keys write a name.
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || now() >= n) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "u" || key === "Backspace") undo();
  else if (KEYS[key]) answer(KEYS[key]);
  else return;
  event.preventDefault();
});
for (const id of ["left", "right"]) $(id).addEventListener("click", (event) => answer(event.currentTarget.value));
$("undo").addEventListener("click", undo);
// Time spent elsewhere is no time of thinking.
document.addEventListener("visibilitychange", () => { shown = performance.now(); });

// ---- the end ----

const isRight = (i) => state.answers[i].answer === truth[i][2];

// The 95 % interval of Wilson 1927.
function interval(right, all) {
  const z = 1.959963984540054, p = right / all, scale = 1 + z * z / all;
  const middle = (p + z * z / (2 * all)) / scale;
  const half = z * Math.sqrt(p * (1 - p) / all + z * z / (4 * all * all)) / scale;
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

function resultOf(title, kind) {
  const asked = page.questions.map((_, i) => i).filter((i) => kindOf(i) === kind);
  if (!asked.length) return "";
  const right = asked.filter(isRight).length, share = right / asked.length;
  const [low, high] = interval(right, asked.length);
  const conclusion =
    low > 0.5 ? "more often right than by chance"
      : high < 0.5 ? "less often right than by chance: what is generated looks more real than what is real"
        : "no better than chance, as far as these answers show";
  return `<p><strong>${title}: ${right} of ${asked.length} right, ${percent(share)}</strong>
    (95 % interval ${percent(low)} to ${percent(high)}; chance is ${percent(0.5)}): ${conclusion}.</p>
    <div class="track" aria-hidden="true"><i class="chance"></i>
    <i class="interval" style="left:${100 * low}%;width:${100 * (high - low)}%"></i>
    <i class="share" style="left:${100 * share}%"></i></div>`;
}

function showEnd() {
  $("result").innerHTML = resultOf("One at a time", "single") + resultOf("Pairs", "pair");
  $("name").value = state.name;
  $("done").focus();
}

function asCSV() {
  const person = state.name.trim() || `anonymous ${state.id}`;
  const cell = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const rows = state.answers.map(({ answer, seconds }, i) => {
    const [real, generated] = truth[i];
    return [page.key, cell(person), i + 1, kindOf(i), real ?? "", generated ?? "", answer, +isRight(i), seconds.toFixed(2)];
  });
  return [["key,person,question,kind,real,generated,answer,right,seconds"], ...rows].map((row) => row.join(",") + "\n").join("");
}

$("name").addEventListener("input", () => { state.name = $("name").value; save(); });
$("export").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([asCSV()], { type: "text/csv" }));
  const who = (state.name.trim() || state.id).replace(/[^\p{L}\p{N}-]+/gu, "_");
  Object.assign(document.createElement("a"), { href: url, download: `human_${page.key}_${who}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
});
$("again").addEventListener("click", () => {
  if (!confirm("Forget these answers and start again?")) return;
  try { localStorage.removeItem(place); } catch {}
  state = { ...load(), answers: [] };
  show();
});

const parts = [singles && `${singles} ${page.noun}s one by one`, n > singles && `${n - singles} pairs`].filter(Boolean);
$("how").textContent =
  `${parts.join(", then ")}: half are real, half were generated by a model. Go by your first impression; ` +
  "the result comes at the end. You can close the page and go on later.";
show();
