// Who looks at the page and what they may do. A token is presented once; afterwards a cookie that no script can read stands for it.

import { field, open, outcome } from "./dialogs.js";
import { announce, byId, h, setText } from "./dom.js";
import { get, post, remove } from "./server.js";

const PATH = "api/execution/session";
const ROLES = ["viewer", "operator", "admin"];

let session = { role: null, name: null, is_open: false };
let shownLogIn = null;

/** Whether the service would let this be done; what it would not is not offered. */
export function may(role) {
  return session.role !== null && ROLES.indexOf(session.role) >= ROLES.indexOf(role);
}

/** The name that stands in the record of an action; empty where nobody had to say who they are. */
export function ownName() {
  return session.name ?? "";
}

/** Asks who we are. `onIn` is called when we may look, `onOut` when we may not any more. */
export async function begin(onIn, onOut) {
  byId("log-out").addEventListener("click", async () => {
    await remove(PATH).catch(() => {});
    ended(onIn, onOut);
  });
  take(await get(PATH), onIn, onOut);
}

/** Nobody may look any more. The page begins anew, so that nothing of what was shown stays behind the question for a token. */
export function ended(onIn, onOut) {
  if (shownLogIn !== null) return;
  if (session.role !== null) location.reload();
  else take(session, onIn, onOut);
}

function take(found, onIn, onOut) {
  session = found;
  show();
  if (session.role === null) {
    onOut();
    askForToken(onIn, onOut);
  } else {
    onIn();
  }
}

function show() {
  byId("log-out").hidden = session.role === null || session.is_open;
  byId("stop").hidden = !may("operator");
  setText(byId("who"), session.role === null ? "" : session.is_open ? "no tokens: open to this machine" : `${session.name}, ${session.role}`);
  byId("who").title = byId("who").textContent;
}

function askForToken(onIn, onOut) {
  let isIn = false;
  const token = field("Token", { type: "password", hint: "Made with execctl token create. It is presented once; the browser keeps a session of at most 8 hours.", required: true });
  shownLogIn = open("Log in", (close) => {
    const told = outcome();
    const button = h("button", { type: "submit", text: "Log in" });
    const form = h("form", { id: "log-in" }, h("div", { class: "fields" }, token.node), told.node, h("div", { class: "buttons" }, button));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      button.disabled = true;
      try {
        const found = await post(PATH, { token: token.input.value });
        isIn = true;
        shownLogIn = null;
        close();
        announce(`Logged in as ${found.name}, ${found.role}`);
        take(found, onIn, onOut);
      } catch (error) {
        told.fail(error, "Try again.");
        token.input.select();
      } finally {
        button.disabled = false;
      }
    });
    return form;
  }, { kind: "log-in", onClose: () => { shownLogIn = null; if (!isIn) setTimeout(() => ended(onIn, onOut)); } });
  token.input.focus();
}
