// The OpenAPI schema as a page.

import { el, get, say } from "./client.js";

const type = (schema) => {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(type).join(" or ");
  if (schema.const !== undefined) return String(schema.const);
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.type === "array") return `list of ${type(schema.items) || "anything"}`;
  const bounds = [["minimum", "≥"], ["maximum", "≤"], ["maxLength", "length ≤"]].filter(([key]) => key in schema).map(([key, sign]) => `${sign} ${schema[key]}`);
  return [schema.type || "anything", ...bounds].join(" ");
};

const table = (rows) => el("table", {}, el("tbody", {}, ...rows.map(([name, ...cells]) => el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", {}, cell))))));

const fields = (schema) => table(Object.entries(schema.properties || {}).map(([name, part]) => [name, [type(part), part.default === undefined || part.default === null ? "" : `default ${JSON.stringify(part.default)}`, part.description || ""].filter(Boolean).join("; ")]));

async function show() {
  const schema = await get("/openapi.json");
  const parts = [el("p", {}, schema.info.description)];
  for (const [path, methods] of Object.entries(schema.paths)) {
    for (const [method, what] of Object.entries(methods)) {
      const parameters = (what.parameters || []).map((p) => [p.name, `${type(p.schema)}; in the ${p.in}${p.description ? `; ${p.description}` : ""}`]);
      const body = what.requestBody?.content["application/json"]?.schema.$ref;
      const answers = Object.entries(what.responses).map(([status, answer]) => [status, answer.description]);
      parts.push(
        el("h2", {}, `${method.toUpperCase()} ${path}`), el("p", {}, what.description || what.summary || ""),
        ...(parameters.length ? [table(parameters)] : []), ...(body ? [el("p", { class: "faint" }, `Body: ${body.split("/").at(-1)}`)] : []),
        el("details", {}, el("summary", {}, "Answers"), table(answers)),
      );
    }
  }
  parts.push(el("h2", {}, "Bodies and answers"));
  for (const [name, part] of Object.entries(schema.components?.schemas || {})) {
    if (!/ValidationError/.test(name)) parts.push(el("details", { open: name.endsWith("Request") }, el("summary", {}, name), fields(part)));
  }
  document.getElementById("main").replaceChildren(...parts);
}

show().catch((error) => say(error.message));
