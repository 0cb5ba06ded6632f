//! Makes folders in FAT file systems as Microsoft's specification has them, which fatfs 0.3 does not quite.
//!
//! A folder's first two entries are `.` and `..`, and have no long names; fatfs gives them some, and fsck.fat takes
//! such a folder for damaged. And where the parent is the root folder of a FAT32, `..` is to lead to cluster 0.

use std::io::{self, Read, Seek, SeekFrom, Write};

use fatfs::{FileSystem, FsOptions};

const ENTRY_BYTES: usize = 32;
const ATTRIBUTES_AT: usize = 11;
const LONG_NAME: u8 = 0x0f;

/// Makes the folder `path` in the file system in `volume`, if it is not there; its parent is.
pub(super) fn make<T: Read + Write + Seek>(volume: T, path: &str) -> io::Result<()> {
    let mut volume = Watched { volume, zeros_at: None };
    let files = FileSystem::new(&mut volume, FsOptions::new().update_accessed_date(false))?;
    files.root_dir().create_dir(path)?;
    files.unmount()?;
    // Before anything else, a new folder is filled with zeros.
    let Watched { mut volume, zeros_at: Some(start) } = volume else { return Ok(()) };
    let mut entries = [0; 4 * ENTRY_BYTES];
    volume.seek(SeekFrom::Start(start))?;
    volume.read_exact(&mut entries)?;
    let mut mended = [0; 4 * ENTRY_BYTES];
    let kept = entries.chunks(ENTRY_BYTES).filter(|entry| entry[ATTRIBUTES_AT] != LONG_NAME);
    for (to, entry) in mended.chunks_mut(ENTRY_BYTES).zip(kept) {
        to.copy_from_slice(entry);
    }
    if !path.contains('/') {
        let parent = &mut mended[ENTRY_BYTES..2 * ENTRY_BYTES];
        parent[20..22].fill(0);
        parent[26..28].fill(0);
    }
    volume.seek(SeekFrom::Start(start))?;
    volume.write_all(&mended)
}

/// Remembers where zeros were written first, by the sector.
struct Watched<T> {
    volume: T,
    zeros_at: Option<u64>,
}

impl<T: Read> Read for Watched<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.volume.read(buffer)
    }
}

impl<T: Write + Seek> Write for Watched<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.zeros_at.is_none() && bytes.len() == 512 && bytes.iter().all(|byte| *byte == 0) {
            self.zeros_at = Some(self.volume.stream_position()?);
        }
        self.volume.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.volume.flush()
    }
}

impl<T: Seek> Seek for Watched<T> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.volume.seek(to)
    }
}
