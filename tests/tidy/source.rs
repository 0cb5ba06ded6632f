//! Rust as `tests/tidy.rs` needs it: split into tokens and comments, with what belongs to tests
//! marked, and asked which modules it names.

use super::File;
use std::collections::BTreeMap;

/// A word, number, literal or sign (`::` counts as one).
pub struct Token {
    pub text: String,
    pub line: usize,
    /// Part of an item under `#[cfg(test)]` or `#[test]`.
    pub test: bool,
    /// How many inline `mod x { }` it lies in.
    inline_depth: usize,
}

pub struct Source {
    pub path: String,
    pub text: String,
    /// The path of the module that this file is, `["qemu", "monitor"]`; empty for the root.
    pub module: Vec<String>,
    pub tokens: Vec<Token>,
    /// By line; a block comment counts for the line it begins on.
    comments: BTreeMap<usize, String>,
}

impl Source {
    pub fn read(file: &File) -> Source {
        let (tokens, comments) = lex(&file.text);
        let mut source = Source {
            path: file.path.clone(),
            text: file.text.clone(),
            module: module_of(&file.path),
            tokens,
            comments,
        };
        source.mark_tests();
        source.mark_inline_modules();
        source
    }

    pub fn is_part_of(&self, module: &str) -> bool {
        self.module.first().is_some_and(|first| first == module)
    }

    /// Where the tokens of `pattern` follow each other.
    pub fn find<'a>(&'a self, pattern: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
        self.tokens.windows(pattern.len()).enumerate().filter_map(move |(at, window)| {
            window.iter().zip(pattern).all(|(token, text)| token.text == *text).then_some(at)
        })
    }

    /// The first names of the paths at `at`: of the one there, or of all in a `{a::b, c}`.
    pub fn names_after(&self, at: usize) -> Vec<&Token> {
        let Some(first) = self.tokens.get(at) else {
            return Vec::new();
        };
        if first.text != "{" {
            return vec![first];
        }
        let (mut depth, mut begins, mut names) = (1, true, Vec::new());
        for token in &self.tokens[at + 1..self.closing(at)] {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                "," => begins = depth == 1,
                _ if begins => {
                    names.push(token);
                    begins = false;
                }
                _ => {}
            }
        }
        names
    }

    /// The top modules that this file names: after `crate::`, in the binary after `standin::`, and
    /// after as many `super::` as lead out of its own top module.
    pub fn crate_references(&self) -> Vec<(usize, String)> {
        let mut begins: Vec<usize> = self.find(&["crate", "::"]).map(|at| at + 2).collect();
        if self.is_part_of("main") {
            begins.extend(self.find(&["standin", "::"]).map(|at| at + 2));
        }
        for at in self.find(&["super", "::"]) {
            if at >= 2 && self.tokens[at - 2].text == "super" {
                continue; // counted from the first of them
            }
            let mut supers = 1;
            while self.tokens.get(at + 2 * supers).is_some_and(|token| token.text == "super") {
                supers += 1;
            }
            if supers == self.module.len() + self.tokens[at].inline_depth {
                begins.push(at + 2 * supers);
            }
        }
        begins.sort_unstable();
        begins.dedup();
        let names = begins.into_iter().flat_map(|at| self.names_after(at));
        names.map(|token| (token.line, token.text.clone())).collect()
    }

    /// The comment on `line`, and the lines right above it that are comment alone.
    pub fn comment_at(&self, line: usize) -> String {
        let mut text = self.comments.get(&line).cloned().unwrap_or_default();
        for above in (1..line).rev() {
            let has_code = self.tokens.iter().any(|token| token.line == above);
            match self.comments.get(&above) {
                Some(comment) if !has_code => text.push_str(comment),
                _ => break,
            }
        }
        text
    }

    pub fn declared_test_modules(&self) -> Vec<Vec<String>> {
        let declarations = self.find(&["mod"]).filter(|at| {
            self.tokens[*at].test && self.tokens.get(at + 2).is_some_and(|token| token.text == ";")
        });
        declarations.map(|at| [&self.module[..], &[self.tokens[at + 1].text.clone()]].concat()).collect()
    }

    fn mark_tests(&mut self) {
        let attributes: Vec<usize> = self.find(&["#", "["]).collect();
        for at in attributes {
            let end = self.closing(at + 1);
            let words: Vec<&str> = self.tokens[at + 2..end].iter().map(|token| token.text.as_str()).collect();
            let is_cfg_test =
                words.first() == Some(&"cfg") && words.contains(&"test") && !words.contains(&"not");
            if is_cfg_test || words == ["test"] {
                let item_end = self.item_end(end + 1);
                for token in &mut self.tokens[at..item_end] {
                    token.test = true;
                }
            }
        }
    }

    fn mark_inline_modules(&mut self) {
        let modules: Vec<usize> = self.find(&["mod"]).collect();
        for at in modules {
            if self.tokens.get(at + 2).is_some_and(|token| token.text == "{") {
                let end = self.closing(at + 2);
                for token in &mut self.tokens[at + 2..end] {
                    token.inline_depth += 1;
                }
            }
        }
    }

    /// One past the end of the item that begins at `at`: its `;`, or its closing brace.
    fn item_end(&self, mut at: usize) -> usize {
        while let Some(token) = self.tokens.get(at) {
            match token.text.as_str() {
                "(" | "[" => at = self.closing(at),
                "{" => return self.closing(at) + 1,
                ";" => return at + 1,
                _ => {}
            }
            at += 1;
        }
        self.tokens.len()
    }

    /// Where the bracket that opens at `open` closes; the last token if it does not.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0;
        for (at, token) in self.tokens.iter().enumerate().skip(open) {
            match token.text.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return at;
            }
        }
        self.tokens.len().saturating_sub(1)
    }
}

fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    if path == "lib" {
        return Vec::new();
    }
    let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// Splits Rust into its tokens and its comments.
fn lex(text: &str) -> (Vec<Token>, BTreeMap<usize, String>) {
    let mut tokens = Vec::new();
    let mut comments: BTreeMap<usize, String> = BTreeMap::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let (token, after) = rest.split_at(token_length(rest, first));
        if token.starts_with("//") || token.starts_with("/*") {
            comments.entry(line).or_default().push_str(token);
        } else if !first.is_whitespace() {
            tokens.push(Token { text: token.to_owned(), line, test: false, inline_depth: 0 });
        }
        line += token.matches('\n').count();
        rest = after;
    }
    (tokens, comments)
}

/// The length in bytes of the token, comment or white space that `text` begins with.
fn token_length(text: &str, first: char) -> usize {
    let span = |belongs: fn(char) -> bool| text.find(|c| !belongs(c)).unwrap_or(text.len());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if first.is_whitespace() {
        span(char::is_whitespace)
    } else if text.starts_with("//") {
        text.find('\n').unwrap_or(text.len())
    } else if text.starts_with("/*") {
        block_comment_length(text)
    } else if text.starts_with("::") {
        2
    } else if let Some(length) = literal_length(text) {
        length
    } else if is_word(first) {
        span(is_word)
    } else {
        first.len_utf8()
    }
}

/// The length of a string or character literal with its prefix: "", b"", c"", r#""#, br"", '', b''.
fn literal_length(text: &str) -> Option<usize> {
    let prefix = text.find(|c| !matches!(c, 'b' | 'c' | 'r')).filter(|length| *length <= 2)?;
    let (letters, body) = text.split_at(prefix);
    if let Some(bare) = letters.ends_with('r').then(|| body.trim_start_matches('#')) {
        let hashes = body.len() - bare.len();
        let end = format!("\"{}", "#".repeat(hashes));
        let content = bare.strip_prefix('"')?; // else a word, as `r` or `r#type`
        let length = content.find(&end).map_or(content.len(), |at| at + end.len());
        return Some(prefix + hashes + 1 + length);
    }
    // A character literal is a sign and a quote, or an escape; what else follows `'` is a lifetime.
    let mut after_quote = body.chars().skip(1);
    let is_character =
        body.starts_with('\'') && (after_quote.next() == Some('\\') || after_quote.next() == Some('\''));
    match body.chars().next() {
        Some('"') => Some(prefix + quoted_length(body, '"')),
        Some('\'') if is_character => Some(prefix + quoted_length(body, '\'')),
        _ => None,
    }
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Block comments nest in Rust.
fn block_comment_length(text: &str) -> usize {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 {
        let Some(next) = text[at..].find("*/") else {
            return text.len();
        };
        depth += text[at..at + next].matches("/*").count();
        depth -= 1;
        at += next + 2;
    }
    at
}
