// Runs in the page, as the body of an async function; returns what is wrong.

const { Terminal } = await import("/page/terminal.js");
const { bytesOf } = await import("/page/console.js");
const { strokeOf } = await import("/page/screen.js");
const { Sha256 } = await import("/page/sha256.js");
const wrong = [];
const is = (what, found, wanted) => {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) wrong.push({ what, found, wanted });
};

/// The rows that a terminal of 10 columns and 4 rows shows after these words.
const after = (...pieces) => {
  const terminal = new Terminal(10, 4);
  for (const piece of pieces) terminal.write(typeof piece === "string" ? new TextEncoder().encode(piece) : Uint8Array.from(piece));
  return terminal;
};
const rows = (...pieces) => after(...pieces).screen.map(row => row.text());
const shows = (what, text, wanted) => is(what, rows(text), [...wanted, "", "", "", ""].slice(0, 4));

shows("lines", "one\r\ntwo", ["one", "two"]);
shows("a line feed alone keeps the column", "ab\ncd", ["ab", "  cd"]);
shows("a carriage return alone overwrites", "loading\rdone", ["doneing"]);
shows("a backspace goes back", "ab\b\bx", ["xb"]);
shows("a tab goes to the next stop", "a\tb", ["a       b"]);
shows("a long line goes on below", "0123456789ab", ["0123456789", "ab"]);
shows("a full line waits for more before it wraps", "0123456789\r\nab", ["0123456789", "ab"]);
shows("without wrapping the last column is overwritten", "\x1b[?7l0123456789ab", ["012345678b"]);
shows("the cursor goes anywhere", "\x1b[3;4Hx\x1b[Ay\x1b[Gz\x1b[2Bw", ["", "z   y", "   x", " w"]);
shows("the cursor stays on the screen", "\x1b[99;99Hx\x1b[99A\x1b[99Dy", ["y", "", "", "         x"]);
shows("the line is erased to its end", "abcdef\x1b[3D\x1b[K", ["abc"]);
shows("the line is erased to its begin", "abcdef\x1b[4D\x1b[1K", ["   def"]);
shows("the screen is erased from the cursor", "ab\r\ncd\r\nef\x1b[2;2H\x1b[J", ["ab", "c"]);
shows("the screen is erased", "ab\r\ncd\x1b[2Jx", ["", "  x"]);
shows("lines are put in and taken out", "a\r\nb\r\nc\x1b[2H\x1b[L\x1b[3H\x1b[M", ["a", "", "c"]);
shows("characters are put in and taken out", "abcd\x1b[2G\x1b[2@\x1b[5G\x1b[P\x1b[1G\x1b[X", ["   bd"]);
shows("a region scrolls by itself", "1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[3H\n\nx", ["1", "x", "", "4"].map((_, n) => ["1", "", "x", "4"][n]));
shows("it scrolls backwards", "1\r\n2\r\n3\r\n4\x1b[H\x1bMx", ["x", "1", "2", "3"]);
shows("places are saved", "\x1b[2;3H\x1b7\x1b[Ha\x1b8b", ["a", "  b"]);
shows("the other screen leaves the first alone", "one\x1b[?1049h\x1b[Htwo\x1b[?1049l three", ["one three"]);
shows("titles are not shown", "a\x1b]0;title\x07b\x1b]0;title\x1b\\c\x1bPq\x1b\\d", ["abcd"]);
shows("unknown sequences are not shown", "a\x1b[?9999h\x1b[>1;2c\x1b[1$zb\x1b#8c\x1b%Gd", ["abcd"]);
shows("a control in a sequence works", "ab\x1b[\r1Cx", ["ax"]);
shows("lines are drawn", "\x1b(0lqk\x1b(Bq\x0eq\x0fq", ["┌─┐q─q"]);
shows("letters of all kinds", "Grüße €", ["Grüße €"]);
shows("marks stand on the letter before", "e\u0301x", ["e\u0301x"]);
is("a character comes in pieces", rows([0xe2, 0x82], [0xac]), ["€", "", "", ""]);
is("a sequence comes in pieces", rows("a\x1b", "[", "2", "Cb"), ["a  b", "", "", ""]);
is("noise is no end", rows([0xff, 0xfe, 0x41])[0].at(-1), "A");

const long = after("1\r\n2\r\n3\r\n4\r\n5\r\n6");
is("what leaves at the top is kept", long.history.map(row => row.text()), ["1", "2"]);
is("all of it can be read", long.text(), "1\n2\n3\n4\n5\n6");
long.resize(20, 6);
is("a larger screen has room", long.screen.map(row => row.text()), ["3", "4", "5", "6", "", ""]);
long.resize(20, 2);
is("a smaller one keeps the end", [long.text(), long.screen.length, long.row], ["1\n2\n3\n4\n5\n6", 2, 1]);

const style = text => after(text).screen[0].styles[0];
is("colours", style("\x1b[1;31;44mx"), { bold: true, ink: 1, ground: 4 });
is("bright colours", style("\x1b[92;101mx"), { ink: 10, ground: 9 });
is("one of 256 colours", style("\x1b[38;5;196;48;5;244mx"), { ink: "rgb(255,0,0)", ground: "rgb(128,128,128)" });
is("any colour", style("\x1b[38;2;1;2;3mx"), { ink: "rgb(1,2,3)" });
is("no colours any more", style("\x1b[1;7;31m\x1b[0mx"), {});
is("some of it ends", style("\x1b[1;7;31m\x1b[22;39mx"), { inverse: true });
is("modes", [after("\x1b[?1h\x1b[?2004h\x1b[?25l")].map(t => [t.applicationKeys, t.bracketedPaste, t.cursorShown]), [[true, true, false]]);

// Ten thousand pieces of nonsense: nothing is thrown, and the shape stays.
let seed = 1;
const next = most => (seed = (seed * 48271) % 2147483647) % most;
const alphabet = "\x1b[;?0123456789HJKLMPX@rmhlABCDSTsu\r\n\t\b\x0e\x0fab€]\x07()#";
const fuzzed = new Terminal(10, 4);
for (let n = 0; n < 10000; n++) {
  const piece = Array.from({ length: 8 }, () => alphabet[next(alphabet.length)]).join("");
  try {
    fuzzed.write(new TextEncoder().encode(piece));
    if (n % 100 === 0) fuzzed.resize(1 + next(30), 1 + next(10));
  } catch (error) {
    is("nonsense is taken", [JSON.stringify(piece), String(error.stack)], []);
    break;
  }
}
is("the shape stays", [fuzzed.screen.length, ...fuzzed.screen.map(row => row.characters.length)], [fuzzed.rows, ...fuzzed.screen.map(() => fuzzed.columns)]);
is("the cursor is on it", fuzzed.row < fuzzed.rows && fuzzed.column < fuzzed.columns, true);

const key = (name, more = {}) => bytesOf({ key: name, ...more, shiftKey: !!more.shiftKey, altKey: !!more.altKey, ctrlKey: !!more.ctrlKey });
is("keys", ["Enter", "Tab", "Escape", "Backspace", "ArrowUp", "F5"].map(name => key(name)), ["\r", "\t", "\x1b", "\x7f", "\x1b[A", "\x1b[15~"]);
is("keys with modifiers", [key("c", { ctrlKey: true }), key("ArrowLeft", { ctrlKey: true }), key("x", { altKey: true })], ["\x03", "\x1b[1;5D", "\x1bx"]);
is("keys that the browser keeps", [key("v", { ctrlKey: true }), key("a"), key("C", { ctrlKey: true, shiftKey: true }), key("r", { metaKey: true })], [null, null, null, null]);
is("strokes", ["KeyA", "Digit7", "F12", "ArrowUp", "Quote", "ShiftLeft"].map(code => strokeOf({ code })), ["a", "7", "f12", "up", "apostrophe", null]);
is("strokes with modifiers", strokeOf({ code: "Delete", ctrlKey: true, altKey: true }), "ctrl-alt-delete");

const hex = async bytes => Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)), byte => byte.toString(16).padStart(2, "0")).join("");
for (const length of [0, 1, 55, 56, 63, 64, 65, 1000, 100000]) {
  const bytes = Uint8Array.from({ length }, (_, n) => (n * 31) & 255);
  const hash = new Sha256();
  for (let at = 0; at < length; at += 37) hash.update(bytes.subarray(at, at + 37));
  is(`SHA-256 of ${length} bytes`, hash.finish(), await hex(bytes));
}
return wrong;
