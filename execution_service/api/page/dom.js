// Builds and updates what is shown. Text only ever becomes text: nothing here reads markup, whatever a symbol or a broker's reason contains.

const NOT_ATTRIBUTES = new Set(["text", "class", "data", "on", "is"]);

/** An element. `properties`: `text`, `class`, `data` (data attributes), `on` (listeners), all others are attributes; null and false leave one out. */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** An element of a drawing. */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (NOT_ATTRIBUTES.has(name) || value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  if (properties.class) element.setAttribute("class", properties.class);
  if (properties.text !== undefined) element.textContent = shown(properties.text);
  for (const [name, value] of Object.entries(properties.data ?? {})) element.dataset[name] = value;
  for (const [name, listener] of Object.entries(properties.on ?? {})) element.addEventListener(name, listener);
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

function shown(value) {
  return value === null || value === undefined ? "" : String(value);
}

/** Writes only what has changed, so that a selection and a screen reader are left alone. */
export function setText(node, value) {
  const text = shown(value);
  if (node.textContent !== text) node.textContent = text;
}

export function setData(node, name, value) {
  if (node.dataset[name] !== String(value)) node.dataset[name] = String(value);
}

const views = new WeakMap();

/** Keeps one child for each item, in their sequence. `make(item)` gives `{node, update(item)}`; a node stays the same as long as its key does, and with it the focus. */
export function keyed(parent, items, keyOf, make) {
  const before = views.get(parent) ?? new Map();
  const after = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (after.has(key)) continue;
    const view = before.get(key) ?? make(item);
    view.update?.(item);
    after.set(key, view);
  }
  for (const [key, view] of before) if (!after.has(key)) taken(view.node);
  let place = parent.firstChild;
  for (const view of after.values()) {
    if (view.node === place) place = place.nextSibling;
    else parent.insertBefore(view.node, place);
  }
  views.set(parent, after);
}

/** Whoever was at work in it with the keyboard is not thrown back to the beginning of the page. */
function taken(node) {
  const hadFocus = node.contains(document.activeElement);
  node.remove();
  if (hadFocus) byId("main").focus({ preventScroll: true });
}

/** Said by a screen reader, when it has said what it says now. */
export function announce(words) {
  setText(document.getElementById("announcer"), words);
}

/** A table that becomes a list of cards on a small screen; its roles are written out, since they would be lost with the table's layout. `columns`: heading and class. */
export function cards(label, columns, rows) {
  rows.setAttribute("role", "rowgroup");
  const head = columns.map(([text, kind]) => h("th", { role: "columnheader", scope: "col", class: kind }, text || h("span", { class: "visually-hidden", text: "Actions" })));
  return h("table", { class: "cards", role: "table", "aria-label": label }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)), rows);
}

/** A row of such a table; the first cell is its heading. */
export function cardRow(first, ...cells) {
  first.setAttribute("role", "rowheader");
  for (const cell of cells) cell.setAttribute("role", "cell");
  return h("tr", { role: "row" }, first, cells);
}

export function byId(id) {
  return document.getElementById(id);
}
