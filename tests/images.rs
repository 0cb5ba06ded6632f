//! Images of every format through the reader and the cache: what comes out is what went in, or nothing does.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use sha2::{Digest, Sha256};
use standin::io::cache::Cache;
use standin::io::image::{Expected, Image, ImageError};

const CAPACITY: u64 = 64 << 20;

fn open(path: &Path, cache: &Path) -> Result<Image, ImageError> {
    Image::open(path, &Cache::at(cache), "disk", CAPACITY)
}

fn expect(path: &Path, cache: &Path, sha256: &str) -> Result<Image, ImageError> {
    let sha256 = Some(sha256.to_owned());
    let expected = Expected {
        medium: "disk",
        capacity: CAPACITY,
        sha256,
        bmap: None,
        progress: &mut |_| ControlFlow::Continue(()),
    };
    Image::open_expected(path, &Cache::at(cache), expected)
}

/// Numbers that look random and are the same in each run: splitmix64, by its published constants.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// An image with data of both kinds, with zeros between and at the end.
fn content(bytes: usize) -> Vec<u8> {
    let mut random = Random(1);
    let mut content = vec![0; bytes];
    for (index, part) in content.chunks_mut(bytes / 8).enumerate() {
        match index % 4 {
            0 => part.fill_with(|| random.next().to_le_bytes()[0]),
            1 => {
                part.iter_mut().zip(b"the quick brown fox ".iter().cycle()).for_each(|(at, from)| *at = *from)
            }
            2 => part[10] = 1,
            _ => {}
        }
    }
    content
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(content).unwrap();
    packer.finish().unwrap()
}

fn xz(content: &[u8]) -> Vec<u8> {
    let stream = liblzma::stream::MtStreamBuilder::new()
        .threads(1)
        .block_size(1 << 20)
        .preset(0)
        .check(liblzma::stream::Check::Crc64)
        .encoder()
        .unwrap();
    let mut packer = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    packer.write_all(content).unwrap();
    packer.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
    packer.include_checksum(true).unwrap();
    packer.write_all(content).unwrap();
    packer.finish().unwrap()
}

fn bzip2(content: &[u8]) -> Vec<u8> {
    let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    packer.write_all(content).unwrap();
    packer.finish().unwrap()
}

fn lz4(content: &[u8]) -> Vec<u8> {
    let info =
        lz4_flex::frame::FrameInfo::new().content_checksum(true).content_size(Some(content.len() as u64));
    let mut packer = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    packer.write_all(content).unwrap();
    packer.finish().unwrap()
}

fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut packer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, content) in files {
        packer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        packer.write_all(content).unwrap();
    }
    packer.finish().unwrap().into_inner()
}

/// In clusters of 64 KiB: one table, every other cluster that has data packed.
fn qcow2(content: &[u8]) -> Vec<u8> {
    const CLUSTER: usize = 1 << 16;
    let clusters = content.len().div_ceil(CLUSTER);
    let mut file = vec![0; 3 * CLUSTER];
    let head: [(usize, u64, usize); 6] = [
        (0, 0x5146_49fb, 4),
        (4, 3, 4),
        (20, 16, 4),
        (24, content.len() as u64, 8),
        (36, 1, 4),
        (40, CLUSTER as u64, 8),
    ];
    for (at, value, length) in head {
        file[at..at + length].copy_from_slice(&value.to_be_bytes()[8 - length..]);
    }
    file[CLUSTER..CLUSTER + 8].copy_from_slice(&((2 * CLUSTER as u64) | (1 << 63)).to_be_bytes());
    assert!(clusters <= CLUSTER / 8);
    for (index, cluster) in content.chunks(CLUSTER).enumerate() {
        if cluster.iter().all(|byte| *byte == 0) {
            continue;
        }
        let mut cluster = cluster.to_vec();
        cluster.resize(CLUSTER, 0);
        let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&cluster).unwrap();
        let packed = packer.finish().unwrap();
        let offset = file.len() as u64;
        let entry = if index % 2 == 0 && packed.len() < CLUSTER {
            file.extend_from_slice(&packed);
            let sectors = packed.len().div_ceil(512) as u64 - 1;
            1 << 62 | sectors << (62 - 8) | offset
        } else {
            file.extend_from_slice(&cluster);
            1 << 63 | offset
        };
        let at = 2 * CLUSTER + index * 8;
        file[at..at + 8].copy_from_slice(&entry.to_be_bytes());
        file.resize(file.len().next_multiple_of(CLUSTER), 0);
    }
    file
}

/// In blocks of 512 bytes: zeros as holes or filled, what repeats filled, and the rest as it is.
fn android(content: &[u8]) -> Vec<u8> {
    let mut chunks: Vec<(u32, Vec<u8>, u32)> = Vec::new();
    for (index, block) in content.chunks(512).enumerate() {
        let repeats = block.chunks(4).all(|word| *word == block[..4]);
        let (kind, stored) = match repeats {
            true if block[0] == 0 && index / 2048 % 2 == 0 => (0xcac3, &[][..]),
            true => (0xcac2, &block[..4]),
            false => (0xcac1, block),
        };
        match chunks.last_mut() {
            Some((0xcac1, bytes, blocks)) if kind == 0xcac1 => {
                bytes.extend_from_slice(stored);
                *blocks += 1;
            }
            Some((last, bytes, blocks)) if *last == kind && bytes == stored => *blocks += 1,
            _ => chunks.push((kind, stored.to_vec(), 1)),
        }
    }
    chunks.push((0xcac4, vec![1, 2, 3, 4], 0));
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let (blocks, count) = (content.len() / 512, chunks.len());
    let mut file = words(&[0xed26_ff3a, 1, 28 | 12 << 16, 512, blocks as u32, count as u32, 0]);
    for (kind, stored, blocks) in chunks {
        file.extend(words(&[kind, blocks, stored.len() as u32 + 12]));
        file.extend(stored);
    }
    file
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_format_gives_the_same_content_with_its_zeros_as_holes() {
    let dir = tempfile::tempdir().unwrap();
    let content = content((9 << 20) + 512);
    let (first, second) = content.split_at(5_000_001);
    let both = |pack: fn(&[u8]) -> Vec<u8>| [pack(first), pack(second)].concat();
    let padded = [xz(first), vec![0; 8], xz(second)].concat();
    let skipped = [&b"\x50\x2a\x4d\x18\x04\0\0\0skip"[..], &zstd(&content)].concat();
    let table = [
        ("raw", content.clone()),
        ("gz", gzip(&content)),
        ("two.gz", both(gzip)),
        ("xz", xz(&content)),
        ("two.xz", padded),
        ("zst", zstd(&content)),
        ("two.zst", both(zstd)),
        ("skip.zst", skipped),
        ("bz2", bzip2(&content)),
        ("two.bz2", both(bzip2)),
        ("lz4", lz4(&content)),
        ("two.lz4", both(lz4)),
        ("zip", zip(&[("os.img", &content)])),
        ("qcow2", qcow2(&content)),
        ("android", android(&content)),
    ];
    let data: usize = content.chunks(4096).filter(|block| block.iter().any(|byte| *byte != 0)).count();
    for (name, packed) in table {
        let path = dir.path().join(name);
        fs::write(&path, packed).unwrap();
        let cache = dir.path().join(format!("cache-{name}"));
        let image = open(&path, &cache).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert!(fs::read(image.base().path()).unwrap() == content, "{name}");
        assert_eq!(image.sha256().unwrap(), hex(&content), "{name}");
        let written = fs::metadata(image.base().path()).unwrap().blocks() * 512;
        assert!(written <= data as u64 * 4096 * 105 / 100, "{name}: {written} bytes of the disk");
        assert_eq!(image.digest, open(&path, &dir.path().join("cache-raw")).unwrap().digest, "{name}");
    }
}

#[test]
fn what_cannot_be_flashed_is_refused_with_what_is_wrong_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(1 << 20);
    let trailing = |packed: Vec<u8>| [&packed[..], b"rubbish!"].concat();
    let cut = |packed: Vec<u8>| packed[..packed.len() / 2].to_vec();
    let mut flipped = gzip(&content);
    let crc = flipped.len() - 6;
    flipped[crc] ^= 1;
    let mut overlay = qcow2(&content);
    overlay[15] = 112;
    let bomb = gzip(&vec![0; CAPACITY as usize + 1]);
    let stacked = [gzip(&vec![0; CAPACITY as usize]), gzip(b"x")].concat();
    let table: [(&str, Vec<u8>, &str); 23] = [
        ("empty", Vec::new(), "is empty"),
        ("empty.gz", gzip(b""), "is empty"),
        ("cut.gz", cut(gzip(&content)), "damaged at or before byte "),
        ("cut.xz", cut(xz(&content)), "damaged at or before byte "),
        ("cut.zst", cut(zstd(&content)), "damaged at or before byte "),
        ("cut.bz2", cut(bzip2(&content)), "damaged at or before byte "),
        ("cut.lz4", cut(lz4(&content)), "damaged at or before byte "),
        ("cut.zip", cut(zip(&[("os.img", &content)])), "damaged at or before byte "),
        ("more.gz", trailing(gzip(&content)), "garbage behind the end"),
        ("more.xz", trailing(xz(&content)), "garbage behind the end"),
        ("more.zst", trailing(zstd(&content)), "garbage behind the end"),
        ("more.bz2", trailing(bzip2(&content)), "garbage behind the end"),
        ("more.lz4", trailing(lz4(&content)), "garbage behind the end"),
        ("crc.gz", flipped, "corrupt gzip stream"),
        ("two.zip", zip(&[("a.img", &content), ("b.img", &content)]), "it holds 2 files"),
        ("layer.qcow2", overlay, "it is a layer over another file"),
        ("7z", b"7z\xbc\xaf\x27\x1c\0\0".to_vec(), "is a 7z archive"),
        ("cut.simg", cut(android(&content)), "damaged at or before byte "),
        ("more.simg", trailing(android(&content)), "garbage behind the end"),
        ("long.simg", [&android(&content)[..16], &[0xff; 40]].concat(), "and medium `disk` only 67108864"),
        ("large", vec![1; CAPACITY as usize + 1], "has 67108865 bytes, and medium `disk` only 67108864"),
        ("bomb.gz", bomb, "more bytes, unpacked, than the 67108864"),
        ("stacked.gz", stacked, "more bytes, unpacked, than the 67108864"),
    ];
    let cache = dir.path().join("cache");
    for (name, bytes, reason) in table {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = open(&path, &cache).map(|image| image.bytes).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let words = format!("{error}: {cause}");
        assert!(words.contains(reason), "{name}: {words}");
        assert!(error.is_users(), "{name}: {words}");
    }
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [fifo, dir.path().to_owned(), PathBuf::from("/dev/null")] {
        assert!(matches!(open(&path, &cache), Err(ImageError::NoFile { .. })), "{}", path.display());
    }
    assert_eq!(Cache::at(&cache).list().unwrap(), [], "nothing of it is in the cache");
    assert!(fs::read_dir(&cache).unwrap().all(|entry| !entry.unwrap().path().join("base.img").exists()));
}

#[test]
fn a_digest_that_is_expected_must_be_the_files_or_its_contents() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(1 << 20);
    let (path, cache) = (dir.path().join("os.img.gz"), dir.path().join("cache"));
    fs::write(&path, gzip(&content)).unwrap();
    // Known or not, the answer is the same.
    for _ in 0..2 {
        let wrong = expect(&path, &cache, &"0".repeat(64)).unwrap_err();
        assert!(matches!(wrong, ImageError::Unexpected { .. }), "{wrong}");
        expect(&path, &cache, &hex(&content)).unwrap();
        expect(&path, &cache, &hex(&fs::read(&path).unwrap()).to_uppercase()).unwrap();
    }
    let beside = dir.path().join("os.img.gz.sha256");
    fs::write(&beside, format!("{}  os.img.gz\n", hex(&fs::read(&path).unwrap()))).unwrap();
    open(&path, &cache).unwrap();
    fs::write(&beside, format!("{}  os.img.gz\n", hex(b"something else"))).unwrap();
    assert!(matches!(open(&path, &cache), Err(ImageError::Unexpected { .. })));
    fs::write(&beside, "what is this?").unwrap();
    assert!(matches!(open(&path, &cache), Err(ImageError::NoSha256 { .. })));
}

#[test]
fn a_known_image_is_not_read_again_and_a_changed_one_is() {
    let dir = tempfile::tempdir().unwrap();
    let (path, cache) = (dir.path().join("os.img"), dir.path().join("cache"));
    fs::write(&path, content(1 << 20)).unwrap();
    settle(&path);
    let mut told = 0;
    let mut passes = |path: &Path| {
        let before = told;
        let progress = &mut |_| {
            told += 1;
            ControlFlow::Continue(())
        };
        let expected = Expected { medium: "disk", capacity: CAPACITY, sha256: None, bmap: None, progress };
        let image = Image::open_expected(path, &Cache::at(&cache), expected).unwrap();
        (told > before, image)
    };
    let (read, first) = passes(&path);
    assert!(read);
    let (read, again) = passes(&path);
    assert!(!read && again.digest == first.digest);
    // In place, of the same length.
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"changed", 5000).unwrap();
    let (read, changed) = passes(&path);
    assert!(read && changed.digest != first.digest);
    assert_eq!(Cache::at(&cache).list().unwrap().len(), 2);
}

/// Waits until the file's last change is older than what time stamps can tell apart.
fn settle(path: &Path) {
    let changed = fs::metadata(path).unwrap().modified().unwrap();
    while changed.elapsed().unwrap_or_default() < std::time::Duration::from_millis(50) {
        std::thread::yield_now();
    }
}

#[test]
fn two_who_open_the_same_new_image_unpack_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let (path, cache) = (dir.path().join("os.img.xz"), dir.path().join("cache"));
    let content = content(8 << 20);
    fs::write(&path, xz(&content)).unwrap();
    settle(&path);
    let begin = Barrier::new(4);
    let work = || {
        begin.wait();
        let mut unpacked = false;
        let progress = &mut |_| {
            unpacked = true;
            ControlFlow::Continue(())
        };
        let expected = Expected { medium: "disk", capacity: CAPACITY, sha256: None, bmap: None, progress };
        let image = Image::open_expected(&path, &Cache::at(&cache), expected).unwrap();
        (unpacked, fs::read(image.base().path()).unwrap() == content)
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(outcomes.iter().all(|(_, right)| *right));
    assert_eq!(outcomes.iter().filter(|(unpacked, _)| *unpacked).count(), 1);
}

#[test]
fn an_interrupted_insertion_is_never_used_and_swept_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let path = dir.path().join("os.img");
    fs::write(&path, content(1 << 20)).unwrap();
    // As a killed process leaves it: half a base without a name, and nobody who holds it.
    let dead = cache.join("new-dead");
    fs::create_dir_all(&dead).unwrap();
    fs::write(dead.join("base.img"), "half").unwrap();
    // A living one is spared.
    let living = Cache::at(&cache).begin().unwrap();
    assert!(!dead.exists());
    let image = open(&path, &cache).unwrap();
    assert!(living.path().exists());
    assert!(fs::read(image.base().path()).unwrap() == fs::read(&path).unwrap());
    let names: Vec<_> = Cache::at(&cache).list().unwrap().into_iter().map(|entry| entry.digest).collect();
    assert_eq!(names, std::slice::from_ref(&image.digest));
}

#[test]
fn verify_finds_a_flipped_byte_and_a_base_that_was_touched_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (path, cache) = (dir.path().join("os.img"), dir.path().join("cache"));
    let content = content(1 << 20);
    fs::write(&path, &content).unwrap();
    settle(&path);
    let base = open(&path, &cache).unwrap().base().path();
    let flip = |keep_time: bool| {
        fs::set_permissions(&base, fs::Permissions::from_mode(0o644)).unwrap();
        let file = File::options().read(true).write(true).open(&base).unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(&[!content[70_000]], 70_000).unwrap();
        if keep_time {
            file.set_modified(before).unwrap();
        }
    };
    assert_eq!(Cache::at(&cache).verify().unwrap(), []);
    flip(true);
    let damaged = Cache::at(&cache).verify().unwrap();
    assert_eq!(damaged.len(), 1);
    assert!(!base.exists());
    let image = open(&path, &cache).unwrap();
    assert!(fs::read(image.base().path()).unwrap() == content);
    drop(image);
    flip(false);
    let image = open(&path, &cache).unwrap();
    assert!(fs::read(image.base().path()).unwrap() == content);
}

#[test]
fn the_least_recently_used_base_makes_room_unless_somebody_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(&dir.path().join("cache"));
    let image = |name: &str| {
        let path = dir.path().join(name);
        fs::write(&path, name.repeat(100_000)).unwrap();
        open(&path, cache.dir()).unwrap()
    };
    let held = image("a");
    let released = image("b").digest;
    let last = image("c").digest;
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(100);
    for digest in [&held.digest, &released] {
        File::options()
            .write(true)
            .open(cache.dir().join(digest).join("used"))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
    let removed = cache.prune(250_000).unwrap();
    assert_eq!(removed.iter().map(|entry| &entry.digest).collect::<Vec<_>>(), [&released]);
    assert!(fs::read(held.base().path()).is_ok());
    cache.prune(0).unwrap();
    let left: Vec<_> = cache.list().unwrap().into_iter().map(|entry| entry.digest).collect();
    assert!(left == [held.digest.clone()] && left[0] != last);
}

/// How many images are mutated; issue 3 asks for so many.
const MUTATIONS: usize = 10_000;

#[test]
fn no_mutated_image_passes_for_what_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(24 << 10);
    let packed: [(&str, Vec<u8>); 8] = [
        ("gz", gzip(&content)),
        ("xz", xz(&content)),
        ("zst", zstd(&content)),
        ("bz2", bzip2(&content)),
        ("lz4", lz4(&content)),
        ("zip", zip(&[("os.img", &content)])),
        ("qcow2", qcow2(&content)),
        ("android", android(&content)),
    ];
    let expected = hex(&content);
    let (cache, path) = (Cache::at(&dir.path().join("cache")), dir.path().join("mutated"));
    let mut random = Random(2);
    let (mut refused, mut right) = (0, 0);
    for round in 0..MUTATIONS {
        let (format, original) = &packed[round % packed.len()];
        let mut mutated = original.clone();
        for _ in 0..=random.below(3) {
            mutate(&mut mutated, &mut random);
        }
        // A new file each time: a known one would not be read.
        fs::write(&path, &mutated).unwrap();
        // Those without a checksum of their whole content are checked by the digest that lies beside them.
        let sha256 = (matches!(*format, "qcow2" | "android") || round % 2 == 0).then(|| expected.clone());
        let wanted = Expected {
            medium: "disk",
            capacity: 1 << 20,
            sha256,
            bmap: None,
            progress: &mut |_| ControlFlow::Continue(()),
        };
        match Image::open_expected(&path, &cache, wanted) {
            Err(error) if error.is_users() => refused += 1,
            Err(error) => panic!("round {round}, {format}: {error:?}"),
            Ok(image) => {
                let is_raw = !matches!(image.bytes, 24_576);
                let found = fs::read(image.base().path()).unwrap();
                // What has lost its magic is a raw image, and nobody said what it should be.
                assert!(
                    found == content || (is_raw && round % 2 == 1 && found == mutated),
                    "round {round}, {format}: {} bytes passed",
                    found.len()
                );
                right += usize::from(found == content);
            }
        }
        if round % 500 == 0 {
            cache.prune(0).unwrap();
        }
    }
    println!("{refused} of {MUTATIONS} were refused; {right} unpacked to what they should");
    assert!(refused > MUTATIONS / 2);
}

/// One thing that goes wrong with files.
fn mutate(file: &mut Vec<u8>, random: &mut Random) {
    let length = file.len().max(1);
    // Headers and trailers are where lengths stand.
    let at = match random.below(3) {
        0 => random.below(length.min(64)),
        1 => length - 1 - random.below(length.min(32)),
        _ => random.below(length),
    };
    match random.below(6) {
        0 => file.truncate(at),
        1 => file.extend((0..=at % 40).map(|_| random.next().to_le_bytes()[0])),
        2 => {
            let copied = file[..at.min(file.len())].to_vec();
            file.extend_from_slice(&copied);
        }
        3 if at + 4 <= file.len() => file[at..at + 4].fill(0xff),
        4 if at < file.len() => file[at] = random.next().to_le_bytes()[0],
        _ if at < file.len() => file[at] ^= 1 << random.below(8),
        _ => {}
    }
}

#[test]
fn a_bomb_costs_no_more_than_the_medium() {
    let dir = tempfile::tempdir().unwrap();
    // A thousand members of 16 MiB of zeros, in a megabyte or two.
    for pack in [gzip as fn(&[u8]) -> Vec<u8>, zstd, xz] {
        let path = dir.path().join("bomb");
        fs::write(&path, pack(&vec![0; 16 << 20]).repeat(1000)).unwrap();
        let refused = open(&path, &dir.path().join("cache")).unwrap_err();
        assert!(matches!(refused, ImageError::TooLargeUnpacked { .. }), "{refused}");
    }
}
