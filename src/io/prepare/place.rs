//! Where a file lies on a medium, as people write it: `boot:/config.json`. Pure.

use std::fmt;
use std::str::FromStr;

/// A file or folder on a medium: a partition, and a path in its file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The partition's number, or what its table or its file system calls it.
    pub partition: String,
    /// The names on the way; none for the root folder.
    pub path: Vec<String>,
}

/// A text that is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a place such as `boot:/config.json` or `1:/config.json`, found `{text}`: {reason}")]
pub struct NoPlace {
    text: String,
    reason: &'static str,
}

/// "The maximum length is 255 characters", Microsoft's FAT specification, long directory entries.
const LONGEST_NAME: usize = 255;

impl Place {
    /// A place that is no root folder.
    pub fn of_file(text: &str) -> Result<Self, NoPlace> {
        let place: Self = text.parse()?;
        if place.path.is_empty() || text.ends_with('/') {
            return Err(NoPlace { text: text.to_owned(), reason: "it names no file" });
        }
        Ok(place)
    }

    /// The path without its partition, as file systems take it.
    pub(super) fn inner(&self) -> String {
        self.path.join("/")
    }
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let refused = |reason| NoPlace { text: text.to_owned(), reason };
        let (partition, path) = text.split_once(":/").ok_or_else(|| refused("there is no `:/` in it"))?;
        if partition.is_empty() {
            return Err(refused("it names no partition"));
        }
        let path: Vec<String> = path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        for name in &path {
            // As Microsoft's FAT specification has it for long names.
            if name.chars().any(|letter| letter.is_control() || "\"*:<>?|\\".contains(letter)) {
                return Err(refused("a file's name has none of \" * : < > ? | \\ in it"));
            }
            if name.ends_with(['.', ' ']) {
                return Err(refused("a file's name does not end with a dot or a space"));
            }
            if name.len() > LONGEST_NAME {
                return Err(refused("a file's name has at most 255 bytes"));
            }
        }
        Ok(Self { partition: partition.to_owned(), path })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:/{}", self.partition, self.inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_partition_and_a_path() {
        let place: Place = "resin-boot:/EFI//Network Profiles/a.conf".parse().unwrap();
        assert_eq!((place.partition.as_str(), place.path.len()), ("resin-boot", 3));
        assert_eq!(place.to_string(), "resin-boot:/EFI/Network Profiles/a.conf");
        assert_eq!("1:/".parse::<Place>().unwrap().to_string(), "1:/");
    }

    #[test]
    fn what_is_no_place_is_told_with_the_reason() {
        let long = format!("1:/{}", "x".repeat(256));
        for (text, reason) in [
            ("config.json", "no `:/`"),
            ("boot:config.json", "no `:/`"),
            (":/config.json", "no partition"),
            ("1:/", "no file"),
            ("1:/folder/", "no file"),
            ("1:/a/../b", "end with a dot"),
            ("1:/a?b", "has none of"),
            ("1:/a\nb", "has none of"),
            (&long, "at most 255"),
        ] {
            let refused = Place::of_file(text).unwrap_err().to_string();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }
}
