//! Block maps: what they leave out is not flashed, what they name is checked, and one that is wrong is refused.

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use standin::io::cache::Cache;
use standin::io::image::{Expected, Image, ImageError};
use support::gzip;
use tempfile::TempDir;

const BLOCK: usize = 4096;

/// Blocks 1 to 3, 200 and the last one, which is half a block, are mapped; 200 is zeros.
const MAPPED: [(usize, usize); 3] = [(1, 3), (200, 200), (300, 300)];
const BYTES: usize = 300 * BLOCK + BLOCK / 2;

/// Data in mapped blocks, and what was left over in others.
fn content() -> Vec<u8> {
    let mut content = vec![0; BYTES];
    for block in [1, 2, 3, 50, 299, 300] {
        let end = BYTES.min((block + 1) * BLOCK);
        content[block * BLOCK..end].fill_with({
            let mut next = block;
            move || {
                next = (next * 31 + 7) % 65_521;
                (next % 251) as u8
            }
        });
    }
    content
}

/// What the map leaves of it.
fn flashed(content: &[u8]) -> Vec<u8> {
    let mut flashed = vec![0; content.len()];
    for (first, last) in MAPPED {
        let range = first * BLOCK..content.len().min((last + 1) * BLOCK);
        flashed[range.clone()].copy_from_slice(&content[range]);
    }
    flashed
}

fn checksum(version: &str, bytes: &[u8]) -> String {
    let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
    if version == "1.3" { hex(&Sha1::digest(bytes)) } else { hex(&Sha256::digest(bytes)) }
}

/// The map of a content, as bmaptool writes it; `change` is what is wrong with it, before it gets its own checksum.
fn map(version: &str, content: &[u8], change: impl Fn(String) -> String) -> String {
    let (kind, own, attribute) = match version {
        "1.3" => ("", "BmapFileSHA1", "sha1"),
        _ => ("<ChecksumType> sha256 </ChecksumType>", "BmapFileChecksum", "chksum"),
    };
    let range = |(first, last): (usize, usize)| {
        let bytes = &content[first * BLOCK..content.len().min((last + 1) * BLOCK)];
        let blocks = if first == last { first.to_string() } else { format!("{first}-{last}") };
        format!("<Range {attribute}=\"{}\"> {blocks} </Range>\n", checksum(version, bytes))
    };
    let zeros = "0".repeat(checksum(version, b"").len());
    let text = format!(
        "<?xml version=\"1.0\" ?>\n<!-- a comment -->\n<bmap version=\"{version}\">\n<ImageSize> {} </ImageSize>\n\
         <BlockSize> 4096 </BlockSize>\n<BlocksCount> 301 </BlocksCount>\n\
         <MappedBlocksCount> 5     </MappedBlocksCount>\n{kind}\n<{own}> {zeros} </{own}>\n\
         <BlockMap>\n{}</BlockMap>\n</bmap>\n",
        content.len(),
        MAPPED.map(range).concat()
    );
    let text = change(text);
    text.replacen(&zeros, &checksum(version, text.as_bytes()), 1)
}

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        support::settle(&path);
        path
    }

    fn cache(&self) -> Cache {
        Cache::at(&self.dir.path().join("cache"))
    }

    fn open(&self, path: &Path, bmap: Option<&Path>) -> Result<Image, ImageError> {
        let progress = &mut |_| ControlFlow::Continue(());
        let bmap = bmap.map(Path::to_owned);
        let expected = Expected { medium: "disk", capacity: 1 << 30, sha256: None, bmap, progress };
        Image::open_expected(path, &self.cache(), expected)
    }

    fn base(&self, path: &Path, bmap: Option<&Path>) -> Vec<u8> {
        let image = self.open(path, bmap).unwrap_or_else(|error| panic!("{error:?}"));
        fs::read(image.base().path()).unwrap()
    }
}

#[test]
fn what_a_map_leaves_out_is_not_flashed() {
    let content = content();
    assert!(flashed(&content) != content);
    for version in ["1.3", "1.4", "2.0"] {
        let place = Place::new();
        let raw = place.write("os.img", &content);
        let packed = place.write("os.img.gz", gzip(&content));
        assert!(place.base(&raw, None) == content, "{version}: there is no map yet");
        let map = place.write("os.img.bmap", map(version, &content, |text| text));
        assert!(place.base(&raw, None) == flashed(&content), "{version}");
        assert!(place.base(&packed, None) == flashed(&content), "{version}");
        // The one that is named counts, and a known image without a map is still known by itself.
        let elsewhere = place.dir.path().join("elsewhere");
        fs::rename(map, &elsewhere).unwrap();
        assert!(place.base(&packed, Some(&elsewhere)) == flashed(&content), "{version}");
        assert!(place.base(&packed, None) == content, "{version}");
        assert_eq!(place.cache().verify().unwrap(), []);
    }
}

#[test]
fn the_digest_of_an_image_with_a_map_is_that_of_what_is_flashed() {
    let (place, content) = (Place::new(), content());
    let path = place.write("os.img", &content);
    place.write("os.img.bmap", map("2.0", &content, |text| text));
    // What is expected is what somebody has published: the digest of the whole image.
    place.write("os.img.sha256", checksum("2.0", &content));
    for _ in 0..2 {
        let image = place.open(&path, None).unwrap();
        assert_eq!(image.sha256().unwrap(), checksum("2.0", &flashed(&content)));
    }
}

#[test]
fn an_image_that_is_not_what_its_map_says_is_refused_with_the_blocks() {
    let (place, content) = (Place::new(), content());
    let map = place.write("map", map("2.0", &content, |text| text));
    for (at, blocks) in [(2 * BLOCK, "1 to 3"), (200 * BLOCK + 1, "200 to 200"), (BYTES - 1, "300 to 300")] {
        let mut changed = content.clone();
        changed[at] ^= 1;
        for (name, packed) in [("os.img", changed.clone()), ("os.img.gz", gzip(&changed))] {
            let refused = place.open(&place.write(name, packed), Some(&map)).unwrap_err();
            assert!(matches!(refused, ImageError::Mapped { .. }) && refused.is_users(), "{refused:?}");
            let reason = std::error::Error::source(&refused).unwrap().to_string();
            assert!(reason.starts_with(&format!("blocks {blocks} have SHA-256 ")), "{reason}");
        }
    }
    for length in [BYTES - BLOCK, BYTES + 1] {
        let mut changed = content.clone();
        changed.resize(length, 0);
        let refused = place.open(&place.write("os.img", changed), Some(&map)).unwrap_err();
        let words = format!("has {length} bytes, unpacked, and block map {} is for {BYTES}", map.display());
        assert!(refused.to_string().contains(&words), "{refused}");
    }
    assert_eq!(place.cache().list().unwrap(), []);
}

#[test]
fn a_map_that_is_wrong_is_refused() {
    let (place, content) = (Place::new(), content());
    let path = place.write("os.img", &content);
    let replace = |from: &'static str, to: &'static str| move |text: String| text.replace(from, to);
    let cut = map("2.0", &content, |text| text)[..400].to_owned();
    let changed = map("2.0", &content, |text| text).replace("a comment", "a changed comment");
    let table = [
        (String::new(), "it is no XML"),
        (cut, "it is no XML"),
        (changed, "it was changed: it has SHA-256 "),
        ("<image/>".to_owned(), "its root element is `image`, not `bmap`"),
        (map("2.0", &content, replace("\"2.0\"", "\"3.0\"")), "its version is `3.0`; 1.3, 1.4 and 2.0 are"),
        (
            map("2.0", &content, replace(" sha256 ", " md5 ")),
            "its checksums are of type `md5`; sha1 and sha256 are",
        ),
        (
            map("2.0", &content, replace("<BlockSize> 4096 ", "<BlockSize> 0 ")),
            "are not 301 blocks of 0 bytes",
        ),
        (
            map("2.0", &content, replace("<BlockSize> 4096 ", "<BlockSize> many ")),
            "its `BlockSize` is no number: `many`",
        ),
        (
            map("2.0", &content, replace("BlocksCount> 301 ", "BlocksCount> 302 ")),
            "are not 302 blocks of 4096 bytes",
        ),
        (
            map("2.0", &content, replace("Count> 5 ", "Count> 6 ")),
            "it maps 5 blocks, and says another number",
        ),
        (map("2.0", &content, replace("> 300 <", "> 301 <")), "range `301` does not lie within 301 blocks"),
        (
            map("2.0", &content, replace("> 200 <", "> 3 <")),
            "range `3` does not stand behind the one before it",
        ),
        (map("2.0", &content, replace("> 1-3 <", "> 3-1 <")), "range `3-1` does not lie within"),
        (map("2.0", &content, replace("> 1-3 <", "> -1 <")), "`-1` is no range of blocks"),
        (map("2.0", &content, replace("chksum=\"", "chksum=\"no")), "is no SHA-256: 64 hexadecimal digits"),
        (map("2.0", &content, replace("BlockMap>", "Blocks>")), "it has no `BlockMap`"),
    ];
    for (text, reason) in table {
        let map = place.write("os.img.bmap", &text);
        let refused = place.open(&path, None).map(|image| image.bytes).unwrap_err();
        let words = standin::message::chain(&refused);
        assert!(words.starts_with(&format!("cannot use block map {}: ", map.display())), "{words}");
        assert!(words.contains(reason), "expected `{reason}`: {words}");
        assert!(refused.is_users(), "{words}");
    }
    let missing = place.dir.path().join("missing");
    let refused = standin::message::chain(&place.open(&path, Some(&missing)).unwrap_err());
    assert!(refused.contains("missing: it cannot be read: No such file"), "{refused}");
    assert_eq!(place.cache().list().unwrap(), []);
}

#[test]
fn a_block_map_can_be_named_on_the_command_line() {
    let (place, content) = (Place::new(), content());
    let path = place.write("os.img", &content);
    let map = place.write("map", map("2.0", &content, |text| text.replace("> 200 <", "> 201 <")));
    let flash = |name: &str| {
        let mut command = support::standin(place.dir.path());
        command.args(["up", "pc-seabios", "--accelerator", "tcg", "--print-qemu-args", "--image", name]);
        command.arg("--bmap").arg(&map).output().unwrap()
    };
    // Block 201 is zeros as well.
    let output = flash(path.to_str().unwrap());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    fs::write(&map, "no map").unwrap();
    let output = flash(path.to_str().unwrap());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("error: cannot use block map"), "{output:?}");
    let output = flash("selftest");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("`--bmap` is for image files"), "{output:?}");
    assert_eq!(support::processes_with(place.dir.path()), Vec::<PathBuf>::new());
}
