//! Reads the sources as text and checks what the compiler does not: that imports point down, and
//! the rules of the house that no lint knows. A new module begins with getting its floor here.

#[path = "tidy/source.rs"]
mod source;

use source::Source;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The floors, from the top. A module may import what stands on a line below its own, and itself.
/// `report` stands above `suite` as it reads the suite's verdicts; `cli` above `worker` as it starts one.
const FLOORS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["worker"],
    &["report"],
    &["suite"],
    &["lab"],
    &["procedure"],
    &["device"],
    &["qemu", "autokit"],
    &["io", "lan"],
    &["sys", "board", "bench"],
    &["event"],
    &["deadline", "document", "message"],
];

const LONGEST_FILE_LINES: usize = 600;

#[test]
fn the_sources_are_tidy() {
    let mut files = Vec::new();
    for dir in ["src", "tests", "scripts", ".ci"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), dir, &mut files);
    }
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "found no sources to check");
    let violations = check(&files);
    let list: Vec<String> = violations.iter().map(Violation::to_string).collect();
    assert!(list.is_empty(), "{} violations\n{}", list.len(), list.join("\n"));
}

/// A file with its path from the root of the package.
struct File {
    path: String,
    text: String,
    executable: bool,
}

struct Violation {
    path: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

/// Reads all text files below `dir`; what is not UTF-8 is not ours to check.
fn collect(dir: &Path, name: &str, files: &mut Vec<File>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = format!("{name}/{}", path.file_name().unwrap_or_default().display());
        if path.is_dir() {
            collect(&path, &name, files);
        } else if let (Ok(text), Ok(data)) = (fs::read_to_string(&path), path.metadata()) {
            let executable = data.permissions().mode() & 0o111 != 0;
            files.push(File { path: name, text, executable });
        }
    }
}

fn check(files: &[File]) -> Vec<Violation> {
    let sources: Vec<Source> =
        files.iter().filter(|file| file.path.ends_with(".rs")).map(Source::read).collect();
    // Modules with a file of their own that are declared under `#[cfg(test)]`.
    let test_modules: BTreeSet<Vec<String>> =
        sources.iter().flat_map(Source::declared_test_modules).collect();

    let mut found = Vec::new();
    for source in &sources {
        let mut report = |line: usize, rule: String| {
            found.push(Violation { path: source.path.clone(), line, rule });
        };
        check_sleeps(source, &mut report);
        if source.path.starts_with("src/") {
            check_file(source, &mut report);
            check_floors(source, &mut report);
            check_unsafe(source, &mut report);
            let is_test =
                (1..=source.module.len()).any(|length| test_modules.contains(&source.module[..length]));
            if !is_test {
                check_unwrap(source, &mut report);
                check_environment(source, &mut report);
            }
        }
    }
    for file in files {
        if file.text.starts_with("#!") && !file.path.ends_with(".rs") && !file.executable {
            let rule = "a script is executable".to_owned();
            found.push(Violation { path: file.path.clone(), line: 1, rule });
        }
    }
    found
}

type Report<'a> = dyn FnMut(usize, String) + 'a;

fn check_file(source: &Source, report: &mut Report) {
    if !source.text.starts_with("//!") {
        report(1, "a file begins with `//!`: what it owns, who calls it, who cleans up".to_owned());
    }
    let lines = source.text.lines().count();
    if lines > LONGEST_FILE_LINES {
        report(lines, format!("{lines} lines, more than {LONGEST_FILE_LINES}: two subjects?"));
    }
}

fn check_floors(source: &Source, report: &mut Report) {
    // The root of the library declares the modules; it is on no floor.
    let Some(from) = source.module.first() else {
        return;
    };
    let Some(from_floor) = floor(from) else {
        return report(1, format!("module `{from}` has no floor; give it one in tests/tidy.rs"));
    };
    for (line, to) in source.crate_references() {
        if to == "*" {
            report(line, "a glob of the crate's root hides what is imported".to_owned());
        } else if let Some(to_floor) = floor(&to)
            && to != *from
            && to_floor <= from_floor
        {
            report(line, format!("imports point down: `{from}` must not know `{to}`"));
        }
    }
}

/// The line of `FLOORS` that a module stands on; larger is lower.
fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn check_unsafe(source: &Source, report: &mut Report) {
    if source.is_part_of("sys") {
        return;
    }
    for token in source.tokens.iter().filter(|token| token.text == "unsafe") {
        report(token.line, "`unsafe` lives in src/sys alone".to_owned());
    }
}

fn check_unwrap(source: &Source, report: &mut Report) {
    for at in source.find(&[".", "unwrap", "("]) {
        if !source.tokens[at].test {
            report(source.tokens[at + 1].line, "no `unwrap` outside tests".to_owned());
        }
    }
}

fn check_environment(source: &Source, report: &mut Report) {
    const READERS: &[&str] = &["var", "var_os", "vars", "vars_os", "set_var", "remove_var"];
    if source.is_part_of("cli") || source.is_part_of("main") {
        return;
    }
    let mut lines = BTreeSet::new();
    for at in source.find(&["env", "::"]) {
        let names = source.names_after(at + 2);
        if names.iter().any(|name| READERS.contains(&name.text.as_str()) && !name.test) {
            lines.insert(source.tokens[at].line);
        }
    }
    for macro_name in ["env", "option_env"] {
        for at in source.find(&[macro_name, "!", "("]) {
            let name = source.tokens.get(at + 3).map_or("", |token| token.text.trim_matches('"'));
            let from_cargo = name == "OUT_DIR" || name.starts_with("CARGO_");
            if !from_cargo && !source.tokens[at].test {
                lines.insert(source.tokens[at].line);
            }
        }
    }
    for line in lines {
        report(line, "the environment is read in src/cli and src/main.rs alone".to_owned());
    }
}

fn check_sleeps(source: &Source, report: &mut Report) {
    for at in source.find(&["sleep", "("]) {
        let is_definition = at > 0 && source.tokens[at - 1].text == "fn";
        let line = source.tokens[at].line;
        if !is_definition && !source.comment_at(line).contains("// sleep:") {
            report(line, "a sleep says which hardware needs it: `// sleep: why`".to_owned());
        }
    }
}

// --- The checker itself: each rule finds what it forbids and leaves alone what it allows ---

fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned(), executable: false }
}

/// Checks `body` under a good first line, so that its own first line is line 2.
fn violations(path: &str, body: &str) -> Vec<String> {
    let file = file(path, &format!("//! A file.\n{body}\n"));
    check(&[file]).iter().map(|found| format!("{}: {}", found.line, found.rule)).collect()
}

#[track_caller]
fn assert_finds(path: &str, body: &str, expected: &str) {
    let found = violations(path, body);
    assert!(
        found.len() == 1 && found[0].contains(expected),
        "{path}: expected `{expected}` once, found {found:?}\n{body}"
    );
}

#[track_caller]
fn assert_allows(path: &str, body: &str) {
    let found = violations(path, body);
    assert!(found.is_empty(), "{path}: expected nothing, found {found:?}\n{body}");
}

#[test]
fn an_import_that_points_up_is_found() {
    assert_finds("src/qemu/monitor.rs", "use crate::device::Device;", "2: imports point down");
    assert_finds("src/qemu.rs", "use crate::autokit::Relay;", "`qemu` must not know `autokit`");
    assert_finds("src/suite/mod.rs", "use crate::{event::Event, report::Page};", "know `report`");
    assert_finds("src/board.rs", "use crate::sys::child;", "`board` must not know `sys`");
    assert_finds("src/deadline.rs", "fn f() { crate::event::now() }", "know `event`");
    assert_finds("src/io/image.rs", "use super::super::lab::Lab;", "know `lab`");
    assert_finds("src/io.rs", "mod a { use super::super::{lab::Lab, sys::child}; }", "know `lab`");
    assert_finds("src/device/power.rs", "pub(in crate::procedure) fn f() {}", "know `procedure`");
    assert_finds("src/qemu.rs", "use crate::*;", "a glob of the crate's root");
}

#[test]
fn an_import_that_points_down_is_allowed() {
    assert_allows("src/report/page.rs", "use crate::suite::Verdict;");
    assert_allows("src/procedure/sd.rs", "use crate::{device::Device, deadline::Deadline};");
    assert_allows("src/qemu/monitor.rs", "use crate::qemu::Machine; use super::disk::Disk;");
    assert_allows("src/io.rs", "mod a { use super::lab::Lab; }");
    assert_allows("src/io.rs", "// crate::lab is above\nconst A: &str = \"crate::lab\";");
    assert_allows("src/main.rs", "use standin::cli;");
    assert_allows("src/lib.rs", "pub mod lab;");
}

#[test]
fn a_module_without_a_floor_is_found() {
    assert_finds("src/helper.rs", "", "module `helper` has no floor");
}

#[test]
fn unsafe_outside_sys_is_found() {
    assert_finds("src/io.rs", "fn f() {\n    unsafe { g() }\n}", "3: `unsafe` lives in src/sys");
    assert_allows("src/sys/child.rs", "fn f() { unsafe { g() } }");
    assert_allows("src/io.rs", "/* /* unsafe */ unsafe */ const A: &str = r#\"\" unsafe \"#;");
}

#[test]
fn an_environment_variable_read_below_the_cli_is_found() {
    let expected = "the environment is read in src/cli";
    assert_finds("src/lab.rs", "fn f() { std::env::var(\"HOME\"); }", expected);
    assert_finds("src/lab.rs", "use std::env::{self, var_os};", expected);
    assert_finds("src/lab.rs", "const A: &str = env!(\"STANDIN_A\");", expected);
    assert_finds("src/lab.rs", "const A: Option<&str> = option_env!(\"A\");", expected);
    assert_allows("src/lab.rs", "const A: &str = env!(\"CARGO_PKG_VERSION\");");
    assert_allows("src/lab.rs", "const A: &str = concat!(env!(\"OUT_DIR\"), \"/a\");");
    assert_allows("src/lab.rs", "fn f() { std::env::temp_dir(); }");
    assert_allows("src/cli/paths.rs", "fn f() { std::env::var_os(\"HOME\"); }");
    assert_allows("src/main.rs", "fn f() { std::env::var_os(\"HOME\"); }");
}

#[test]
fn an_unwrap_outside_tests_is_found() {
    assert_finds("src/lab.rs", "fn f() {\n    a\n        .unwrap();\n}", "4: no `unwrap`");
    assert_finds("src/lab.rs", "#[cfg(not(test))]\nfn f() { a.unwrap() }", "no `unwrap`");
    assert_finds("src/lab.rs", "#[cfg(test)]\nuse a::b;\nfn f() { a.unwrap() }", "4: no `unwrap`");
    assert_finds("src/lab.rs", "fn f<'a>(c: &'a u8) { ('\"', b'\\''); a.unwrap() }", "no `unwrap`");
    assert_allows("src/lab.rs", "fn f() { a.unwrap_or_default() }");
    assert_allows("src/lab.rs", "#[cfg(test)]\nmod tests { fn f(a: [u8; 2]) { a.unwrap() } }");
    assert_allows("src/lab.rs", "/// ```\n/// a.unwrap()\n/// ```\nfn f() {}");
}

#[test]
fn an_unwrap_in_a_test_module_with_a_file_of_its_own_is_allowed() {
    let parent = file("src/lab/mod.rs", "//! Lab.\n#[cfg(test)]\nmod checks;\n");
    let child = file("src/lab/checks.rs", "//! Tests.\nfn f() { a.unwrap() }\n");
    assert!(check(&[parent, child]).is_empty());
}

#[test]
fn a_sleep_without_its_reason_is_found() {
    assert_finds("src/lab.rs", "fn f() { sleep(rest).await }", "2: a sleep says");
    assert_finds("tests/a.rs", "fn f() { std::thread::sleep(rest) }", "2: a sleep says");
    assert_finds("src/lab.rs", "// sleep: why\nfn f() {\n    sleep(a)\n}", "4: a sleep says");
    assert_allows("src/lab.rs", "fn f() { sleep(rest).await } // sleep: capacitors drain");
    assert_allows("src/lab.rs", "fn f() {\n    // sleep: the rest\n    // drains\n    sleep(a)\n}");
}

#[test]
fn a_file_without_a_head_or_too_long_is_found() {
    let found = check(&[file("src/lab.rs", "fn f() {}\n")]);
    assert!(found.len() == 1 && found[0].to_string().starts_with("src/lab.rs:1: a file begins"));
    let found = check(&[file("src/lab.rs", &"//! A line.\n".repeat(LONGEST_FILE_LINES + 1))]);
    assert!(found.len() == 1 && found[0].rule.starts_with("601 lines"));
    assert!(check(&[file("src/lab.rs", &"//! A line.\n".repeat(LONGEST_FILE_LINES))]).is_empty());
}

#[test]
fn a_script_that_is_not_executable_is_found() {
    let mut script = file("scripts/demo", "#!/bin/sh\n");
    assert_eq!(check(&[file("scripts/demo", "#!/bin/sh\n")]).len(), 1);
    script.executable = true;
    assert!(check(&[script]).is_empty());
}
