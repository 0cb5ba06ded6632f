//! Suites as files: what is read, and what is complained about.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use standin::board::{Capability, Catalog};
use standin::suite::{Action, builtin, check};

/// A suite with these steps in its only test.
fn with_steps(steps: &str) -> String {
    format!("title = 'S'\nvariables = {{ user = 'root' }}\n[[test]]\ntitle = 'T'\nsteps = [\n{steps}\n]\n")
}

fn complaints(text: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    match check::parse("s.toml", text, Some(dir.path())) {
        Ok(suite) => panic!("no complaint about\n{text}\nbut {suite:?}"),
        Err(error) => {
            error.complaints.iter().map(|complaint| complaint.to_string().trim().to_owned()).collect()
        }
    }
}

#[test]
fn the_built_in_suites_are_valid_and_few_boots_long() {
    for name in builtin::names() {
        let suite = builtin::find(name).unwrap_or_else(|error| panic!("{error}"));
        let steps = suite.tests.iter().flat_map(|test| &test.steps);
        let boots = steps.filter(|step| {
            let what = step.action.to_string();
            ["power on", "power cycle", "power reset", "send `reboot`"].contains(&what.as_str())
        });
        assert!(boots.count() <= 5, "{name}");
        assert!(suite.wants_image(), "{name}");
    }
}

#[test]
fn every_verb_is_read_and_says_what_it_needs() {
    let steps = r#"
      { power = "press" }, { power = "reset" }, { flash = "image" }, { expect = "login: ", within = "90s" },
      { expect_regex = "^ip (?<ip>.*) (.*)$", capture = { ip = "ip", mask = "2" } },
      { send = "root" }, { send_keys = "\u001b[A" }, { login = true },
      { run = "cat /etc/os-release", status = 1, output = "x", output_regex = "x", save = "release" },
      { wait_event = "halt", by = "guest" }, { wait_event = "panic" }, { assert = { equal = ["${ip}", "${mask}"] } },
      { assert = { matches = ["${release}", "^ID=${user}"] } }, { assert = { power_state = "off" } },
      { exec = ["ping", "-c1", "${ip}"] },
      { write_file = "boot:/a b/c.txt", content = "${user}" }, { remove_file = "1:/c", medium = "sd" },
      { merge_json = "boot:/config.json", content = '{ "port": ${ip}, "user": "${user}" }' },
      { read_file = "boot:/c", content = "x", content_regex = "x", save = "c" }, { expand = true },
      { ssh = "echo '${ssh.public_key}'\n true", user = "${user}", port = 2222, status = 3, save = "key" },
      { get = "/tmp/x", as = "x.txt" },
    "#;
    let suite = check::parse("s.toml", &with_steps(steps), None).unwrap_or_else(|error| panic!("{error}"));
    let test = &suite.tests[0];
    assert_eq!(test.steps.len(), 22);
    use Capability::{Network, PanicEvent, PowerButton, Reset, Serial};
    assert_eq!(test.needs, [Serial, PowerButton, Reset, Network, PanicEvent]);
    assert_eq!(test.steps[3].within, Some(Duration::from_secs(90)));
    assert_eq!((test.steps[0].within, test.steps[2].within), (Some(Duration::from_secs(60)), None));
    assert!(matches!(&test.steps[6].action, Action::SendKeys(keys) if keys.source() == "\u{1b}[A"));
    assert_eq!(test.steps[14].action.to_string(), "exec `ping -c1 ${ip}`");
    assert_eq!(test.steps[16].action.to_string(), "remove 1:/c on sd");
}

#[test]
fn ports_are_those_of_board_suite_steps_and_command_line() {
    let board = Catalog::load(None).unwrap().board("generic-amd64").unwrap();
    let ports = |slug: &str, steps: &str| {
        let board = Catalog::load(None).unwrap().board(slug).unwrap();
        check::parse("s.toml", &with_steps(steps), None).unwrap().ports(&board, &[80])
    };
    assert_eq!(board.ports, [22222, 48484, 2375]);
    assert_eq!(ports("generic-amd64", "{ ssh = 'true' }"), [80, 2375, 22222, 48484]);
    assert_eq!(ports("pc-seabios", "{ power = 'on' }"), [80]);
    assert_eq!(
        ports("pc-seabios", "{ ssh = 'true' }, { get = '/x', as = 'x', port = 2222 }"),
        [22, 80, 2222]
    );
}

#[test]
fn each_mistake_in_a_step_is_told_with_its_line_and_how_to_mend_it() {
    for (steps, expected) in [
        (
            "{ expcet = 'x' }",
            "6: test[0].steps[0].expcet: no such key\nhint: did you mean `test[0].steps[0].expect`?",
        ),
        (
            "{ within = '5s' }",
            "6: test[0].steps[0]: expected one of `power`, `link`, `move_medium`, `boot_switch`, `usb_port`, `flash`",
        ),
        (
            "{ send = 'a',\n expect = 'b' }",
            "6: test[0].steps[0].send: expected one verb in a step, found `expect` and `send`\n\
             hint: make it a step of its own",
        ),
        (
            "{ send = 'a', capture = { a = '1' } }",
            "6: test[0].steps[0].capture: no part of `send`\nhint: it goes with `expect_regex`",
        ),
        ("{ power = 'of' }", "6: test[0].steps[0].power: expected `on`, `off`, `cycle`"),
        ("{ expect = 'x', within = '5' }", "6: test[0].steps[0].within: expected a time such as `250ms`"),
        ("{ expect = 'x', within = '0s' }", "6: test[0].steps[0].within: expected more than no time at all"),
        ("{ expect = '' }", "6: test[0].steps[0].expect: expected a text, found an empty one"),
        (
            "{ expect_regex = 'a(' }",
            "6: test[0].steps[0].expect_regex: expected a regular expression, found `a(`: unclosed group",
        ),
        (
            "{ expect_regex = '(a)', capture = { a = '2' } }",
            "6: test[0].steps[0].capture.a: expected a group of `(a)`, found `2`",
        ),
        (
            "{ expect_regex = '(a)', capture = { user = '1' } }",
            "6: test[0].steps[0].capture.user: expected a name of its own, found the suite's variable `user`",
        ),
        (
            "{ send = '${usr}' }",
            "6: test[0].steps[0].send: no variable `usr` is known here\nhint: did you mean `user`?",
        ),
        (
            "{ run = 'echo ${HOME}' }",
            "6: test[0].steps[0].run: no variable `HOME` is known here\n\
             hint: a shell's own variable is written `$${HOME}`",
        ),
        ("{ send = '${user' }", "6: test[0].steps[0].send: expected `}` after `${`, found the end"),
        ("{ run = \"a\\nb\" }", "6: test[0].steps[0].run: expected one line, found a line break in it"),
        ("{ login = false }", "6: test[0].steps[0].login: expected `true`, found `false`"),
        ("{ wait_event = 'hlat' }", "6: test[0].steps[0].wait_event: expected `power-on`"),
        (
            "{ wait_event = 'panic', by = 'guest' }",
            "6: test[0].steps[0].by: no part of `panic`\nhint: it goes with `halt` and `reset`",
        ),
        ("{ assert = { equal = ['a'] } }", "6: test[0].steps[0].assert.equal: expected two texts, found 1"),
        ("{ assert = {} }", "6: test[0].steps[0].assert: expected one of `equal`, `contains`"),
        (
            "{ keyboard = ['esc', 'entr'] }",
            "6: test[0].steps[0].keyboard: expected a key such as `enter`, `f2`, `a` or `ctrl-alt-delete`, found `entr`\n\
             hint: did you mean `enter`?",
        ),
        ("{ keyboard = [] }", "6: test[0].steps[0].keyboard: expected at least one key, found none"),
        ("{ keyboard_text = 'né' }", "6: test[0].steps[0].keyboard_text: no key of a US keyboard types `é`"),
        (
            "{ screenshot = 'a' }, { screenshot = 'a' }",
            "6: test[0].steps[1].screenshot: expected a name of its own in its test, found `a` again",
        ),
        ("{ screenshot = '../a' }", "6: test[0].steps[0].screenshot: expected a name of letters"),
        ("{ expect_screen = 'no.png' }", "6: test[0].steps[0].expect_screen: expected a file, found none at"),
        (
            "{ wait_screen = 'black' }",
            "6: test[0].steps[0].wait_screen: expected `blank`, `drawn` or `changed`",
        ),
        (
            "{ wait_screen = 'blank', tolerance = '3' }",
            "6: test[0].steps[0].tolerance: expected a share from `0%` to `100%`, such as `0.5%`, found `3`",
        ),
        (
            "{ wait_screen = 'blank', region = { width = 1, height = 1 } }",
            "6: test[0].steps[0].region: no part of `wait_screen`\nhint: it goes with `expect_screen`",
        ),
        ("{ exec = [] }", "6: test[0].steps[0].exec: expected a program and its arguments, found none"),
        (
            "{ send = 'x', user = 'root' }",
            "6: test[0].steps[0].user: no part of `send`\nhint: it goes with `ssh`, `put` or `get`",
        ),
        (
            "{ ssh = 'x', port = 0 }",
            "6: test[0].steps[0].port: expected a number within 1..=65535, found the number `0`",
        ),
        ("{ get = '/x' }", "6: test[0].steps[0]: expected `as` with it, found none"),
        (
            "{ get = '/x', as = '../x' }",
            "6: test[0].steps[0].as: expected the name of a file, without a folder",
        ),
        ("{ put = 'no.img', as = '/x' }", "6: test[0].steps[0].put: expected a file, found none at `/"),
        ("{ flash = 'no.img' }", "6: test[0].steps[0].flash: expected a file, found none at `/"),
        (
            "{ write_file = 'config.json', content = '' }",
            "6: test[0].steps[0].write_file: expected a place such as `boot:/config.json` or `1:/config.json`, \
             found `config.json`: there is no `:/` in it",
        ),
        ("{ remove_file = 'boot:/' }", "6: test[0].steps[0].remove_file: expected a place such as"),
        ("{ write_file = 'boot:/x' }", "6: test[0].steps[0]: expected `content` or `from`, found neither"),
        (
            "{ write_file = 'boot:/x', content = '', from = 'y' }",
            "6: test[0].steps[0]: expected `content` or `from`, found both",
        ),
        (
            "{ write_file = 'boot:/x', from = 'no.txt' }",
            "6: test[0].steps[0].from: expected a file, found none at `/",
        ),
        (
            "{ merge_json = 'boot:/x', content = '[]' }",
            "6: test[0].steps[0].content: expected a JSON object, found none",
        ),
        (
            "{ remove_file = 'boot:/x', save = 'x' }",
            "6: test[0].steps[0].save: no part of `remove_file`\nhint: it goes with `run`, `ssh` or `read_file`",
        ),
        ("{ expand = false }", "6: test[0].steps[0].expand: expected `true`, found `false`"),
        ("", "5: test[0].steps: expected at least one step, found none"),
    ] {
        let found = complaints(&with_steps(steps));
        assert!(found.len() == 1 && found[0].starts_with(expected), "{steps}: {found:#?}");
    }
}

#[test]
fn all_complaints_of_a_suite_come_at_once() {
    let text = "
needs = ['serail']
image = 'missing.img'
variables = { 'a b' = 'c' }
[[test]]
title = 'T'
steps = [{ power = 'on' }]
[[test]]
title = 'T'
deadlin = '5s'
steps = [{ send = '${nothing}' }]
";
    let found = complaints(text).join("\n");
    for expected in [
        "title: expected a string, found nothing",
        "2: needs[0]: expected `serial`",
        "3: image: expected a file, found none at",
        "4: variables.a b: expected a name of letters",
        "9: test[1].title: expected a title of its own, found `T` again",
        "10: test[1].deadlin: no such key",
        "11: test[1].steps[0].send: no variable `nothing` is known here",
    ] {
        assert!(found.contains(expected), "`{expected}` is not in\n{found}");
    }
}

#[test]
fn a_captured_variable_ends_with_its_test() {
    let text = "
title = 'S'
[[test]]
title = 'one'
steps = [{ expect_regex = 'ip (.*)$', capture = { ip = '1' } }, { send = '${ip}' }]
[[test]]
title = 'two'
steps = [{ send = '${ip}' }]
";
    let found = complaints(text);
    assert!(
        found.len() == 1 && found[0].starts_with("8: test[1].steps[0].send: no variable `ip`"),
        "{found:?}"
    );
}

#[test]
fn only_variables_that_a_suite_has_can_be_set() {
    let mut suite = check::parse("s.toml", &with_steps("{ send = '${user}' }"), None).unwrap();
    suite.set("user", "admin").unwrap();
    assert_eq!(suite.variables["user"], "admin");
    assert_eq!(suite.set("usr", "x").unwrap_err().to_string(), "suite `s.toml` has no variable `usr`");
}

#[test]
fn a_suite_that_is_no_file_is_said_so() {
    let error = builtin::find("smoek").unwrap_err();
    assert!(
        error.to_string().contains("smoek: 1 complaint") && error.to_string().contains("No such file"),
        "{error}"
    );
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn schema() -> String {
    let told = Command::new(env!("CARGO_BIN_EXE_standin")).args(["suites", "schema"]).output().unwrap();
    String::from_utf8(told.stdout).unwrap()
}

#[test]
fn the_schema_in_the_repository_is_that_of_the_types() {
    let written = std::fs::read_to_string(repository().join("tests/suites/suite.schema.json")).unwrap();
    let command = "cargo run -- suites schema > tests/suites/suite.schema.json";
    assert!(written == schema(), "tests/suites/suite.schema.json is not that of the types; run `{command}`");
}

/// The keys of all tables, and the words of all choices.
fn words_of(schema: &Value, words: &mut Vec<String>) {
    match schema {
        Value::Object(object) => {
            let keys =
                object.get("properties").and_then(Value::as_object).into_iter().flat_map(|keys| keys.keys());
            words.extend(keys.cloned());
            let choices = object.get("enum").and_then(Value::as_array).into_iter().flatten();
            words.extend(choices.chain(object.get("const")).filter_map(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| words_of(value, words));
        }
        Value::Array(items) => items.iter().for_each(|item| words_of(item, words)),
        _ => {}
    }
}

#[test]
fn the_reference_has_every_word_and_its_examples_are_suites() {
    let reference = std::fs::read_to_string(repository().join("docs/suites.md")).unwrap();
    let mut words = Vec::new();
    words_of(&serde_json::from_str(&schema()).unwrap(), &mut words);
    // The one state that no suite can ask for.
    words.retain(|word| word != "unknown");
    words.extend(check::BUILT_IN.map(str::to_owned));
    let quoted: BTreeSet<&str> =
        reference.split(|c: char| !c.is_alphanumeric() && !"_-.".contains(c)).collect();
    let missing: Vec<_> = words.iter().filter(|word| !quoted.contains(word.as_str())).collect();
    assert!(words.len() > 50 && missing.is_empty(), "docs/suites.md does not tell of {missing:?}");

    let examples: Vec<_> =
        reference.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        check::parse("docs/suites.md", example, Some(repository())).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// `standin test here.toml`, and not `./here.toml`.
#[test]
fn a_suite_in_the_folder_that_one_is_in_finds_its_programs_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let suite = "title = 'S'\n[[test]]\ntitle = 'T'\nsteps = [{ exec = ['./tool.sh'] }, { exec = ['cat', 'here.toml'] }]";
    std::fs::write(dir.path().join("here.toml"), suite).unwrap();
    std::fs::write(dir.path().join("tool.sh"), "#!/bin/sh\ntest -f here.toml\n").unwrap();
    std::fs::set_permissions(dir.path().join("tool.sh"), Permissions::from_mode(0o755)).unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(["test", "here.toml", "--board", "pc-seabios", "--accelerator", "tcg"])
        .current_dir(dir.path())
        .env("STANDIN_RUNS", dir.path().join("runs"))
        .env("STANDIN_CACHE", dir.path().join("cache"))
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
}
