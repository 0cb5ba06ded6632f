//! Writing tar archives of plain files, as far as every reader of POSIX's `ustar` understands them. Pure but for
//! the writer that is given.

use std::io::{self, Write};

/// Tar's unit: headers have one, files are filled up to whole ones.
const BLOCK: usize = 512;

/// Adds a folder. `name` has at most 100 bytes.
pub fn folder(to: &mut impl Write, name: &str) -> io::Result<()> {
    to.write_all(&header(name, 0, b'5', 0o755))
}

/// Adds a file. `name` has at most 100 bytes, and the content less than 8 GiB.
pub fn file(to: &mut impl Write, name: &str, content: &[u8]) -> io::Result<()> {
    to.write_all(&header(name, content.len(), b'0', 0o644))?;
    to.write_all(content)?;
    to.write_all(&vec![0; content.len().next_multiple_of(BLOCK) - content.len()])
}

/// Ends the archive.
pub fn end(to: &mut impl Write) -> io::Result<()> {
    to.write_all(&[0; 2 * BLOCK])
}

/// POSIX.1-1988, `ustar`: fields at fixed places, numbers in octal digits.
fn header(name: &str, length: usize, kind: u8, mode: u32) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |place: usize, text: &[u8]| block[place..place + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{length:011o}").as_bytes());
    put(136, b"00000000000");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    // The sum is reckoned as if its own field were blank.
    put(148, b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn tar_itself_lists_what_was_written() {
        let mut archive = Vec::new();
        folder(&mut archive, ".").unwrap();
        file(&mut archive, "000001.jpg", b"first").unwrap();
        file(&mut archive, "000002.jpg", &[7; 1000]).unwrap();
        end(&mut archive).unwrap();
        let mut tar =
            Command::new("tar").args(["-tv"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        tar.stdin.take().unwrap().write_all(&archive).unwrap();
        let output = tar.wait_with_output().unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        let listed: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        let short = |line: &Vec<&str>| format!("{} {} {}", line[0], line[2], line[line.len() - 1]);
        let short: Vec<String> = listed.iter().map(short).collect();
        assert!(output.status.success());
        assert_eq!(short, ["drwxr-xr-x 0 .", "-rw-r--r-- 5 000001.jpg", "-rw-r--r-- 1000 000002.jpg"]);
    }
}
