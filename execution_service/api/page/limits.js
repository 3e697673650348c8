// How near each limit of risk is: the figure as text, and a bar beside it.

import { askToEnable } from "./attention.js";
import { field, open, outcome, sends } from "./dialogs.js";
import { byId, h, keyed, setData, setText } from "./dom.js";
import { cut, figure, many, moment, percent, words } from "./format.js";
import { now, post } from "./server.js";
import { may, ownName } from "./session.js";
import { scopeField, scopeWords } from "./switches.js";

const SHOWN_AT_FIRST = 6;
let onDone = () => {};
let parts = null;
let isWhole = false;
let latest = null;

/** `done`: has what is shown asked for again. */
export function begin(done) {
  onDone = done;
  const uses = h("ul", { class: "uses" });
  const off = h("ul", { class: "uses off" });
  const empty = h("p", { class: "empty", text: "No limit is used yet: they are counted from an account's first order." });
  const more = h("button", { type: "button", class: "quiet", on: { click: () => { isWhole = !isWhole; if (latest) showLimits(latest); } } });
  const anew = h("button", { type: "button", class: "small", text: "Measure losses anew…", on: { click: () => askToRebase() } });
  byId("limits").querySelector(".content").append(off, uses, empty, h("div", { class: "buttons" }, more, anew));
  parts = { uses, off, empty, more, anew };
}

export function showLimits(body) {
  latest = body;
  const uses = [...body.limits].sort((one, other) => Number(other.percent) - Number(one.percent));
  keyed(parts.off, body.off_until_enabled, (each) => [each.account_id, each.limit_type, each.scope].join("\n"), offRow);
  keyed(parts.uses, isWhole ? uses : uses.slice(0, SHOWN_AT_FIRST), (each) => [each.account_id, each.limit_type, each.total, each.written_in].join("\n"), useRow);
  parts.empty.hidden = uses.length > 0 || body.off_until_enabled.length > 0;
  parts.anew.hidden = !may("admin");
  parts.more.hidden = uses.length <= SHOWN_AT_FIRST;
  setText(parts.more, isWhole ? "Show the nearest alone" : `Show all ${uses.length}`);
}

function useRow() {
  const name = h("span");
  const used = h("span", { class: "nowrap" });
  const where = h("p", { class: "hint" });
  const fill = h("div", { class: "fill" });
  const node = h("li", { class: "use" }, h("div", { class: "line" }, name, used), h("div", { class: "track", "aria-hidden": "true" }, fill), where);
  return {
    node,
    update(each) {
      const share = Number(each.percent);
      const inside = each.total === "all" ? "" : scopeWords(each.total.replace(`account:${each.account_id}`, "").replace(/^\+/, ""));
      setText(name, `${words(each.limit_type)}${inside && inside !== "everything" ? `, ${inside}` : ""}`);
      setText(used, `${cut(each.actual_value)} of ${figure(each.limit_value)}, ${percent(each.percent)}${share >= 100 ? ", used up" : each.is_near ? ", near" : ""}`);
      setText(where, `Account ${each.account_id}; ${each.written_in === "built in" ? "built in" : `written for ${scopeWords(each.written_in)}`}`);
      setData(node, "weight", share >= 100 ? "bad" : each.is_near ? "warn" : "");
      fill.style.width = `${Math.min(100, Math.max(0, share))}%`;
    },
  };
}

function offRow() {
  const text = h("span");
  const button = h("button", { type: "button", class: "small", text: "Enable…" });
  let broken = null;
  button.addEventListener("click", () => askToEnable(broken));
  return {
    node: h("li", { class: "use outcome", data: { weight: "bad" } }, h("div", { class: "line" }, text, button)),
    update(each) {
      broken = each;
      setText(text, `Off until enabled: ${words(each.limit_type)}, ${scopeWords(each.scope)}${each.scope.startsWith("account:") ? "" : `, account ${each.account_id}`}, since ${moment(each.since, now())}`);
      button.hidden = !may("admin");
    },
  };
}


/** Two steps: what is meant and why, then once more with what follows from it. */
function askToRebase() {
  open("Measure losses anew", (close) => {
    const scope = scopeField("What is measured anew", "all", ["account", "strategy", "symbol", "all"]);
    const person = field("Your name", { value: ownName(), required: true, hint: "Who answers for it." });
    const reason = field("Reason", { required: true, maxlength: 500 });
    const told = outcome();
    const step = h("p", { class: "hint" });
    const go = h("button", { type: "submit" });
    const back = h("button", { type: "button", text: "Back" });
    const fields = h("div", { class: "fields" }, scope.node, person.node, reason.node);
    const form = h("form", {}, h("p", { class: "hint", text: "For money that was paid in or out, once the broker's balance shows it. What was counted is kept, and what is off stays off." }), fields, step, told.node, h("div", { class: "buttons" }, back, go));
    let meant = null;
    const update = () => {
      for (const input of fields.querySelectorAll("input, select")) input.disabled = meant !== null;
      go.classList.toggle("danger", meant !== null);
      setText(go, meant === null ? "Go on" : "Measure anew");
      setText(step, meant === null ? "Step 1 of 2." : `Step 2 of 2. Daily loss and drawdown of ${scopeWords(meant)} count from the next readings on: losses from before are over.`);
    };
    form.addEventListener("submit", (event) => {
      if (meant !== null) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      if (scope.value() === null) {
        told.tell("bad", h("p", { text: "Name what is to be measured anew." }));
        return;
      }
      meant = scope.value();
      told.node.hidden = true;
      update();
      back.focus();
    });
    back.addEventListener("click", () => {
      if (meant === null || go.hidden) return close();
      meant = null;
      update();
    });
    sends({
      form, go, back, told, whenNotKnown: "Look at the limits: pressed again, losses are measured from then on.",
      send: async () => {
        try {
          const said = await post("api/execution/limits/rebase", { scope: meant, person: person.input.value.trim(), reason: reason.input.value.trim() });
          return said.rebased ? { text: `Measured anew in ${many(said.rebased, "account", "accounts")}.` } : { weight: "warn", text: "Nothing within it is measured yet." };
        } finally {
          onDone();
        }
      },
    });
    update();
    return form;
  });
}
