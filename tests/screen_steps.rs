//! Steps of suites on screen and keyboard, on a real QEMU.

mod support;

use std::path::Path;

use standin::io::picture::{Picture, Region};
use standin::suite::check;
use standin::suite::outcome::SuiteReport;
use support::{Hold, seabios_pc, seabios_pc_with_screen};
use tokio::sync::watch;

/// Runs tests, given as TOML, whose paths start from the directory of the hold.
async fn run(hold: &mut Hold, tests: &str) -> SuiteReport {
    let dir = hold.dir.path().to_owned();
    let suite = check::parse("s.toml", &format!("title = 'S'\n{tests}"), Some(&dir));
    let (_keep, cancel) = watch::channel(false);
    hold.run(&suite.unwrap_or_else(|error| panic!("{error}")), cancel, &mut |_| {}).await
}

fn test(title: &str, steps: &str) -> String {
    format!("[[test]]\ntitle = '{title}'\nsteps = [{steps}]\n")
}

fn outcomes(report: &SuiteReport) -> Vec<&'static str> {
    report.tests.iter().map(|test| test.outcome.word()).collect()
}

fn message(report: &SuiteReport, index: usize) -> String {
    report.tests[index].outcome.message().unwrap_or_default()
}

fn read(dir: &Path, name: &str) -> Picture {
    Picture::from_png(&std::fs::read(dir.join(name)).unwrap()).unwrap()
}

#[tokio::test]
async fn a_screenshot_can_be_expected_and_what_differs_is_told_and_kept() {
    let mut hold = seabios_pc_with_screen();
    let dir = hold.dir.path().to_owned();
    let boot = "{ flash = 'image' }, { power = 'on' }, { expect = 'selftest# ' }, { wait_screen = 'drawn' }";
    let first = run(&mut hold, &test("boot", &format!("{boot}, {{ screenshot = 'booted' }}"))).await;
    assert_eq!(outcomes(&first), ["passed"], "{first:#?}");
    assert_eq!(first.tests[0].evidence, [Path::new("s-1-screenshot-booted.png")]);

    // The same, its first line, the first line alone, and one with other pixels in a tenth of it.
    let booted = read(&dir, "s-1-screenshot-booted.png");
    let first_line = Region { x: 0, y: 0, width: 720, height: 16 };
    std::fs::write(dir.join("line.png"), booted.cut(first_line).unwrap().to_png().unwrap()).unwrap();
    let other: Vec<u8> = (0..400 * 720)
        .flat_map(|at| if at < 40 * 720 { [0, 0, 200] } else { booted.pixel(at % 720, at / 720) })
        .collect();
    std::fs::write(dir.join("other.png"), Picture::new(720, 400, other).unwrap().to_png().unwrap()).unwrap();
    let whole = "expect_screen = 's-1-screenshot-booted.png'";
    let region = "region = { width = 720, height = 16 }";
    let second = run(
        &mut hold,
        &[
            test("whole", &format!("{{ {whole}, tolerance = '0.1%' }}")),
            test("line of it", &format!("{{ {whole}, {region} }}")),
            test("line alone", &format!("{{ expect_screen = 'line.png', {region} }}")),
            test("tolerated", "{ expect_screen = 'other.png', tolerance = '11%' }"),
            test("other", "{ expect_screen = 'other.png', tolerance = '9%', within = '1s' }"),
            test("size", "{ expect_screen = 'line.png', within = '1s' }"),
            test("off", &format!("{{ power = 'off' }}, {{ {whole} }}")),
            test("off too", "{ screenshot = 'off' }"),
            test("deaf", "{ keyboard = ['enter'] }"),
        ]
        .concat(),
    )
    .await;
    hold.device.power_off().await.unwrap();
    let failed = ["failed"; 5];
    assert_eq!(outcomes(&second), [&["passed"; 4][..], &failed].concat(), "{second:#?}");
    let told = message(&second, 4);
    assert!(
        told.contains("other.png within 1s: in the nearest picture 10% of the pixels differ, and 9% may"),
        "{told}"
    );
    assert_eq!(second.tests[4].evidence.len(), 2);
    let (seen, marked) = (read(&dir, "s-5-screen-seen.png"), read(&dir, "s-5-screen-difference.png"));
    assert!(seen.difference(&booted).unwrap() < 0.001);
    assert_eq!((marked.pixel(0, 0), marked.pixel(719, 399)), ([255, 0, 0], [0, 0, 0]));
    let told = message(&second, 5);
    assert!(told.contains("the screen is 720x400, and the picture 720x16"), "{told}");
    for index in [6, 7] {
        assert_eq!(message(&second, index), "the screen is dark: the DUT does not run");
    }
    assert_eq!(message(&second, 8), "cannot type on the keyboard of pc-seabios: it does not run");
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn keys_of_a_suite_reach_the_uefi_shell_and_change_the_screen() {
    let mut hold = support::stand_in("generic-aarch64").await;
    let report = run(
        &mut hold,
        &[
            test("shell", "{ power = 'on' }, { expect = 'Shell> ' }, { wait_screen = 'drawn' }"),
            test(
                "colour",
                "{ keyboard_text = \"cls 1\\n\" }, { wait_screen = 'changed', tolerance = '50%' },
                 { wait_screen = 'blank', tolerance = '5%' }",
            ),
            test(
                "keys",
                "{ keyboard = ['shift-e', 'c', 'h', 'o', 'space', 'x', 'enter'] }, { expect_regex = '^x$' }",
            ),
            test(
                "still",
                "{ send_keys = ' ' }, { wait_screen = 'changed', tolerance = '50%', within = '1s' }",
            ),
            test("dark", "{ wait_screen = 'blank', within = '500ms' }"),
        ]
        .concat(),
    )
    .await;
    assert_eq!(outcomes(&report), ["passed", "passed", "passed", "failed", "failed"], "{report:#?}");
    let told = message(&report, 3);
    assert!(told.starts_with("the screen was not changed within 1s: "), "{told}");
    assert!(
        message(&report, 4).ends_with("the last picture is s-5-screen-seen.png"),
        "{}",
        message(&report, 4)
    );
    assert_eq!(read(hold.dir.path(), "s-5-screen-seen.png").to_string(), "1280x800");
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_board_without_screen_or_keyboard_skips_what_needs_them() {
    let mut hold = seabios_pc(Vec::new());
    let report = run(
        &mut hold,
        &[test("see", "{ wait_screen = 'drawn' }"), test("type", "{ keyboard_text = 'x' }")].concat(),
    )
    .await;
    assert_eq!(outcomes(&report), ["skipped", "skipped"]);
    assert_eq!(
        [message(&report, 0), message(&report, 1)],
        ["the board has no screen", "the board has no keyboard"]
    );
    hold.close_and_expect_nothing_left().await;
}
