//! Steps on the screen and the keyboard, as plain data; `step::screen` performs them. Nothing to clean up.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::template::Template;
use crate::board::{Percent, word};
use crate::device::keyboard::key::Stroke;
use crate::io::picture::Region;

/// What is typed on the keyboard.
#[derive(Debug, Clone)]
pub enum KeyboardStep {
    /// Keys, each with the name by which it was written.
    Keys(Vec<(String, Stroke)>),
    /// A text, on a US keyboard.
    Text(Template),
}

/// What is done with the screen.
#[derive(Debug, Clone)]
pub enum ScreenStep {
    /// Keeps what it shows as a PNG of that name.
    Shot(String),
    /// Waits until it shows a picture.
    Expect(ExpectScreen),
    /// Waits until it has a look.
    Wait {
        /// The look.
        look: Look,
        /// Up to which share of the pixels nothing counts as drawn or changed.
        tolerance: Percent,
    },
}

/// What the screen must show.
#[derive(Debug, Clone)]
pub struct ExpectScreen {
    /// A PNG.
    pub reference: PathBuf,
    /// Where it is compared; `None` is everywhere.
    pub region: Option<Region>,
    /// The share of the pixels that may differ.
    pub tolerance: Percent,
}

/// A look of the screen that needs no picture to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Look {
    /// One colour, or no signal.
    Blank,
    /// More than one colour.
    Drawn,
    /// Another than when the last step that did something began.
    Changed,
}

impl fmt::Display for KeyboardStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(keys) => {
                let names: Vec<&str> = keys.iter().map(|(name, _)| name.as_str()).collect();
                write!(f, "keyboard {}", names.join(" "))
            }
            Self::Text(text) => write!(f, "keyboard text `{}`", text.source().escape_debug()),
        }
    }
}

impl fmt::Display for ScreenStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shot(name) => write!(f, "screenshot {name}"),
            Self::Expect(expected) => write!(f, "expect screen {}", expected.reference.display()),
            Self::Wait { look, .. } => write!(f, "wait for screen {}", word(look)),
        }
    }
}
