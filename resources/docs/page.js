// Shows the OpenAPI document of the daemon that serves this page. Text of the document becomes text, never markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
const SOCKET = "/run/hull/hull.sock";
let openapi;

/** An element with attributes and children; strings are text. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.flat().filter((child) => child !== null && child !== ""));
  return made;
}

/** Text in which `code` is code, and an empty line begins a paragraph. */
function prose(text) {
  return (text ?? "").split(/\n\s*\n/).filter(Boolean).map((paragraph) => element("p", {}, inline(paragraph)));
}

function inline(text) {
  return text.split("`").map((part, at) => (at % 2 ? element("code", {}, part) : part));
}

function resolve(thing) {
  if (!thing?.$ref) return thing;
  const found = thing.$ref.slice(2).split("/").reduce((place, key) => place?.[key], openapi);
  return { ...found, ...thing, $ref: undefined };
}

const nameOf = (schema) => schema?.$ref?.split("/").pop();

/** A schema in a few words, with links to those that have a name. */
function type(schema) {
  if (!schema || Object.keys(schema).length === 0 || schema === true) return ["anything"];
  if (schema.$ref) return [element("a", { href: `#schema-${nameOf(schema)}` }, nameOf(schema))];
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices?.every((choice) => "const" in choice)) return [choices.map((choice) => JSON.stringify(choice.const)).join(" | ")];
  if (choices) return choices.flatMap((choice, at) => (at ? [" | ", ...type(choice)] : type(choice)));
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" | ")];
  const kinds = [schema.type ?? "object"].flat();
  return kinds.flatMap((kind, at) => (at ? [" | ", ...one(schema, kind)] : one(schema, kind)));
}

function one(schema, kind) {
  if (kind === "array") return ["list of ", ...type(schema.items)];
  if (kind === "object" && typeof schema.additionalProperties === "object") return ["map to ", ...type(schema.additionalProperties)];
  return [schema.format && kind !== "null" ? `${kind} (${schema.format})` : kind];
}

/** What more a schema demands of a value. */
function limits(schema) {
  const wide = { uint: 1, uint8: 1, uint16: 1, uint32: 1, uint64: 1, int32: 1, int64: 1 };
  const told = [];
  if (!wide[schema.format] || schema.minimum > 0) {
    if (schema.minimum !== undefined) told.push(`at least ${schema.minimum}`);
    if (schema.maximum !== undefined) told.push(`at most ${schema.maximum}`);
  }
  if (schema.minLength > 1) told.push(`at least ${schema.minLength} characters`);
  if (schema.maxLength !== undefined) told.push(`at most ${schema.maxLength} characters`);
  if (schema.maxItems !== undefined) told.push(`at most ${schema.maxItems} items`);
  if (schema.pattern) told.push(element("code", {}, schema.pattern));
  const preset = schema.default;
  const said = preset === null || preset === undefined || preset === "" || (typeof preset === "object" && Object.keys(preset).length === 0);
  if (!said && typeof preset !== "object") told.push(`default ${JSON.stringify(preset)}`);
  return told.flatMap((limit) => ["; ", limit]).slice(1);
}

function row(name, schema, about, required) {
  const more = limits(schema ?? {});
  return element("tr", {},
    element("th", { scope: "row" }, element("code", {}, name), required ? element("span", { class: "must" }, " required") : ""),
    element("td", {}, prose(about), element("p", { class: "type" }, type(schema), more.length ? [" · ", ...more] : "")));
}

function fields(schema) {
  const properties = Object.entries(schema.properties ?? {});
  return element("table", {}, properties.map(([name, field]) => {
    return row(name, field, field.description ?? resolve(field)?.description, schema.required?.includes(name));
  }));
}

/** What a value of a schema looks like. */
function example(schema, depth = 0, name = "value") {
  const whole = resolve(schema) ?? {};
  if ("const" in whole) return whole.const;
  if (whole.examples) return whole.examples[0];
  if (whole.enum) return whole.enum[0];
  const choices = whole.anyOf ?? whole.oneOf;
  if (choices) return example(choices.find((choice) => choice.type !== "null"), depth, name);
  const kind = [whole.type].flat().find((kind) => kind !== "null");
  if (kind === "object") {
    const needed = Object.entries(whole.properties ?? {}).filter(([name]) => whole.required?.includes(name) && depth < 4);
    return Object.fromEntries(needed.map(([name, field]) => [name, example(field, depth + 1, name)]));
  }
  if (kind === "array") return depth < 3 ? [example(whole.items, depth + 1, name)] : [];
  if (kind === "integer" || kind === "number") return whole.minimum ?? 1;
  return kind === "boolean" ? true : name.toUpperCase();
}

/** How to ask with curl. */
function curl(path, method, operation) {
  const words = ["curl"];
  const streams = Object.keys(operation.responses["200"]?.content ?? {}).some((media) => /event-stream|ndjson|hull\.stream/.test(media));
  if (streams) words.push("--no-buffer");
  words.push(`--unix-socket ${SOCKET}`);
  if (method !== "get") words.push(`--request ${method.toUpperCase()}`);
  const parameters = operation.parameters.map(resolve);
  if (parameters.some((parameter) => parameter.name === "Upgrade")) {
    words.push("--header 'Connection: Upgrade'", "--header 'Upgrade: hull-stream'");
  }
  const [media, body] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
  if (media === "application/json") {
    words.push(`--json '${JSON.stringify(example(body.schema)).replaceAll("'", "'\\''")}'`);
  } else if (media) {
    words.push(`--header 'Content-Type: ${media}'`, "--upload-file FILE");
  }
  const needed = parameters.filter((parameter) => parameter.in === "query" && parameter.required);
  const query = needed.map((parameter) => `${parameter.name}=${parameter.schema.enum?.[0] ?? parameter.name.toUpperCase()}`).join("&");
  const place = path.replaceAll(/\{(\w+)\}/g, (_, name) => name.toUpperCase());
  words.push(`'http://hull${place}${query ? `?${query}` : ""}'`);
  return words.join(" \\\n  ");
}

function content(all) {
  return Object.entries(all ?? {}).flatMap(([media, body]) => [
    element("p", { class: "type" }, media, body["x-itemSchema"] ? [", each line ", ...type(body["x-itemSchema"])] : body.schema ? [": ", ...type(body.schema)] : ""),
  ]);
}

function details(path, method, operation) {
  const parameters = operation.parameters.map(resolve);
  const parts = [...prose(operation.description)];
  if (parameters.length) {
    const rows = parameters.map((parameter) => row(`${parameter.name}${parameter.in === "header" ? ":" : ""}`, parameter.schema, parameter.description, parameter.required));
    parts.push(element("h4", {}, "Parameters"), element("table", {}, rows));
  }
  if (operation.requestBody) {
    parts.push(element("h4", {}, operation.requestBody.required ? "Body" : "Body, if wanted"), ...content(operation.requestBody.content));
    const schema = resolve(Object.values(operation.requestBody.content)[0].schema);
    if (schema?.properties) parts.push(fields(schema));
  }
  const answers = Object.entries(operation.responses).map(([status, answer]) => {
    const whole = resolve(answer);
    const headers = Object.keys(whole.headers ?? {});
    return element("tr", {}, element("th", { scope: "row" }, element("code", {}, status)),
      element("td", {}, prose(whole.description), content(whole.content), headers.length ? element("p", { class: "type" }, `headers: ${headers.join(", ")}`) : ""));
  });
  parts.push(element("h4", {}, "Answers"), element("table", {}, answers));
  parts.push(element("h4", {}, "With curl"), element("pre", { tabindex: "0" }, curl(path, method, operation)));
  return parts;
}

function article(path, method, operation) {
  const scope = operation.security?.[0]?.token?.[0];
  const more = element("div", { class: "more", id: `${operation.operationId}-more`, hidden: "" });
  const button = element("button", { type: "button", "aria-expanded": "false", "aria-controls": more.id },
    element("span", { class: `method ${method}` }, method), element("span", { class: "path" }, path),
    element("span", { class: "summary" }, operation.summary), element("span", { class: "scope" }, scope ?? "everybody"));
  const made = element("article", { id: operation.operationId }, element("h3", {}, button), more);
  made.show = (open) => {
    if (open && !more.hasChildNodes()) more.append(...details(path, method, operation));
    more.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
  };
  button.addEventListener("click", () => {
    made.show(more.hidden);
    if (!more.hidden) history.replaceState(null, "", `#${operation.operationId}`);
  });
  made.words = `${method} ${path} ${operation.operationId} ${operation.summary} ${operation.description ?? ""}`.toLowerCase();
  return made;
}

function operationsOf(tag) {
  return Object.entries(openapi.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]?.tags[0] === tag).map((method) => [path, method, item[method]]));
}

function showOperations() {
  const [index, place] = [document.getElementById("index"), document.getElementById("operations")];
  for (const tag of openapi.tags) {
    const all = operationsOf(tag.name);
    if (all.length === 0) continue;
    const links = all.map(([path, method, operation]) => element("li", { "data-for": operation.operationId },
      element("a", { href: `#${operation.operationId}`, title: `${method.toUpperCase()} ${path}` },
        element("span", { class: `method ${method}` }, method === "delete" ? "del" : method), element("span", {}, operation.summary))));
    index.append(element("section", {}, element("h2", {}, tag.name), element("ul", {}, links)));
    place.append(element("section", { id: `tag-${tag.name}` }, element("h2", {}, tag.name), prose(tag.description), all.map((one) => article(...one))));
  }
}

function showSchemas() {
  const place = document.getElementById("schemas");
  place.hidden = false;
  for (const [name, schema] of Object.entries(openapi.components.schemas)) {
    const choices = schema.oneOf ?? schema.anyOf;
    const body = choices
      ? element("table", {}, choices.map((choice) => row(choice.const ?? choice.enum?.join(", ") ?? Object.keys(choice.properties ?? {})[0] ?? "", choice.properties ? Object.values(choice.properties)[0] : choice, choice.description, false)))
      : schema.properties ? fields(schema) : element("p", { class: "type" }, type(schema), limits(schema).length ? [" · ", ...limits(schema)] : "");
    const made = element("article", { id: `schema-${name}` }, element("h3", {}, element("button", { type: "button", "aria-expanded": "true" }, element("span", { class: "path" }, name))),
      element("div", { class: "more" }, prose(schema.description), body));
    const [button, more] = [made.querySelector("button"), made.querySelector(".more")];
    made.show = (open) => { more.hidden = !open; button.setAttribute("aria-expanded", String(open)); };
    button.addEventListener("click", () => made.show(more.hidden));
    made.words = `${name} ${schema.description ?? ""} ${Object.keys(schema.properties ?? {}).join(" ")}`.toLowerCase();
    place.append(made);
  }
}

/** Leaves what has all the words. */
function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const made of document.querySelectorAll("article")) {
    made.hidden = !words.every((word) => made.words.includes(word));
    const link = document.querySelector(`li[data-for="${CSS.escape(made.id)}"]`);
    if (link) link.hidden = made.hidden;
  }
  for (const group of document.querySelectorAll("#index > section, #operations > section, #schemas")) {
    group.hidden = !group.querySelector("li:not([hidden]), article:not([hidden])");
  }
}

/** Opens what the address names. */
function go() {
  const made = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!made?.show) return;
  made.show(true);
  made.scrollIntoView();
  made.querySelector("button").focus({ preventScroll: true });
}

function listen() {
  const search = document.getElementById("search");
  search.addEventListener("input", () => find(search.value));
  window.addEventListener("hashchange", go);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== search && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && document.activeElement === search) {
      search.value = "";
      find("");
    }
  });
}

async function show() {
  const about = document.getElementById("about");
  try {
    const answer = await fetch("/v1/openapi.json");
    if (!answer.ok) throw new Error(`the daemon answered ${answer.status}`);
    openapi = await answer.json();
  } catch (error) {
    about.textContent = `The description of the API could not be read: ${error.message}. Reload the page to try again.`;
    return;
  }
  document.getElementById("version").textContent = openapi.info.version;
  about.replaceWith(...prose(openapi.info.description));
  showOperations();
  showSchemas();
  listen();
  go();
}

show();
