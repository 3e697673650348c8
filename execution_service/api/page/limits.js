// How near each limit of risk is: the figure as text, and a bar beside it.

import { askToEnable } from "./attention.js";
import { byId, h, keyed, setData, setText } from "./dom.js";
import { cut, figure, moment, percent, words } from "./format.js";
import { now } from "./server.js";
import { may } from "./session.js";
import { scopeWords } from "./switches.js";

const SHOWN_AT_FIRST = 6;
let parts = null;
let isWhole = false;
let latest = null;

export function begin() {
  const uses = h("ul", { class: "uses" });
  const off = h("ul", { class: "uses off" });
  const empty = h("p", { class: "empty", text: "No limit is used yet: they are counted from an account's first order." });
  const more = h("button", { type: "button", class: "quiet", on: { click: () => { isWhole = !isWhole; if (latest) showLimits(latest); } } });
  byId("limits").querySelector(".content").append(off, uses, empty, more);
  parts = { uses, off, empty, more };
}

export function showLimits(body) {
  latest = body;
  const uses = [...body.limits].sort((one, other) => Number(other.percent) - Number(one.percent));
  keyed(parts.off, body.off_until_enabled, (each) => [each.account_id, each.limit_type, each.scope].join("\n"), offRow);
  keyed(parts.uses, isWhole ? uses : uses.slice(0, SHOWN_AT_FIRST), (each) => [each.account_id, each.limit_type, each.total, each.written_in].join("\n"), useRow);
  parts.empty.hidden = uses.length > 0 || body.off_until_enabled.length > 0;
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

