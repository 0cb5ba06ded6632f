//! Performs one step of a test on the device.

mod flash;
mod medium;
pub(super) mod screen;
mod ssh;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use super::run::Options;
use super::template::{Template, Values};
use super::{Action, Assertion, MoveVerb, OnOff, Run, Suite, program};
use crate::board::{Arch, Login};
use crate::deadline::{Deadline, Elapsed};
use crate::device::console::{Console, ConsoleError, Pattern, quote};
use crate::device::operate::PowerVerb;
use crate::device::power::PowerState;
use crate::device::{Device, DeviceError, Fault, NotFitted};
use crate::event::{Event, EventKind, Origin};
use crate::io::image::Image;
use crate::message::chain;
use crate::sys::blocking::blocking;

/// What the steps of one test work on.
pub(super) struct Scene<'a> {
    pub device: &'a mut Device,
    pub suite: &'a Suite,
    pub options: &'a Options<'a>,
    /// Variables, also those that steps of this test have set.
    pub values: Values,
    /// Events from here on end a wait on the console that can no longer succeed.
    pub heed_from: usize,
    /// How many events there were when the last step that does something to the DUT began, or up to the event
    /// that a step has waited for since. `wait_event` counts from here: it cannot miss what that step caused,
    /// and an event of before, or one that was found already, does not satisfy it.
    pub acted_at: usize,
    /// What the screen showed before the last step that did something.
    pub screen_before: screen::Before,
    /// Files that the steps have left, relative to the run directory.
    pub evidence: Vec<PathBuf>,
    /// Begins the names of those files.
    pub prefix: String,
    /// By how much, at most, the step in hand was noticed to be done too late.
    pub late: Duration,
}

/// Why a step did not pass.
#[derive(Debug)]
pub(super) enum StepError {
    /// The DUT did not do what was expected, or the suite asked for what cannot be.
    Failed(String),
    /// The lab could not do its part.
    Broken(String),
}

impl StepError {
    fn of(fault: Fault, error: &dyn Error) -> Self {
        Self::by(fault, chain(error))
    }

    fn by(fault: Fault, message: String) -> Self {
        match fault {
            Fault::Dut => Self::Failed(message),
            Fault::User => Self::impossible(&message),
            Fault::Lab => Self::Broken(message),
        }
    }

    /// The same, with more to say.
    fn with(self, more: &str) -> Self {
        match self {
            Self::Failed(message) => Self::Failed(format!("{message}, {more}")),
            Self::Broken(message) => Self::Broken(message),
        }
    }

    /// The suite is wrong. The lab works, so the tests that follow have their say.
    pub(super) fn impossible(why: &str) -> Self {
        Self::Failed(format!("the suite asks for what cannot be: {why}"))
    }
}

impl From<DeviceError> for StepError {
    fn from(error: DeviceError) -> Self {
        Self::of(error.fault(), &error)
    }
}

impl From<ConsoleError> for StepError {
    fn from(error: ConsoleError) -> Self {
        Self::of(error.fault(), &error)
    }
}

impl From<NotFitted> for StepError {
    fn from(error: NotFitted) -> Self {
        Self::of(Fault::User, &error)
    }
}

/// Performs any step but `exec`. If cancelled, the device is as the cancelled call leaves it.
pub(super) async fn perform(
    scene: &mut Scene<'_>,
    action: &Action,
    deadline: Deadline,
) -> Result<(), StepError> {
    if acts(action) {
        scene.acted_at = scene.device.events.len();
        scene.look_before(deadline).await?;
    }
    match action {
        Action::Power(verb) => power(scene.device, *verb, deadline).await,
        Action::Link { interface, up } => {
            Ok(scene.device.set_link(interface.as_deref(), *up, deadline).await?)
        }
        Action::Medium(step) => medium::perform(scene, step, deadline).await,
        Action::Move { medium, verb } => match verb {
            MoveVerb::Insert => Ok(scene.device.insert_medium(medium.as_deref(), deadline).await?),
            MoveVerb::Remove => Ok(scene.device.remove_medium(medium.as_deref(), deadline).await?),
        },
        Action::BootSwitch(position) => Ok(scene.device.set_boot_switch(*position)?),
        Action::UsbPort(verb) => Ok(scene.device.set_usb_port(*verb == OnOff::On)?),
        Action::Flash(step) => flash::flash(scene, step, deadline).await,
        Action::Expect(text) => {
            let pattern = Pattern::text(&scene.fill(text)?);
            scene.console()?.wait_for(&pattern, deadline).await?;
            Ok(())
        }
        Action::ExpectRegex { regex, capture } => {
            let pattern = scene.pattern(regex)?;
            let found = scene.console()?.wait_for(&pattern, deadline).await?;
            for (name, group) in capture {
                let missing =
                    || StepError::Failed(format!("group `{group}` took no part in `{}`", found.text));
                let value = found.group(group).ok_or_else(missing)?;
                scene.values.insert(name.clone(), value.to_owned());
            }
            Ok(())
        }
        Action::Send(line) => {
            let line = scene.fill(line)?;
            Ok(scene.keyboard()?.send_line(&line, deadline).await?)
        }
        Action::SendKeys(keys) => {
            let keys = scene.fill(keys)?;
            Ok(scene.keyboard()?.send_keys(keys.as_bytes(), deadline).await?)
        }
        Action::Run(run) => run_command(scene, run, deadline).await,
        Action::LogIn => {
            // A board whose file names nobody may still have a shell that asks for nobody.
            let root = || Login { user: "root".to_owned(), password: None };
            let login = scene.device.board.login.clone().unwrap_or_else(root);
            Ok(scene.keyboard()?.log_in(&login, deadline).await?)
        }
        Action::WaitEvent { name, by } => wait_event(scene, name, *by, deadline).await,
        Action::Keyboard(step) => screen::keyboard(scene, step, deadline).await,
        Action::Screen(step) => screen::perform(scene, step, deadline).await,
        Action::Assert(assertion) => assert(scene, assertion),
        Action::Ssh(run, visit) => ssh::run(scene, run, visit, deadline).await,
        Action::Put { from, to, visit } => ssh::put(scene, from, to, visit, deadline).await,
        Action::Get { from, name, visit } => ssh::get(scene, from, name, visit, deadline).await,
        Action::Exec(_) => unreachable!("a program is performed by `exec`"),
    }
}

/// Runs a program to its end. When `cancelled` ends first, the program and its children are killed.
pub(super) async fn exec(
    scene: &mut Scene<'_>,
    words: &[Template],
    deadline: Deadline,
    cancelled: impl Future<Output = ()>,
) -> Result<(), StepError> {
    scene.acted_at = scene.device.events.len();
    scene.look_before(deadline).await?;
    let words = words.iter().map(|word| scene.fill(word)).collect::<Result<Vec<_>, _>>()?;
    let forwards = scene.device.forwards(deadline).await?;
    let mut environment = vec![
        ("STANDIN_BOARD".to_owned(), scene.device.board.slug.clone()),
        ("STANDIN_ARCH".to_owned(), uname_machine(scene.device.board.arch).to_owned()),
        ("STANDIN_BACKEND".to_owned(), scene.options.backend.to_owned()),
        ("STANDIN_RUN_DIR".to_owned(), scene.options.run_dir.display().to_string()),
    ];
    if let Ok(address) = scene.device.address() {
        environment.push(("STANDIN_ADDRESS".to_owned(), address.to_string()));
    }
    if let Some(image) = scene.options.image
        && let Some(sha256) = sha256_of(image).await
    {
        environment.push(("STANDIN_IMAGE_SHA256".to_owned(), sha256));
    }
    if let Some(identity) = &scene.options.credentials.identity {
        environment.push(("STANDIN_SSH_KEY".to_owned(), identity.file.display().to_string()));
    }
    for (dut, host) in forwards {
        environment.push((format!("STANDIN_FORWARD_{dut}"), host.to_string()));
    }
    let program = program::Program {
        words: &words,
        environment,
        dir: scene.suite.dir.as_deref(),
        run_dir: scene.options.run_dir,
        name: format!("{}-exec-{}", scene.prefix, scene.evidence.len() / 2 + 1),
    };
    scene.evidence.extend(program.evidence());
    program.run(deadline, cancelled).await
}

/// The image's SHA-256, if its base can be read.
pub(super) async fn sha256_of(image: &Image) -> Option<String> {
    let image = image.clone();
    blocking(move || image.sha256().ok()).await
}

/// What `uname -m` says on a Linux of this architecture.
pub(super) fn uname_machine(arch: Arch) -> &'static str {
    match arch {
        Arch::Armv7 => "armv7l",
        other => other.qemu_name(),
    }
}

/// Whether a step does something to the DUT that can cause an event.
fn acts(action: &Action) -> bool {
    match action {
        Action::Power(_) | Action::Link { .. } | Action::Flash(_) | Action::Medium(_) => true,
        Action::Move { .. } => true,
        Action::BootSwitch(_) | Action::UsbPort(_) => true,
        Action::Send(_) | Action::SendKeys(_) => true,
        Action::Run(_) | Action::LogIn | Action::Exec(_) | Action::Keyboard(_) => true,
        Action::Ssh(..) | Action::Put { .. } | Action::Get { .. } => true,
        Action::Expect(_) | Action::ExpectRegex { .. } | Action::WaitEvent { .. } | Action::Assert(_) => {
            false
        }
        Action::Screen(_) => false,
    }
}

async fn power(device: &mut Device, verb: PowerVerb, deadline: Deadline) -> Result<(), StepError> {
    let late = |Elapsed { given }| StepError::Broken(format!("the power was not switched within {given:?}"));
    Ok(deadline.bound(device.operate(verb, deadline)).await.map_err(late)??)
}

async fn run_command(scene: &mut Scene<'_>, run: &Run, deadline: Deadline) -> Result<(), StepError> {
    let command = scene.fill(&run.command)?;
    let output = scene.keyboard()?.run(&command, deadline).await?;
    let printed = match output.text.as_str() {
        "" => "and printed nothing".to_owned(),
        text => format!("and printed:{}", quote(text.as_bytes())),
    };
    if output.status != i32::from(run.status) {
        let (status, wanted) = (output.status, run.status);
        let message = format!("`{command}` ended with status {status}, expected {wanted}, {printed}");
        return Err(StepError::Failed(message));
    }
    check_output(scene, run, &command, output.text, &printed)
}

/// Whether a command has printed what it should; `printed` says what it did.
fn check_output(
    scene: &mut Scene<'_>,
    run: &Run,
    command: &str,
    text: String,
    printed: &str,
) -> Result<(), StepError> {
    if let Some(wanted) = &run.output {
        let wanted = scene.fill(wanted)?;
        if text != wanted {
            return Err(StepError::Failed(format!("`{command}` should print `{wanted}`, {printed}")));
        }
    }
    if let Some(wanted) = &run.output_regex {
        let wanted = scene.pattern(wanted)?;
        if !wanted.matches(&text) {
            return Err(StepError::Failed(format!("`{command}` should print {wanted}, {printed}")));
        }
    }
    if let Some(name) = &run.save {
        scene.values.insert(name.clone(), text);
    }
    Ok(())
}

async fn wait_event(
    scene: &mut Scene<'_>,
    name: &str,
    by: Option<Origin>,
    deadline: Deadline,
) -> Result<(), StepError> {
    let wanted = |kind: &EventKind| {
        let origin = match kind {
            EventKind::Halt { by } | EventKind::Reset { by } => Some(*by),
            _ => None,
        };
        kind.name() == name && (by.is_none() || by == origin)
    };
    let events = scene.device.events.clone();
    let ends = |kind: &EventKind| wanted(kind) || kind.lab_fault().is_some();
    match events.wait_for(scene.acted_at, deadline, ends).await {
        Ok(event) if wanted(&event.kind) => {
            scene.acted_at = event.id + 1;
            Ok(())
        }
        Ok(event) => Err(StepError::Broken(event.kind.lab_fault().unwrap_or_default().to_owned())),
        Err(Elapsed { given }) => {
            let seen = said(&events.since(scene.acted_at));
            Err(StepError::Failed(format!("event `{name}` did not come within {given:?}; {seen}")))
        }
    }
}

fn said(events: &[Event]) -> String {
    if events.is_empty() {
        return "no event was seen since the last step that did something".to_owned();
    }
    let names: Vec<String> = events.iter().map(|event| format!("`{}`", event.kind.name())).collect();
    format!("since the last step that did something came {}", names.join(", "))
}

fn assert(scene: &Scene<'_>, assertion: &Assertion) -> Result<(), StepError> {
    let (holds, message) = match assertion {
        Assertion::Equal(left, right) => {
            let (left, right) = (scene.fill(left)?, scene.fill(right)?);
            (left == right, format!("expected `{left}` to equal `{right}`"))
        }
        Assertion::Contains(whole, part) => {
            let (whole, part) = (scene.fill(whole)?, scene.fill(part)?);
            (whole.contains(&part), format!("expected `{whole}` to contain `{part}`"))
        }
        Assertion::Matches(text, regex) => {
            let (text, pattern) = (scene.fill(text)?, scene.pattern(regex)?);
            (pattern.matches(&text), format!("expected `{text}` to match {pattern}"))
        }
        Assertion::PowerState(wanted) => {
            let state = scene.device.power_state();
            if state == PowerState::Unknown {
                return Err(StepError::Broken("the state of the power is unknown".to_owned()));
            }
            let word = |state: &PowerState| crate::board::word(state);
            (state == *wanted, format!("expected power to be {}, found {}", word(wanted), word(&state)))
        }
    };
    if holds { Ok(()) } else { Err(StepError::Failed(message)) }
}

impl Scene<'_> {
    /// By how much, at most, the step that has just ended was noticed to be done too late.
    pub(super) fn take_late(&mut self) -> Duration {
        let on_console = self.device.console().map_or(Duration::ZERO, Console::take_late);
        std::mem::take(&mut self.late) + on_console
    }

    /// The console, for reading: a wait on it ends early once nothing more can come.
    fn console(&mut self) -> Result<&mut Console, StepError> {
        let events = self.device.events.clone();
        // A power-off is heeded by the wait itself, after the last words have been searched.
        if self.device.power_state() == PowerState::Off && events.is_empty() {
            return Err(StepError::Failed("the console is silent: the DUT was never switched on".to_owned()));
        }
        let console = self.device.console()?;
        console.heed(&events, self.heed_from);
        Ok(console)
    }

    /// The console, for typing: what is typed to a DUT that does not run would reach its next boot.
    fn keyboard(&mut self) -> Result<&mut Console, StepError> {
        match self.device.power_state() {
            PowerState::Running => self.console(),
            PowerState::Off => {
                Err(StepError::Failed("cannot type on the console: the DUT is off".to_owned()))
            }
            PowerState::Halted => {
                Err(StepError::Failed("cannot type on the console: the DUT has halted".to_owned()))
            }
            PowerState::Unknown => {
                Err(StepError::Broken("cannot type on the console: the lab failed".to_owned()))
            }
        }
    }

    fn fill(&self, template: &Template) -> Result<String, StepError> {
        template.fill(&self.values).map_err(|unset| StepError::impossible(&unset.to_string()))
    }

    fn pattern(&self, template: &Template) -> Result<Pattern, StepError> {
        let source =
            template.fill_regex(&self.values).map_err(|unset| StepError::Broken(unset.to_string()))?;
        Pattern::regex(&source).map_err(|error| StepError::Broken(format!("`{source}`: {error}")))
    }
}
