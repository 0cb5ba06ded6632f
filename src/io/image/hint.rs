//! How long a content will be, as its container says; nobody checks it here, so it is good for progress alone.

use std::fs::File;

use super::fill_at;
use super::format::Format;

/// More of an index of xz is not read: enough for 100,000 blocks, 2 TiB of `xz -6`.
const MOST_INDEX_BYTES: u64 = 1 << 20;

/// Deflate makes at most so many bytes of one: zlib's technical notes.
const MOST_OF_DEFLATE: u64 = 1032;

/// How many bytes of content the file will give, if it says so. Zip, qcow2 and Android's say it when they are
/// opened.
pub fn content_bytes(file: &File, format: Format) -> Option<u64> {
    let file_bytes = file.metadata().ok()?.len();
    match format {
        Format::Raw => Some(file_bytes),
        Format::Gzip => gzip(file, file_bytes),
        Format::Xz => xz(file, file_bytes),
        Format::Zstd => zstd(file),
        Format::Bzip2 | Format::Lz4 | Format::Zip | Format::Qcow2 | Format::AndroidSparse => None,
    }
}

/// The last four bytes: the length of the last member, modulo 4 GiB. What is less than the file, or more than it
/// can unpack to, is another thing than the length of the whole content.
fn gzip(file: &File, file_bytes: u64) -> Option<u64> {
    let bytes = u64::from(u32::from_le_bytes(read::<4>(file, file_bytes.checked_sub(4)?)?));
    (file_bytes..=file_bytes * MOST_OF_DEFLATE).contains(&bytes).then_some(bytes)
}

/// The index at the end of a stream, if the file is one stream: sections 2.1.2 and 4 of the .xz file format.
fn xz(file: &File, file_bytes: u64) -> Option<u64> {
    let footer = read::<12>(file, file_bytes.checked_sub(12)?)?;
    let index_bytes = (u64::from(u32::from_le_bytes([footer[4], footer[5], footer[6], footer[7]])) + 1) * 4;
    if &footer[10..] != b"YZ" || index_bytes > MOST_INDEX_BYTES {
        return None;
    }
    let mut index = vec![0; usize::try_from(index_bytes).ok()?];
    let index_at = file_bytes.checked_sub(12 + index_bytes)?;
    fill_at(file, &mut index, index_at).ok()?;
    let mut rest = index.strip_prefix(&[0])?;
    let (mut packed, mut unpacked) = (0u64, 0u64);
    for _ in 0..varint(&mut rest)? {
        packed = packed.checked_add(varint(&mut rest)?.checked_next_multiple_of(4)?)?;
        unpacked = unpacked.checked_add(varint(&mut rest)?)?;
    }
    // Of several streams the others would be missing.
    (12 + packed == index_at).then_some(unpacked)
}

/// Seven bits in each byte, the lowest first: section 1.2.
fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// The length in the header of the first frame.
fn zstd(file: &File) -> Option<u64> {
    // The longest header: section 3.1.1.1 of RFC 8878, and its magic.
    let head = read::<18>(file, 0)?;
    zstd::zstd_safe::get_frame_content_size(&head[..]).ok().flatten()
}

/// So many bytes at an offset; zeros where the file ends before.
fn read<const N: usize>(file: &File, offset: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    fill_at(file, &mut bytes, offset).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn hint(format: Format, packed: &[u8]) -> Option<u64> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(packed).unwrap();
        content_bytes(&file, format)
    }

    fn xz(content: &[u8]) -> Vec<u8> {
        let stream = liblzma::stream::MtStreamBuilder::new()
            .threads(1)
            .block_size(1 << 16)
            .preset(0)
            .check(liblzma::stream::Check::Crc32)
            .encoder()
            .unwrap();
        let mut packer = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        packer.write_all(content).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn containers_say_how_long_their_content_is() {
        let content = vec![7; 1_000_003];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&content).unwrap();
        assert_eq!(hint(Format::Gzip, &gzip.finish().unwrap()), Some(1_000_003));
        assert_eq!(hint(Format::Xz, &xz(&content)), Some(1_000_003));
        assert_eq!(hint(Format::Zstd, &zstd::bulk::compress(&content, 1).unwrap()), Some(1_000_003));
        assert_eq!(hint(Format::Raw, &content), Some(1_000_003));
    }

    #[test]
    fn a_hint_that_cannot_be_true_is_none() {
        let two = [xz(b"first"), xz(b"second")].concat();
        assert_eq!(hint(Format::Xz, &two), None);
        assert_eq!(hint(Format::Gzip, b"\x1f\x8b some bytes and what may be a length: \0\0\0\0"), None);
        for format in [Format::Gzip, Format::Xz, Format::Zstd] {
            for length in 0..40 {
                assert_eq!(hint(format, &vec![0xff; length]), None, "{format:?} of {length} bytes");
            }
        }
    }
}
