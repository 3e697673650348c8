// Stops trading, lets it go on and closes what is held: three actions that are kept apart. Stopping takes one press; the others cannot happen by mistake.

import { choice, field, open, outcome } from "./dialogs.js";
import { announce, byId, h, keyed, setText } from "./dom.js";
import { duration, figure, many, moment, sinceSeconds, words } from "./format.js";
import { newKey, now, post } from "./server.js";
import { may, ownName } from "./session.js";
import { held } from "./positions.js";

const LEVELS = {
  reduce_only: ["Reduce only", "New risk is refused; exits and cancels go on."],
  halt: ["Halt", "Nothing leaves but cancels, exits neither."],
};
const NOT_KNOWN = "Press again: it is the same action, and is done once.";

/** So much later than it is told the second step of arming is offered: the service's clock is known to a second only. */
const CLOCKS_DIFFER_SECONDS = 1.5;

const known = { account: new Set(), strategy: new Set(), symbol: new Set() };
const arming = new Map();
let onDone = () => {};
let parts = null;
let switches = [];

/** Names that were seen, offered where one has to be written. */
export function learn(kind, name) {
  if (!name || known[kind].has(name) || known[kind].size >= 500) return;
  known[kind].add(name);
  byId(`known-${kind}`)?.append(h("option", { value: name }));
}

/** As the service names it: parts in this sequence, joined by +; "all" for none. */
export function scopeOf({ account, strategy, symbol }) {
  return [["account", account], ["strategy", strategy], ["symbol", symbol]].filter(([, name]) => name).map(([kind, name]) => `${kind}:${name}`).join("+") || "all";
}

export function scopeWords(scope) {
  return scope === "all" ? "everything" : scope.replaceAll(/(^|\+)(account|strategy|symbol):/g, (_, plus, kind) => `${plus ? ", " : ""}${kind} `);
}

/** `done`: has what is shown asked for again. */
export function begin(done) {
  onDone = done;
  for (const kind of Object.keys(known)) document.body.append(h("datalist", { id: `known-${kind}` }));
  const list = h("ul", { class: "uses" });
  const empty = h("p", { class: "empty", text: "No switch was ever engaged." });
  byId("switches").querySelector(".content").append(empty, list);
  byId("stop").addEventListener("click", () => askToKill());
  parts = { list, empty, banner: h("ul") };
  byId("stopped").append(parts.banner);
}

export function showSwitches(body) {
  switches = body.switches;
  const engaged = switches.filter((each) => each.is_engaged);
  keyed(parts.list, switches, (each) => each.scope, switchRow);
  keyed(parts.banner, engaged, (each) => each.scope, bannerRow);
  parts.empty.hidden = switches.length > 0;
  const banner = byId("stopped");
  if (banner.hidden && engaged.length) announce(`Trading is stopped: ${engaged.map((each) => scopeWords(each.scope)).join("; ")}`);
  if (!banner.hidden && !engaged.length) announce("No kill switch is engaged any more");
  banner.hidden = engaged.length === 0;
}

function levelWords(each) {
  return LEVELS[each.level]?.[0].toLowerCase() ?? each.state;
}

function bannerRow() {
  const what = h("strong");
  const why = h("span");
  const arm = h("button", { type: "button", class: "small", text: "Arm…" });
  let engaged = null;
  arm.addEventListener("click", () => askToArm(engaged.scope));
  return {
    node: h("li", {}, what, why, arm),
    update(each) {
      engaged = each;
      setText(what, `■ Trading is stopped: ${scopeWords(each.scope)}, ${levelWords(each)}`);
      setText(why, `${each.by ? `by ${each.by}, ` : ""}${each.since ? `${moment(each.since, now())}: ` : ""}${each.reason}${each.arming ? ` (${each.arming.person} is about to arm it)` : ""}`);
      arm.hidden = !may("admin");
      arm.setAttribute("aria-label", `Arm ${scopeWords(each.scope)}`);
    },
  };
}

function switchRow() {
  const name = h("strong");
  const state = h("span");
  const history = h("ul", { class: "hint" });
  return {
    node: h("li", { class: "use" }, h("div", { class: "line" }, name, state), h("details", {}, h("summary", { class: "hint", text: "Changes" }), history)),
    update(each) {
      setText(name, scopeWords(each.scope));
      setText(state, each.is_engaged ? `■ stopped, ${levelWords(each)}` : "● armed");
      state.className = each.is_engaged ? "bad" : "good";
      keyed(history, [...(each.history ?? [])].reverse().slice(0, 20), (change) => change.version, (change) => ({
        node: h("li", { text: `${moment(change.at, now())}: ${words(change.deed)} by ${change.by}: ${change.reason}` }),
      }));
    },
  };
}

/** What is meant: everything, or an account, a strategy, a symbol. `value()` is its scope; null: nothing is named yet. */
export function scopeField(label, chosen, kinds) {
  const names = { all: "Everything", account: "An account", strategy: "A strategy", symbol: "A symbol" };
  if (chosen !== null && !["all"].includes(chosen)) {
    return { node: h("div", { class: "field" }, h("p", {}, h("strong", { text: `${label}: ` }), scopeWords(chosen))), value: () => chosen, on: () => {} };
  }
  const kind = h("select", { "aria-label": label }, kinds.map((value) => h("option", { value, text: names[value] })));
  const name = h("input", { type: "text", "aria-label": "Its name", autocomplete: "off", spellcheck: "false" });
  const update = () => {
    name.hidden = kind.value === "all";
    name.setAttribute("list", `known-${kind.value}`);
  };
  kind.addEventListener("change", () => { update(); name.value = ""; });
  update();
  return {
    node: h("div", { class: "field" }, h("strong", { text: label, "aria-hidden": "true" }), kind, name),
    value: () => (kind.value === "all" ? "all" : name.value.trim() ? `${kind.value}:${kind.value === "symbol" ? name.value.trim().toUpperCase() : name.value.trim()}` : null),
    on: (listener) => { kind.addEventListener("change", listener); name.addEventListener("input", listener); },
  };
}

/** Asks nothing twice: the first press stops. */
export function askToKill() {
  let key = newKey();
  open("Stop trading", (close) => {
    const scope = scopeField("What is stopped", "all", ["all", "account", "strategy", "symbol"]);
    const level = choice("How", Object.entries(LEVELS).map(([value, [text, hint]]) => [value, text, hint]), "reduce_only");
    const cancels = h("input", { type: "checkbox" });
    const reason = field("Reason", { value: "stopped on the page", required: true, maxlength: 500 });
    const person = field("Your name", { value: ownName(), hint: ownName() ? undefined : "For the record; may be left empty." });
    const told = outcome();
    const engage = h("button", { type: "submit", class: "danger", text: "Stop trading" });
    const back = h("button", { type: "button", text: "Back", on: { click: close } });
    const form = h("form", {}, h("p", { class: "hint", text: "In force at once, on every replica and over restarts, until a person arms it. Positions are kept: closing them is a separate action." }),
      h("div", { class: "fields" }, scope.node, level.node, h("label", {}, cancels, "Cancel the entries that are at work"), reason.node, ownName() ? null : person.node),
      told.node, h("div", { class: "buttons" }, back, engage));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const meant = scope.value();
      if (meant === null) {
        told.tell("bad", h("p", { text: "Name what is to be stopped." }));
        return;
      }
      engage.disabled = true;
      told.tell("", h("p", { text: cancels.checked ? "Engaging; the cancels are waited for…" : "Engaging…" }));
      try {
        const by = ownName() ? {} : person.input.value.trim() ? { by: person.input.value.trim() } : {};
        const said = await post("api/execution/kill", { scope: meant, level: level.value(), reason: reason.input.value.trim() || "stopped on the page", cancel_entries: cancels.checked, ...by }, { key });
        told.tell("good", ...killed(said));
        announce(`Trading is stopped: ${scopeWords(said.scope)}`);
        back.textContent = "Close";
        engage.hidden = true;
        back.focus();
      } catch (error) {
        told.fail(error, NOT_KNOWN);
        if (error.status) key = newKey();
      } finally {
        engage.disabled = false;
        onDone();
      }
    });
    setTimeout(() => engage.focus());
    return form;
  });
}

function killed(said) {
  const rows = [[said.working_entries, "entry is at work", "entries are at work"], [said.cancels_asked, "cancel was asked for", "cancels were asked for"], [said.cancels_confirmed, "cancel is confirmed", "cancels are confirmed"], [said.cancels_unknown, "cancel is not confirmed yet", "cancels are not confirmed yet"]];
  const shown = said.cancels_asked ? rows : rows.slice(0, 1);
  return [h("p", {}, h("strong", { text: `Stopped: ${scopeWords(said.scope)}, ${LEVELS[said.level][0].toLowerCase()}. ` }), `Version ${said.version} of this switch.`),
    h("ul", {}, shown.map(([count, one, several]) => h("li", { text: many(count, one, several) })))];
}

/** Two steps and 60 s between them. What the first was answered with is kept while the page is open. */
export function askToArm(scope) {
  let first = newKey();
  let timer = 0;
  open(`Arm ${scopeWords(scope)}`, (close) => {
    const person = field("Your name", { value: ownName(), required: true, hint: "Who answers for it. Both steps are made by the same person." });
    const reason = field("Reason", { required: true, maxlength: 500 });
    const told = outcome();
    const go = h("button", { type: "submit" });
    const back = h("button", { type: "button", text: "Back", on: { click: close } });
    const wait = h("p", { class: "hint" });
    const form = h("form", {}, h("p", { class: "hint", text: "Trading goes on afterwards. Not before 60 s have passed since the switch was engaged last." }), h("div", { class: "fields" }, person.node, reason.node), wait, told.node, h("div", { class: "buttons" }, back, go));
    const update = () => {
      const begun = arming.get(scope);
      person.input.readOnly = reason.input.readOnly = Boolean(begun);
      if (begun) {
        person.input.value = begun.person;
        reason.input.value = begun.reason;
        const left = CLOCKS_DIFFER_SECONDS - sinceSeconds(begun.not_before, now());
        go.disabled = left > 0;
        go.textContent = left > 0 ? `Arm, in ${duration(Math.ceil(left))}` : "Arm: let it trade";
        setText(wait, left > 0 ? "Step 2 of 2. Wait; this may be closed and opened again meanwhile." : "Step 2 of 2.");
      } else {
        go.disabled = false;
        go.textContent = "Begin to arm";
        setText(wait, "Step 1 of 2.");
      }
    };
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const begun = arming.get(scope);
      const body = { scope, person: person.input.value.trim(), reason: reason.input.value.trim(), ...(begun ? { nonce: begun.nonce } : {}) };
      go.disabled = true;
      try {
        const said = await post("api/execution/arm", body, { key: begun ? begun.key : first });
        if (begun) {
          arming.delete(scope);
          told.tell("good", h("p", {}, h("strong", { text: "Armed. " }), `Orders for ${scopeWords(scope)} leave again.`));
          announce(`Armed: ${scopeWords(scope)}`);
          go.hidden = true;
          wait.hidden = true;
          back.textContent = "Close";
          back.focus();
          clearInterval(timer);
        } else {
          arming.set(scope, { ...body, nonce: said.nonce, not_before: said.not_before, key: newKey() });
          update();
          announce("The first step is made; the second can be made when the time has passed");
        }
      } catch (error) {
        if (error.status) {
          arming.delete(scope);
          first = newKey();
        }
        told.fail(error, "Press again: it is the same step.");
        update();
      } finally {
        onDone();
      }
    });
    update();
    timer = setInterval(() => { if (arming.has(scope)) update(); }, 500);
    setTimeout(() => (person.input.value ? reason : person).input.focus());
    return form;
  }, { onClose: () => clearInterval(timer) });
}

/** `chosen`: a scope, or null where it is still to be said. */
export function askToFlatten(chosen) {
  let key = newKey();
  open(chosen === null ? "Close positions" : "Close this position", (close) => {
    const scope = scopeField("What is closed", chosen, ["account", "strategy", "symbol", "all"]);
    const meant = h("div");
    const person = field("Your name", { value: ownName(), required: true, hint: "Who answers for it." });
    const reason = field("Reason", { required: true, maxlength: 500 });
    const typed = field("Confirm", { required: true });
    const told = outcome();
    const go = h("button", { type: "submit", class: "danger", text: "Close at the market" });
    const back = h("button", { type: "button", text: "Back", on: { click: close } });
    const form = h("form", {}, h("p", { class: "hint", text: "Sends an ordinary exit at the market for each of these holdings. It cancels nothing, and entries at work may open positions again: stop trading first, with its entries cancelled." }),
      h("div", { class: "fields" }, scope.node, meant, person.node, reason.node, typed.node), told.node, h("div", { class: "buttons" }, back, go));
    const hint = h("p", { class: "hint", id: `${typed.input.id}-hint` });
    typed.input.setAttribute("aria-describedby", hint.id);
    typed.node.append(hint);
    const update = () => {
      const wanted = scope.value();
      const inside = wanted === null ? [] : held.filter((each) => isWithin(each, wanted));
      meant.replaceChildren(wanted === null ? h("p", { class: "hint", text: "Name what is to be closed." })
        : inside.length === 0 ? h("p", { text: "Nothing that is shown here is held within it." })
        : h("ul", { class: "hint" }, inside.slice(0, 20).map((each) => h("li", { text: `${each.side} ${figure(each.quantity)} ${each.symbol}, ${each.strategy}, account ${each.account_id}` })), inside.length > 20 ? h("li", { text: `and ${inside.length - 20} more` }) : null));
      const word = wanted === null ? "" : confirmationOf(wanted);
      setText(hint, word ? `Type ${word} to confirm.` : "");
      go.disabled = !word || typed.input.value.trim().toLowerCase() !== word.toLowerCase();
    };
    scope.on(update);
    typed.input.addEventListener("input", update);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (go.disabled) return;
      go.disabled = true;
      told.tell("", h("p", { text: "Sending…" }));
      try {
        const said = await post("api/execution/flatten", { scope: scope.value(), person: person.input.value.trim(), reason: reason.input.value.trim() }, { key });
        told.tell("good", ...flattened(said));
        announce("The exits are stored");
        go.hidden = true;
        back.textContent = "Close";
        back.focus();
      } catch (error) {
        told.fail(error, NOT_KNOWN);
        if (error.status) key = newKey();
        update();
      } finally {
        onDone();
      }
    });
    update();
    return form;
  });
}

function flattened(said) {
  return [h("p", {}, h("strong", { text: `${many(said.orders.length, "exit is", "exits are")} stored and on the way.` })),
    said.left_out.length ? h("div", {}, h("p", { text: "Left out:" }), h("ul", {}, said.left_out.map((text) => h("li", { text })))) : null];
}

/** The narrowest name in a scope. */
function confirmationOf(scope) {
  return scope === "all" ? "everything" : scope.slice(scope.lastIndexOf(":") + 1);
}

function isWithin(each, scope) {
  if (scope === "all") return true;
  const named = { account: each.account_id, strategy: each.strategy, symbol: each.symbol };
  return scope === scopeOf({
    account: scope.includes("account:") ? named.account : "",
    strategy: scope.includes("strategy:") ? named.strategy : "",
    symbol: scope.includes("symbol:") ? named.symbol : "",
  });
}
