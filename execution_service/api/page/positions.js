// What is held and what it has gained, exactly; sums only of what has one currency.

import { byId, cardRow, cards, h, keyed, setText } from "./dom.js";
import { cut, figure, profit, signOf, sum } from "./format.js";
import { may } from "./session.js";
import { askToFlatten, scopeOf } from "./switches.js";

let parts = null;
export let held = [];

export function begin() {
  const rows = h("tbody");
  const table = cards("Positions", [["Position", null], ["Quantity", "number"], ["Average", "number minor"], ["Last", "number minor"], ["Open profit", "number"], ["Realized", "number minor"], ["Account", "minor"], ["Strategy", "minor"], ["", "actions"]], rows);
  const flatten = h("button", { type: "button", text: "Close positions…", on: { click: () => askToFlatten(null) } });
  const empty = h("p", { class: "empty", text: "Nothing is held." });
  const totals = h("p", { class: "pager" });
  const notes = h("div", {}, h("p", { class: "hint", text: "Last is the price of our last execution in the position, and the open profit follows from it. Profits are before fees." }), h("div", { class: "buttons" }, flatten));
  byId("positions").querySelector(".content").append(h("div", { class: "scroll" }, table), empty, totals,
    notes);
  parts = { rows, table, empty, totals, flatten, notes, count: h("span", { class: "count" }) };
  byId("positions-title").append(" ", parts.count);
}

export function showPositions(body) {
  held = body.holdings;
  keyed(parts.rows, held, (each) => `${each.account_id}\n${each.strategy}\n${each.instrument}`, positionRow);
  parts.table.hidden = held.length === 0;
  parts.notes.hidden = held.length === 0;
  parts.flatten.hidden = !may("admin");
  parts.empty.hidden = held.length > 0;
  setText(parts.count, held.length ? String(held.length) : "");
  const byCurrency = new Map();
  for (const each of held) byCurrency.set(each.currency, [...(byCurrency.get(each.currency) ?? []), each.unrealized_pnl]);
  const sums = [...byCurrency].map(([currency, values]) => profit(sum(values), currency));
  setText(parts.totals, held.length > 1 ? `Open profit in all: ${sums.join("; ")}` : "");
}

function positionRow() {
  const name = h("th", { scope: "row", class: "name" });
  const [quantity, average, last, open, realized] = ["number", "number minor", "number minor", "number", "number minor"].map((kind) => h("td", { class: kind }));
  const [account, strategy] = [0, 1].map(() => h("span", { class: "clip" }));
  open.dataset.label = "open profit";
  const close = h("button", { type: "button", class: "small", text: "Close…" });
  let holding = null;
  close.addEventListener("click", () => askToFlatten(scopeOf({ account: holding.account_id, strategy: holding.strategy, symbol: holding.symbol })));
  return {
    node: cardRow(name, quantity, average, last, open, realized, ...[account, strategy].map((each) => h("td", { class: "minor name" }, each)), h("td", { class: "actions" }, close)),
    update(each) {
      holding = each;
      setText(name, each.symbol);
      name.title = each.instrument;
      setText(quantity, `${each.side} ${figure(each.quantity)}`);
      setText(average, cut(each.average_price));
      setText(last, cut(each.last_price));
      average.title = figure(each.average_price);
      last.title = figure(each.last_price);
      money(open, each.unrealized_pnl, each.currency);
      money(realized, each.realized_pnl, each.currency);
      setText(account, each.account_id);
      setText(strategy, each.strategy);
      strategy.title = each.strategy;
      close.hidden = !may("admin");
      close.setAttribute("aria-label", `Close ${each.side} ${each.quantity} ${each.symbol} of ${each.strategy} in ${each.account_id}`);
    },
  };
}

function money(cell, value, currency) {
  setText(cell, profit(value, currency));
  const sign = signOf(value);
  cell.classList.toggle("good", sign > 0);
  cell.classList.toggle("bad", sign < 0);
}
