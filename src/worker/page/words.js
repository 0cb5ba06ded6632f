// Facts of the API in words for people.

const FAULTS = {
  dut: "the device's fault",
  lab: "the lab's fault; it says nothing of the device",
  user: "what was asked cannot be done",
};

/// An error as it was told: what, why, whose fault it is, and what helps.
export function ofError(error) {
  const facts = error.facts ?? { message: error.message };
  const what = facts.cause ? `${facts.message}: ${facts.cause}` : facts.message;
  const fault = FAULTS[facts.fault] ? ` (${FAULTS[facts.fault]})` : "";
  return `${what}${fault}${facts.hint ? `\nHint: ${facts.hint}` : ""}`;
}

export function ofBytes(bytes) {
  let unit = 0;
  while (bytes >= 1024 && unit < 4) {
    bytes /= 1024;
    unit++;
  }
  const digits = unit === 0 || bytes >= 100 || Number.isInteger(bytes) ? 0 : 1;
  return `${bytes.toFixed(digits)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

export function ofTime(text) {
  return new Date(text).toLocaleTimeString([], { hour12: false });
}

/// Power and activity.
export function ofStatus({ power, activity }) {
  const powers = { off: "off", running: "running", halted: "halted, mains on", unknown: "unknown: the lab failed" };
  return activity ? `${powers[power] ?? power}; ${activity}` : powers[power] ?? power;
}

/// What happened, in a line; `null` if it is no news to a person.
export function ofEntry(entry) {
  if (entry.type === "missed") return `${entry.count} older events are not kept any more`;
  if (entry.type === "operation") {
    const { kind, state, subject, progress } = entry.operation;
    if (state === "running") return progress ? null : `${kind} of ${subject} began`;
    return `${kind} ${state}`;
  }
  if (entry.type !== "event") return null;
  const { id: _id, hold: _hold, at: _at, type: _type, event, ...values } = entry;
  let words = event.replaceAll("-", " ");
  if ("held_ms" in values) words += ` for ${values.held_ms} ms`;
  if ("by" in values) words += ` by ${values.by}`;
  const rest = Object.entries(values).filter(([name]) => !["held_ms", "by"].includes(name)).map(([name, value]) => {
    if (name === "digest" || name === "sha256") return String(value).slice(0, 12);
    return name === "bytes" ? ofBytes(value) : String(value);
  });
  return rest.length ? `${words}: ${rest.join(" ")}` : words;
}

/// Whether it is bad news.
export function isBad(entry) {
  if (entry.type === "operation") return entry.operation.state === "failed";
  return ["panic", "internal-error", "machine-died", "block-error", "watchdog"].includes(entry.event);
}
