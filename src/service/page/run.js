// The card of the run and its loss curves.

import { el, get } from "./client.js";

const svg = (name, attributes = {}, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};

function curves(data) {
  const shown = Object.entries(data).filter(([, points]) => points.some(([, v]) => v > 0)).slice(0, 5);
  if (!shown.length) return el("p", { class: "faint" }, "The run has no logged losses.");
  const all = shown.flatMap(([, points]) => points.filter(([, v]) => v > 0));
  const most = Math.max(...all.map(([step]) => step)) || 1;
  const low = Math.log10(Math.min(...all.map(([, v]) => v))), high = Math.log10(Math.max(...all.map(([, v]) => v)));
  const span = high - low || 1;
  const x = (step) => 56 + (630 * step) / most, y = (v) => 10 + (230 * (high - Math.log10(v))) / span;
  const chart = svg("svg", { viewBox: "0 0 700 290", role: "img", "aria-label": "Loss against the optimizer step" });
  for (let i = 0; i <= 4; i++) {
    const value = 10 ** (low + (span * i) / 4), step = (most * i) / 4;
    chart.append(
      svg("line", { x1: 56, x2: 686, y1: y(value), y2: y(value), stroke: "var(--line)" }),
      svg("text", { x: 50, y: y(value) + 4, "text-anchor": "end" }, value.toPrecision(2)),
      svg("text", { x: x(step), y: 260, "text-anchor": i === 4 ? "end" : "middle" }, Math.round(step).toLocaleString("en")),
    );
  }
  chart.append(svg("text", { x: 371, y: 284, "text-anchor": "middle" }, "optimizer step"));
  const legend = el("div", { class: "legend" });
  shown.forEach(([name, points], i) => {
    const line = points.filter(([, v]) => v > 0).map(([step, v]) => `${x(step).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
    chart.append(svg("polyline", { points: line, fill: "none", class: `line${i}`, "stroke-width": 1.8 }));
    legend.append(el("span", {}, svg("svg", { viewBox: "0 0 24 8" }, svg("line", { x1: 0, x2: 24, y1: 4, y2: 4, class: `line${i}`, "stroke-width": 3 })), name));
  });
  return el("div", {}, chart, legend);
}

export async function showRun(run, main) {
  const row = (name, value) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, String(value)));
  const facts = [
    row("run", run.run), row("weights", `${run.weights}, digest ${run.digest}`), row("samples", `${run.kind} of ${run.shape.join(" × ")}`),
    row("parameters", run.parameters.toLocaleString("en")), row("device", run.device),
    ...(run.classes.length ? [row("classes", run.classes.join(", "))] : []),
    ...Object.entries(run.trained).filter(([, v]) => typeof v === "number").map(([name, value]) => row(name.replaceAll("_", " "), value.toLocaleString("en", { maximumSignificantDigits: 5 }))),
    ...Object.entries(run.parts).map(([name, value]) => row(name, value)),
  ];
  main.className = "";
  main.replaceChildren(
    el("h2", {}, "Losses"), curves(await get("/run/curves")), el("h2", {}, "Card"), el("table", {}, el("tbody", {}, ...facts)),
    el("p", {}, el("a", { href: "/api" }, "The API"), " · ", el("a", { href: "/openapi.json" }, "OpenAPI")),
  );
}
