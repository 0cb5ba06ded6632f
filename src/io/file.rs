//! Files of the host: replaced whole or not at all, and read from their end. Nothing to clean up.

use std::fs::{File, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Makes `path` a file with what `write` writes. A reader sees the old file or the whole new one, and an error
/// leaves the old one. Blocks for as long as `write` does.
pub fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // As any other file: the umask takes away what it does not want.
    let permissions = Permissions::from_mode(0o666);
    let mut new = tempfile::Builder::new().permissions(permissions).tempfile_in(dir)?;
    write(new.as_file_mut())?;
    new.persist(path)?;
    Ok(())
}

/// The last bytes of a file, at most `limit_bytes`.
pub fn tail(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(limit_bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut last = Vec::new();
    // Whoever writes the file may be faster than we read it.
    file.take(limit_bytes).read_to_end(&mut last)?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_could_not_be_written_to_its_end_is_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, |file| file.write_all(b"old")).unwrap();
        let failed = replace(&path, |file| {
            file.write_all(b"ne")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_tail_is_no_longer_than_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(tail(&path, 4).unwrap(), b"6789");
        assert_eq!(tail(&path, 40).unwrap(), b"0123456789");
    }
}
