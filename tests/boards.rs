//! The boards, through the program: the built-in ones, those of a user's folder, and what a broken file is told.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;
use standin::board::Catalog;
use tempfile::TempDir;

/// The program, run in the package's folder by a user who has configured nothing.
fn standin(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_standin"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    for name in ["STANDIN_BOARDS", "STANDIN_LOG", "XDG_CONFIG_HOME", "HOME"] {
        command.env_remove(name);
    }
    command
}

/// Exit code, stdout and stderr.
fn run(args: &[&str]) -> (i32, String, String) {
    told(standin(args).output().unwrap())
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn objects(stdout: &str) -> Vec<Json> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn board_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("machines");
    let paths = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|name| name == "toml")).collect();
    files.sort();
    files
}

/// A folder of the user's with the built-in `slug`, edited, as `name`.
fn folder_with(name: &str, slug: &str, edits: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("machines/{slug}.toml"));
    let text = edits.iter().fold(fs::read_to_string(built_in).unwrap(), |text, (from, to)| {
        assert!(text.contains(from), "{slug} does not say {from}");
        text.replacen(from, to, 1)
    });
    fs::write(folder.path().join(name), text).unwrap();
    folder
}

#[test]
fn every_board_file_is_valid_built_in_and_names_its_schema() {
    let files = board_files();
    let mut args = vec!["boards", "check", "--json"];
    args.extend(files.iter().map(|path| path.to_str().unwrap()));
    let (code, stdout, stderr) = run(&args);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert_eq!(objects(&stdout)[0]["files"], files.len());

    let (_, listed, _) = run(&["boards", "--json"]);
    let slugs: Vec<_> = files.iter().map(|path| path.file_stem().unwrap().to_str().unwrap()).collect();
    let listed = objects(&listed);
    let (summary, boards) = listed.split_last().unwrap();
    assert_eq!(boards.iter().map(|board| board["slug"].as_str().unwrap()).collect::<Vec<_>>(), slugs);
    assert_eq!((summary["boards"].as_u64(), summary["broken"].as_u64()), (Some(slugs.len() as u64), Some(0)));

    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("#:schema ./board.schema.json\n"), "{} does not", path.display());
    }
}

#[test]
fn the_schema_in_the_repository_is_that_of_the_types() {
    let (code, schema, _) = run(&["boards", "schema"]);
    assert_eq!(code, 0);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("machines/board.schema.json");
    let written = fs::read_to_string(path).unwrap();
    let command = "cargo run -- boards schema > machines/board.schema.json";
    assert!(written == schema, "machines/board.schema.json is not that of the types; run `{command}`");
    let schema: Json = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema["required"].as_array().unwrap().contains(&"slug".into()), "{schema:#}");
}

#[test]
fn qemu_takes_the_machine_processor_and_memory_of_every_board() {
    for entry in Catalog::load(None).unwrap().entries() {
        let board = entry.board.as_ref().unwrap();
        let program = format!("qemu-system-{}", board.arch.qemu_name());
        let mut qemu = Command::new(&program);
        qemu.args(["-nodefaults", "-display", "none", "-S", "-monitor", "stdio", "-accel", "tcg"]);
        qemu.args(["-machine", &board.qemu.machine, "-m", &format!("{}M", board.qemu.memory.0 >> 20)]);
        qemu.args(["-smp", &board.qemu.cpus.to_string()]);
        if let Some(cpu) = &board.qemu.cpu {
            qemu.args(["-cpu", cpu]);
        }
        let child = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let package = "install qemu-system-x86 and qemu-system-arm";
        let mut child = child.unwrap_or_else(|error| panic!("cannot start {program}: {error}; {package}"));
        let asked = child.stdin.take().unwrap().write_all(b"quit\n");
        let output = child.wait_with_output().unwrap();
        assert!(asked.is_ok() && output.status.success(), "{}: {qemu:?}: {output:?}", board.slug);
    }
}

#[test]
fn a_broken_file_is_told_everything_at_once_with_lines() {
    let edits = [
        ("rest = ", "rset = "),
        ("machine = \"q35\"", "machine = \"q53\""),
        ("size = \"256MiB\"", "size = 256"),
    ];
    let folder = folder_with("pc-seabios.toml", "pc-seabios", &edits);
    let file = folder.path().join("pc-seabios.toml");
    let text = fs::read_to_string(&file).unwrap();
    let line = |wanted: &str| text.lines().position(|line| line.starts_with(wanted)).unwrap() + 1;
    let (size, rest, machine) = (line("size"), line("rset"), line("machine"));

    let (code, stdout, stderr) = run(&["boards", "check", file.to_str().unwrap()]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    let expected = format!(
        "error: {}: 3 complaints
  {size}: media.disk.size: expected a size such as `8GiB` or `512MiB`, found the number `256`
  {rest}: power.rset: no such key
hint: did you mean `power.rest`?
  {machine}: qemu.machine: expected `q35`, `pc`, `virt` or `raspi3b`, found `q53`
hint: did you mean `q35`?
",
        file.display()
    );
    assert_eq!(stderr, expected);

    let (code, stdout, stderr) = run(&["boards", "check", "--json", file.to_str().unwrap()]);
    assert_eq!((code, stderr.as_str()), (2, ""));
    let told = objects(&stdout);
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told[1]["file"], file.to_str().unwrap());
    assert_eq!((&told[1]["line"], &told[1]["column"]), (&rest.into(), &1.into()));
    assert_eq!((&told[1]["key"], &told[1]["message"]), (&"power.rset".into(), &"no such key".into()));
    assert_eq!(told[1]["hint"], "did you mean `power.rest`?");
    assert_eq!(told[3]["complaints"], 3);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_that_names_it() {
    let (code, _, stderr) = run(&["boards", "check", "machines/none.toml"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("machines/none.toml") && stderr.contains("No such file"), "{stderr}");
}

#[test]
fn a_folder_adds_boards_and_overrides_the_built_in_ones() {
    let edits = [("name = \"Intel NUC\"", "name = \"Our NUC\"")];
    let folder = folder_with("intel-nuc.toml", "intel-nuc", &edits);
    let own = fs::read_to_string(folder.path().join("intel-nuc.toml")).unwrap();
    let own = own.replacen("slug = \"intel-nuc\"", "slug = \"own-board\"", 1);
    fs::write(folder.path().join("own-board.toml"), own).unwrap();
    fs::write(folder.path().join("notes.txt"), "no board").unwrap();

    let (code, stdout, _) = run(&["--boards", folder.path().to_str().unwrap(), "boards", "--json"]);
    assert_eq!(code, 0);
    let listed = objects(&stdout);
    let board = |slug: &str| listed.iter().find(|board| board["slug"] == slug).unwrap();
    assert_eq!(board("intel-nuc")["name"], "Our NUC");
    assert_eq!(board("own-board")["file"], folder.path().join("own-board.toml").to_str().unwrap());
    assert_eq!(board("generic-amd64")["file"], Json::Null);
    assert_eq!(listed.last().unwrap()["boards"], board_files().len() + 1);
}

#[test]
fn the_folder_is_found_by_environment_and_in_the_users_configuration() {
    let named =
        folder_with("intel-nuc.toml", "intel-nuc", &[("name = \"Intel NUC\"", "name = \"Named NUC\"")]);
    let config = TempDir::new().unwrap();
    let machines = config.path().join("standin/machines");
    fs::create_dir_all(&machines).unwrap();
    let text = fs::read_to_string(named.path().join("intel-nuc.toml")).unwrap();
    fs::write(machines.join("intel-nuc.toml"), text.replacen("Named NUC", "Own NUC", 1)).unwrap();

    let show = || standin(&["boards", "show", "intel-nuc"]);
    let name = |command: &mut Command| told(command.output().unwrap()).1.lines().next().unwrap().to_owned();
    assert!(name(&mut show()).starts_with("Intel NUC"));
    assert!(name(show().env("XDG_CONFIG_HOME", config.path())).starts_with("Own NUC"));
    let both = name(show().env("XDG_CONFIG_HOME", config.path()).env("STANDIN_BOARDS", named.path()));
    assert!(both.starts_with("Named NUC"), "{both}");

    let (code, _, stderr) = run(&["--boards", "/nonexistent", "boards"]);
    assert_eq!(code, 2);
    assert!(stderr.starts_with("error: cannot read boards from /nonexistent: "), "{stderr}");
}

#[test]
fn a_broken_file_of_the_users_troubles_only_who_asks_for_it() {
    let folder = folder_with("intel-nuc.toml", "intel-nuc", &[("arch = \"x86_64\"", "arch = \"x86\"")]);
    let folder = folder.path().to_str().unwrap();
    let (code, _, stderr) = run(&["--boards", folder, "boards", "show", "generic-amd64"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    for args in [["boards", "show", "intel-nuc"].as_slice(), ["boards"].as_slice()] {
        let (code, _, stderr) = run(&[["--boards", folder].as_slice(), args].concat());
        assert_eq!(code, 2, "{args:?}");
        assert!(stderr.contains("intel-nuc.toml: 1 complaint\n") && stderr.contains("arch: "), "{stderr}");
    }
    let (_, stdout, _) = run(&["--boards", folder, "boards"]);
    assert_eq!(stdout.lines().count(), board_files().len() + 1, "{stdout}");
    let (code, stdout, stderr) = run(&["--boards", folder, "boards", "--json"]);
    assert_eq!((code, stderr.as_str()), (2, ""));
    let listed = objects(&stdout);
    let broken = listed.iter().find(|board| board["slug"] == "intel-nuc").unwrap();
    assert_eq!(broken["complaints"][0]["key"], "arch");
    assert_eq!(listed.last().unwrap()["broken"], 1);
}

#[test]
fn an_unknown_board_is_an_error_with_the_near_name() {
    let (code, stdout, stderr) = run(&["boards", "show", "raspberypi3-64"]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert_eq!(stderr, "error: there is no board `raspberypi3-64`\nhint: did you mean `raspberrypi3-64`?\n");
    let (code, _, stderr) = run(&["boards", "show", "zx-spectrum"]);
    assert_eq!(code, 2);
    assert!(stderr.ends_with("hint: `standin boards` lists all of them\n"), "{stderr}");
}

#[test]
fn show_is_honest_about_what_the_stand_in_lacks() {
    let (code, stdout, _) = run(&["boards", "show", "intel-nuc"]);
    assert_eq!(code, 0);
    let line = |start: &str| stdout.lines().find(|line| line.trim_start().starts_with(start)).unwrap();
    assert!(line("the board alone").contains("wifi, bluetooth"), "{stdout}");
    assert!(line("the stand-in alone").contains("panic-event"), "{stdout}");
    assert!(stdout.contains("  not mirrored\n    - Wi-Fi and Bluetooth.\n"), "{stdout}");

    let (_, stdout, _) = run(&["boards", "show", "intel-nuc", "--json"]);
    let board = &objects(&stdout)[0];
    let has = |list: &str, what: &str| board[list].as_array().unwrap().contains(&what.into());
    assert!(has("capabilities", "wifi") && !has("stand_in_capabilities", "wifi"), "{board}");
    assert_eq!(board["power"]["button_hold"], "4s");
    assert_eq!(board["qemu"]["attach"]["usb"], "usb-storage");
}

#[test]
fn a_wrong_command_line_is_the_users_fault_and_a_closed_pipe_is_nobodys() {
    assert_eq!(run(&["bords"]).0, 2);
    assert_eq!(run(&["boards", "--log", "standin=loud"]).0, 2);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = standin(&["boards", "schema"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    let (code, _, stderr) = told(output);
    assert_eq!((code, stderr.as_str()), (0, ""));
}
