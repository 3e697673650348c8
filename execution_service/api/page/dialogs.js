// Dialogs: one at a time, the focus inside it and afterwards where it was; what came of an action is told in the dialog that asked for it.

import { announce, h } from "./dom.js";
import { Refused, Unreachable, newKey, reasonsOf } from "./server.js";

let count = 0;

/** Shows a dialog; it is gone when it is closed. Gives `{dialog, close}`. */
export function open(title, build, { kind = "", onClose, hasClose = false } = {}) {
  const id = `dialog-${++count}`;
  const back = document.activeElement;
  const dialog = h("dialog", { class: kind, "aria-labelledby": id });
  const close = () => dialog.close();
  const head = h("div", { class: "dialog-head" }, h("h2", { id, text: title }), hasClose ? h("button", { type: "button", class: "quiet", text: "Close", on: { click: close } }) : null);
  dialog.append(h("div", {}, head, build(close)));
  dialog.addEventListener("close", () => {
    dialog.remove();
    onClose?.();
    const isThere = back instanceof HTMLElement && back.isConnected && back !== document.body;
    (isThere ? back : document.getElementById("main")).focus({ preventScroll: true });
  });
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, close };
}

/** A text field with its label; `input` is the field itself. */
export function field(label, { hint, type = "text", ...attributes } = {}) {
  const id = `field-${++count}`;
  const input = h("input", { type, id, autocomplete: "off", spellcheck: "false", "aria-describedby": hint ? `${id}-hint` : null, ...attributes });
  const node = h("div", { class: "field" }, h("label", { for: id, text: label }), input, hint ? h("p", { class: "hint", id: `${id}-hint`, text: hint }) : null);
  return { node, input };
}

/** One of several, with what each means. `value()` is the chosen one. */
export function choice(legend, options, chosen) {
  const name = `choice-${++count}`;
  const inputs = options.map(([value]) => h("input", { type: "radio", name, value, checked: value === chosen }));
  const node = h("fieldset", {}, h("legend", { text: legend }), options.map(([, words, hint], place) =>
    h("label", {}, inputs[place], h("span", {}, words, hint ? h("span", { class: "hint", text: ` ${hint}` }) : null))));
  return { node, inputs, value: () => inputs.find((input) => input.checked)?.value };
}

/** Where a dialog tells what came of its action. */
export function outcome() {
  const node = h("div", { class: "outcome", role: "status", hidden: true });
  return {
    node,
    tell(weight, ...given) {
      const content = given.filter((each) => each !== null);
      node.hidden = false;
      node.dataset.weight = weight;
      node.replaceChildren(...content);
    },
    fail(error, whenNotKnown) {
      if (error instanceof Refused) {
        this.tell("bad", h("p", {}, h("strong", { text: "Not done. " })), h("ul", {}, reasonsOf(error).map((text) => h("li", { text }))));
      } else if (error instanceof Unreachable) {
        this.tell("bad", h("p", {}, h("strong", { text: "Not known. " }), `${sentence(error.message)} ${whenNotKnown}`));
      } else {
        console.error(error);
        this.tell("bad", h("p", { text: "The page has failed; it is not known whether this was done." }));
      }
    },
  };
}

function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

/**
 * Has a dialog's form sent, and tells in it what came of it. `send(key)` gives `{text, weight, list}`; the key is another one after a refusal, and
 * the same while the answer is not known, so that pressing again is the same action.
 */
export function sends({ form, go, back, told, whenNotKnown, send }) {
  let key = newKey();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    try {
      const said = await send(key);
      told.tell(said.weight ?? "good", h("p", { text: said.text }), said.list ? h("ul", {}, said.list.map((each) => h("li", { text: each }))) : null);
      announce(said.text);
      go.hidden = true;
      back.textContent = "Close";
      back.focus();
    } catch (error) {
      told.fail(error, whenNotKnown);
      if (error.status) key = newKey();
      go.disabled = false;
    }
  });
}

/** Asks once more before something is done. `action(progress, key)` as `send` above. */
export function confirm(title, text, label, action, whenNotKnown) {
  open(title, (close) => {
    const told = outcome();
    const form = h("form", {}, h("p", { text }), told.node);
    const back = h("button", { type: "button", text: "Back", on: { click: close } });
    const go = h("button", { type: "submit", class: "danger", text: label });
    form.append(h("div", { class: "buttons" }, back, go));
    sends({ form, go, back, told, whenNotKnown, send: (key) => action((progress) => told.tell("", h("p", { text: progress })), key) });
    return form;
  });
}
