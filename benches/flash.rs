//! What the first and the second flash of an image cost, beside the best command-line way for its format.
//!
//! A flash to a real medium, here a file, is held to the time of `dd`, which reads nothing back.
//! The image has 2 GiB and some 300 MiB of data. The bars: the first flash takes at most 1.15 times the command
//! line's time, the second less than 50 ms; memory stays under 100 MB, and at most 1.05 times the data is written.
//! `scripts/bench` runs it; with the name of a format and a place as arguments it is the flash that is measured.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made has failed")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use standin::board::catalog::Catalog;
use standin::device::storage::Storage;
use standin::io::cache::Cache;
use standin::io::image::Image;
use standin::io::medium::{Checks, LARGEST_BYTES, Order, Target};

const IMAGE_BYTES: u64 = 2 << 30;
const DATA_BYTES: u64 = 300 << 20;
const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flash, image, place] = &arguments[..]
        && flash == "flash"
    {
        return flash_twice(Path::new(image), Path::new(place));
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = generate(&dir.path().join("os.raw"));
    let igzip = if has("igzip") { "igzip -d -c" } else { "gzip -d -c" };
    let pigz = if has("pigz") { "pigz" } else { "gzip" };
    let table = [
        ("raw", "true".to_owned(), "cp --sparse=always os.raw by-hand".to_owned()),
        (
            "gz",
            format!("{pigz} -c os.raw > os.gz"),
            format!("{igzip} os.gz | dd of=by-hand bs=1M iflag=fullblock conv=sparse"),
        ),
        (
            "xz",
            "xz -T2 -2 -c os.raw > os.xz".to_owned(),
            "xz -d -T2 -c os.xz | dd of=by-hand bs=1M iflag=fullblock conv=sparse".to_owned(),
        ),
        (
            "zst",
            "zstd -q --check os.raw -o os.zst".to_owned(),
            "zstd -q -d -f --sparse os.zst -o by-hand".to_owned(),
        ),
    ];
    println!("medians of {ROUNDS} rounds, in turns; 2 GiB with {} MiB of data", data >> 20);
    let mut held = true;
    for (format, pack, by_hand) in table {
        shell(dir.path(), &pack);
        let (mut alone, mut firsts, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
        let (mut memory, mut written) = (0, 0);
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            shell(dir.path(), &by_hand);
            alone.push(begun.elapsed());
            fs::remove_file(dir.path().join("by-hand")).unwrap();
            let flashed = flash(dir.path(), format);
            firsts.push(flashed.first);
            seconds.push(flashed.second);
            memory = memory.max(flashed.memory_kib);
            written = written.max(flashed.written);
        }
        let (alone, first, second) = (median(alone), median(firsts), median(seconds));
        let ratio = first.as_secs_f64() / alone.as_secs_f64();
        let share = written as f64 / data as f64;
        let within = ratio <= 1.15
            && second <= Duration::from_millis(50)
            && memory * 1024 <= 100_000_000
            && share <= 1.05;
        held &= within;
        println!(
            "{format:4} by hand {alone:7.2?}  first {first:7.2?}  ratio {ratio:.2}  second {second:7.2?}  \
             memory {} MiB  written {share:.3}  {}",
            memory / 1024,
            if within { "held" } else { "MISSED" }
        );
    }
    held &= medium(dir.path());
    println!("bar (1.15, 50 ms, 100 MB, 1.05): {}", if held { "held" } else { "MISSED" });
    std::process::exit(i32::from(!held));
}

/// Writes the image to a file as to a card, read back, and as `dd` does; whether the bar of 1.15 is held.
fn medium(dir: &Path) -> bool {
    let image = Image::open(&dir.join("os.raw"), &Cache::at(&dir.join("cache")), "card", u64::MAX).unwrap();
    let card = dir.join("card");
    let by_hand =
        format!("dd if={} of=card bs=4M conv=fsync,sparse status=none", image.base().path().display());
    let (mut alone, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        shell(dir, &by_hand);
        alone.push(begun.elapsed());
        fs::remove_file(&card).unwrap();
        let begun = Instant::now();
        let checks = Checks { largest: LARGEST_BYTES, keep: Vec::new(), is_meant: false };
        let order = Order { progress: &mut |_| {}, cancelled: &AtomicBool::new(false) };
        Target::open(&card, &checks).unwrap().write(&image, order).unwrap();
        ours.push(begun.elapsed());
        fs::remove_file(&card).unwrap();
    }
    let (alone, ours) = (median(alone), median(ours));
    let ratio = ours.as_secs_f64() / alone.as_secs_f64();
    println!("to a medium: dd {alone:7.2?}  read back, too {ours:7.2?}  ratio {ratio:.2}");
    ratio <= 1.15
}

struct Flashed {
    first: Duration,
    second: Duration,
    memory_kib: u64,
    written: u64,
}

/// Flashes twice in a process of its own, whose memory is that of nothing else.
fn flash(dir: &Path, format: &str) -> Flashed {
    let place = tempfile::tempdir_in(dir).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["flash".as_ref(), dir.join(format!("os.{format}")).as_os_str(), place.path().as_os_str()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let [first, second, memory_kib, written] = numbers[..] else { panic!("{text}") };
    Flashed {
        first: Duration::from_micros(first),
        second: Duration::from_micros(second),
        memory_kib,
        written,
    }
}

fn flash_twice(path: &Path, place: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let board = Catalog::load(None).unwrap().board("generic-amd64").unwrap();
    let mut storage = Storage::create(&board, place).unwrap();
    let medium = board.flash_medium();
    let mut times = Vec::new();
    for _ in 0..2 {
        let begun = Instant::now();
        let image = Image::open(path, &Cache::at(&place.join("cache")), &medium.name, medium.size.0).unwrap();
        runtime.block_on(storage.flash(&medium.name, &image)).unwrap();
        times.push(begun.elapsed().as_micros());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak = peak.trim().trim_end_matches(" kB");
    println!("{} {} {peak} {}", times[0], times[1], disk_bytes(place));
}

/// What a folder takes of the disk.
fn disk_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let about = entry.metadata().unwrap();
            if about.is_dir() { disk_bytes(&entry.path()) } else { about.blocks() * 512 }
        })
        .sum()
}

/// Writes the image, the same in each run, and returns how much data it has: half of it like programs, which do
/// not pack, half like text, which does, in files of up to 4 MiB with room between them.
fn generate(path: &Path) -> u64 {
    let file = File::create(path).unwrap();
    file.set_len(IMAGE_BYTES).unwrap();
    let mut state: u64 = 1;
    // splitmix64, by its published constants.
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    let words: Vec<String> = (0..4096).map(|_| format!("{:x} ", random() >> (random() % 48))).collect();
    let (mut offset, mut data) = (0, 0);
    while data < DATA_BYTES {
        let length = (random() % (4 << 20) + (64 << 10)) & !4095;
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap() + 32);
        let is_text = random() % 2 == 0;
        while bytes.len() < usize::try_from(length).unwrap() {
            if is_text {
                bytes.extend_from_slice(words[usize::try_from(random() % 4096).unwrap()].as_bytes());
            } else {
                bytes.extend_from_slice(&random().to_le_bytes());
            }
        }
        bytes.truncate(usize::try_from(length).unwrap());
        file.write_all_at(&bytes, offset).unwrap();
        data += length;
        // On average as much as fills the image.
        offset +=
            length + ((random() % (2 * length * (IMAGE_BYTES - DATA_BYTES) / DATA_BYTES) * 9 / 10) & !4095);
    }
    assert!(offset <= IMAGE_BYTES);
    data
}

/// The middle one.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn has(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program} >/dev/null")]).status().unwrap().success()
}

fn shell(dir: &Path, command: &str) {
    let output = Command::new("sh").args(["-c", command]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
