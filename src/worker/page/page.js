// The page: which device is looked at, what it does, and what a person does with it.

import { Lost, Refused, ask, follow, open, token } from "./api.js";
import * as serial from "./console.js";
import * as flash from "./flash.js";
import * as screen from "./screen.js";
import { isBad, ofBytes, ofEntry, ofError, ofStatus, ofTime } from "./words.js";

const DEFAULT = "default";
/// Events that are asked for at first, and kept in the list.
const EVENTS = 300;
/// How often devices and logs are looked for, of which no event tells.
const LOOK_AGAIN_MS = 5000;
const AGAIN_MS = { first: 250, most: 4000 };

const by = id => document.getElementById(id);
const path = (id, rest = "") => `/v1/devices/${encodeURIComponent(id)}${rest}`;

let device = decodeURIComponent(location.hash.slice(1)) || DEFAULT;
let session = null; // the AbortController of all that looks at the device
let last = null; // the id of the last event, and of which device
let awake = () => {};

// Looking at a device: everything hangs on the stream of its events. When it ends, all begins again.

async function attend() {
  for (let wait = AGAIN_MS.first; ; wait = Math.min(2 * wait, AGAIN_MS.most)) {
    const mine = session = new AbortController();
    const { signal } = mine;
    try {
      const facts = await ask(path(device), { signal });
      await showDevice(facts, signal);
      if (last?.device !== facts.id || last.id > facts.status.last_event) {
        by("events").replaceChildren();
        last = { device: facts.id, id: Math.max(0, facts.status.last_event - EVENTS) };
      }
      const heard = () => {
        wait = AGAIN_MS.first;
        link("connected");
        if (facts.capabilities.includes("serial")) serial.listen(facts.id, signal);
        if (facts.capabilities.includes("screen")) screen.watch(facts.id, signal, trouble);
      };
      await follow(path(device, "/events"), last.id, { heard, told: hear, signal });
      throw new Lost("the device was closed, or the server ended");
    } catch (error) {
      mine.abort();
      if (signal.aborted && error.name === "AbortError") wait = AGAIN_MS.first;
      else if (error instanceof Refused && error.status === 404 && device !== DEFAULT) {
        trouble(error, `${device}: `);
        choose(DEFAULT);
        continue;
      } else link(`${error.message}; trying again`, true);
    }
    const sleep = new Promise(resolve => { awake = resolve; setTimeout(resolve, wait); });
    await (document.hidden ? new Promise(resolve => { awake = resolve; }) : sleep);
  }
}

/// Looks at another device.
function choose(id) {
  device = id;
  history.replaceState(null, "", id === DEFAULT ? location.pathname : `#${encodeURIComponent(id)}`);
  session?.abort();
  awake();
}

// A browser keeps few connections to one server: a page that nobody sees gives its own back.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) session?.abort();
  else awake();
});
addEventListener("online", () => awake());
addEventListener("hashchange", () => choose(decodeURIComponent(location.hash.slice(1)) || DEFAULT));

function hear(entry) {
  if (entry.type !== "missed") last.id = entry.id;
  if (entry.type === "status") showStatus(entry);
  if (entry.type === "operation") flash.told(entry.operation);
  const words = ofEntry(entry);
  if (!words) return;
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.dateTime = entry.at;
  time.textContent = ofTime(entry.at);
  const text = document.createElement("span");
  text.textContent = words;
  if (isBad(entry)) text.className = "bad";
  item.append(time, text);
  by("events").prepend(item);
  while (by("events").children.length > EVENTS) by("events").lastChild.remove();
  soon(showLogs);
  if (["power-on", "power-off"].includes(entry.event)) soon(showNetwork);
}

/// Does something once, a little later, however often it is asked for until then.
const pending = new Map();
function soon(work) {
  if (pending.has(work)) return;
  pending.set(work, setTimeout(() => { pending.delete(work); work(); }, 300));
}

// What is shown.

function link(text, lost = false) {
  by("link").textContent = text;
  by("link").classList.toggle("lost", lost);
  if (lost) by("state").dataset.power = "unknown";
}

/// An error, until it is put away.
function trouble(error, before = "") {
  if (error.name === "AbortError") return;
  const text = before + ofError(error);
  const same = [...by("troubles").children].find(one => one.firstChild.textContent === text);
  if (same) return;
  const box = document.createElement("div");
  box.className = "trouble";
  const words = document.createElement("p");
  words.textContent = text;
  const away = document.createElement("button");
  away.textContent = "Dismiss";
  away.className = "quiet";
  away.addEventListener("click", () => box.remove());
  box.append(words, away);
  by("troubles").prepend(box);
  while (by("troubles").children.length > 4) by("troubles").lastChild.remove();
}

function showStatus(status) {
  const state = by("state");
  state.dataset.power = status.power;
  const text = ofStatus(status);
  // A reader speaks whatever is written here, also the same again.
  if (state.textContent !== text) state.textContent = text;
}

async function showDevice(facts, signal) {
  document.title = `${facts.name} – standin`;
  by("name").textContent = facts.name;
  showStatus(facts.status);
  flash.attend(facts.id);
  const has = capability => facts.capabilities.includes(capability);
  for (const part of document.querySelectorAll("[data-needs]")) part.hidden = !has(part.dataset.needs);
  by("console").hidden = !has("serial");
  by("screen").hidden = !has("screen");
  screen.fit(has("keyboard"));
  const board = await ask(`/v1/boards/${encodeURIComponent(facts.board)}`, { signal });
  const medium = one => `${one.name}, ${one.kind}${one.size ? `, ${one.size}` : ""}`;
  showFacts([
    ["board", facts.board],
    ["played by", `QEMU ${facts.qemu}, ${facts.accelerator}`],
    ["machine", `${board.qemu.machine}, ${facts.arch}, ${processors(board.qemu)}, ${board.qemu.memory}`],
    ["media", board.media.map(medium).join("; ")],
    ["network", facts.interfaces.join(", ") || "none"],
    ["address", facts.address ?? "none"],
    ["ports", "…"],
    ["fidelity", board.fidelity?.level ?? "unknown"],
  ]);
  listOf("mirrored", board.fidelity?.mirrored);
  listOf("not-mirrored", board.fidelity?.not_mirrored);
  showNetwork();
  showLogs();
  showDevices();
}

function processors({ cpus, cpu }) {
  return `${cpus} ${cpus === 1 ? "processor" : "processors"}${cpu ? ` (${cpu})` : ""}`;
}

function showFacts(facts) {
  by("facts").replaceChildren(...facts.flatMap(([name, value]) => {
    const [term, said] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    said.textContent = value;
    said.id = `fact-${name.replaceAll(" ", "-")}`;
    return [term, said];
  }));
}

function listOf(id, sentences = []) {
  by(id).parentElement.hidden = sentences.length === 0;
  by(id).replaceChildren(...sentences.map(sentence => {
    const item = document.createElement("li");
    item.textContent = sentence;
    return item;
  }));
}

/// Where the ports of the DUT are on the server's host; nowhere while it is off, and unknown while it is busy.
async function showNetwork() {
  const ports = by("fact-ports");
  if (!ports) return;
  try {
    const { forwards } = await ask(path(device, "/network"));
    const as = ({ port, at }) => at.endsWith(`:${port}`) ? String(port) : `${port} at ${at}`;
    ports.textContent = forwards.map(as).join(", ") || "none while it is off";
  } catch (error) {
    ports.textContent = error instanceof Refused ? error.message : "unknown";
  }
}

async function showLogs() {
  let files;
  try {
    files = await ask(path(device, "/files"));
  } catch (error) {
    if (error instanceof Refused) trouble(error, "Logs: ");
    return; // the link says so
  }
  const known = new Map([...by("logs").children].map(item => [item.firstChild.href, item]));
  const items = files.map(({ name, bytes }) => {
    const href = new URL(path(device, `/files/${name.split("/").map(encodeURIComponent).join("/")}`), location).href;
    const item = known.get(href) ?? logItem(name, href);
    item.lastChild.textContent = ofBytes(bytes);
    return item;
  });
  // One that has the focus would lose it.
  if (items.length !== known.size || items.some(item => !item.parentElement)) by("logs").replaceChildren(...items);
}

function logItem(name, href) {
  const [item, size] = [document.createElement("li"), document.createElement("span")];
  const link = Object.assign(document.createElement("a"), {
    href, textContent: name, download: `${device}-${name.replaceAll("/", "-")}`,
  });
  link.addEventListener("click", event => download(event, link));
  item.append(link, size);
  return item;
}

/// A link carries no token: with one, the file is taken here and then handed on.
async function download(event, link) {
  if (!token() || link.href.startsWith("blob:")) return;
  event.preventDefault();
  try {
    const url = URL.createObjectURL(await (await open(link.href)).blob());
    const copy = Object.assign(document.createElement("a"), { href: url, download: link.download });
    copy.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    trouble(error, `${link.textContent}: `);
  }
}

async function showDevices() {
  let all;
  try {
    all = await ask("/v1/devices");
  } catch {
    return; // the link says so
  }
  const label = one => `${one.id}: ${one.name}`;
  const shown = [...by("device").options].map(option => option.textContent);
  if (shown.join("\n") !== all.map(label).join("\n")) {
    by("device").replaceChildren(...all.map(one => new Option(label(one), one.id)));
  }
  by("device").value = device;
  by("devices").hidden = all.length < 2;
}
setInterval(() => {
  if (document.hidden || by("link").classList.contains("lost")) return;
  showDevices();
  showLogs();
}, LOOK_AGAIN_MS);

// What a person does.

by("device").addEventListener("change", () => choose(by("device").value));
by("power").addEventListener("click", async event => {
  const button = event.target.closest("button");
  if (!button || button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  try {
    await ask(path(device, "/power"), { method: "POST", json: { action: button.dataset.action } });
  } catch (error) {
    trouble(error, `${button.textContent}: `);
  } finally {
    button.ariaBusy = "false";
  }
});

attend();
