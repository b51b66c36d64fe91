// Forms: fields of the settings that requests share, and their values.

import { el } from "./client.js";

export const field = (text, input) => el("label", {}, text, input);

export const number = (name, attributes = {}) => el("input", { name, type: "number", inputmode: "decimal", ...attributes });

export const choice = (name, options) =>
  el("select", { name }, ...options.map(([value, text]) => el("option", { value }, text)));

export function samplerFields(run) {
  const fields = [
    field("Sampler", choice("sampler", [["", "as in the run"], ...run.samplers.map((name) => [name, name])])),
    field("Steps", number("steps", { min: 1, max: run.limits.steps, placeholder: run.steps })),
    field("Seed", number("seed", { min: 0, max: 2 ** 53 - 1, placeholder: "random" })),
  ];
  if (run.classes.length) {
    const classes = run.classes.map((name, i) => [i, name === String(i) ? name : `${i}: ${name}`]);
    fields.push(field("Class", choice("label", [["", "all in turn"], ...classes])));
  }
  if (run.guided) fields.push(field("Guidance", number("guidance", { min: 0, max: 100, step: "any", placeholder: "as in the run" })));
  return fields;
}

// The settings of a form that are not empty, as the API takes them.
export function settingsOf(form) {
  const settings = {};
  for (const name of ["n", "sampler", "steps", "seed", "guidance", "label"]) {
    const text = form.elements[name]?.value;
    if (!text) continue;
    if (name === "label") settings.condition = { label: Number(text) };
    else settings[name] = name === "sampler" ? text : Number(text);
  }
  return settings;
}

// Fields for the settings of a task, by the types of their defaults.
export function taskFields(defaults) {
  return Object.entries(defaults)
    .filter(([, value]) => value === null || ["number", "boolean"].includes(typeof value))
    .map(([name, value]) => {
      const text = (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");
      if (typeof value === "boolean") return el("label", { class: "check" }, el("input", { name, type: "checkbox", checked: value }), text);
      const whole = Number.isInteger(value) && !name.endsWith("std");
      return field(text, number(name, { step: whole ? 1 : "any", placeholder: value ?? "automatic" }));
    });
}

export function taskSettings(form, defaults) {
  const settings = {};
  for (const [name, value] of Object.entries(defaults)) {
    const input = form.elements[name];
    if (!input) continue;
    if (typeof value === "boolean") settings[name] = input.checked;
    else if (input.value !== "") settings[name] = Number(input.value);
  }
  return settings;
}
