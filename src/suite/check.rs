//! From a suite's text to a [`Suite`] that makes sense, or every complaint at once. Reads, and leaves nothing.

mod medium;
pub(super) mod screen;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::file::{AssertFile, LinkVerb, StepFile, SuiteFile, TestFile};
use super::template::{Template, Values};
use super::{Action, Assertion, FlashSource, FlashStep, ImageChoice, Run, Step, Suite, Test, Visit};
use crate::board::{Capability, Time};
use crate::device::console::Pattern;
use crate::device::power::PowerState;
use crate::document::{Document, DocumentError, nearest, one_of};
use crate::event::{EventKind, Origin};

/// Variables that every run sets.
pub const BUILT_IN: [&str; 7] = [
    "board.slug",
    "board.arch",
    "image.sha256",
    "image.bytes",
    "flash.medium.kind",
    "dut.address",
    "ssh.public_key",
];

/// Generous for a boot under TCG on a busy host.
const STEP_WITHIN: Duration = Duration::from_secs(60);
const TEST_DEADLINE: Duration = Duration::from_secs(5 * 60);
const SUITE_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Reads the suite at `path`.
pub fn load(path: &Path) -> Result<Suite, DocumentError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| DocumentError::unreadable(&name, &error))?;
    // `suite.toml` lies in the folder that we are in, which has a name of its own.
    let dir = path.parent().map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
    parse(&name, &text, dir)
}

/// Reads a suite from its text. Relative paths in it start from `dir`; without one it can have no paths.
pub fn parse(source: &str, text: &str, dir: Option<&Path>) -> Result<Suite, DocumentError> {
    parse_with(source, text, dir.map_or(Files::None, Files::In))
}

/// Reads the text of a suite whose files are on another host: its paths are not looked at and stay as they are.
pub fn parse_elsewhere(source: &str, text: &str) -> Result<Suite, DocumentError> {
    parse_with(source, text, Files::Elsewhere)
}

fn parse_with(source: &str, text: &str, files: Files<'_>) -> Result<Suite, DocumentError> {
    let mut document = Document::parse(source, text)?;
    let Some(file) = document.read::<SuiteFile>() else {
        return Err(document.finish().expect_err("a file that cannot be read has a complaint"));
    };
    let mut check =
        Check { document, files, known: BTreeSet::new(), of_test: BTreeSet::new(), shots: BTreeSet::new() };
    let suite = check.suite(source, file);
    check.document.finish()?;
    Ok(suite)
}

/// Where the files are that a suite names.
#[derive(Clone, Copy)]
enum Files<'d> {
    /// It can have none.
    None,
    /// In this folder.
    In(&'d Path),
    /// On another host.
    Elsewhere,
}

/// The state of a check. What does not make sense is complained about and stands in the result as something
/// harmless, which nobody gets to see.
struct Check<'t, 'd> {
    document: Document<'t>,
    files: Files<'d>,
    /// The suite's variables.
    known: BTreeSet<String>,
    /// Variables that earlier steps of the test in hand have set.
    of_test: BTreeSet<String>,
    /// Screenshots that earlier steps of the test in hand have taken.
    shots: BTreeSet<String>,
}

impl Check<'_, '_> {
    fn suite(&mut self, source: &str, file: SuiteFile) -> Suite {
        for name in file.variables.keys() {
            self.variable_name(&format!("variables.{name}"), name);
        }
        self.known = file.variables.keys().cloned().collect();
        let title = self.title("title", file.title);
        let image = file.image.and_then(|image| match image.as_str() {
            "selftest" => Some(ImageChoice::Selftest),
            path => self.path("image", path).map(ImageChoice::File),
        });
        let mut titles = BTreeSet::new();
        let mut tests = Vec::new();
        for (index, test) in file.test.into_iter().enumerate() {
            let key = format!("test[{index}]");
            let test = self.test(&key, test);
            if !titles.insert(test.title.clone()) {
                let message = format!("expected a title of its own, found `{}` again", test.title);
                self.document.complain(&format!("{key}.title"), message);
            }
            tests.push(test);
        }
        if tests.is_empty() && self.document.keys("").iter().any(|key| key == "test") {
            self.document.complain("test", "expected at least one test, found none");
        }
        Suite {
            title,
            source: source.to_owned(),
            dir: match self.files {
                Files::In(dir) => Some(dir.to_owned()),
                Files::None | Files::Elsewhere => None,
            },
            needs: file.needs,
            image,
            forward: file.forward,
            variables: file.variables.into_iter().collect::<Values>(),
            deadline: self.time("deadline", file.deadline).unwrap_or(SUITE_DEADLINE),
            fail_fast: file.fail_fast,
            tests,
        }
    }

    fn test(&mut self, key: &str, file: TestFile) -> Test {
        self.of_test.clear();
        self.shots.clear();
        let title = self.title(&format!("{key}.title"), file.title);
        let deadline = self.time(&format!("{key}.deadline"), file.deadline).unwrap_or(TEST_DEADLINE);
        let mut needs: BTreeSet<Capability> = file.needs.into_iter().collect();
        let without_steps = file.steps.is_empty();
        let mut steps = Vec::new();
        for (index, step) in file.steps.into_iter().enumerate() {
            if let Some(step) = self.step(&format!("{key}.steps[{index}]"), step) {
                needs.extend(step.action.needs());
                steps.push(step);
            }
        }
        if without_steps && self.document.keys(key).iter().any(|name| name == "steps") {
            self.document.complain(&format!("{key}.steps"), "expected at least one step, found none");
        }
        Test { title, needs: needs.into_iter().collect(), deadline, steps }
    }

    fn step(&mut self, key: &str, mut file: StepFile) -> Option<Step> {
        let verb = self.only_verb(key)?;
        self.options_fit(key, verb);
        let inner = format!("{key}.{verb}");
        let within = self.time(&format!("{key}.within"), file.within);
        let stage = file.stage.take().map(|name| self.title(&format!("{key}.stage"), Some(name)));
        let action = match verb {
            "power" => Action::Power(file.power?),
            "link" => Action::Link { up: file.link? == LinkVerb::Up, interface: file.interface },
            "move_medium" => Action::Move { medium: file.medium, verb: file.move_medium? },
            "boot_switch" => Action::BootSwitch(file.boot_switch?),
            "usb_port" => Action::UsbPort(file.usb_port?),
            "flash" => Action::Flash(FlashStep {
                source: match file.flash?.as_str() {
                    "image" => FlashSource::Image,
                    path => FlashSource::File(self.path(&inner, path)?),
                },
                installer: file.installer,
                ends: file.ends,
                within,
            }),
            verb if medium::VERBS.contains(&verb) => Action::Medium(self.medium_step(key, verb, file)?),
            "expect" => Action::Expect(self.text(&inner, &file.expect?)),
            "expect_regex" => {
                let regex = self.regex(&inner, &file.expect_regex?);
                for (name, group) in &file.capture {
                    self.group(&format!("{key}.capture.{name}"), &regex, group);
                    self.set_by_step(&format!("{key}.capture.{name}"), name);
                }
                Action::ExpectRegex { regex, capture: file.capture.into_iter().collect() }
            }
            "send" => Action::Send(self.line(&inner, &file.send?)),
            "send_keys" => Action::SendKeys(self.text(&inner, &file.send_keys?)),
            "run" => {
                let command = self.line(&inner, &file.run.take()?);
                Action::Run(self.expectations(key, command, file))
            }
            "ssh" => {
                let command = self.text(&inner, &file.ssh.take()?);
                let visit = self.visit(key, &file);
                Action::Ssh(self.expectations(key, command, file), visit)
            }
            "put" => {
                let visit = self.visit(key, &file);
                let from = self.path(&inner, &file.put?)?;
                let to = self.needed(key, "as", file.r#as)?;
                Action::Put { from, to: self.text(&format!("{key}.as"), &to), visit }
            }
            "get" => {
                let visit = self.visit(key, &file);
                let from = self.text(&inner, &file.get?);
                let name = self.needed(key, "as", file.r#as)?;
                if !is_file_name(&name) {
                    let message = format!("expected the name of a file, without a folder, found `{name}`");
                    self.document.complain(&format!("{key}.as"), message);
                }
                Action::Get { from, name, visit }
            }
            "login" => {
                if file.login == Some(false) {
                    self.document.complain(&inner, "expected `true`, found `false`");
                }
                Action::LogIn
            }
            "wait_event" => self.wait_event(key, &file.wait_event?, file.by)?,
            "keyboard" => Action::Keyboard(self.keys(&inner, file.keyboard?)),
            "keyboard_text" => Action::Keyboard(self.keyboard_text(&inner, &file.keyboard_text?)),
            "screenshot" => Action::Screen(self.shot(&inner, file.screenshot?)),
            "expect_screen" => Action::Screen(self.expect_screen(key, &file)?),
            "wait_screen" => Action::Screen(self.wait_screen(file.wait_screen?, file.tolerance)),
            "assert" => Action::Assert(self.assertion(&inner, file.assert?)?),
            "exec" => {
                let words = file.exec?;
                if words.first().is_none_or(String::is_empty) {
                    self.document.complain(&inner, "expected a program and its arguments, found none");
                }
                Action::Exec(words.iter().map(|word| self.template(&inner, word)).collect())
            }
            other => unreachable!("`{other}` is not one of the verbs"),
        };
        let rests_on_test = matches!(action, Action::Flash(_) | Action::Exec(_));
        Some(Step { action, within: within.or((!rests_on_test).then_some(STEP_WITHIN)), stage })
    }

    /// What must come of a command.
    fn expectations(&mut self, key: &str, command: Template, file: StepFile) -> Run {
        let output = file.output.map(|text| self.template(&format!("{key}.output"), &text));
        let output_regex = file.output_regex.map(|text| self.regex(&format!("{key}.output_regex"), &text));
        if let Some(name) = &file.save {
            self.set_by_step(&format!("{key}.save"), name);
        }
        Run { command, status: file.status.unwrap_or(0), output, output_regex, save: file.save }
    }

    /// Who comes over the network, and where.
    fn visit(&mut self, key: &str, file: &StepFile) -> Visit {
        Visit {
            user: file.user.as_ref().map(|user| self.text(&format!("{key}.user"), user)),
            port: file.port,
        }
    }

    fn needed(&mut self, key: &str, name: &str, value: Option<String>) -> Option<String> {
        if value.is_none() {
            self.document.complain(key, format!("expected `{name}` with it, found none"));
        }
        value
    }

    /// The one verb of a step. What has been complained about already is known as a verb all the same.
    fn only_verb(&mut self, key: &str) -> Option<&'static str> {
        let keys = self.document.keys(key);
        let verbs: Vec<&str> = VERBS.into_iter().filter(|verb| keys.iter().any(|key| key == verb)).collect();
        match verbs.as_slice() {
            [verb] => Some(verb),
            // A misspelt verb has been complained about by its name.
            [] if keys.iter().any(|key| OPTIONS.iter().all(|(option, _)| key != option)) => None,
            [] => {
                self.document.complain(key, format!("expected one of {}, found none", one_of(VERBS)));
                None
            }
            [_, second, ..] => {
                let found = one_of(verbs.iter().copied()).replace(" or ", " and ");
                let message = format!("expected one verb in a step, found {found}");
                self.document.complain_with_hint(
                    &format!("{key}.{second}"),
                    message,
                    "make it a step of its own",
                );
                None
            }
        }
    }

    fn options_fit(&mut self, key: &str, verb: &str) {
        for name in self.document.keys(key) {
            let Some((_, verbs)) = OPTIONS.iter().find(|(option, _)| *option == name) else { continue };
            if !verbs.contains(&verb) {
                let hint = format!("it goes with {}", one_of(verbs.iter().copied()));
                self.document.complain_with_hint(
                    &format!("{key}.{name}"),
                    format!("no part of `{verb}`"),
                    hint,
                );
            }
        }
    }

    fn wait_event(&mut self, key: &str, name: &str, by: Option<Origin>) -> Option<Action> {
        let known = EventKind::NAMES.into_iter().find(|known| *known == name)?;
        if by.is_some() && !["halt", "reset"].contains(&known) {
            let hint = "it goes with `halt` and `reset`";
            self.document.complain_with_hint(&format!("{key}.by"), format!("no part of `{known}`"), hint);
        }
        Some(Action::WaitEvent { name: known, by })
    }

    fn assertion(&mut self, key: &str, file: AssertFile) -> Option<Assertion> {
        let found = self.document.keys(key).len();
        if found != 1 {
            let kinds = one_of(["equal", "contains", "matches", "power_state"]);
            self.document.complain(key, format!("expected one of {kinds}, found {found} of them"));
            return None;
        }
        if let Some(state) = file.power_state {
            if state == PowerState::Unknown {
                let message = "expected `off`, `running` or `halted`, found `unknown`: no DUT can be expected to be that";
                self.document.complain(&format!("{key}.power_state"), message);
            }
            return Some(Assertion::PowerState(state));
        }
        let lists = [("equal", file.equal), ("contains", file.contains), ("matches", file.matches)];
        let (name, list) = lists.into_iter().find_map(|(name, list)| Some((name, list?)))?;
        let inner = format!("{key}.{name}");
        let [left, right] = list.as_slice() else {
            self.document.complain(&inner, format!("expected two texts, found {}", list.len()));
            return None;
        };
        let left = self.template(&inner, left);
        Some(match name {
            "equal" => Assertion::Equal(left, self.template(&inner, right)),
            "contains" => Assertion::Contains(left, self.template(&inner, right)),
            _ => Assertion::Matches(left, self.regex(&inner, right)),
        })
    }

    fn title(&mut self, key: &str, title: Option<String>) -> String {
        let title = title.unwrap_or_else(|| key.to_owned());
        if title.trim().is_empty() {
            self.document.complain(key, "expected a title, found an empty text");
        }
        title
    }

    fn time(&mut self, key: &str, time: Option<Time>) -> Option<Duration> {
        let time = time?.0;
        if time.is_zero() {
            self.document.complain(key, "expected more than no time at all, found `0`");
        }
        Some(time)
    }

    fn path(&mut self, key: &str, path: &str) -> Option<std::path::PathBuf> {
        let dir = match self.files {
            Files::In(dir) => dir,
            Files::Elsewhere => return Some(path.into()),
            Files::None => {
                self.document.complain(key, format!("expected no path in a built-in suite, found `{path}`"));
                return None;
            }
        };
        let full = dir.join(path);
        if !full.is_file() {
            self.document.complain(key, format!("expected a file, found none at `{}`", full.display()));
        }
        Some(full)
    }

    /// A text that must not be empty: waiting for nothing, or typing nothing, is a mistake.
    fn text(&mut self, key: &str, text: &str) -> Template {
        if text.is_empty() {
            self.document.complain(key, "expected a text, found an empty one");
        }
        self.template(key, text)
    }

    /// A text that is typed as one line; an empty one is the Enter key alone.
    fn line(&mut self, key: &str, text: &str) -> Template {
        if text.contains(['\n', '\r']) {
            self.document.complain(key, "expected one line, found a line break in it");
        }
        self.template(key, text)
    }

    fn regex(&mut self, key: &str, text: &str) -> Template {
        let template = self.text(key, text);
        if let Err(error) = Pattern::regex(&template.fill_all("x")) {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            self.document.complain(key, format!("expected a regular expression, found `{text}`: {reason}"));
        }
        template
    }

    fn group(&mut self, key: &str, regex: &Template, group: &str) {
        let pattern = Pattern::regex(&regex.fill_all("x"));
        if pattern.is_ok_and(|pattern| !pattern.has_group(group)) {
            self.document.complain(key, format!("expected a group of `{}`, found `{group}`", regex.source()));
        }
    }

    fn template(&mut self, key: &str, text: &str) -> Template {
        let template = Template::parse(text).unwrap_or_else(|error| {
            self.document.complain_with_hint(key, error.to_string(), "`$${` is a plain `${`");
            Template::parse("").expect("an empty text has no variables")
        });
        for name in template.names() {
            if !self.is_known(name) {
                let known: Vec<&str> = self.variables().collect();
                let hint = match nearest(name, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("a shell's own variable is written `$${{{name}}}`"),
                };
                self.document.complain_with_hint(key, format!("no variable `{name}` is known here"), hint);
            }
        }
        template
    }

    fn set_by_step(&mut self, key: &str, name: &str) {
        self.variable_name(key, name);
        if self.known.contains(name) {
            self.document
                .complain(key, format!("expected a name of its own, found the suite's variable `{name}`"));
        }
        self.of_test.insert(name.to_owned());
    }

    fn variable_name(&mut self, key: &str, name: &str) {
        let fits = |character: char| character.is_ascii_alphanumeric() || ['_', '-'].contains(&character);
        if name.is_empty() || !name.chars().all(fits) {
            self.document
                .complain(key, format!("expected a name of letters, digits, `_` and `-`, found `{name}`"));
        }
    }

    fn is_known(&self, name: &str) -> bool {
        self.variables().any(|known| known == name)
    }

    fn variables(&self) -> impl Iterator<Item = &str> {
        let own = self.known.iter().chain(&self.of_test).map(String::as_str);
        BUILT_IN.into_iter().chain(own)
    }
}

/// Whether a file of this name lies in the folder that it is put into.
fn is_file_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name) && !name.starts_with('.')
}

const VERBS: [&str; 28] = [
    "power",
    "link",
    "move_medium",
    "boot_switch",
    "usb_port",
    "flash",
    "write_file",
    "merge_json",
    "remove_file",
    "read_file",
    "expand",
    "expect",
    "expect_regex",
    "send",
    "send_keys",
    "run",
    "login",
    "wait_event",
    "keyboard",
    "keyboard_text",
    "screenshot",
    "expect_screen",
    "wait_screen",
    "assert",
    "exec",
    "ssh",
    "put",
    "get",
];

/// Which verbs each option goes with.
const OPTIONS: [(&str, &[&str]); 20] = [
    ("stage", &VERBS),
    ("interface", &["link"]),
    ("installer", &["flash"]),
    ("ends", &["flash"]),
    (
        "within",
        &[
            "power",
            "link",
            "move_medium",
            "flash",
            "write_file",
            "merge_json",
            "remove_file",
            "read_file",
            "expand",
            "expect",
            "expect_regex",
            "send",
            "send_keys",
            "run",
            "login",
            "wait_event",
            "keyboard",
            "keyboard_text",
            "screenshot",
            "expect_screen",
            "wait_screen",
            "exec",
            "ssh",
            "put",
            "get",
        ],
    ),
    ("capture", &["expect_regex"]),
    ("medium", &medium::VERBS),
    ("content", &["write_file", "merge_json", "read_file"]),
    ("from", &["write_file", "merge_json"]),
    ("content_regex", &["read_file"]),
    ("status", &["run", "ssh"]),
    ("output", &["run", "ssh"]),
    ("output_regex", &["run", "ssh"]),
    ("save", &["run", "ssh", "read_file"]),
    ("by", &["wait_event"]),
    ("user", &["ssh", "put", "get"]),
    ("port", &["ssh", "put", "get"]),
    ("as", &["put", "get"]),
    ("region", &["expect_screen"]),
    ("tolerance", &["expect_screen", "wait_screen"]),
];
