// Figures and times as text. Exact decimals stay the text that they came as: none passes through a floating-point number.

const MINUS = "\u2212";
const DASH = "\u2013";
const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

/** "-1234567.50" as "−1,234,567.50"; a dash for what is not known. */
export function figure(text) {
  if (text === null || text === undefined || text === "") return DASH;
  const match = /^([-+]?)(\d+)(\.\d+)?$/.exec(String(text));
  if (match === null) return String(text);
  const [, sign, whole, rest = ""] = match;
  return (sign === "-" ? MINUS : "") + whole.replace(/\B(?=(\d{3})+$)/g, ",") + rest;
}

/** A figure that may have no end of places: four of them, or six digits of what is smaller than one, and a sign that there are more. */
export function cut(text) {
  return figure(text).replace(/(?<=^\D?)(0\.0*[1-9]\d{5})\d+$|(\.\d{4})\d+$/, (all, small, places) => {
    if (small !== undefined) return `${small}…`;
    return /^\D?0\./.test(figure(text)) ? all : `${places}…`;
  });
}

/** A profit, with its sign: never told by a colour alone. */
export function profit(text, currency) {
  if (text === null || text === undefined) return "not known";
  const sign = signOf(text);
  return (sign > 0 ? "+" : "") + figure(text) + (currency ? ` ${currency}` : "");
}

export function signOf(text) {
  if (text === null || text === undefined || /^[-+]?0*(\.0*)?$/.test(String(text))) return 0;
  return String(text).startsWith("-") ? -1 : 1;
}

/** The sum of exact decimals with two places, exactly, as text; null where one of them is not known. */
export function sum(texts) {
  let cents = 0n;
  for (const text of texts) {
    const match = /^(-?)(\d+)\.(\d\d)$/.exec(text ?? "");
    if (match === null) return null;
    const value = BigInt(match[2] + match[3]);
    cents += match[1] ? -value : value;
  }
  const digits = (cents < 0n ? -cents : cents).toString().padStart(3, "0");
  return `${cents < 0n ? "-" : ""}${digits.slice(0, -2)}.${digits.slice(-2)}`;
}

/** A per cent as text with one place, cut off and not rounded, so that 99.99 is not shown as all of it. */
export function percent(text) {
  const match = /^(-?\d+)(?:\.(\d))?/.exec(String(text ?? ""));
  return match === null ? DASH : `${figure(match[1])}${match[2] ? `.${match[2]}` : ""} %`;
}

/** How long something lasts: "8 s", "4 min", "3 h 12 min", "2 d 4 h". */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${Math.floor(hours / 24)} d`;
}

/** In the browser's zone, with the day where it is not today. */
export function moment(text, now) {
  if (!text) return DASH;
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return String(text);
  return (day.format(at) === day.format(new Date(now)) ? "" : `${day.format(at)}, `) + time.format(at);
}

export function momentExactly(text) {
  const at = new Date(text);
  return `${time.format(at)}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

export function sinceSeconds(text, now) {
  return text ? (now - new Date(text).getTime()) / 1000 : 0;
}

/** "max_daily_loss" as "max daily loss"; "IN_DOUBT" as "in doubt". */
export function words(code) {
  return String(code ?? "").replaceAll("_", " ").toLowerCase();
}

export function many(count, one, several) {
  return `${count} ${count === 1 ? one : several}`;
}

export { DASH };
