// Flashes: a file is reckoned, sent unless the server has it, and written. The last part is the server's, and looks
// the same on every page that is open.

import { Refused, ask, send } from "./api.js";
import { digestOf } from "./sha256.js";
import { ofBytes, ofError } from "./words.js";

const drop = document.getElementById("drop");
const file = document.getElementById("file");
const progress = document.getElementById("progress");
const outcome = document.getElementById("outcome");
const cancel = document.getElementById("cancel");
const selftest = document.getElementById("selftest");

let device = null;
let running = null; // the number of the operation that is under way
let sending = null; // the AbortController of what this page does before it

/// Another device is looked at, or the same one again.
export function attend(id) {
  if (id !== device) {
    sending?.abort();
    say("");
  }
  device = id;
}

/// An operation of the device is told.
export function told(operation) {
  const { id, state, subject, progress: done, error } = operation;
  if (state === "running") {
    running = id;
    const share = done && done.total ? done.bytes / done.total : null;
    const speed = done ? ` of ${ofBytes(done.total)}, ${ofBytes(done.rate)}/s` : "";
    bar(share);
    say(share === null ? `Writing ${subject}…` : `Writing ${subject}: ${Math.floor(share * 100)} %${speed}`);
    return;
  }
  if (running === id) running = null;
  if (running !== null || sending) return;
  bar();
  const seconds = (new Date(operation.ended) - new Date(operation.started)) / 1000;
  if (state === "done") say(`${subject} is written and verified, ${seconds < 0.1 ? "at once" : `in ${seconds.toFixed(1)} s`}.`, "done");
  else if (state === "cancelled") say(`Cancelled. The medium holds no system now; flash again.`, "failed");
  else say(`Flashing ${subject} failed: ${ofError({ facts: error })}`, "failed");
}

/// Flashes a file of this computer's.
async function flashFile(chosen) {
  const mine = begin();
  const { signal } = mine;
  const step = (word, bytes) => {
    bar(bytes / chosen.size);
    say(`${word} ${chosen.name}: ${Math.floor(100 * bytes / chosen.size)} % of ${ofBytes(chosen.size)}`);
  };
  try {
    if (chosen.size === 0) throw new Refused(0, { message: `${chosen.name} is empty`, fault: "user" });
    const digest = `sha256:${await digestOf(chosen, bytes => step("Reading", bytes), signal)}`;
    const known = await ask(`/v1/images/${digest}`, { signal }).catch(error => {
      if (error instanceof Refused && error.status === 404) return null;
      throw error;
    });
    if (!known) await send(`/v1/images/${digest}`, chosen, bytes => step("Sending", bytes), signal);
    await order(mine, { image: digest, name: chosen.name });
  } catch (error) {
    fail(mine, chosen.name, error);
  }
}

async function order(mine, json) {
  const operation = await ask(`/v1/devices/${encodeURIComponent(device)}/flash`, { method: "POST", json, signal: mine.signal });
  if (sending === mine) sending = null;
  told(operation);
}

function begin() {
  sending?.abort();
  sending = new AbortController();
  bar(null);
  say("…");
  return sending;
}

function fail(mine, name, error) {
  if (sending !== mine) return; // something newer is under way
  sending = null;
  bar();
  const gone = error.name === "NotReadableError" ? new Error("the file cannot be read, or was changed meanwhile") : error;
  if (mine.signal.aborted) say("Cancelled. Nothing was written.", "failed");
  else say(`Flashing ${name} failed: ${ofError(gone)}`, "failed");
}

function say(text, kind = "") {
  outcome.textContent = text;
  outcome.className = kind;
}

/// Shows how much is done: a share, `null` if nobody knows, nothing if nothing is under way.
function bar(share) {
  const active = share !== undefined;
  progress.hidden = cancel.hidden = !active;
  if (share === null) progress.removeAttribute("value");
  else if (active) progress.value = share;
}

file.addEventListener("change", () => {
  const [chosen] = file.files;
  if (chosen) flashFile(chosen);
});
// The same file may be chosen again.
file.addEventListener("click", () => { file.value = ""; });
selftest.addEventListener("click", async () => {
  const mine = begin();
  try {
    await order(mine, { image: "selftest", name: "the self-test image" });
  } catch (error) {
    fail(mine, "the self-test image", error);
  }
});
cancel.addEventListener("click", async () => {
  if (sending) return sending.abort();
  if (running === null) return;
  try {
    told(await ask(`/v1/devices/${encodeURIComponent(device)}/operations/${running}`, { method: "DELETE" }));
  } catch (error) {
    say(ofError(error), "failed");
  }
});

// A file that misses the place must not replace the page.
for (const name of ["dragover", "drop"]) {
  addEventListener(name, event => event.preventDefault());
}
addEventListener("dragover", event => drop.classList.toggle("over", drop.contains(event.target)));
addEventListener("dragleave", event => event.relatedTarget || drop.classList.remove("over"));
drop.addEventListener("drop", event => {
  drop.classList.remove("over");
  const [chosen] = event.dataTransfer.files;
  if (chosen) flashFile(chosen);
});
