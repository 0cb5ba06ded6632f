//! Reads files out of a FAT file system that may be anything: damaged, cyclic, or made to harm.
//!
//! Called by the boot stage of the Raspberry Pi, at each power-on. It never writes, so the card stays as the DUT
//! left it, and what it reads in all is bounded, because a ring of directory clusters has no end. Arithmetic
//! that a hostile table makes overflow inside of fatfs wraps and then misses the window; see the profile of that
//! package. Nothing to clean up.

use std::io::{self, Read, Seek, SeekFrom, Write};

use fatfs::{FileSystem, FsOptions};

use super::partition::Window;

/// What may be read from one volume in its life: the largest content, and generous room for tables.
const READ_BUDGET_BYTES: u64 = 2 << 30;

/// A FAT file system, to be read only.
pub struct FatVolume<T: Read + Seek> {
    files: FileSystem<Guarded<T>>,
}

/// Why something could not be read from a FAT file system.
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// The file system is not one, or damaged: the fault of who wrote it.
    #[error("the file system is damaged: {0}")]
    Damaged(String),
    /// A file is larger than its reader can take.
    #[error("`{name}` has more than {limit_bytes} bytes")]
    TooLarge {
        /// The file's name.
        name: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// The host could not read the image.
    #[error("cannot read the image")]
    Host(#[source] io::Error),
}

impl From<io::Error> for FatError {
    /// Only errors of the host carry an errno; fatfs's own are texts.
    fn from(error: io::Error) -> Self {
        if error.raw_os_error().is_some() { Self::Host(error) } else { Self::Damaged(error.to_string()) }
    }
}

impl<T: Read + Seek> FatVolume<T> {
    /// Opens the file system in `window`.
    pub fn open(window: Window<T>) -> Result<Self, FatError> {
        let guarded = Guarded { window, budget: READ_BUDGET_BYTES };
        Ok(Self { files: FileSystem::new(guarded, FsOptions::new())? })
    }

    /// The volume's label, without the blanks at its end; empty if it has none.
    pub fn label(&self) -> String {
        self.files.volume_label().trim_end().to_owned()
    }

    /// Whether there is a file of that name; case does not matter, as everywhere on FAT.
    pub fn has_file(&self, name: &str) -> Result<bool, FatError> {
        Ok(self.open_file(name)?.is_some())
    }

    /// The whole content of a file of at most `limit_bytes`; `None` if there is no such file.
    pub fn read(&self, name: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, FatError> {
        let Some(file) = self.open_file(name)? else { return Ok(None) };
        let mut content = Vec::new();
        file.take(limit_bytes + 1).read_to_end(&mut content)?;
        if content.len() as u64 > limit_bytes {
            return Err(FatError::TooLarge { name: name.to_owned(), limit_bytes });
        }
        Ok(Some(content))
    }

    fn open_file(&self, name: &str) -> Result<Option<fatfs::File<'_, Guarded<T>>>, FatError> {
        let Some(path) = normalised(name) else { return Ok(None) };
        match self.files.root_dir().open_file(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // fatfs says so if a directory has the name of the file, or a file that of a directory on the way.
            Err(error) if error.to_string().ends_with("a directory") => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// `name` without empty and `.` components and with `..` resolved inside of the volume; `None` if it names no
/// file.
fn normalised(name: &str) -> Option<String> {
    let mut components = Vec::new();
    for component in name.split(['/', '\\']) {
        match component {
            "" | "." => {}
            ".." => {
                components.pop()?;
            }
            other if other.chars().any(char::is_control) => return None,
            other => components.push(other),
        }
    }
    (!components.is_empty()).then(|| components.join("/"))
}

/// Refuses writes, and reads beyond the budget.
struct Guarded<T> {
    window: Window<T>,
    budget: u64,
}

impl<T: Read + Seek> Read for Guarded<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One is for the call itself, so that even reads of nothing come to an end.
        let cost = buffer.len() as u64 + 1;
        self.budget = self
            .budget
            .checked_sub(cost)
            .ok_or_else(|| io::Error::other("its structures lead around in a circle"))?;
        self.window.read(buffer)
    }
}

impl<T> Seek for Guarded<T> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.window.seek(to)
    }
}

impl<T> Write for Guarded<T> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("it is only read here"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const SIZE: usize = 1 << 20;

    fn volume_with(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut image = Cursor::new(vec![0; SIZE]);
        fatfs::format_volume(&mut image, fatfs::FormatVolumeOptions::new()).unwrap();
        let volume = FileSystem::new(&mut image, FsOptions::new()).unwrap();
        for (name, content) in files {
            if let Some((folder, _)) = name.rsplit_once('/') {
                volume.root_dir().create_dir(folder).unwrap();
            }
            volume.root_dir().create_file(name).unwrap().write_all(content).unwrap();
        }
        drop(volume);
        image.into_inner()
    }

    fn open(image: &[u8]) -> Result<FatVolume<Cursor<&[u8]>>, FatError> {
        FatVolume::open(Window::new(Cursor::new(image), 0, image.len() as u64))
    }

    #[test]
    fn files_are_found_whatever_their_case_and_spelling() {
        let image = volume_with(&[("sub/Long Name Of A File.img", b"kernel")]);
        let volume = open(&image).unwrap();
        for name in
            ["sub/long name of a file.img", "/./SUB//Long Name Of A File.img", "x/../sub/LONGNA~1.IMG"]
        {
            assert_eq!(volume.read(name, 6).unwrap().as_deref(), Some(&b"kernel"[..]), "{name}");
        }
        for name in ["", "/", "sub", "sub/none", "../sub/x", "sub/Long Name Of A File.img/x", "a\0b"] {
            assert!(!volume.has_file(name).unwrap(), "{name}");
        }
        assert!(matches!(volume.read("sub/LONGNA~1.IMG", 5), Err(FatError::TooLarge { .. })));
    }

    #[test]
    fn an_image_that_is_no_fat_is_damaged() {
        assert!(matches!(open(&[0; 4096]), Err(FatError::Damaged(_))));
        assert!(matches!(open(&[]), Err(FatError::Damaged(_))));
    }

    /// Seen to panic with fatfs's own overflow checks on: it subtracts before it looks.
    #[test]
    fn a_file_that_begins_before_the_first_cluster_does_no_harm() {
        let mut image = volume_with(&[("KERNEL8.IMG", b"kernel")]);
        let entry = image.windows(11).position(|name| name == b"KERNEL8 IMG").unwrap();
        image[entry + 26] = 1;
        let read = open(&image).unwrap().read("kernel8.img", 1 << 20);
        assert!(!matches!(&read, Ok(Some(content)) if content == b"kernel"), "{read:?}");
    }

    #[test]
    fn damage_anywhere_is_an_answer_and_not_a_panic() {
        let image = volume_with(&[("config.txt", b"kernel=a"), ("sub/a long name.img", &[7; 9000])]);
        let used = image.iter().rposition(|byte| *byte != 0).unwrap();
        let mut state = 1_u64; // xorshift64: the same damage in each run
        for _ in 0..3000 {
            let mut damaged = image.clone();
            for _ in 0..3 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let reach = [90, 2048, used][(state >> 60) as usize % 3];
                damaged[state as usize % reach] = (state >> 32) as u8;
            }
            if let Ok(volume) = open(&damaged) {
                let _ = volume.read("config.txt", 1 << 20);
                let _ = volume.read("sub/a long name.img", 1 << 20);
                let _ = volume.has_file("sub/none");
            }
        }
    }

    #[test]
    fn a_ring_of_directory_clusters_ends() {
        let mut image = volume_with(&[("sub/x", b"")]);
        // FAT12: entry 2, the first of `sub`, is made to follow itself. Its cluster is filled, so that no empty
        // entry ends the search.
        let fat_at = usize::from(u16::from_le_bytes([image[14], image[15]])) * 512;
        image[fat_at + 3] = 2;
        image[fat_at + 4] &= 0xf0;
        let folder = image.windows(11).position(|name| name == b".          ").unwrap();
        let cluster_bytes = usize::from(image[13]) * 512;
        for entry in image[folder..folder + cluster_bytes].chunks_exact_mut(32) {
            entry[..11].copy_from_slice(b"FILLER  TXT");
            entry[11] = 0x20;
        }
        let mut volume = open(&image).unwrap();
        volume.files = FileSystem::new(
            Guarded { window: Window::new(Cursor::new(&image[..]), 0, SIZE as u64), budget: 1 << 20 },
            FsOptions::new(),
        )
        .unwrap();
        assert!(matches!(volume.has_file("sub/none"), Err(FatError::Damaged(_))));
    }
}
