// What wants a person, the worst first, each with what can be done about it beside it.

import { choice, confirm, field, open, outcome, sends } from "./dialogs.js";
import { announce, byId, h, keyed, setText } from "./dom.js";
import { duration, many, sinceSeconds, words } from "./format.js";
import { now, post } from "./server.js";
import { may, ownName } from "./session.js";
import { titleOf } from "./orders.js";
import { openStory } from "./story.js";
import { scopeWords } from "./switches.js";

const ALLOWED_SECONDS = 300;
/** The service tells no more of each kind. */
const MOST_TOLD = 50;
const RECENT_SECONDS = 24 * 3600;
const NOT_KNOWN = "Press again: it is the same action, and is done once.";
let onDone = () => {};
let parts = null;
let counted = -1;
let latest = null;
let broken = [];

/** `done`: has what is shown asked for again. */
export function begin(done) {
  onDone = done;
  const kinds = h("div", { class: "kinds" });
  const empty = h("p", { class: "empty", text: "✓ Nothing needs attention." });
  byId("attention").querySelector(".content").append(kinds, empty);
  parts = { kinds, empty, count: h("span", { class: "count" }) };
  byId("attention-title").append(" ", parts.count);
}

/** Limits that were broken and let nothing pass until a person enables them. Gives how many things need a person at once. */
export function showBroken(limits) {
  broken = limits;
  return latest === null ? 0 : showAttention(latest);
}

/** As above. */
export function showAttention(body) {
  latest = body;
  const found = kindsOf(body).filter((kind) => kind.items.length);
  keyed(parts.kinds, found, (kind) => kind.name, kindView);
  const urgent = found.filter((kind) => kind.weight === "bad").reduce((count, kind) => count + kind.items.length, 0);
  const count = found.reduce((all, kind) => all + kind.items.length, 0);
  parts.empty.hidden = count > 0;
  setText(parts.count, count ? `${count}${found.some((kind) => kind.items.length >= MOST_TOLD) ? "+" : ""}` : "");
  if (counted >= 0 && urgent > counted) announce(`${many(urgent, "thing needs", "things need")} attention`);
  counted = urgent;
  return urgent;
}

function kindsOf(body) {
  const isRecent = (order) => sinceSeconds(order.finished_at ?? order.received_at, now()) < RECENT_SECONDS;
  return [
    { name: "in doubt", title: "In doubt: it is not known whether the order is at the broker", weight: "bad", items: body.in_doubt.map((order) => ({ key: order.order_id, ...ofOrder(order), actions: [action("admin", "Resolve…", () => askToResolve(order))] })) },
    { name: "unprotected", title: "Held without the protection that is asked for, or it is in doubt", weight: "bad", items: (body.unprotected ?? []).map((order) => ({ key: order.order_id, ...ofOrder(order), text: `${titleOf(order)}: ${words(order.protection?.state)}${order.protection?.reason ? `, ${order.protection.reason}` : ""} (account ${order.account_id})`, actions: [] })) },
    { name: "discrepancies", title: "Our books and a broker's differ", weight: "bad", items: body.discrepancies.map((each) => ({ key: each.discrepancy_id, text: `${words(each.kind)}: ${each.words} (account ${each.account_id})`, since: each.opened_at, story: each.order_id, actions: [action("operator", "Compare again", () => askToReconcile(each.account_id))] })) },
    { name: "parts", title: "Parts that do not run", weight: "bad", items: body.parts_not_running.map((each) => ({ key: each.part, text: `${each.part}: ${each.reason}`, actions: [] })) },
    { name: "broken", title: "Off until a person enables it", weight: "bad", items: broken.map((each) => ({ key: [each.account_id, each.limit_type, each.scope].join("\n"), text: `${words(each.limit_type)}: ${scopeWords(each.scope)} (account ${each.account_id})`, since: each.since, actions: [action("admin", "Enable…", () => askToEnable(each))] })) },
    { name: "commands", title: "Commands that nobody has carried out yet", weight: "warn", items: body.commands_waiting.map((each) => ({ key: each.command_id, text: `${words(each.kind)} (${each.command_id})`, since: each.received_at, actions: [] })) },
    { name: "dead letters", title: "Messages that could not be taken for orders", weight: "warn", items: body.dead_letters.map((each) => ({ key: each.message_id, text: each.reason, since: each.received_at, actions: [action(null, "Look…", () => lookAt(each)), action("operator", "Replay…", () => askToReplay(each))] })) },
    { name: "refused", title: "Refused in the last day", weight: "warn", items: body.refused.filter(isRecent).map((order) => ({ key: order.order_id, ...ofOrder(order), since: order.finished_at, actions: order.reason?.code === "RISK_LIMIT" ? [action("admin", "Allow once…", () => askToAllow(order))] : [] })) },
  ];
}

function ofOrder(order) {
  return { text: `${titleOf(order)}${order.reason ? `: ${order.reason.message}` : ""} (account ${order.account_id ?? "not named"})`, since: order.received_at, story: order.order_id };
}

function action(role, label, act) {
  return { role, label, act };
}

function kindView() {
  const title = h("span");
  const sign = h("span", { "aria-hidden": "true" });
  const list = h("ul");
  const more = h("button", { type: "button", class: "quiet" });
  const node = h("div", { class: "kind" }, h("h3", {}, sign, title), list, more);
  let isWhole = false;
  let latest = null;
  const show = () => {
    setText(title, `${latest.title} (${latest.items.length >= MOST_TOLD ? `the latest ${MOST_TOLD}` : latest.items.length})`);
    setText(sign, latest.weight === "bad" ? "✕" : "▲");
    node.dataset.weight = latest.weight;
    keyed(list, isWhole ? latest.items : latest.items.slice(0, 5), (item) => item.key, itemView);
    more.hidden = latest.items.length <= 5;
    setText(more, isWhole ? "Show fewer" : `Show all ${latest.items.length}`);
  };
  more.addEventListener("click", () => { isWhole = !isWhole; show(); });
  return { node, update(kind) { latest = kind; show(); } };
}

function itemView(first) {
  let latest = first;
  const text = h("span", { class: "what" });
  const since = h("span", { class: "since" });
  const buttons = first.actions.map((each, place) => ({ role: each.role, node: h("button", { type: "button", class: "small", text: each.label, on: { click: () => latest.actions[place].act() } }) }));
  const story = h("button", { type: "button", class: "small", text: "Story", on: { click: () => openStory(latest.story) } });
  return {
    node: h("li", {}, text, since, h("span", { class: "acts" }, story, buttons.map((each) => each.node))),
    update(item) {
      latest = item;
      setText(text, item.text);
      setText(since, item.since ? `${duration(sinceSeconds(item.since, now()))} ago` : "");
      story.hidden = !item.story;
      story.setAttribute("aria-label", `Story of ${item.text}`);
      for (const [place, each] of buttons.entries()) {
        each.node.hidden = each.role !== null && !may(each.role);
        each.node.setAttribute("aria-label", `${item.actions[place].label} ${item.text}`);
      }
    },
  };
}

/** What a person has found out about an order in doubt; it is recorded with their name. */
function askToResolve(order) {
  open(`What became of ${titleOf(order)}?`, (close) => {
    const decision = choice("What is known", [
      ["not-placed", "It is not at the broker", "It ends as rejected, and is not sent."],
      ["placed", "It is at the broker", "It is followed under the broker's id."],
      ["cancelled", "It was cancelled at the broker", "It ends as cancelled."],
      ["send-again", "It is not at the broker: send it again", "Only for who knows that for certain; else it may be placed twice."],
    ], "not-placed");
    const broker = field("The broker's id of the order", {});
    const person = field("Your name", { value: ownName(), required: true });
    const note = field("How you know", { required: true, maxlength: 500 });
    const told = outcome();
    const go = h("button", { type: "submit", text: "Record it" });
    const back = h("button", { type: "button", text: "Back", on: { click: close } });
    const form = h("form", {}, h("p", { class: "hint", text: `Look at the broker first: account ${order.account_id}, ${titleOf(order)}, received ${duration(sinceSeconds(order.received_at, now()))} ago.` }), h("div", { class: "fields" }, decision.node, broker.node, person.node, note.node), told.node, h("div", { class: "buttons" }, back, go));
    const update = () => {
      broker.node.hidden = decision.value() !== "placed";
      broker.input.required = decision.value() === "placed";
      go.classList.toggle("danger", decision.value() === "send-again");
    };
    for (const input of decision.inputs) input.addEventListener("change", update);
    sends({
      form, go, back, told, whenNotKnown: NOT_KNOWN,
      send: (key) => afterwards(async () => {
        const body = { decision: decision.value(), person: person.input.value.trim(), note: note.input.value.trim(), ...(decision.value() === "placed" ? { broker_order_id: broker.input.value.trim() } : {}) };
        return { text: (await post(`api/execution/orders/${encodeURIComponent(order.order_id)}/resolve`, body, { key })).message };
      }),
    });
    update();
    return form;
  });
}

/** What a broken limit has switched off trades again. */
export function askToEnable(limit) {
  open(`Enable ${words(limit.limit_type)} again`, (close) => {
    const person = field("Your name", { value: ownName(), required: true });
    const reason = field("Reason", { required: true, maxlength: 500 });
    const told = outcome();
    const go = h("button", { type: "submit", text: "Let it trade again" });
    const back = h("button", { type: "button", text: "Back", on: { click: close } });
    const form = h("form", {}, h("p", { class: "hint", text: `Ends what is off for ${scopeWords(limit.scope)}.` }), h("div", { class: "fields" }, person.node, reason.node), told.node, h("div", { class: "buttons" }, back, go));
    sends({
      form, go, back, told, whenNotKnown: NOT_KNOWN,
      send: (key) => afterwards(async () => {
        const said = await post("api/execution/limits/enable", { scope: limit.scope, person: person.input.value.trim(), reason: reason.input.value.trim() }, { key });
        return { text: `${many(said.enabled, "limit lets", "limits let")} orders pass again.` };
      }),
    });
    return form;
  });
}

/** An order that limits of risk refused may come once more. */
function askToAllow(order) {
  open("Let an order past its limits", (close) => {
    const person = field("Your name", { value: ownName(), required: true, hint: "Who answers for it." });
    const reason = field("Reason", { required: true, maxlength: 500 });
    const told = outcome();
    const go = h("button", { type: "submit", class: "danger", text: `Allow it for ${duration(ALLOWED_SECONDS)}` });
    const back = h("button", { type: "button", text: "Back", on: { click: close } });
    const form = h("form", {}, h("p", { class: "hint", text: `${titleOf(order)}: ${order.reason.message}. An order of this content passes these limits, once, if it comes within ${duration(ALLOWED_SECONDS)} under a name of its own. This one stays refused, and nothing is sent by this.` }),
      h("div", { class: "fields" }, person.node, reason.node), told.node, h("div", { class: "buttons" }, back, go));
    sends({
      form, go, back, told, whenNotKnown: NOT_KNOWN,
      send: (key) => afterwards(async () => {
        await post(`api/execution/orders/${encodeURIComponent(order.order_id)}/allow`, { person: person.input.value.trim(), reason: reason.input.value.trim(), seconds: ALLOWED_SECONDS }, { key });
        return { text: "Allowed: it may be sent again under a new name." };
      }),
    });
    return form;
  });
}

function lookAt(letter) {
  open("A message that could not be taken for an order", () => h("div", {}, h("p", { text: letter.reason }), h("p", { class: "hint", text: `Message ${letter.message_id}` }), h("pre", { tabindex: "0", text: letter.text })), { hasClose: true });
}

/** What is shown is asked for again, whatever came of it. */
async function afterwards(act) {
  try {
    return await act();
  } finally {
    onDone();
  }
}

function askToReplay(letter) {
  confirm("Replay this message?", `It is taken in as if it had just come; an order in it is placed once, however often it is replayed. It was not taken because: ${letter.reason}`, "Replay", (_, key) => afterwards(async () => ({
    text: (await post(`api/execution/dead-letters/${encodeURIComponent(letter.message_id)}/replay`, {}, { key })).message,
  })), NOT_KNOWN);
}

function askToReconcile(account) {
  confirm(`Compare the books of account ${account}?`, "The broker is asked now; nothing is traded or cancelled by it.", "Compare", (_, key) => afterwards(async () => {
    const said = await post("api/execution/reconcile", { account_id: account }, { key });
    return { text: said.all_agree ? "The books agree." : said.accounts.map((each) => each.outcome || "still being compared").join("; "), weight: said.all_agree ? "good" : "warn" };
  }), NOT_KNOWN);
}
