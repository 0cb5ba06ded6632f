//! Suites: what is run on a DUT, step by step, and what is known of it afterwards.
//!
//! A [`Suite`] is read from a TOML file and checked as a whole before anything runs. [`run`] drives a
//! `Device` with it and returns an [`outcome::SuiteReport`]. The suite owns nothing but its text; programs that
//! it starts are gone when `run` returns.

pub mod builtin;
pub mod check;
pub mod file;
pub mod medium;
pub mod outcome;
mod program;
pub mod progress;
pub mod run;
pub mod screen;
mod step;
pub mod template;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::board::{Board, Capability, InstallEnd, word};
use crate::device::boot_switch::SwitchPosition;
use crate::device::network::{OS_SSH_PORT, SSH_PORT};
use crate::device::operate::PowerVerb;
use crate::device::power::PowerState;
use crate::event::Origin;
use crate::procedure::InstallerChoice;

use self::medium::MediumStep;
use self::screen::{KeyboardStep, ScreenStep};
use self::template::{Template, Values};

pub use self::file::{MoveVerb, OnOff};

/// Tests that run one after the other on one DUT.
#[derive(Debug, Clone)]
pub struct Suite {
    /// What it is called in reports.
    pub title: String,
    /// What to give on the command line to run it again: a path, or the name of a built-in suite.
    pub source: String,
    /// The directory that its relative paths start from; `None` for a built-in suite, which has no paths.
    pub dir: Option<PathBuf>,
    /// What the board must have.
    pub needs: Vec<Capability>,
    /// What is flashed if the command line gives no image.
    pub image: Option<ImageChoice>,
    /// TCP ports of the DUT that the host must reach.
    pub forward: Vec<u16>,
    /// Its variables with their values; see [`Suite::set`].
    pub variables: Values,
    /// How long all tests together may take.
    pub deadline: Duration,
    /// Whether the first test that fails is the last one that runs.
    pub fail_fast: bool,
    /// Its tests; never empty.
    pub tests: Vec<Test>,
}

/// The image that a suite brings along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageChoice {
    /// The self-test image of the board's architecture.
    Selftest,
    /// A file.
    File(PathBuf),
}

/// One test.
#[derive(Debug, Clone)]
pub struct Test {
    /// What it is called in reports; unique in its suite.
    pub title: String,
    /// What the board must have, also for what its steps imply.
    pub needs: Vec<Capability>,
    /// How long it may take.
    pub deadline: Duration,
    /// What is done; never empty.
    pub steps: Vec<Step>,
}

/// One step of a test.
#[derive(Debug, Clone)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// How long it may take; `None` is what is left of the test's time.
    pub within: Option<Duration>,
    /// The stage that ends with it.
    pub stage: Option<String>,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Operates the power supply, the power button or the reset line.
    Power(PowerVerb),
    /// Puts a network cable in, or pulls it out.
    Link {
        /// The interface's name in the board file; `None` is the board's first.
        interface: Option<String>,
        /// Whether the cable is in afterwards.
        up: bool,
    },
    /// Changes or reads a medium at the host.
    Medium(MediumStep),
    /// Puts a removable medium in, or takes it out.
    Move {
        /// Its name in the board file; `None` is the only one that can be moved.
        medium: Option<String>,
        /// What is done to it.
        verb: MoveVerb,
    },
    /// Operates the boot switch.
    BootSwitch(SwitchPosition),
    /// Switches the power of the USB boot port.
    UsbPort(OnOff),
    /// Writes an image and verifies it, and runs it if it is an installer.
    Flash(FlashStep),
    /// Waits for a text on the console.
    Expect(Template),
    /// Waits for a regular expression on the console.
    ExpectRegex {
        /// The expression.
        regex: Template,
        /// Variables and the groups that they are set to.
        capture: Vec<(String, String)>,
    },
    /// Types a line.
    Send(Template),
    /// Types characters as they are.
    SendKeys(Template),
    /// Runs a command in the DUT's shell.
    Run(Run),
    /// Reaches a shell.
    LogIn,
    /// Waits for an event that was caused by the last step that did something.
    WaitEvent {
        /// Its name, one of `EventKind::NAMES`.
        name: &'static str,
        /// Who must have asked for it.
        by: Option<Origin>,
    },
    /// Types on the keyboard.
    Keyboard(KeyboardStep),
    /// Looks at the screen.
    Screen(ScreenStep),
    /// Says what must be true.
    Assert(Assertion),
    /// Runs a program on the host.
    Exec(Vec<Template>),
    /// Runs a command over SSH.
    Ssh(Run, Visit),
    /// Copies a file to the DUT.
    Put {
        /// The file on this host.
        from: PathBuf,
        /// Its path on the DUT.
        to: Template,
        /// Who copies it.
        visit: Visit,
    },
    /// Copies a file from the DUT.
    Get {
        /// Its path on the DUT.
        from: Template,
        /// What it is called in the run directory.
        name: String,
        /// Who copies it.
        visit: Visit,
    },
}

/// Who comes over the network, and where; `None` is the usual.
#[derive(Debug, Clone)]
pub struct Visit {
    /// The user who logs in.
    pub user: Option<Template>,
    /// The DUT's TCP port.
    pub port: Option<u16>,
}

/// What a `flash` step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlashStep {
    /// What it writes.
    pub source: FlashSource,
    /// Whether that is an installer; `None` leaves it to the run.
    pub installer: Option<InstallerChoice>,
    /// How the installer says that it is done; `None` leaves it to the board's file.
    pub ends: Option<InstallEnd>,
    /// How long the step may take, and so the installer; `None` leaves that to the board's file.
    pub within: Option<Duration>,
}

/// What a `flash` step writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlashSource {
    /// The image that the suite runs with.
    Image,
    /// A file.
    File(PathBuf),
}

/// A command in the DUT's shell, and what must come of it.
#[derive(Debug, Clone)]
pub struct Run {
    /// The command.
    pub command: Template,
    /// Its exit status.
    pub status: u8,
    /// Its whole output.
    pub output: Option<Template>,
    /// What must match in its output.
    pub output_regex: Option<Template>,
    /// The variable that takes its output.
    pub save: Option<String>,
}

/// What must be true.
#[derive(Debug, Clone)]
pub enum Assertion {
    /// Both texts are the same.
    Equal(Template, Template),
    /// The first text holds the second.
    Contains(Template, Template),
    /// The first text matches the regular expression.
    Matches(Template, Template),
    /// The DUT is in this state.
    PowerState(PowerState),
}

/// A variable that the suite does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("suite `{suite}` has no variable `{name}`")]
pub struct NoSuchVariable {
    /// The suite.
    pub suite: String,
    /// The name that was given.
    pub name: String,
}

impl Suite {
    /// Gives one of its variables another value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), NoSuchVariable> {
        let missing = || NoSuchVariable { suite: self.source.clone(), name: name.to_owned() };
        *self.variables.get_mut(name).ok_or_else(missing)? = value.to_owned();
        Ok(())
    }

    /// Whether a text of its steps has this variable in it.
    pub fn names(&self, variable: &str) -> bool {
        let mut texts =
            self.tests.iter().flat_map(|test| &test.steps).flat_map(|step| step.action.templates());
        texts.any(|text| text.names().any(|name| name == variable))
    }

    /// The DUT's TCP ports that this host must reach on `board`: the board's, the suite's own, those of `more`, and
    /// what its steps log in to.
    pub fn ports(&self, board: &Board, more: &[u16]) -> Vec<u16> {
        let named: BTreeSet<u16> = board.ports.iter().chain(&self.forward).chain(more).copied().collect();
        let usual = if named.contains(&OS_SSH_PORT) { OS_SSH_PORT } else { SSH_PORT };
        let steps = self.tests.iter().flat_map(|test| &test.steps);
        let visited = steps.filter_map(|step| match &step.action {
            Action::Ssh(_, visit) | Action::Put { visit, .. } | Action::Get { visit, .. } => {
                Some(visit.port.unwrap_or(usual))
            }
            _ => None,
        });
        visited.chain(named.iter().copied()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether it cannot run without an image: a step flashes the image of the run, or uses what is known of it.
    pub fn wants_image(&self) -> bool {
        let mut steps = self.tests.iter().flat_map(|test| &test.steps);
        steps.any(|step| {
            matches!(&step.action, Action::Flash(flash) if flash.source == FlashSource::Image)
                || step
                    .action
                    .templates()
                    .iter()
                    .flat_map(|text| text.names())
                    .any(|name| name.starts_with("image."))
        })
    }
}

impl Action {
    /// What the board must have for it.
    pub fn needs(&self) -> Option<Capability> {
        match self {
            Self::Power(PowerVerb::Press | PowerVerb::Hold) => Some(Capability::PowerButton),
            Self::Power(PowerVerb::Reset) => Some(Capability::Reset),
            Self::Move { .. } => Some(Capability::RemovableMedium),
            Self::BootSwitch(_) => Some(Capability::BootSwitch),
            Self::UsbPort(_) => Some(Capability::UsbBootPort),
            Self::Link { .. } | Self::Ssh(..) | Self::Put { .. } | Self::Get { .. } => {
                Some(Capability::Network)
            }
            Self::Expect(_) | Self::ExpectRegex { .. } | Self::Send(_) | Self::SendKeys(_) => {
                Some(Capability::Serial)
            }
            Self::Run(_) | Self::LogIn => Some(Capability::Serial),
            Self::Keyboard(_) => Some(Capability::Keyboard),
            Self::Screen(_) => Some(Capability::Screen),
            Self::WaitEvent { name: "panic", .. } => Some(Capability::PanicEvent),
            Self::WaitEvent { name: "watchdog", .. } => Some(Capability::Watchdog),
            Self::Power(_) | Self::Flash(_) | Self::Medium(_) => None,
            Self::WaitEvent { .. } | Self::Assert(_) | Self::Exec(_) => None,
        }
    }

    /// Whether it needs a file that lies beside the suite.
    pub fn brings_files(&self) -> bool {
        match self {
            Self::Flash(step) => matches!(step.source, FlashSource::File(_)),
            Self::Medium(step) => step.brings_files(),
            _ => false,
        }
    }

    /// All texts with variables in it.
    pub fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Expect(text) | Self::Send(text) | Self::SendKeys(text) => vec![text],
            Self::ExpectRegex { regex, .. } => vec![regex],
            Self::Run(run) => run.templates().collect(),
            Self::Ssh(run, visit) => run.templates().chain(&visit.user).collect(),
            Self::Put { to: path, visit, .. } | Self::Get { from: path, visit, .. } => {
                std::iter::once(path).chain(&visit.user).collect()
            }
            Self::Keyboard(KeyboardStep::Text(text)) => vec![text],
            Self::Keyboard(KeyboardStep::Keys(_)) | Self::Screen(_) => Vec::new(),
            Self::Assert(
                Assertion::Equal(left, right)
                | Assertion::Contains(left, right)
                | Assertion::Matches(left, right),
            ) => vec![left, right],
            Self::Exec(words) => words.iter().collect(),
            Self::Medium(step) => step.templates(),
            Self::Power(_) | Self::Link { .. } | Self::Move { .. } | Self::Flash(_) => Vec::new(),
            Self::BootSwitch(_) | Self::UsbPort(_) => Vec::new(),
            Self::LogIn | Self::WaitEvent { .. } | Self::Assert(_) => Vec::new(),
        }
    }
}

impl Run {
    fn templates(&self) -> impl Iterator<Item = &Template> {
        std::iter::once(&self.command).chain(&self.output).chain(&self.output_regex)
    }
}

impl fmt::Display for Action {
    /// As it was written, in the words of the suite file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &Template| format!("`{}`", text.source().escape_debug());
        match self {
            Self::Power(verb) => write!(f, "power {}", word(verb)),
            Self::Link { interface, up } => {
                write!(f, "link {}", if *up { "up" } else { "down" })?;
                interface.iter().try_for_each(|name| write!(f, " of {name}"))
            }
            Self::Medium(step) => step.fmt(f),
            Self::Move { medium, verb } => {
                write!(f, "{} medium", word(verb))?;
                medium.iter().try_for_each(|medium| write!(f, " {medium}"))
            }
            Self::BootSwitch(position) => write!(f, "boot switch {}", word(position)),
            Self::UsbPort(verb) => write!(f, "USB boot port {}", word(verb)),
            Self::Flash(step) => match &step.source {
                FlashSource::Image => f.write_str("flash the image"),
                FlashSource::File(path) => write!(f, "flash {}", path.display()),
            },
            Self::Expect(text) => write!(f, "expect {}", quoted(text)),
            Self::ExpectRegex { regex, .. } => write!(f, "expect regex `{}`", regex.source()),
            Self::Send(text) => write!(f, "send {}", quoted(text)),
            Self::SendKeys(text) => write!(f, "send keys {}", quoted(text)),
            Self::Run(run) => write!(f, "run {}", quoted(&run.command)),
            Self::LogIn => f.write_str("login"),
            Self::WaitEvent { name, by: None } => write!(f, "wait for event {name}"),
            Self::WaitEvent { name, by: Some(by) } => write!(f, "wait for event {name} by {}", word(by)),
            Self::Keyboard(step) => step.fmt(f),
            Self::Screen(step) => step.fmt(f),
            Self::Assert(Assertion::Equal(left, right)) => {
                write!(f, "assert {} equals {}", quoted(left), quoted(right))
            }
            Self::Assert(Assertion::Contains(left, right)) => {
                write!(f, "assert {} contains {}", quoted(left), quoted(right))
            }
            Self::Assert(Assertion::Matches(left, right)) => {
                write!(f, "assert {} matches {}", quoted(left), quoted(right))
            }
            Self::Assert(Assertion::PowerState(state)) => {
                write!(f, "assert power is {}", word(state))
            }
            Self::Exec(words) => {
                let words: Vec<&str> = words.iter().map(Template::source).collect();
                write!(f, "exec `{}`", words.join(" "))
            }
            Self::Ssh(run, _) => write!(f, "ssh {}", quoted(&run.command)),
            Self::Put { from, to, .. } => write!(f, "put {} as {}", from.display(), quoted(to)),
            Self::Get { from, name, .. } => write!(f, "get {} as {name}", quoted(from)),
        }
    }
}
