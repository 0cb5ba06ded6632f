//! Texts with `${name}` in them, and the values that stand for the names. Pure; nothing to clean up.

use std::collections::BTreeMap;

/// A text in which `${name}` stands for a value. `$${` is a plain `${`, for a shell's own variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable(String),
}

/// A `${` without its `}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected `}}` after `${{`, found the end")]
pub struct Unclosed;

/// A variable that has no value yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("variable `{name}` has no value")]
pub struct Unset {
    /// Its name.
    pub name: String,
}

/// The values of variables, by their names.
pub type Values = BTreeMap<String, String>;

impl Template {
    /// Reads a text.
    pub fn parse(source: &str) -> Result<Self, Unclosed> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find('$') {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("$${") {
                text.push_str("${");
                rest = after;
            } else if let Some(after) = rest.strip_prefix("${") {
                let (name, after) = after.split_once('}').ok_or(Unclosed)?;
                pieces.push(Piece::Text(std::mem::take(&mut text)));
                pieces.push(Piece::Variable(name.to_owned()));
                rest = after;
            } else {
                text.push('$');
                rest = &rest[1..];
            }
        }
        text.push_str(rest);
        pieces.push(Piece::Text(text));
        Ok(Self { source: source.to_owned(), pieces })
    }

    /// The text as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The variables in it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Variable(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The text with values instead of names.
    pub fn fill(&self, values: &Values) -> Result<String, Unset> {
        self.fill_with(|name| values.get(name).cloned())
    }

    /// A regular expression with values instead of names; the values are matched as they are.
    pub fn fill_regex(&self, values: &Values) -> Result<String, Unset> {
        self.fill_with(|name| values.get(name).map(|value| regex::escape(value)))
    }

    /// The text with `value` instead of each name, to try whether it makes sense at all.
    pub fn fill_all(&self, value: &str) -> String {
        self.fill_with(|_| Some(value.to_owned())).expect("every name has a value")
    }

    fn fill_with(&self, value: impl Fn(&str) -> Option<String>) -> Result<String, Unset> {
        let filled = self.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => Ok(text.clone()),
            Piece::Variable(name) => value(name).ok_or_else(|| Unset { name: name.clone() }),
        });
        filled.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        Values::from([("ip".to_owned(), "10.0.2.15".to_owned())])
    }

    #[test]
    fn names_are_replaced_and_a_doubled_dollar_is_the_shells() {
        let template = Template::parse("ping ${ip} $HOME $${HOME} 5$").unwrap();
        assert_eq!(template.names().collect::<Vec<_>>(), ["ip"]);
        assert_eq!(template.fill(&values()).unwrap(), "ping 10.0.2.15 $HOME ${HOME} 5$");
    }

    #[test]
    fn a_value_in_a_regex_is_matched_as_it_is() {
        let template = Template::parse("^${ip}$").unwrap();
        assert_eq!(template.fill_regex(&values()).unwrap(), r"^10\.0\.2\.15$");
    }

    #[test]
    fn what_is_unclosed_or_unset_is_said() {
        assert_eq!(
            Template::parse("${ip").unwrap_err().to_string(),
            "expected `}` after `${`, found the end"
        );
        let unset = Template::parse("${mac}").unwrap().fill(&values()).unwrap_err();
        assert_eq!(unset.to_string(), "variable `mac` has no value");
    }
}
