//! The TOML of a suite, key by key.
//!
//! These structs mirror the file and nothing else; [`super::check`] makes a [`super::Suite`] of them. Every key may
//! be missing when they are read, so that one missing key does not hide the other complaints; what may be left
//! out in the schema is an `Option` that is not `required`, or has a `default` of its own. Their doc comments are the
//! help that editors show, through `tests/suites/suite.schema.json`; `docs/suites.md` is the reference for people.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::screen::Look;
use crate::board::{Capability, InstallEnd, Percent, Time};
use crate::device::boot_switch::SwitchPosition;
use crate::device::operate::PowerVerb;
use crate::device::power::PowerState;
use crate::event::{EventKind, Origin};
use crate::procedure::InstallerChoice;

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
    /// Puts a removable medium in, or takes it out, also while the DUT runs where its socket allows that; without
    /// `medium`, the only one that can be moved.
    pub move_medium: Option<MoveVerb>,
    /// Operates the boot switch: `flash` makes the board start from the medium that is flashed, or show it over USB,
    /// from the next time on that power comes.
    pub boot_switch: Option<SwitchPosition>,
    /// Switches the power of the USB boot port, through which the host writes the board's medium.
    pub usb_port: Option<OnOff>,
    /// Writes an image and verifies it, and runs it if it is an installer: `image` is the one that the suite runs
    /// with, all else is a path relative to this file.
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
    /// Presses these keys on the keyboard, one after the other, such as `enter`, `f2` or `ctrl-alt-delete`.
    pub keyboard: Option<Vec<String>>,
    /// Types this text on the keyboard, with US layout.
    pub keyboard_text: Option<String>,
    /// Keeps what the screen shows as a PNG of this name in the run directory.
    pub screenshot: Option<String>,
    /// Waits until the screen shows this picture: a PNG, by its path relative to this file.
    pub expect_screen: Option<String>,
    /// Waits until the screen is blank, drawn on, or another than before.
    pub wait_screen: Option<Look>,
    /// Compares values, or says what state the DUT must be in.
    pub assert: Option<AssertFile>,
    /// Runs a program on the host, without a shell; it passes with exit status 0.
    pub exec: Option<Vec<String>>,

    /// Runs this command over SSH, once the DUT lets us log in.
    pub ssh: Option<String>,
    /// Copies this file, by its path relative to this one, to the DUT over SSH.
    pub put: Option<String>,
    /// Copies this file of the DUT into the run directory over SSH.
    pub get: Option<String>,

    /// The network interface whose `link` changes, by its name in the board's file; the first if left out.
    pub interface: Option<String>,
    /// Whether what is flashed is an installer, which is run; if left out, what is in it tells.
    pub installer: Option<InstallerChoice>,
    /// How the installer says that it is done; if left out, the board's file tells.
    pub ends: Option<InstallEnd>,
    /// The part of the screen that `expect_screen` compares; all of it if left out.
    pub region: Option<RegionFile>,
    /// The share of the pixels that may differ for `expect_screen`, `0%` if left out; up to which nothing counts as
    /// drawn or changed for `wait_screen`, `0.05%` if left out.
    pub tolerance: Option<Percent>,
    /// How long the step may take; `60s` if left out, for `flash` and `exec` what is left of the test's time.
    pub within: Option<Time>,
    /// What the time up to the end of this step was spent on, since the last step with a stage or the test's begin.
    pub stage: Option<String>,
    /// Variables that are set to groups of `expect_regex`, as in `{ address = "1" }`; they hold until the test ends.
    #[serde(default)]
    pub capture: BTreeMap<String, String>,
    /// The exit status that `run` or `ssh` must end with; 0 if left out.
    pub status: Option<u8>,
    /// What `run` or `ssh` must print, without line ends at its end.
    pub output: Option<String>,
    /// What must match somewhere in what `run` or `ssh` prints.
    pub output_regex: Option<String>,
    /// The medium, by its name in the board's file; if left out, the one that is flashed, and for `move_medium` the only
    /// one that can be moved.
    pub medium: Option<String>,
    /// What `write_file` writes, the object that `merge_json` merges, or what must stand in the file of `read_file`,
    /// without line ends at its end.
    pub content: Option<String>,
    /// The file whose bytes are written or merged, relative to this file.
    pub from: Option<String>,
    /// What must match somewhere in the file of `read_file`.
    pub content_regex: Option<String>,
    /// The variable that is set to what `run` or `ssh` prints or `read_file` reads; it holds until the test ends.
    pub save: Option<String>,
    /// Who logs in over SSH; the user of the board's file if left out, or `root`.
    pub user: Option<String>,
    /// The DUT's TCP port for SSH; 22222 if the board or the suite forwards it, else 22.
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Where `put` writes on the DUT, or how `get` calls the file in the run directory.
    pub r#as: Option<String>,
    /// Who must have asked for the `halt` or `reset` that is waited for.
    pub by: Option<Origin>,
}

/// A part of the screen, in pixels.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(!default)]
pub struct RegionFile {
    /// The first column; 0 is the left one.
    #[serde(default)]
    pub x: u32,
    /// The first row; 0 is the top one.
    #[serde(default)]
    pub y: u32,
    /// How many columns.
    #[schemars(required)]
    pub width: Option<u32>,
    /// How many rows.
    #[schemars(required)]
    pub height: Option<u32>,
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

/// What can be done to a port's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnOff {
    /// Gives it.
    On,
    /// Takes it.
    Off,
}

/// What can be done to a removable medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MoveVerb {
    /// Puts it into the DUT.
    Insert,
    /// Takes it out.
    Remove,
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
