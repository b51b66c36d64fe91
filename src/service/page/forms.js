// Forms: fields of the settings that requests share, and their values.

import { el } from "./client.js";

export const field = (text, input) => el("label", {}, text, input);

export const number = (name, attributes = {}) => el("input", { name, type: "number", inputmode: "decimal", ...attributes });

export const choice = (name, options) =>
  el("select", { name }, ...options.map(([value, text]) => el("option", { value }, text)));

export function samplerFields(run, images = false) {
  const fields = [
    field("Sampler", choice("sampler", [["", "as in the run"], ...run.samplers.map((name) => [name, name])])),
    field("Steps", number("steps", { min: 1, max: run.limits.steps, placeholder: run.steps })),
    field("Seed", number("seed", { min: 0, max: 2 ** 53 - 1, placeholder: "random" })),
  ];
  for (const [name, condition] of Object.entries(run.conditions)) {
    if (images || condition.kind !== "image") fields.push(...conditionFields(name, condition, run.limits.body));
  }
  if (run.guided) fields.push(field("Guidance", number("guidance", { min: 0, max: 100, step: "any", placeholder: "as in the run" })));
  return fields;
}

const titled = (name) => (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");

// A field for a condition, named condition.NAME; for the numbers of a vector one each, condition.NAME.INDEX.
function conditionFields(name, { kind, names }, body) {
  const key = `condition.${name}`;
  if (kind === "class") {
    const classes = names.map((text, i) => [i, text === String(i) ? text : `${i}: ${text}`]);
    return [field(name === "label" ? "Class" : titled(name), choice(key, [["", name === "label" ? "all in turn" : "as in the data"], ...classes]))];
  }
  const data = { placeholder: "as in the data" };
  if (kind === "text") return [field(titled(name), el("input", { name: key, type: "text", maxlength: 4096, autocomplete: "off", ...data }))];
  if (kind === "numbers") return names.map((text, i) => field(titled(text), number(`${key}.${i}`, { step: "any", ...data })));
  const input = el("input", { name: key, type: "file", accept: "image/*" });
  input.onchange = async () => {
    const file = input.files[0];
    input.setCustomValidity(file && 1.4 * file.size > body ? "This picture is too large" : "");
    input.dataset.url = file ? await urlOf(file) : "";
  };
  return [field(titled(name), input)];
}

const urlOf = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
  reader.readAsDataURL(file);
});

// The settings of a form that are not empty, as the API takes them.
export function settingsOf(form, run) {
  const settings = {};
  for (const name of ["n", "sampler", "steps", "seed", "guidance"]) {
    const text = form.elements[name]?.value;
    if (text) settings[name] = name === "sampler" ? text : Number(text);
  }
  const given = {};
  for (const [name, condition] of Object.entries(run.conditions)) {
    const value = conditionOf(form, `condition.${name}`, condition);
    if (value !== null) given[name] = value;
  }
  return Object.keys(given).length ? { ...settings, condition: given } : settings;
}

// The value of a condition in a form; null if it is left open.
function conditionOf(form, key, { kind, names }) {
  if (kind !== "numbers") {
    const input = form.elements[key];
    if (!input?.value) return null;
    return kind === "class" ? Number(input.value) : kind === "image" ? input.dataset.url : input.value;
  }
  const texts = names.map((_, i) => form.elements[`${key}.${i}`]?.value ?? "");
  if (texts.every((text) => text === "")) return null;
  const open = texts.indexOf("");
  if (open >= 0) throw new Error(`Fill in ${names[open]} too, or none of these numbers`);
  return texts.map(Number);
}

// Put the parameters of an address into a form.
export function fill(form, parameters) {
  for (const [name, value] of parameters) {
    const input = form.elements[name === "label" ? "condition.label" : name];
    if (input && input.type !== "file") input.value = value;
  }
}

// Fields for the settings of a task, by the types of their defaults.
export function taskFields(defaults) {
  return Object.entries(defaults)
    .filter(([, value]) => value === null || ["number", "boolean"].includes(typeof value))
    .map(([name, value]) => {
      const text = titled(name);
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
