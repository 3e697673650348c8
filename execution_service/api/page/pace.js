// The last hour as two drawings, each with its figures as text.

import { byId, h, svg } from "./dom.js";
import { many, moment } from "./format.js";
import { now } from "./server.js";

const WIDTH = 480;
const HEIGHT = 110;
const LEFT = 38;
const BOTTOM = 16;
const MINUTES = 60;

export function showPace(body) {
  const minutes = body.minutes;
  byId("pace").querySelector(".content").replaceChildren(orders(minutes), latency(minutes), table(minutes));
}

function orders(minutes) {
  const received = total(minutes, "received");
  const filled = total(minutes, "filled");
  const refused = total(minutes, "refused");
  const text = `${many(received, "order", "orders")} received, ${filled} filled, ${refused} refused`;
  const most = nice(Math.max(1, ...minutes.map((each) => each.received)));
  const step = (WIDTH - LEFT) / MINUTES;
  const bars = placed(minutes).flatMap(([place, each]) => {
    const x = LEFT + place * step + 1;
    const shape = (kind, count) => svg("rect", { class: kind, x, y: y(count, most), width: Math.max(1, step - 2), height: Math.max(0, HEIGHT - BOTTOM - y(count, most)) });
    return [each.received ? shape("bar", each.received) : null, each.refused ? shape("refused", Math.min(each.refused, each.received || each.refused)) : null];
  });
  return figure("Orders a minute", text, [key("bar", "received"), key("refused", "refused")], [...axes(most, String), ...bars]);
}

function latency(minutes) {
  const known = placed(minutes).filter(([, each]) => each.latency_ms_p50 !== null);
  const last = known.at(-1)?.[1];
  const text = last ? `Last at ${moment(last.at, now())}: half within ${milliseconds(last.latency_ms_p50)}, 95 % within ${milliseconds(last.latency_ms_p95)}` : "Nothing was acknowledged in this time";
  const most = nice(Math.max(1, ...known.map(([, each]) => each.latency_ms_p95)));
  const step = (WIDTH - LEFT) / MINUTES;
  const point = ([place, each], name) => [LEFT + (place + 0.5) * step, y(each[name], most)];
  const drawn = [["p95", "latency_ms_p95", "dot95"], ["p50", "latency_ms_p50", "dot"]].flatMap(([kind, name, dot]) => runs(known).map((run) => run.length === 1
    ? svg("circle", { class: dot, cx: point(run[0], name)[0], cy: point(run[0], name)[1], r: 2.5 })
    : svg("polyline", { class: kind, points: run.map((each) => point(each, name).join(",")).join(" ") })));
  return figure("Sent to acknowledged", text, [key("p50", "half"), key("p95", "95 %")], [...axes(most, milliseconds), ...drawn]);
}

/** Every minute with its place on a scale of sixty, the present one last. */
function placed(minutes) {
  return minutes.map((each, place) => [MINUTES - minutes.length + place, each]);
}

/** Parted where a minute is missing: no line is drawn over what is not known. */
function runs(known) {
  const found = [];
  for (const each of known) {
    const last = found.at(-1);
    if (last && last.at(-1)[0] + 1 === each[0]) last.push(each);
    else found.push([each]);
  }
  return found;
}

function figure(title, text, keys, shapes) {
  return h("figure", {}, h("figcaption", {}, h("strong", { text: title }), h("span", { class: "key" }, keys)),
    svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${text}` }, shapes),
    h("p", { class: "hint", text }));
}

function axes(most, words) {
  const line = (value) => [svg("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(value, most), y2: y(value, most) }), label(LEFT - 5, y(value, most) + 4, words(value), "end")];
  return [...line(0), ...line(most), label(LEFT, HEIGHT - 2, "1 h ago", "start"), label(WIDTH, HEIGHT - 2, "now", "end")];
}

function label(x, y, text, anchor) {
  return svg("text", { x, y, "text-anchor": anchor, text });
}

function y(value, most) {
  return 6 + (HEIGHT - BOTTOM - 6) * (1 - Math.min(value, most) / most);
}

function key(kind, text) {
  const shape = ["p50", "p95"].includes(kind) ? svg("line", { class: kind, x1: 0, x2: 28, y1: 6, y2: 6 }) : svg("rect", { class: kind, x: 6, y: 0, width: 12, height: 12 });
  return h("span", { class: "key" }, svg("svg", { class: "chart", viewBox: "0 0 28 12", "aria-hidden": "true" }, shape), text);
}

/** The next round figure upward. */
function nice(value) {
  const scale = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * scale).find((each) => each >= value);
}

function milliseconds(value) {
  return value >= 1000 ? `${(value / 1000).toFixed(value >= 10000 ? 0 : 1)} s` : `${value >= 10 ? Math.round(value) : value} ms`;
}

function total(minutes, name) {
  return minutes.reduce((count, each) => count + each[name], 0);
}

let isOpen = false;

function table(minutes) {
  const busy = minutes.filter((each) => each.received || each.acknowledged || each.filled || each.refused).reverse();
  const details = h("details", { open: isOpen }, h("summary", { text: "These figures as a table" }),
    busy.length === 0 ? h("p", { class: "empty", text: "Nothing happened in this time." }) : h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Minute", "Received", "Filled", "Refused", "Half within", "95 % within"].map((text, place) => h("th", { scope: "col", class: place ? "number" : null, text })))),
      h("tbody", {}, busy.map((each) => h("tr", {}, h("th", { scope: "row", text: moment(each.at, now()).slice(0, -3) }), ...[each.received, each.filled, each.refused].map((count) => h("td", { class: "number", text: count })),
        ...[each.latency_ms_p50, each.latency_ms_p95].map((value) => h("td", { class: "number", text: value === null ? "–" : milliseconds(value) }))))))));
  details.addEventListener("toggle", () => { isOpen = details.open; });
  return details;
}

