// The serial console: shows a terminal's rows, and types what is typed.

import { socket } from "./api.js";
import { Terminal } from "./terminal.js";

/// Rows that are kept when they have left the screen.
const HISTORY = 5000;
/// How much of what was said before is asked for.
const LAST_KIB = 256;
const AGAIN_MS = 1000;

const area = document.getElementById("terminal");
const lines = document.getElementById("lines");
const keys = document.getElementById("keys");
const size = document.getElementById("size");

const terminal = new Terminal();
let shown = 0; // rows of the history that are in the page
let cursor = null; // the row that shows the cursor
let frame = 0;
let line = null; // the WebSocket

/// Listens until the signal; connects again by itself.
export function listen(device, signal) {
  if (signal.aborted) return;
  const mine = socket(`/v1/devices/${encodeURIComponent(device)}/console/stream?last_kib=${LAST_KIB}`);
  const hangUp = () => mine.close();
  signal.addEventListener("abort", hangUp, { once: true });
  mine.onopen = () => {
    // All that is remembered comes again.
    line = mine;
    terminal.history.length = 0;
    terminal.reset();
    refresh();
  };
  mine.onmessage = ({ data }) => {
    if (signal.aborted) return;
    const bytes = typeof data === "string" ? new TextEncoder().encode(`\r\n[${data}]\r\n`) : new Uint8Array(data);
    terminal.write(bytes);
    refresh();
  };
  mine.onclose = () => {
    signal.removeEventListener("abort", hangUp);
    if (line === mine) line = null;
    setTimeout(listen, AGAIN_MS, device, signal);
  };
}

function type(text) {
  if (text && line?.readyState === WebSocket.OPEN) {
    area.scrollTop = area.scrollHeight;
    line.send(new TextEncoder().encode(text));
  }
}

// What is shown.

function refresh() {
  frame ||= requestAnimationFrame(paint);
}

function paint() {
  frame = 0;
  const atEnd = area.scrollHeight - area.scrollTop - area.clientHeight < 8;
  const { history, screen } = terminal;
  if (shown > history.length) {
    lines.replaceChildren();
    shown = 0;
  }
  const under = screen[terminal.row];
  if (cursor && cursor !== under) cursor.dirty = true;
  cursor = under;
  cursor.dirty = true;
  let place = lines.children[shown] ?? null;
  for (const row of [...history.slice(shown), ...screen]) {
    row.element ??= document.createElement("div");
    if (row.dirty) paintRow(row, row === cursor && terminal.cursorShown ? terminal.column : -1);
    if (row.element === place) place = place.nextSibling;
    else lines.insertBefore(row.element, place);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
  shown = history.length;
  for (const row of history.splice(0, Math.max(0, history.length - HISTORY))) {
    row.element.remove();
    shown--;
  }
  keys.style.top = `${cursor.element.offsetTop}px`;
  if (atEnd) area.scrollTop = area.scrollHeight;
}

function paintRow(row, cursorAt) {
  const { characters, styles } = row;
  const pieces = [];
  // Blanks at the end are not selected and copied with the row.
  let end = characters.length;
  while (end > 0 && characters[end - 1] === " " && styles[end - 1].ground === undefined && !styles[end - 1].inverse) end--;
  end = Math.max(end, cursorAt + 1);
  for (let from = 0; from < end;) {
    let to = from + 1;
    while (to < end && styles[to] === styles[from] && from !== cursorAt && to !== cursorAt) to++;
    pieces.push(piece(characters.slice(from, to).join(""), styles[from], from === cursorAt));
    from = to;
  }
  row.element.replaceChildren(...pieces);
  row.dirty = false;
}

function piece(text, style, isCursor) {
  if (Object.keys(style).length === 0 && !isCursor) return document.createTextNode(text);
  const span = document.createElement("span");
  span.textContent = text;
  if (isCursor) span.className = "cursor";
  let [ink, ground] = [colour(style.ink), colour(style.ground)];
  if (style.inverse) [ink, ground] = [ground || "var(--console-ground)", ink || "var(--console-ink)"];
  if (ink && !isCursor) span.style.color = ink;
  if (ground && !isCursor) span.style.backgroundColor = ground;
  if (style.bold) span.style.fontWeight = "bold";
  if (style.dim) span.style.opacity = "0.7";
  if (style.italic) span.style.fontStyle = "italic";
  if (style.hidden) span.style.visibility = "hidden";
  if (style.underline || style.struck) {
    span.style.textDecoration = `${style.underline ? "underline" : ""} ${style.struck ? "line-through" : ""}`;
  }
  return span;
}

function colour(value) {
  return typeof value === "number" ? `var(--c${value})` : value;
}

// What is typed.

const NAMED = {
  Enter: "\r", Backspace: "\x7f", Tab: "\t", Escape: "\x1b", Delete: "\x1b[3~", Insert: "\x1b[2~",
  PageUp: "\x1b[5~", PageDown: "\x1b[6~", F1: "\x1bOP", F2: "\x1bOQ", F3: "\x1bOR", F4: "\x1bOS", F5: "\x1b[15~",
  F6: "\x1b[17~", F7: "\x1b[18~", F8: "\x1b[19~", F9: "\x1b[20~", F10: "\x1b[21~", F11: "\x1b[23~", F12: "\x1b[24~",
};
const MOVING = { ArrowUp: "A", ArrowDown: "B", ArrowRight: "C", ArrowLeft: "D", Home: "H", End: "F" };

/// What a key sends; `null` if the browser shall have it, or if the text follows in an event of its own.
export function bytesOf(event, applicationKeys = false) {
  const { key, ctrlKey, altKey, metaKey, shiftKey } = event;
  if (metaKey || event.isComposing) return null;
  if (key in MOVING && !shiftKey && !altKey && !ctrlKey) return `\x1b${applicationKeys ? "O" : "["}${MOVING[key]}`;
  if (key in MOVING) return `\x1b[1;${1 + shiftKey + 2 * altKey + 4 * ctrlKey}${MOVING[key]}`;
  if (key === "Tab" && shiftKey) return "\x1b[Z";
  if (key in NAMED && !ctrlKey) return (altKey ? "\x1b" : "") + NAMED[key];
  if (ctrlKey && !altKey && !shiftKey && /^[a-z[\\\]^_@ ]$/i.test(key)) {
    if (key === "v") return null; // pastes
    return key === " " ? "\0" : String.fromCharCode(key.toUpperCase().charCodeAt(0) & 0x1f);
  }
  if (altKey && !ctrlKey && key.length === 1) return `\x1b${key}`;
  return null;
}

keys.addEventListener("keydown", event => {
  if (event.key === "F12" && event.shiftKey) {
    event.preventDefault();
    return leave(area);
  }
  const bytes = bytesOf(event, terminal.applicationKeys);
  if (bytes === null) return;
  event.preventDefault();
  type(bytes);
});
keys.addEventListener("input", event => {
  if (event.isComposing) return;
  type(keys.value.replaceAll("\n", "\r"));
  keys.value = "";
});
keys.addEventListener("compositionend", () => {
  type(keys.value);
  keys.value = "";
});
keys.addEventListener("paste", event => {
  event.preventDefault();
  const text = event.clipboardData.getData("text").replace(/\r?\n/g, "\r");
  // What is pasted must not end the brackets itself.
  type(terminal.bracketedPaste ? `\x1b[200~${text.replaceAll("\x1b", "")}\x1b[201~` : text);
});

area.addEventListener("mouseup", () => {
  if (getSelection().isCollapsed) keys.focus({ preventScroll: true });
});

document.getElementById("copy").addEventListener("click", () => {
  const selection = getSelection();
  const isOurs = !selection.isCollapsed && lines.contains(selection.anchorNode);
  if (!isOurs) selection.selectAllChildren(lines);
  // The newer way is only for pages that come over TLS.
  document.execCommand("copy");
  if (!isOurs) selection.removeAllRanges();
});

size.addEventListener("change", () => {
  terminal.resize(...size.value.split("×").map(Number));
  refresh();
});

/// Moves the focus to what follows a part that takes the Tab key for itself.
export function leave(part) {
  const all = [...document.querySelectorAll("button, select, input, summary, a, [tabindex='0'], textarea")];
  const after = all.filter(one => part.compareDocumentPosition(one) === Node.DOCUMENT_POSITION_FOLLOWING);
  (after.find(one => one.checkVisibility()) ?? all[0]).focus();
}
