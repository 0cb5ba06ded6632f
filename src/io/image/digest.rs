//! The name of a content by what it holds: a digest that costs nothing for zeros, made by several threads.
//!
//! SHA-256 has to read every zero of an image, one after the other, which for most images takes longer than all the
//! rest. So the cache names contents by a tree of two levels: BLAKE3 over each segment's blocks that are not zero
//! and over where they stand, and BLAKE3 over these digests and the length. However the zeros are stored, as holes
//! or written out, and in whatever order the segments are taken, the digest is the same.

use super::hex;

/// The block in which zeros are looked for: a page, and the block of most file systems.
pub const BLOCK_BYTES: usize = 4096;

/// What is digested by one thread: as many blocks as a `u128` has bits.
pub const SEGMENT_BYTES: u64 = 128 * BLOCK_BYTES as u64;

/// A digest that is being made. It grows by 40 bytes for each segment that has data: 5 MiB for 64 GiB.
#[derive(Debug, Default)]
pub struct ContentDigest {
    done: Vec<(u64, [u8; 32])>,
    open: Option<Segment>,
    data_bytes: u64,
}

/// The segment that still goes on.
#[derive(Debug)]
struct Segment {
    index: u64,
    data: blake3::Hasher,
    /// A bit for each block that has data.
    blocks: u128,
}

impl ContentDigest {
    /// Takes data that stands at `offset`, a whole number of blocks; so is its length but at the content's end.
    /// Within a segment, data comes in order.
    pub fn update(&mut self, mut offset: u64, mut data: &[u8]) {
        self.data_bytes += data.len() as u64;
        while !data.is_empty() {
            let left = SEGMENT_BYTES - offset % SEGMENT_BYTES;
            let length = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (here, rest) = data.split_at(length);
            self.segment(offset / SEGMENT_BYTES).update(offset % SEGMENT_BYTES, here);
            offset += length as u64;
            data = rest;
        }
    }

    /// Takes over what another thread has made of other segments.
    pub fn absorb(&mut self, mut other: Self) {
        other.close();
        self.done.append(&mut other.done);
        self.data_bytes += other.data_bytes;
    }

    /// How many bytes of data there were.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The digest of a content of `bytes` bytes, in hexadecimal.
    pub fn finish(mut self, bytes: u64) -> String {
        self.close();
        self.done.sort_unstable();
        let mut whole = blake3::Hasher::new();
        for (index, digest) in &self.done {
            whole.update(&index.to_le_bytes()).update(digest);
        }
        whole.update(&bytes.to_le_bytes());
        hex(whole.finalize().as_bytes())
    }

    fn segment(&mut self, index: u64) -> &mut Segment {
        if self.open.as_ref().is_some_and(|open| open.index != index) {
            self.close();
        }
        self.open.get_or_insert_with(|| Segment { index, data: blake3::Hasher::new(), blocks: 0 })
    }

    fn close(&mut self) {
        if let Some(Segment { index, mut data, blocks }) = self.open.take() {
            data.update(&blocks.to_le_bytes());
            self.done.push((index, *data.finalize().as_bytes()));
        }
    }
}

impl Segment {
    fn update(&mut self, offset: u64, data: &[u8]) {
        self.data.update(data);
        let first = offset / BLOCK_BYTES as u64;
        for block in first..first + data.len().div_ceil(BLOCK_BYTES) as u64 {
            self.blocks |= 1 << block;
        }
    }
}

/// The runs of blocks in `piece` that are not all zeros, as pairs of first byte and end.
pub fn data_runs(piece: &[u8], runs: &mut Vec<(usize, usize)>) {
    const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    runs.clear();
    for (index, block) in piece.chunks(BLOCK_BYTES).enumerate() {
        if *block == ZEROS[..block.len()] {
            continue;
        }
        let start = index * BLOCK_BYTES;
        match runs.last_mut() {
            Some((_, end)) if *end == start => *end += block.len(),
            _ => runs.push((start, start + block.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: usize = SEGMENT_BYTES as usize;

    fn digest(parts: &[(u64, &[u8])], bytes: u64) -> String {
        let mut content = ContentDigest::default();
        parts.iter().for_each(|(offset, data)| content.update(*offset, data));
        content.finish(bytes)
    }

    #[test]
    fn a_digest_does_not_depend_on_how_the_content_is_cut() {
        let data: Vec<u8> = (0..3 * SEGMENT + 100).map(|index| (index % 251) as u8).collect();
        let bytes = data.len() as u64;
        let whole = digest(&[(0, &data)], bytes);
        let cut = SEGMENT + 5 * BLOCK_BYTES;
        assert_eq!(digest(&[(0, &data[..cut]), (cut as u64, &data[cut..])], bytes), whole);
        let (mut first, mut second) = (ContentDigest::default(), ContentDigest::default());
        second.update(0, &data[..SEGMENT]);
        first.update(SEGMENT_BYTES, &data[SEGMENT..]);
        first.absorb(second);
        assert_eq!((first.data_bytes(), first.finish(bytes)), (bytes, whole));
    }

    #[test]
    fn a_digest_tells_data_place_and_length_apart() {
        let block = [7; BLOCK_BYTES];
        let digests = [
            digest(&[(0, &block)], 1 << 20),
            digest(&[(0, &[8; BLOCK_BYTES])], 1 << 20),
            digest(&[(4096, &block)], 1 << 20),
            digest(&[(SEGMENT_BYTES, &block)], 1 << 20),
            digest(&[(0, &block)], 1 << 21),
            digest(&[], 1 << 20),
        ];
        for (index, digest) in digests.iter().enumerate() {
            assert!(!digests[..index].contains(digest), "{index}");
        }
    }
}
