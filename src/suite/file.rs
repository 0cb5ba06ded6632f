//! The TOML of a suite, key by key.
//!
//! These structs mirror the file and nothing else; [`super::check`] makes a [`super::Suite`] of them. Every key may
//! be missing when they are read, so that one missing key does not hide the other complaints; what may be left
//! out in the schema is an `Option` that is not `required`, or has a `default` of its own. Their doc comments are the
//! help that editors show, through `tests/suites/suite.schema.json`; `docs/suites.md` is the reference for people.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::board::{Capability, Time};
use crate::device::power::PowerState;
use crate::event::{EventKind, Origin};

/// A suite: tests that run one after the other on one DUT.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(!default)]
pub struct SuiteFile {
    /// What the suite is called in reports.
    #[schemars(required)]
    pub title: Option<String>,
    /// What the board must have, or every test is skipped.
    #[serde(default)]
    pub needs: Vec<Capability>,
    /// The image that is flashed if none is given: `selftest`, or a path relative to this file.
    pub image: Option<String>,
    /// TCP ports of the DUT that this host reaches on `${dut.address}`.
    #[serde(default)]
    pub forward: Vec<u16>,
    /// Texts that steps use as `${name}`; the command line can give them other values.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// How long all tests together may take; `30min` if left out.
    pub deadline: Option<Time>,
    /// Whether the first test that fails is the last one that runs.
    #[serde(default)]
    pub fail_fast: bool,
    /// The tests, in the order in which they run.
    #[schemars(required)]
    pub test: Vec<TestFile>,
}

/// One test.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(!default)]
pub struct TestFile {
    /// What the test is called in reports; no two tests of a suite share a title.
    #[schemars(required)]
    pub title: Option<String>,
    /// What the board must have, or the test is skipped; what its steps need is added by itself.
    #[serde(default)]
    pub needs: Vec<Capability>,
    /// How long the test may take; `5min` if left out.
    pub deadline: Option<Time>,
    /// What is done, in this order.
    #[schemars(required)]
    pub steps: Vec<StepFile>,
}

/// One step: a verb, and what belongs to it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(!default)]
pub struct StepFile {
    /// Operates the power supply, the power button or the reset line.
    pub power: Option<PowerVerb>,
    /// Puts a network cable in, or pulls it out; it stays so over power cycles.
    pub link: Option<LinkVerb>,
    /// Writes an image and verifies it: `image` is the one that the suite runs with, all else is a path relative
    /// to this file.
    pub flash: Option<String>,
    /// Writes a whole file on a medium, such as `boot:/config.json`, and makes the folders above it; only while the
    /// power is off.
    pub write_file: Option<String>,
    /// Gives keys of the JSON object in a file on a medium new values, as RFC 7396 has it: `null` removes a key; only
    /// while the power is off.
    pub merge_json: Option<String>,
    /// Removes a file on a medium; only while the power is off.
    pub remove_file: Option<String>,
    /// Reads a text file on a medium; only while the power is off.
    pub read_file: Option<String>,
    /// Grows the last partition of a medium to the medium's end, but not the file system in it; only while the power
    /// is off.
    pub expand: Option<bool>,
    /// Waits until the console says this text.
    pub expect: Option<String>,
    /// Waits until the console says what this regular expression matches; `^` and `$` are the ends of a line.
    pub expect_regex: Option<String>,
    /// Types this line and the Enter key.
    pub send: Option<String>,
    /// Types these characters as they are.
    pub send_keys: Option<String>,
    /// Runs this command in the shell on the console.
    pub run: Option<String>,
    /// Reaches a shell on the console; answers a login prompt as the board's file says.
    pub login: Option<bool>,
    /// Waits for an event, such as `halt`.
    #[schemars(extend("enum" = EventKind::NAMES))]
    pub wait_event: Option<String>,
    /// Compares values, or says what state the DUT must be in.
    pub assert: Option<AssertFile>,
    /// Runs a program on the host, without a shell; it passes with exit status 0.
    pub exec: Option<Vec<String>>,

    /// The network interface whose `link` changes, by its name in the board's file; the first if left out.
    pub interface: Option<String>,
    /// How long the step may take; `60s` if left out, for `flash` and `exec` what is left of the test's time.
    pub within: Option<Time>,
    /// Variables that are set to groups of `expect_regex`, as in `{ address = "1" }`; they hold until the test ends.
    #[serde(default)]
    pub capture: BTreeMap<String, String>,
    /// The exit status that `run` must end with; 0 if left out.
    pub status: Option<u8>,
    /// What `run` must print, without line ends at its end.
    pub output: Option<String>,
    /// What must match somewhere in what `run` prints.
    pub output_regex: Option<String>,
    /// The medium, by its name in the board's file; the one that is flashed if left out.
    pub medium: Option<String>,
    /// What `write_file` writes, the object that `merge_json` merges, or what must stand in the file of `read_file`,
    /// without line ends at its end.
    pub content: Option<String>,
    /// The file whose bytes are written or merged, relative to this file.
    pub from: Option<String>,
    /// What must match somewhere in the file of `read_file`.
    pub content_regex: Option<String>,
    /// The variable that is set to what `run` prints or `read_file` reads; it holds until the test ends.
    pub save: Option<String>,
    /// Who must have asked for the `halt` or `reset` that is waited for.
    pub by: Option<Origin>,
}

/// What can be done to the power of a DUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PowerVerb {
    /// Gives mains.
    On,
    /// Takes mains away.
    Off,
    /// Takes mains away, waits until the board has forgotten, and gives them back.
    Cycle,
    /// Presses the power button for a moment.
    Press,
    /// Holds the power button until the system is forced off.
    Hold,
    /// Pulls the reset line.
    Reset,
}

/// What can be done to a network cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkVerb {
    /// Puts it in.
    Up,
    /// Pulls it out.
    Down,
}

/// One thing that must be true.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(!default)]
pub struct AssertFile {
    /// Two texts that must be the same.
    pub equal: Option<Vec<String>>,
    /// A text, and what must stand somewhere in it.
    pub contains: Option<Vec<String>>,
    /// A text, and a regular expression that must match somewhere in it.
    pub matches: Option<Vec<String>>,
    /// The state that the DUT must be in.
    pub power_state: Option<PowerState>,
}
