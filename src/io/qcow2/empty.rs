//! Empty layers: qcow2 files that hold nothing yet, and through which their base shines.
//!
//! Such a file is four tables of known content, so it is written here: a QEMU that did it would take longer to
//! start than a whole image takes to copy. From QEMU's docs/interop/qcow2.txt.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{MAGIC, MOST_L1_ENTRIES, invalid};

/// QEMU's own default.
const CLUSTER_BITS: u32 = 16;
const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;

/// Version 3, without the field of the compression type that only other types than zlib need.
const HEADER_BYTES: u32 = 104;

/// The header extension that names the base's format; without it QEMU would have to guess.
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// What the format allows for the base's path.
const LONGEST_PATH_BYTES: usize = 1023;

/// Writes an empty layer of `bytes` bytes over the raw file at `base` to `layer`, a new file. QEMU counts in sectors,
/// so the layer ends with a whole one of 512 bytes.
///
/// Refuses a path of more than 1023 bytes and a layer of more than 2 PiB.
pub fn write(layer: &File, base: &Path, bytes: u64) -> io::Result<()> {
    let path = base.as_os_str().as_bytes();
    if path.len() > LONGEST_PATH_BYTES {
        return Err(invalid(format!(
            "the path of its base is longer than {LONGEST_PATH_BYTES} bytes: {}",
            base.display()
        )));
    }
    // A table of one cluster maps so many bytes, and the first table has an entry for each such.
    let l1_entries = bytes.div_ceil(CLUSTER_BYTES / 8 * CLUSTER_BYTES);
    if l1_entries > MOST_L1_ENTRIES {
        return Err(invalid(format!("a layer of {bytes} bytes is larger than QEMU can map")));
    }
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER_BYTES).max(1);
    let [refcount_table, refcount_block, l1] = [1, 2, 3].map(|cluster| cluster * CLUSTER_BYTES);
    let clusters = 3 + l1_clusters;

    let format = b"raw\0\0\0\0\0"; // padded to a multiple of 8
    let extensions = [&BACKING_FORMAT.to_be_bytes()[..], &3u32.to_be_bytes(), format, &[0; 8]].concat();
    let path_at = u64::from(HEADER_BYTES) + extensions.len() as u64;
    let header = [
        &MAGIC.to_be_bytes()[..],
        &3u32.to_be_bytes(), // version
        &path_at.to_be_bytes(),
        &(path.len() as u32).to_be_bytes(),
        &CLUSTER_BITS.to_be_bytes(),
        &bytes.next_multiple_of(512).to_be_bytes(),
        &0u32.to_be_bytes(), // not encrypted
        &(l1_entries as u32).to_be_bytes(),
        &l1.to_be_bytes(),
        &refcount_table.to_be_bytes(),
        &1u32.to_be_bytes(), // clusters of the refcount table
        &[0; 12],            // no snapshots
        &[0; 24],            // no features
        &4u32.to_be_bytes(), // refcounts of 1 << 4 bits
        &HEADER_BYTES.to_be_bytes(),
        &extensions,
        path,
    ];
    let refcounts: Vec<u8> = (0..clusters).flat_map(|_| 1u16.to_be_bytes()).collect();
    layer.write_all_at(&header.concat(), 0)?;
    layer.write_all_at(&refcount_block.to_be_bytes(), refcount_table)?;
    layer.write_all_at(&refcounts, refcount_block)?;
    layer.set_len(clusters * CLUSTER_BYTES)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Command;

    use super::*;
    use crate::io::qcow2::Disk;

    #[test]
    fn qemu_finds_an_empty_layer_whole_and_its_base_below() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base.img");
        std::fs::write(&base, "what shines through".repeat(10_000)).unwrap();
        // An odd one, one of several tables, and one whose first table has two clusters.
        for bytes in [1_000_001, 5 << 30, 6 << 40] {
            let path = dir.path().join(format!("{bytes}.qcow2"));
            let layer = File::create_new(&path).unwrap();
            write(&layer, &base, bytes).unwrap();

            let qemu_img = |words: &[&str]| {
                let output =
                    Command::new("qemu-img").args(words).arg(&path).output().expect("qemu-img of qemu-utils");
                assert!(output.status.success(), "{bytes}: {output:?}");
                String::from_utf8(output.stdout).unwrap()
            };
            let checked = qemu_img(&["check"]);
            assert!(checked.contains("No errors were found"), "{bytes}: {checked}");
            let about: serde_json::Value =
                serde_json::from_str(&qemu_img(&["info", "--output=json"])).unwrap();
            assert_eq!(about["virtual-size"], bytes.next_multiple_of(512), "{about}");
            assert_eq!(about["backing-filename"], base.to_str().unwrap(), "{about}");
            assert_eq!(about["backing-filename-format"], "raw", "{about}");

            let mut disk = Disk::open_layer(File::open(&path).unwrap(), File::open(&base).unwrap()).unwrap();
            assert_eq!(disk.size(), bytes.next_multiple_of(512));
            let mut text = [0; 19];
            disk.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"what shines through");
        }
    }

    #[test]
    fn a_base_whose_path_is_too_long_for_the_format_is_refused() {
        let layer = tempfile::tempfile().unwrap();
        let refused = write(&layer, Path::new(&"long/".repeat(300)), 1 << 20).unwrap_err();
        assert!(
            refused.to_string().starts_with("the path of its base is longer than 1023 bytes"),
            "{refused}"
        );
        assert_eq!(layer.metadata().unwrap().len(), 0);
    }
}
