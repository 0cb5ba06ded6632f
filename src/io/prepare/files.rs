//! Files in FAT partitions: read, listed, written and removed.

use std::io::{self, Read, Seek, Write};

use fatfs::{FileSystem, FsOptions};

use super::listing::{self, Listed};
use super::{Place, PrepareError, folder};
use crate::io::partition::Window;
use crate::io::staged::Staged;

type Volume<'a, T> = FileSystem<Window<&'a mut Staged<T>>>;

/// What lies in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// How many bytes a file has; `None` for a folder.
    pub bytes: Option<u64>,
}

/// More than any file that is looked at as a whole; a card's kernel has a tenth of it.
const LARGEST_FILE_BYTES: u64 = 512 << 20;

/// The content of a file.
pub fn read<T: Read + Seek>(disk: &mut Staged<T>, place: &Place) -> Result<Vec<u8>, PrepareError> {
    with_volume(disk, place, |volume| {
        let mut content = Vec::new();
        let file = volume.root_dir().open_file(&place.inner())?;
        file.take(LARGEST_FILE_BYTES + 1).read_to_end(&mut content)?;
        if content.len() as u64 > LARGEST_FILE_BYTES {
            return Err(io::Error::other("it has more than 512 MiB"));
        }
        Ok(content)
    })
}

/// What lies in a folder, by name; of a file, the file.
pub fn list<T: Read + Seek>(disk: &mut Staged<T>, place: &Place) -> Result<Vec<Entry>, PrepareError> {
    with_volume(disk, place, |volume| {
        let root = volume.root_dir();
        let (folder, only) = match (place.path.split_last(), root.open_dir(&place.inner())) {
            (None, _) => (root, None),
            (Some(_), Ok(folder)) => (folder, None),
            (Some((name, [])), Err(_)) => (root, Some(name)),
            (Some((name, parents)), Err(_)) => (root.open_dir(&parents.join("/"))?, Some(name)),
        };
        let mut entries = Vec::new();
        for entry in folder.iter() {
            let entry = entry?;
            let (name, bytes) =
                (listing::harmless(&entry.file_name()), (!entry.is_dir()).then(|| entry.len()));
            let is_wanted = only.is_none_or(|only| name.eq_ignore_ascii_case(only));
            if is_wanted && name != "." && name != ".." {
                entries.push(Entry { name, bytes });
            }
        }
        if entries.is_empty() && only.is_some() {
            return Err(io::ErrorKind::NotFound.into());
        }
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    })
}

/// Writes a whole file, and the folders above it that are not there.
pub(super) fn write<T: Read + Seek>(
    disk: &mut Staged<T>,
    place: &Place,
    content: &[u8],
) -> Result<(), PrepareError> {
    let listed = fat_partition(disk, place)?;
    let damaged = |error| PrepareError::of_fat(error, place, &listed);
    for depth in 1..place.path.len() {
        let window = Window::on(&mut *disk, &listed.partition);
        folder::make(window, &place.path[..depth].join("/")).map_err(damaged)?;
    }
    with_volume(disk, place, |volume| {
        let mut file = volume.root_dir().create_file(&place.inner())?;
        file.truncate()?;
        file.write_all(content)?;
        file.flush()
    })
}

/// Removes a file.
pub(super) fn remove<T: Read + Seek>(disk: &mut Staged<T>, place: &Place) -> Result<(), PrepareError> {
    with_volume(disk, place, |volume| {
        let root = volume.root_dir();
        // fatfs would remove a folder, too.
        drop(root.open_file(&place.inner())?);
        root.remove(&place.inner())
    })
}

/// Does `work` on the file system of the place's partition. What fails leaves half of it in `disk`, which is to be
/// dropped then.
fn with_volume<T: Read + Seek, R>(
    disk: &mut Staged<T>,
    place: &Place,
    work: impl FnOnce(&Volume<'_, T>) -> io::Result<R>,
) -> Result<R, PrepareError> {
    let listed = fat_partition(disk, place)?;
    let damaged = |error| PrepareError::of_fat(error, place, &listed);
    let window = Window::on(disk, &listed.partition);
    let options = FsOptions::new().update_accessed_date(false);
    let volume = FileSystem::new(window, options).map_err(damaged)?;
    let done = work(&volume).map_err(damaged)?;
    volume.unmount().map_err(damaged)?;
    Ok(done)
}

fn fat_partition<T: Read + Seek>(disk: &mut Staged<T>, place: &Place) -> Result<Listed, PrepareError> {
    let listed = listing::find(disk, &place.partition)?;
    if !listed.is_fat() {
        let found = listed.file_system.unwrap_or("no file system that is known");
        return Err(PrepareError::NotFat { partition: listed.title(), found });
    }
    Ok(listed)
}
