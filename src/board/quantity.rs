//! Quantities with their units, as people write them in board and suite files: `8GiB`, `250ms`.

use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes. Written as a whole number with `B`, `KiB`, `MiB`, `GiB` or `TiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A span of time. Written as a whole number with `ms`, `s` or `min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Duration);

/// A share of a whole, from 0 to 1. Written as a number with `%`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Percent(pub f64);

/// A text that should have been a quantity with its unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found `{found}`")]
pub struct QuantityError {
    expected: &'static str,
    found: String,
}

const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

const TIME_UNITS_MS: [(&str, u64); 3] = [("ms", 1), ("s", 1_000), ("min", 60_000)];

impl ByteSize {
    /// Reads `8GiB` and the like.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let expected = "a size such as `8GiB` or `512MiB`";
        parse_with(text, &SIZE_UNITS)
            .map(Self)
            .ok_or_else(|| QuantityError { expected, found: text.to_owned() })
    }

    /// So many MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
}

/// Reads `250ms`, `2s` or `5min`.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let expected = "a time such as `250ms`, `2s` or `5min`";
    parse_with(text, &TIME_UNITS_MS)
        .map(Duration::from_millis)
        .ok_or_else(|| QuantityError { expected, found: text.to_owned() })
}

fn parse_with(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, factor): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*factor);
        let (unit, factor) = SIZE_UNITS.iter().find(whole).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl Time {
    /// Reads `250ms` and the like.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        parse_duration(text).map(Self)
    }
}

impl fmt::Display for Time {
    /// In the largest whole unit; what is below a millisecond is dropped, as no file can say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match ms {
            0 => f.write_str("0s"),
            _ if ms.is_multiple_of(60_000) => write!(f, "{}min", ms / 60_000),
            _ if ms.is_multiple_of(1_000) => write!(f, "{}s", ms / 1_000),
            _ => write!(f, "{ms}ms"),
        }
    }
}

/// Writes a [`Duration`] as files do: `250ms`, not a pair of seconds and nanoseconds.
pub fn serialize_duration<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Time(*time))
}

/// Writes an optional [`Duration`] as files do, `None` as null.
pub fn serialize_optional_duration<S: Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serialize_duration(time, serializer),
        None => serializer.serialize_none(),
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Time {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "a time such as `250ms`, `2s` or `5min`",
            "type": "string",
            "pattern": "^[0-9]+(ms|s|min)$"
        })
    }
}

impl Percent {
    /// Reads `2%` or `0.05%`.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let number = text.strip_suffix('%').filter(|number| number.starts_with(|c: char| c.is_ascii_digit()));
        let percent =
            number.and_then(|number| number.parse::<f64>().ok()).filter(|percent| *percent <= 100.0);
        percent.map(|percent| Self(percent / 100.0)).ok_or_else(|| QuantityError {
            expected: "a share from `0%` to `100%`, such as `0.5%`",
            found: text.to_owned(),
        })
    }
}

impl fmt::Display for Percent {
    /// With two digits that count: `3.2%`, `0.013%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.0 * 100.0;
        let digits = if percent == 0.0 { 0.0 } else { (1.0 - percent.log10().floor()).max(0.0) };
        let shown = format!("{percent:.*}", digits as usize);
        let shown =
            if shown.contains('.') { shown.trim_end_matches('0').trim_end_matches('.') } else { &shown };
        write!(f, "{shown}%")
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "a share from `0%` to `100%`, such as `0.5%`",
            "type": "string",
            "pattern": "^[0-9]+([.][0-9]+)?%$"
        })
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "a size such as `8GiB` or `512MiB`",
            "type": "string",
            "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_with_the_largest_whole_unit() {
        for text in ["8GiB", "512MiB", "1536KiB", "513B"] {
            assert_eq!(ByteSize::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn times_are_written_as_they_are_read() {
        for text in ["0s", "250ms", "90s", "5min", "1500ms"] {
            assert_eq!(Time::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn shares_are_read_and_written_with_two_digits_that_count() {
        for text in ["0%", "2%", "0.5%", "0.013%", "99%", "100%"] {
            assert_eq!(Percent::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Percent(1.0 / 3.0).to_string(), "33%");
        for text in ["5", "%", "-1%", "101%", "nan%", "inf%", "1e9%", ""] {
            assert!(Percent::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_quantity_without_a_known_unit_is_refused_with_what_was_found() {
        for text in ["8", "8GB", "GiB", "-1s", "99999999999999999999GiB", ""] {
            assert!(ByteSize::parse(text).unwrap_err().to_string().contains(&format!("`{text}`")));
        }
        assert!(parse_duration("2").is_err());
        assert_eq!(parse_duration("5min"), Ok(Duration::from_secs(300)));
    }
}
