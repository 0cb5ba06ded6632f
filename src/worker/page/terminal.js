// A terminal as programs at the end of a serial line know it: what they print becomes rows of characters.
//
// A subset of ECMA-48 and of what xterm adds to it (ctlseqs): cursor, erasing, scrolling, colours, the other screen,
// line drawing, UTF-8. It answers no question of a program's, as several people may look at one console. It knows
// nothing of the browser; `console.js` shows its rows.

const PLAIN = Object.freeze({});
const DRAWING = "◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·";

/// One row. `dirty` until whoever shows it has painted it.
class Row {
  constructor(columns, style = PLAIN) {
    this.characters = new Array(columns).fill(" ");
    this.styles = new Array(columns).fill(style);
    this.dirty = true;
  }

  set(column, character, style) {
    this.characters[column] = character;
    this.styles[column] = style;
    this.dirty = true;
  }

  fill(from, to, style) {
    this.characters.fill(" ", from, to);
    this.styles.fill(style, from, to);
    this.dirty = true;
  }

  /// Puts blanks at a column, and drops what is pushed over the edge; with a negative count, the other way.
  shift(column, count, style) {
    for (const [cells, blank] of [[this.characters, " "], [this.styles, style]]) {
      const width = cells.length;
      const blanks = new Array(Math.min(Math.abs(count), width - column)).fill(blank);
      if (count > 0) cells.splice(column, 0, ...blanks);
      else { cells.splice(column, blanks.length); cells.push(...blanks); }
      cells.length = width;
    }
    this.dirty = true;
  }

  resize(columns) {
    while (this.characters.length < columns) { this.characters.push(" "); this.styles.push(PLAIN); }
    this.characters.length = this.styles.length = columns;
    this.dirty = true;
  }

  text() {
    return this.characters.join("").trimEnd();
  }
}

export class Terminal {
  constructor(columns = 80, rows = 24) {
    this.columns = columns;
    this.rows = rows;
    /// Rows that have left the screen at its top, the oldest first; whoever shows them may drop the oldest.
    this.history = [];
    this.reset();
  }

  /// As after it was switched on; the history stays.
  reset() {
    this.decoder = new TextDecoder();
    this.screen = this.blankScreen();
    this.main = null; // the rows of the first screen while the other one is shown
    this.row = this.column = 0;
    this.style = PLAIN;
    this.saved = { row: 0, column: 0, style: PLAIN };
    this.top = 0;
    this.bottom = this.rows - 1;
    this.wraps = true;
    this.wrapNext = false;
    this.cursorShown = true;
    this.applicationKeys = false;
    this.bracketedPaste = false;
    this.draws = false;
    this.tabs = new Set(Array.from({ length: 40 }, (_, n) => n * 8));
    this.parse = this.ground;
  }

  blankScreen() {
    return Array.from({ length: this.rows }, () => new Row(this.columns));
  }

  /// Takes what a program prints, in pieces that may end anywhere.
  write(bytes) {
    for (const character of this.decoder.decode(bytes, { stream: true })) this.parse(character);
  }

  resize(columns, rows) {
    const mains = this.main ? [this.screen, this.main] : [this.screen];
    for (const screen of mains) {
      while (screen.length > rows) {
        const row = screen.at(-1);
        // What is blank below goes first; what was said goes to the history.
        if (row.text() === "" && this.row < screen.length - 1) screen.pop();
        else {
          const first = screen.shift();
          if (screen === (this.main ?? this.screen)) this.history.push(first);
          this.row = Math.max(0, this.row - 1);
        }
      }
      while (screen.length < rows) screen.push(new Row(columns));
      for (const row of screen) row.resize(columns);
    }
    this.columns = columns;
    this.rows = rows;
    this.top = 0;
    this.bottom = rows - 1;
    this.moveTo(this.row, this.column);
  }

  /// All that can be read, without the blanks at the ends.
  text() {
    return [...this.history, ...this.screen].map(row => row.text()).join("\n").trimEnd();
  }

  // The states of the parser: each takes one character.

  ground(character) {
    const code = character.codePointAt(0);
    if (code >= 0x20 && code !== 0x7f && !(code >= 0x80 && code < 0xa0)) return this.print(character);
    switch (code) {
      case 0x08: this.moveTo(this.row, this.column - 1); break;
      case 0x09: this.tab(); break;
      case 0x0a: case 0x0b: case 0x0c: this.lineFeed(); break;
      case 0x0d: this.moveTo(this.row, 0); break;
      case 0x0e: this.draws = true; break;
      case 0x0f: this.draws = false; break;
      case 0x1b: this.parse = this.escape; break;
      case 0x9b: this.begin(); break;
    }
  }

  escape(character) {
    this.parse = this.ground;
    switch (character) {
      case "[": this.begin(); break;
      case "]": case "P": case "X": case "^": case "_": this.parse = this.string; break;
      case "(": this.parse = drawing => { this.draws = drawing === "0"; this.parse = this.ground; }; break;
      case ")": case "*": case "+": case "#": case "%": case " ": this.parse = () => { this.parse = this.ground; }; break;
      case "7": this.save(); break;
      case "8": this.restore(); break;
      case "D": this.lineFeed(); break;
      case "E": this.moveTo(this.row, 0); this.lineFeed(); break;
      case "H": this.tabs.add(this.column); break;
      case "M": this.reverseLineFeed(); break;
      case "c": this.reset(); break;
      case "\x1b": this.parse = this.escape; break;
    }
  }

  /// Titles and the like: over at BEL or ESC, and of no meaning here.
  string(character) {
    if (character === "\x07" || character === "\x9c") this.parse = this.ground;
    if (character === "\x1b") this.parse = this.escape;
  }

  begin() {
    this.parameters = "";
    this.parse = this.control;
  }

  control(character) {
    if (character >= "@" && character <= "~") {
      this.parse = this.ground;
      return this.perform(character, this.parameters);
    }
    if (character >= " " && character <= "?") {
      // A line that is noise must not grow it without end.
      if (this.parameters.length < 256) this.parameters += character;
      return;
    }
    // Controls work in the middle of a sequence; ESC, CAN and SUB end it.
    if (character === "\x1b") this.parse = this.escape;
    else if (character === "\x18" || character === "\x1a") this.parse = this.ground;
    else { const state = this.parse; this.ground(character); this.parse = state; }
  }

  perform(final, text) {
    const mark = /^[<=>?]/.test(text) ? text[0] : "";
    if (/[ -/]/.test(text)) {
      if (final === "p" && text === "!") this.reset();
      return;
    }
    const numbers = text.slice(mark.length).split(/[;:]/).map(number => Number.parseInt(number, 10) || 0);
    if (mark === "?" && (final === "h" || final === "l")) {
      for (const number of numbers) this.setMode(number, final === "h");
      return;
    }
    if (mark) return;
    const count = Math.max(1, numbers[0]);
    const row = this.screen[this.row];
    switch (final) {
      case "A": this.moveTo(Math.max(this.row - count, this.row >= this.top ? this.top : 0), this.column); break;
      case "B": case "e":
        this.moveTo(Math.min(this.row + count, this.row <= this.bottom ? this.bottom : this.rows - 1), this.column); break;
      case "C": case "a": this.moveTo(this.row, this.column + count); break;
      case "D": this.moveTo(this.row, this.column - count); break;
      case "E": this.moveTo(this.row + count, 0); break;
      case "F": this.moveTo(this.row - count, 0); break;
      case "G": case "`": this.moveTo(this.row, count - 1); break;
      case "H": case "f": this.moveTo(count - 1, Math.max(1, numbers[1] ?? 1) - 1); break;
      case "d": this.moveTo(count - 1, this.column); break;
      case "J": this.eraseScreen(numbers[0]); break;
      case "K": this.eraseRow(numbers[0]); break;
      case "L": this.scroll(-count, this.row); break;
      case "M": this.scroll(count, this.row); break;
      case "@": row.shift(this.column, count, this.style); break;
      case "P": row.shift(this.column, -count, this.style); break;
      case "X": row.fill(this.column, Math.min(this.column + count, this.columns), this.style); break;
      case "S": this.scroll(count, this.top); break;
      case "T": this.scroll(-count, this.top); break;
      case "I": for (let n = 0; n < Math.min(count, this.columns); n++) this.tab(); break;
      case "g": if (numbers[0] === 3) this.tabs.clear(); else this.tabs.delete(this.column); break;
      case "m": this.setStyle(numbers); break;
      case "r": {
        const [top, bottom] = [count - 1, Math.min(numbers[1] || this.rows, this.rows) - 1];
        if (top < bottom) { this.top = top; this.bottom = bottom; this.moveTo(0, 0); }
        break;
      }
      case "s": this.save(); break;
      case "u": this.restore(); break;
    }
  }

  setMode(number, on) {
    switch (number) {
      case 1: this.applicationKeys = on; break;
      case 7: this.wraps = on; break;
      case 25: this.cursorShown = on; break;
      case 2004: this.bracketedPaste = on; break;
      case 1048: if (on) this.save(); else this.restore(); break;
      case 47: case 1047: case 1049:
        if (on === (this.main !== null)) break;
        if (on) {
          if (number === 1049) this.save();
          this.main = this.screen;
          this.screen = this.blankScreen();
        } else {
          this.screen = this.main;
          this.main = null;
          if (number === 1049) this.restore();
        }
        this.moveTo(this.row, this.column);
        break;
    }
  }

  setStyle(numbers) {
    let style = { ...this.style };
    for (let at = 0; at < numbers.length; at++) {
      const number = numbers[at];
      if (number === 0) style = {};
      else if (number === 1) style.bold = true;
      else if (number === 2) style.dim = true;
      else if (number === 3) style.italic = true;
      else if (number === 4) style.underline = true;
      else if (number === 7) style.inverse = true;
      else if (number === 8) style.hidden = true;
      else if (number === 9) style.struck = true;
      else if (number === 22) delete style.bold, delete style.dim;
      else if (number === 23) delete style.italic;
      else if (number === 24) delete style.underline;
      else if (number === 27) delete style.inverse;
      else if (number === 28) delete style.hidden;
      else if (number === 29) delete style.struck;
      else if (number >= 30 && number <= 37) style.ink = number - 30;
      else if (number >= 40 && number <= 47) style.ground = number - 40;
      else if (number >= 90 && number <= 97) style.ink = number - 82;
      else if (number >= 100 && number <= 107) style.ground = number - 92;
      else if (number === 39) delete style.ink;
      else if (number === 49) delete style.ground;
      else if (number === 38 || number === 48) {
        const which = number === 38 ? "ink" : "ground";
        if (numbers[at + 1] === 5) { style[which] = indexed(numbers[at + 2] ?? 0); at += 2; }
        else if (numbers[at + 1] === 2) { style[which] = rgb(numbers.slice(at + 2, at + 5)); at += 4; }
      }
    }
    this.style = Object.keys(style).length ? Object.freeze(style) : PLAIN;
  }

  // What moves.

  print(character) {
    if (this.draws && character >= "`" && character <= "~") character = DRAWING[character.charCodeAt(0) - 0x60];
    if (/\p{M}|\u200d/u.test(character)) {
      const before = Math.max(0, this.column - (this.wrapNext ? 0 : 1));
      const row = this.screen[this.row];
      if (row.characters[before].length < 16) row.set(before, row.characters[before] + character, row.styles[before]);
      return;
    }
    if (this.wrapNext) {
      this.moveTo(this.row, 0);
      this.lineFeed();
    }
    this.screen[this.row].set(this.column, character, this.style);
    if (this.column < this.columns - 1) this.column++;
    else this.wrapNext = this.wraps;
  }

  moveTo(row, column) {
    this.row = Math.min(Math.max(row, 0), this.rows - 1);
    this.column = Math.min(Math.max(column, 0), this.columns - 1);
    this.wrapNext = false;
  }

  tab() {
    let column = this.column + 1;
    while (column < this.columns - 1 && !this.tabs.has(column)) column++;
    this.moveTo(this.row, column);
  }

  lineFeed() {
    if (this.row === this.bottom) this.scroll(1, this.top);
    else this.moveTo(this.row + 1, this.column);
    this.wrapNext = false;
  }

  reverseLineFeed() {
    if (this.row === this.top) this.scroll(-1, this.top);
    else this.moveTo(this.row - 1, this.column);
  }

  /// Moves the rows from `top` to the bottom of the region up, or down if negative.
  scroll(count, top) {
    if (top < this.top || top > this.bottom) return;
    for (let n = Math.min(Math.abs(count), this.bottom - top + 1); n > 0; n--) {
      const blank = new Row(this.columns, this.style.ground === undefined ? PLAIN : this.style);
      if (count > 0) {
        const [gone] = this.screen.splice(top, 1);
        this.screen.splice(this.bottom, 0, blank);
        if (top === 0 && this.top === 0 && !this.main) this.history.push(gone);
      } else {
        this.screen.splice(this.bottom, 1);
        this.screen.splice(top, 0, blank);
      }
    }
  }

  eraseRow(which) {
    const from = which === 0 ? this.column : 0;
    const to = which === 1 ? this.column + 1 : this.columns;
    this.screen[this.row].fill(from, to, this.style);
  }

  eraseScreen(which) {
    if (which === 3) return void (this.history.length = 0);
    const [from, to] = which === 0 ? [this.row + 1, this.rows] : which === 1 ? [0, this.row] : [0, this.rows];
    for (const row of this.screen.slice(from, to)) row.fill(0, this.columns, this.style);
    if (which < 2) this.eraseRow(which);
  }

  save() {
    this.saved = { row: this.row, column: this.column, style: this.style };
  }

  restore() {
    this.style = this.saved.style;
    this.moveTo(this.saved.row, this.saved.column);
  }
}

/// One of 256 colours: the first 16 by number, as the page has its own for them; the others as xterm has them.
function indexed(number) {
  if (number < 16) return number;
  if (number > 231) return rgb(Array(3).fill(8 + (number - 232) * 10));
  const cube = number - 16;
  return rgb([Math.floor(cube / 36), Math.floor(cube / 6) % 6, cube % 6].map(level => level && 55 + level * 40));
}

function rgb(parts) {
  const [red, green, blue] = [0, 1, 2].map(at => Math.min(255, parts[at] || 0));
  return `rgb(${red},${green},${blue})`;
}
