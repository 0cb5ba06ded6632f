// Asks the server: JSON, streams and uploads, with the token if it wants one.

const KEPT = "standin-token";

/// The server answered that it does not do it, and why.
export class Refused extends Error {
  constructor(status, facts) {
    super(facts.message);
    this.status = status;
    this.facts = facts;
  }
}

/// The server did not answer.
export class Lost extends Error {}

let asking = null;

/// The token that a person has given, if the server asked for one.
export function token() {
  return sessionStorage.getItem(KEPT);
}

/// Headers for a request.
function dressed(headers = {}) {
  const known = token();
  return known ? { ...headers, Authorization: `Bearer ${known}` } : headers;
}

/// Asks a person for the token; all who want it wait for the same answer.
function askForToken() {
  asking ??= new Promise(resolve => {
    const refused = token() !== null;
    document.getElementById("door-words").textContent = refused
      ? "That was not it. It is what the server was started with, by --token-file or STANDIN_TOKEN."
      : "It is what the server was started with. This tab keeps it until it is closed.";
    const door = document.getElementById("door");
    const field = document.getElementById("token");
    field.value = "";
    door.addEventListener("close", () => {
      // What no header takes is no token.
      if (/^[!-~]+$/.test(field.value.trim())) sessionStorage.setItem(KEPT, field.value.trim());
      asking = null;
      resolve();
    }, { once: true });
    door.showModal();
  });
  return asking;
}

/// Asks, and returns the answer with its body still to be read.
export async function open(path, { method = "GET", headers, json, signal } = {}) {
  const body = json === undefined ? undefined : JSON.stringify(json);
  for (;;) {
    const typed = body === undefined ? headers : { ...headers, "Content-Type": "application/json" };
    const used = token();
    let answer;
    try {
      answer = await fetch(path, { method, headers: dressed(typed), body, signal, cache: "no-store" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Lost("the server does not answer");
    }
    if (answer.status === 401) {
      // Another request may have been given a better one meanwhile.
      if (used === token()) await askForToken();
      continue;
    }
    if (!answer.ok) throw await refusal(answer.status, await answer.text());
    return answer;
  }
}

/// Asks, and returns what the answer says.
export async function ask(path, options) {
  const answer = await open(path, options);
  if (answer.status === 204) return null;
  try {
    return await answer.json();
  } catch (error) {
    if (options?.signal?.aborted) throw error;
    throw new Lost("the server did not answer to the end");
  }
}

async function refusal(status, text) {
  try {
    return new Refused(status, JSON.parse(text).error);
  } catch {
    return new Refused(status, { message: text.trim() || `the server answered ${status}` });
  }
}

/// Sends a file; `told` hears how much of it has left.
export function send(path, file, told, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // as fetch tells nothing of what it sends
    request.open("PUT", path);
    for (const [name, value] of Object.entries(dressed({ "Content-Type": "application/octet-stream" }))) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = event => told(event.loaded);
    request.onload = async () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(await refusal(request.status, request.responseText));
    };
    request.onerror = () => reject(new Lost("the server hung up while the image was sent"));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(file);
  });
}

/// A WebSocket. It can carry no header, so the token is one of its protocols, in hexadecimal digits.
export function socket(path) {
  const protocols = ["standin"];
  const known = token();
  if (known) {
    const digits = Array.from(known, character => character.charCodeAt(0).toString(16).padStart(2, "0"));
    protocols.push(`token.${digits.join("")}`);
  }
  const socket = new WebSocket(path, protocols);
  socket.binaryType = "arraybuffer";
  return socket;
}

/// How long an event stream may be silent: the server speaks every 15 s.
const SILENCE = 40_000;

/// Follows server-sent events until the stream ends: `heard` is called once the server has begun to answer, `told` with
/// each event. EventSource could send no token.
export async function follow(path, last, { heard, told, signal }) {
  const headers = { Accept: "text/event-stream", "Last-Event-ID": String(last) };
  const answer = await open(path, { headers, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let silent;
  try {
    for (let first = true; ; first = false) {
      const silence = new Promise((_, reject) => {
        silent = setTimeout(() => reject(new Lost("the server has gone silent")), SILENCE);
      });
      const { value, done } = await Promise.race([reader.read(), silence]);
      clearTimeout(silent);
      if (done) return;
      if (first) heard();
      const messages = (rest + value).split("\n\n");
      rest = messages.pop();
      for (const message of messages) {
        const data = message.split("\n").filter(line => line.startsWith("data:")).map(line => line.slice(5)).join("\n");
        if (data) told(JSON.parse(data));
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof Lost) throw error;
    throw new Lost("the server hung up");
  } finally {
    clearTimeout(silent);
    reader.cancel().catch(() => {}); // it is over in any case
  }
}
