//! Whether an image is an installer ("flasher"), by what is in it.
//!
//! Flash procedures ask, as what follows the writing depends on it. Nothing in the image is believed before it is
//! checked; what cannot be made sense of is no installer. Nothing to clean up.

use std::io::{self, Read, Seek};

use super::fat::{FatError, FatVolume};
use super::partition::{PartitionError, Window, read_table};

/// What balena's build puts into the first partition of its flasher images; leviathan-worker looks for it there
/// (lib/workers/qemu.ts).
const MARK: &str = "balena-image-flasher";

/// How the labels of file systems in balena's flasher images begin, such as `flash-boot`.
const LABEL: &str = "flash-";

/// Whether one of the image's FAT partitions says that it belongs to an installer: by its label, which begins with
/// `flash-`, or by the file `balena-image-flasher`. An error only if the image cannot be read.
pub fn is_installer<T: Read + Seek>(image: &mut T) -> io::Result<bool> {
    let table = match read_table(image) {
        Ok(Some(table)) => table,
        Ok(None) | Err(PartitionError::DamagedGpt(_)) => return Ok(false),
        Err(PartitionError::Read { source, .. } | PartitionError::Write { source, .. }) => {
            return Err(source);
        }
    };
    for partition in table.partitions.iter().filter(|partition| partition.kind.may_hold_fat()) {
        let found = FatVolume::open(Window::on(&mut *image, partition)).and_then(|volume| {
            let labelled = volume.label().to_ascii_lowercase().starts_with(LABEL);
            Ok(labelled || volume.has_file(MARK)?)
        });
        match found {
            Ok(true) => return Ok(true),
            Ok(false) | Err(FatError::Damaged(_) | FatError::TooLarge { .. }) => {}
            Err(FatError::Host(source)) => return Err(source),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;
    use crate::io::selftest::SELFTEST_IMAGE;

    /// Where the FAT partition of the self-test image begins; see `firmware-images/README.md`.
    const PARTITION_BYTES: usize = 512 * 512;

    fn with_label(label: &[u8; 11]) -> Vec<u8> {
        let mut image = SELFTEST_IMAGE.to_vec();
        image[PARTITION_BYTES + 43..][..11].copy_from_slice(label); // BS_VolLab of FAT12 and FAT16
        image
    }

    fn with_file(name: &str) -> Vec<u8> {
        let mut image = SELFTEST_IMAGE.to_vec();
        let partition = Cursor::new(&mut image[PARTITION_BYTES..]);
        let volume = fatfs::FileSystem::new(partition, fatfs::FsOptions::new()).unwrap();
        volume.root_dir().create_file(name).unwrap().write_all(b"x").unwrap();
        volume.unmount().unwrap();
        image
    }

    fn is(image: &[u8]) -> bool {
        is_installer(&mut Cursor::new(image)).unwrap()
    }

    #[test]
    fn an_installer_is_known_by_its_label_or_by_the_file_of_balenas() {
        assert!(!is(SELFTEST_IMAGE));
        assert!(is(&with_label(b"flash-boot ")));
        assert!(is(&with_label(b"FLASH-BOOT ")));
        assert!(!is(&with_label(b"resin-boot ")));
        assert!(is(&with_file("balena-image-flasher")));
        assert!(!is(&with_file("balena-image")));
    }

    #[test]
    fn an_image_that_makes_no_sense_is_no_installer() {
        assert!(!is(b""));
        assert!(!is(&[0; 4096]));
        let mut broken = with_label(b"flash-boot ");
        broken[PARTITION_BYTES..][..40].fill(0xff);
        assert!(!is(&broken));
        assert!(!is(&SELFTEST_IMAGE[..PARTITION_BYTES + 100]));
    }
}
