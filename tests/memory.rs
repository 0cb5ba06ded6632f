//! What reading an image takes of the host's memory, whatever it is packed with.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

use liblzma::stream::{Check, Filters, LzmaOptions, MtStreamBuilder};
use standin::io::cache::Cache;
use standin::io::image::{Image, ImageError};

/// More than all windows but the largest one.
const CONTENT_BYTES: usize = 140 << 20;

/// The same megabyte again and again: quick to pack, and no packer takes it for zeros.
fn content() -> impl Read {
    let megabyte: Vec<u8> =
        (0..1 << 18).flat_map(|word: u32| (word.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    std::io::Cursor::new(megabyte.repeat(CONTENT_BYTES >> 20))
}

/// As `xz` does it with a window and blocks of such sizes, but faster.
fn xz(path: &Path, window_bytes: u32, block_bytes: u64, mut content: impl Read) {
    let mut options = LzmaOptions::new_preset(0).unwrap();
    let mut filters = Filters::new();
    filters.lzma2(options.dict_size(window_bytes));
    let mut builder = MtStreamBuilder::new();
    let stream =
        builder.threads(1).block_size(block_bytes).filters(filters).check(Check::Crc64).encoder().unwrap();
    let mut packer = liblzma::write::XzEncoder::new_stream(fs::File::create(path).unwrap(), stream);
    std::io::copy(&mut content, &mut packer).unwrap();
    packer.finish().unwrap();
}

/// As `zstd --long` does it.
fn zstd(path: &Path, window_log: u32, mut content: impl Read) {
    let mut packer = zstd::Encoder::new(fs::File::create(path).unwrap(), 1).unwrap();
    packer.window_log(window_log).unwrap();
    packer.long_distance_matching(true).unwrap();
    std::io::copy(&mut content, &mut packer).unwrap();
    packer.finish().unwrap();
}

/// The most memory that a `standin` takes which flashes the image, in bytes: VmHWM of proc(5).
fn peak(dir: &Path, image: &Path) -> u64 {
    let mut command = support::standin(dir);
    command.arg("--boards").arg(dir.join("boards"));
    command.args(["up", "pc-seabios", "--accelerator", "tcg", "--print-qemu-args", "--image"]).arg(image);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        // It may have ended since; then it has no memory.
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.map(|line| line.trim().trim_end_matches(" kB").parse::<u64>().unwrap());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        std::thread::yield_now();
    };
    assert_eq!(ended.code(), Some(0), "{}", image.display());
    peak
}

#[test]
fn reading_an_image_takes_less_than_80_mb_or_its_window_and_20_mb() {
    let dir = tempfile::tempdir().unwrap();
    support::large_pc(&dir.path().join("boards"));
    let path = dir.path().join("os.img");
    // The program itself, whose debug build alone is twice as large as the one that people run.
    fs::write(&path, [1; 4096]).unwrap();
    let own = peak(dir.path(), &path);
    type Pack = fn(&Path);
    let table: [(&str, u64, Pack); 7] = [
        ("xz -6", 80, |path| xz(path, 8 << 20, 1 << 30, content())),
        ("xz -6 -T2", 80, |path| xz(path, 8 << 20, 24 << 20, content())),
        ("xz -9", 80, |path| xz(path, 64 << 20, 1 << 30, content())),
        ("xz -9 -T2 --block-size=48MiB", 80, |path| xz(path, 64 << 20, 48 << 20, content())),
        ("zstd -19", 80, |path| zstd(path, 23, content())),
        ("zstd --long=26", 80, |path| zstd(path, 26, content())),
        ("zstd --long=27", 134 + 20, |path| zstd(path, 27, content())),
    ];
    for (name, most_mb, pack) in table {
        pack(&path);
        let taken = peak(dir.path(), &path).saturating_sub(own);
        println!("{name}: {} MB beside {} MB", taken / 1_000_000, own / 1_000_000);
        assert!((1_000_000..most_mb * 1_000_000).contains(&taken), "{name}: {taken} bytes beside {own}");
    }
    assert_eq!(support::processes_with(dir.path()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_image_that_asks_for_gigabytes_of_memory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, cache) = (dir.path().join("os.img"), Cache::at(&dir.path().join("cache")));
    let refused = |what: &str| {
        let refused = Image::open(&path, &cache, "disk", 1 << 30).map(|image| image.bytes).unwrap_err();
        assert!(matches!(refused, ImageError::TooWide { .. }) && refused.is_users(), "{what}: {refused:?}");
    };
    let little = || content().take(1 << 20);
    xz(&path, 192 << 20, 1 << 30, little());
    refused("xz --lzma2=dict=192MiB");
    zstd(&path, 27, little());
    Image::open(&path, &cache, "disk", 1 << 30).unwrap();
    // What `--long=31` makes differs in the byte that tells the window: section 3.1.1.1.2 of RFC 8878.
    let mut packed = fs::read(&path).unwrap();
    assert_eq!(packed[5], (27 - 10) << 3);
    for window_log in [28, 31] {
        packed[5] = (window_log - 10) << 3;
        fs::File::create(&path).unwrap().write_all(&packed).unwrap();
        refused("zstd --long");
    }
    assert_eq!(cache.list().unwrap().len(), 1);
}
