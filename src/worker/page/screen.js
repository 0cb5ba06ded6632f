// The screen as it changes, and the keyboard that is plugged in beside it.

import { ask, open } from "./api.js";
import { leave } from "./console.js";

const monitor = document.getElementById("monitor");
const picture = document.getElementById("picture");
const dark = document.getElementById("dark");
const AGAIN_MS = 1000;

let device = null;
let fails = () => {};

/// Watches until the signal; connects again by itself. `refused` hears why a key was not pressed.
export async function watch(id, signal, refused) {
  [device, fails] = [id, refused];
  while (!signal.aborted) {
    try {
      const answer = await open(`/v1/devices/${encodeURIComponent(id)}/screen/live`, { signal });
      await show(answer.body.getReader(), signal);
    } catch (error) {
      if (!signal.aborted) say(error.message);
    }
    await new Promise(resolve => setTimeout(resolve, AGAIN_MS));
  }
}

/// Shows each part of a stream: a picture, or a word on why there is none.
async function show(reader, signal) {
  let rest = new Uint8Array();
  const more = async () => {
    const { value, done } = await reader.read();
    if (done) return false;
    const longer = new Uint8Array(rest.length + value.length);
    longer.set(rest);
    longer.set(value, rest.length);
    rest = longer;
    return true;
  };
  for (;;) {
    let head;
    while ((head = new TextDecoder("latin1").decode(rest.subarray(0, 1024))).indexOf("\r\n\r\n") < 0) {
      if (!await more()) return;
    }
    const from = head.indexOf("\r\n\r\n") + 4;
    const field = name => new RegExp(`^${name}: (.*)$`, "im").exec(head.slice(0, from))?.[1].trim();
    const to = from + Number(field("Content-Length"));
    while (rest.length < to) if (!await more()) return;
    const body = rest.slice(from, to);
    rest = rest.slice(to);
    if (signal.aborted) return;
    if (field("Content-Type") === "image/jpeg") await draw(new Blob([body], { type: "image/jpeg" }));
    else say(new TextDecoder().decode(body));
  }
}

async function draw(jpeg) {
  const bitmap = await createImageBitmap(jpeg);
  if (picture.width !== bitmap.width || picture.height !== bitmap.height) {
    [picture.width, picture.height] = [bitmap.width, bitmap.height];
  }
  picture.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  say("");
}

/// Why there is no picture.
function say(text) {
  dark.textContent = text;
  dark.hidden = !text;
  if (text) picture.getContext("2d").clearRect(0, 0, picture.width, picture.height);
}

// The keyboard. Keys go by their places on a US keyboard, as those of a real one would: the DUT has its own layout.

const NAMES = {
  Enter: "enter", Escape: "esc", Backspace: "backspace", Tab: "tab", Space: "space", ArrowUp: "up", ArrowDown: "down",
  ArrowLeft: "left", ArrowRight: "right", Home: "home", End: "end", PageUp: "page-up", PageDown: "page-down",
  Insert: "insert", Delete: "delete", CapsLock: "caps-lock", NumLock: "num-lock", ScrollLock: "scroll-lock",
  Pause: "pause", PrintScreen: "print", ContextMenu: "menu", Minus: "minus", Equal: "equal",
  BracketLeft: "bracket-left", BracketRight: "bracket-right", Semicolon: "semicolon", Quote: "apostrophe",
  Backquote: "grave", Backslash: "backslash", Comma: "comma", Period: "dot", Slash: "slash", IntlBackslash: "less",
  NumpadEnter: "kp-enter", NumpadAdd: "kp-plus", NumpadSubtract: "kp-minus", NumpadMultiply: "kp-multiply",
  NumpadDivide: "kp-divide", NumpadDecimal: "kp-dot",
};

/// The stroke that an event is; `null` for a modifier alone and for keys that a DUT's keyboard has not.
export function strokeOf({ code, ctrlKey, altKey, shiftKey, metaKey }) {
  const plain = /^(?:Key([A-Z])|(?:Digit|Numpad)([0-9])|(F(?:[1-9]|1[0-2])))$/.exec(code);
  const name = plain ? (plain[1] ?? plain[2] ?? plain[3]).toLowerCase() : NAMES[code];
  if (!name) return null;
  const modifiers = [[ctrlKey, "ctrl-"], [altKey, "alt-"], [shiftKey, "shift-"], [metaKey, "meta-"]];
  return modifiers.filter(([down]) => down).map(([, word]) => word).join("") + name;
}

let waiting = [];
let pressing = false;

/// Presses keys one after the other; those that come meanwhile go together.
async function press(stroke) {
  waiting.push(stroke);
  if (pressing) return;
  pressing = true;
  try {
    while (waiting.length) {
      const json = { press: waiting.splice(0, 32) };
      await ask(`/v1/devices/${encodeURIComponent(device)}/keyboard`, { method: "POST", json });
    }
  } catch (error) {
    waiting = [];
    fails(error);
  } finally {
    pressing = false;
  }
}

/// A board may have a screen and no keyboard.
export function fit(hasKeyboard) {
  picture.tabIndex = hasKeyboard ? 0 : -1;
  document.getElementById("screen-keys").hidden = !hasKeyboard;
  document.getElementById("ctrl-alt-delete").hidden = !hasKeyboard;
}

picture.addEventListener("keydown", event => {
  if (picture.tabIndex < 0) return;
  if (event.key === "F12" && event.shiftKey) {
    event.preventDefault();
    return leave(monitor);
  }
  const stroke = strokeOf(event);
  if (!stroke) return;
  event.preventDefault();
  press(stroke);
});
document.getElementById("ctrl-alt-delete").addEventListener("click", () => press("ctrl-alt-delete"));
