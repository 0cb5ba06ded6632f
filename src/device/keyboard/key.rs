//! Names of keys, and which of them make a text on a US keyboard. Pure; nothing to clean up.

use crate::document::nearest;

/// Keys that go down together, such as Ctrl, Alt and Delete: any modifiers, and then one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stroke(Vec<&'static str>);

/// A name that no key has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a key such as `enter`, `f2`, `a` or `ctrl-alt-delete`, found `{found}`")]
pub struct UnknownKey {
    found: String,
    near: Option<&'static str>,
}

impl UnknownKey {
    /// What would help.
    pub fn hint(&self) -> String {
        match self.near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!(
                "the keys are a to z, 0 to 9, f1 to f12, {}; before one stand {}",
                first_names(&KEYS),
                first_names(&MODIFIERS)
            ),
        }
    }
}

/// A character that a US keyboard cannot type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no key of a US keyboard types `{}`", .character.escape_debug())]
pub struct Untypable {
    /// The character.
    pub character: char,
}

/// A key: QEMU's code of it (`QKeyCode` in its qapi/ui.json), and its names. The first name is ours; the others are
/// what people also write, and what Autokit's keyboard calls it (those of hid_gadget_test, from the Linux kernel's
/// gadget_hid.rst).
type Key = (&'static str, &'static [&'static str]);

/// SysRq is one as well, for Linux (Documentation/admin-guide/sysrq.rst): `alt-sysrq-b`.
const MODIFIERS: [Key; 9] = [
    ("ctrl", &["ctrl", "control", "left-ctrl"]),
    ("shift", &["shift", "left-shift"]),
    ("alt", &["alt", "left-alt"]),
    ("meta_l", &["meta", "super", "win", "left-meta"]),
    ("ctrl_r", &["right-ctrl"]),
    ("shift_r", &["right-shift"]),
    ("alt_r", &["right-alt", "altgr"]),
    ("meta_r", &["right-meta"]),
    ("sysrq", &["sysrq"]),
];

/// Beside letters, digits and F keys, whose codes are their names.
const KEYS: [Key; 43] = [
    ("ret", &["enter", "return", "ret"]),
    ("esc", &["esc", "escape"]),
    ("backspace", &["backspace", "bckspc"]),
    ("tab", &["tab"]),
    ("spc", &["space", "spacebar", "spc"]),
    ("up", &["up"]),
    ("down", &["down"]),
    ("left", &["left"]),
    ("right", &["right"]),
    ("home", &["home"]),
    ("end", &["end"]),
    ("pgup", &["page-up", "pageup", "pgup"]),
    ("pgdn", &["page-down", "pagedown", "pgdn"]),
    ("insert", &["insert", "ins"]),
    ("delete", &["delete", "del"]),
    ("caps_lock", &["caps-lock", "capslock"]),
    ("num_lock", &["num-lock", "numlock"]),
    ("scroll_lock", &["scroll-lock"]),
    ("pause", &["pause"]),
    ("print", &["print"]),
    ("menu", &["menu"]),
    ("minus", &["minus"]),
    ("equal", &["equal"]),
    ("bracket_left", &["bracket-left"]),
    ("bracket_right", &["bracket-right"]),
    ("semicolon", &["semicolon"]),
    ("apostrophe", &["apostrophe"]),
    ("grave_accent", &["grave"]),
    ("backslash", &["backslash"]),
    ("comma", &["comma"]),
    ("dot", &["dot"]),
    ("slash", &["slash"]),
    ("kp_enter", &["kp-enter"]),
    ("kp_add", &["kp-plus"]),
    ("kp_subtract", &["kp-minus"]),
    ("kp_multiply", &["kp-multiply"]),
    ("kp_divide", &["kp-divide"]),
    ("kp_decimal", &["kp-dot"]),
    ("less", &["less"]),
    ("volumeup", &["volume-up"]),
    ("volumedown", &["volume-down"]),
    ("audiomute", &["mute"]),
    ("power", &["power"]),
];

/// Letters, digits and F keys: their names are QEMU's codes.
const PLAIN: [&str; 48] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u",
    "v", "w", "x", "y", "z", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "f1", "f2", "f3", "f4", "f5",
    "f6", "f7", "f8", "f9", "f10", "f11", "f12",
];

/// What else the keys of a US keyboard type (ISO/IEC 9995-1, as every PC firmware has it): the key, what it types, and
/// what with Shift. Shift makes a letter a capital.
const TYPED: [(&str, char, char); 22] = [
    ("1", '1', '!'),
    ("2", '2', '@'),
    ("3", '3', '#'),
    ("4", '4', '$'),
    ("5", '5', '%'),
    ("6", '6', '^'),
    ("7", '7', '&'),
    ("8", '8', '*'),
    ("9", '9', '('),
    ("0", '0', ')'),
    ("minus", '-', '_'),
    ("equal", '=', '+'),
    ("bracket_left", '[', '{'),
    ("bracket_right", ']', '}'),
    ("semicolon", ';', ':'),
    ("apostrophe", '\'', '"'),
    ("grave_accent", '`', '~'),
    ("backslash", '\\', '|'),
    ("comma", ',', '<'),
    ("dot", '.', '>'),
    ("slash", '/', '?'),
    ("spc", ' ', ' '),
];

impl Stroke {
    /// Reads a name such as `enter`, `f2`, `a`, `shift-a` or `ctrl-alt-delete`. Capitals are as good as others.
    pub fn parse(name: &str) -> Result<Self, UnknownKey> {
        let lower = name.to_ascii_lowercase();
        let unknown = || UnknownKey { found: name.to_owned(), near: nearest(last_part(&lower), all_names()) };
        let mut codes = Vec::new();
        let mut rest = lower.as_str();
        loop {
            if let Some(code) = code_of(rest) {
                codes.push(code);
                return Ok(Self(codes));
            }
            let modifier = |(at, _)| Some((named(&MODIFIERS, &rest[..at])?, &rest[at + 1..]));
            let (code, behind) = rest.match_indices('-').find_map(modifier).ok_or_else(unknown)?;
            codes.push(code);
            rest = behind;
        }
    }

    /// The strokes that type a text on a US keyboard; a line break is the Enter key, a tab the Tab key.
    pub fn typing(text: &str) -> Result<Vec<Self>, Untypable> {
        text.chars().map(|character| Self::of(character).ok_or(Untypable { character })).collect()
    }

    /// QEMU's codes of its keys, in the order in which they go down.
    pub fn qcodes(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().copied()
    }

    fn of(character: char) -> Option<Self> {
        let plain = |key: &'static str| Self(vec![key]);
        let shifted = |key: &'static str| Self(vec!["shift", key]);
        if character.is_ascii_alphabetic() {
            let lower = character.to_ascii_lowercase();
            let key = PLAIN.into_iter().find(|name| name.chars().eq([lower]))?;
            return Some(if character == lower { plain(key) } else { shifted(key) });
        }
        match character {
            '\n' | '\r' => Some(plain("ret")),
            '\t' => Some(plain("tab")),
            _ => TYPED.into_iter().find_map(|(key, typed, with_shift)| match character {
                _ if character == typed => Some(plain(key)),
                _ if character == with_shift => Some(shifted(key)),
                _ => None,
            }),
        }
    }
}

/// QEMU's code of the key of that name.
fn code_of(name: &str) -> Option<&'static str> {
    let plain = || PLAIN.into_iter().find(|plain| *plain == name);
    plain().or_else(|| named(&KEYS, name)).or_else(|| named(&MODIFIERS, name))
}

fn named(keys: &[Key], name: &str) -> Option<&'static str> {
    keys.iter().find_map(|(code, names)| names.contains(&name).then_some(*code))
}

fn all_names() -> impl Iterator<Item = &'static str> {
    MODIFIERS
        .into_iter()
        .chain(KEYS)
        .flat_map(|(_, names)| names.iter().copied())
        .filter(|name| name.len() > 2)
}

/// What stands behind the modifiers, if there are any: the likeliest place of a mistake.
fn last_part(name: &str) -> &str {
    name.rsplit('-').next().unwrap_or(name)
}

fn first_names(keys: &[Key]) -> String {
    keys.iter().filter_map(|(_, names)| names.first().copied()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(name: &str) -> Vec<&'static str> {
        Stroke::parse(name).unwrap_or_else(|error| panic!("{error}")).qcodes().collect()
    }

    #[test]
    fn a_stroke_is_a_key_behind_its_modifiers() {
        for (name, expected) in [
            ("enter", &["ret"][..]),
            ("Esc", &["esc"]),
            ("F12", &["f12"]),
            ("a", &["a"]),
            ("shift-a", &["shift", "a"]),
            ("ctrl-alt-delete", &["ctrl", "alt", "delete"]),
            ("alt-sysrq-b", &["alt", "sysrq", "b"]),
            ("right-alt-kp-enter", &["alt_r", "kp_enter"]),
            ("ctrl-page-up", &["ctrl", "pgup"]),
            ("left-ctrl", &["ctrl"]),
        ] {
            assert_eq!(codes(name), expected, "{name}");
        }
    }

    /// Its names are in the flash procedures of Autokit's device files, and come over the worker's API.
    #[test]
    fn every_key_of_autokits_keyboard_is_known() {
        let names = "a z return esc bckspc tab spacebar caps-lock f1 f12 insert home pageup del end pagedown right \
                     left down up kp-enter num-lock left-ctrl right-ctrl left-shift right-shift left-alt right-alt \
                     left-meta right-meta";
        for name in names.split_whitespace() {
            assert_eq!(codes(name).len(), 1, "{name}");
        }
    }

    #[test]
    fn a_name_of_no_key_is_refused_with_the_nearest_or_all() {
        let near = |name: &str| Stroke::parse(name).unwrap_err().hint();
        assert_eq!(near("entr"), "did you mean `enter`?");
        assert_eq!(near("ctrl-alt-delte"), "did you mean `delete`?");
        for name in ["", "-", "a-b", "ctrl-", "shift--", "f13", "ä"] {
            let error = Stroke::parse(name).unwrap_err();
            assert!(error.to_string().contains(&format!("found `{name}`")), "{error}");
        }
        assert!(near("~").contains("f1 to f12, enter, esc"), "{}", near("~"));
    }

    #[test]
    fn every_printable_ascii_character_can_be_typed() {
        let all: String = (' '..='~').chain(['\n', '\t']).collect();
        let strokes = Stroke::typing(&all).unwrap();
        let distinct: std::collections::BTreeSet<_> = strokes.iter().map(|stroke| stroke.0.clone()).collect();
        assert_eq!((strokes.len(), distinct.len()), (97, 97));
        assert_eq!(
            Stroke::typing("aA?").unwrap()[1..],
            [Stroke(vec!["shift", "a"]), Stroke(vec!["shift", "slash"])]
        );
        assert_eq!(Stroke::typing("né").unwrap_err(), Untypable { character: 'é' });
    }

    /// The type that knows all of QEMU's codes stands in for QEMU's own refusal.
    #[test]
    fn every_key_has_a_code_of_qemu() {
        for name in all_names().chain(PLAIN).chain(TYPED.map(|(code, _, _)| code)) {
            let code = code_of(name).unwrap_or(name);
            let known: Result<qapi::qmp::QKeyCode, _> = serde_json::from_value(code.into());
            assert!(known.is_ok(), "{name}: {code}");
        }
    }
}
