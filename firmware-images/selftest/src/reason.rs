//! Why a command failed.

use alloc::borrow::Cow;
use alloc::string::String;
use core::fmt;

/// The reason itself; it is printed as `NAME: reason`.
#[derive(Clone, Debug)]
pub enum Reason {
    /// A few words.
    Text(Cow<'static, str>),
    /// It was called in a wrong way.
    Usage,
    /// It is there to fail.
    Silent,
}

impl From<&'static str> for Reason {
    fn from(text: &'static str) -> Reason {
        Reason::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Reason {
        Reason::Text(Cow::Owned(text))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Reason::Text(text) => formatter.write_str(text),
            Reason::Usage => formatter.write_str("wrong arguments"),
            Reason::Silent => Ok(()),
        }
    }
}
