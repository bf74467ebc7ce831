// Builds elements one by one. No text ever becomes markup: there is no innerHTML, and the page's policy forbids it.
"use strict";

// What a text of a model or a person may become, and as which element of the page.
const TEXT_ELEMENTS = {
  p: "p", h3: "h3", h4: "h4", h5: "h5", h6: "h6", blockquote: "blockquote", pre: "pre", ul: "ul", ol: "ol", li: "li",
  table: "table", tr: "tr", th: "th", td: "td", em: "em", strong: "strong", del: "del", a: "a", code: "code", br: "br",
  hr: "hr", "html-text": "div", "image-text": "span", "dead-link": "span",
};

// make("p", { class: "quiet" }, "words", otherElement)
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// The elements of a text that the server has read.
function textNodes(nodes) {
  return nodes.map((node) => {
    if (typeof node === "string") return document.createTextNode(node);
    const tag = Object.hasOwn(TEXT_ELEMENTS, node.t) ? TEXT_ELEMENTS[node.t] : "span";
    const element = document.createElement(tag);
    if (tag !== node.t) element.className = node.t;
    if (node.start !== undefined && node.start !== 1) element.setAttribute("start", String(node.start));
    if (tag === "a" && /^https?:\/\//i.test(node.href || "")) {
      element.setAttribute("href", node.href);
      element.setAttribute("rel", "noopener noreferrer nofollow");
      element.setAttribute("target", "_blank");
      element.setAttribute("title", node.href);
    }
    element.append(...textNodes(node.c || []));
    return element;
  });
}

// A box with a text in it.
function textBox(nodes, attributes = {}) {
  const box = make("div", { dir: "auto", ...attributes, class: `text ${attributes.class || ""}`.trim() });
  if (nodes.length === 0) box.append(make("p", { class: "empty" }, "(empty)"));
  box.append(...textNodes(nodes));
  return box;
}

function byId(id) {
  return document.getElementById(id);
}

// What went wrong with a request; `status` is 0 when no answer came.
class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Asks the server: with a body it is a POST.
async function ask(path, body) {
  const options = { cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refused(0, "the server does not answer");
  }
  const text = await response.text();
  let value = null;
  try {
    value = JSON.parse(text);
  } catch {
    value = { error: text.trim() };
  }
  if (!response.ok) throw new Refused(response.status, (value && value.error) || `the server answered ${response.status}`);
  return value;
}

function wait(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function percent(share) {
  return share === null || share === undefined ? "–" : `${(100 * share).toFixed(0)} %`;
}
