//! The name of a content by what it holds: a digest that costs nothing for zeros.
//!
//! SHA-256 has to read every zero of an image, which for most images takes longer than all the rest. So the cache
//! names contents by BLAKE3 over the blocks that are not zero, over where they stand, and over the length. However
//! the zeros are stored, as holes or written out, the digest is the same.

/// The block in which zeros are looked for: a page, and the block of most file systems.
pub const BLOCK_BYTES: usize = 4096;

/// A digest that is being made, from the content's beginning to its end.
#[derive(Default)]
pub struct ContentDigest {
    data: blake3::Hasher,
    map: blake3::Hasher,
    /// The run of data that may still go on: its first byte and its end.
    run: (u64, u64),
    data_bytes: u64,
}

impl ContentDigest {
    /// Takes data that stands at `offset`, a whole number of blocks but for the last one of the content.
    pub fn update(&mut self, offset: u64, data: &[u8]) {
        if offset != self.run.1 {
            self.end_run();
            self.run = (offset, offset);
        }
        self.run.1 += data.len() as u64;
        self.data_bytes += data.len() as u64;
        self.data.update(data);
    }

    /// How many bytes of data there were.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The digest of a content of `bytes` bytes, in hexadecimal.
    pub fn finish(mut self, bytes: u64) -> String {
        self.end_run();
        let mut whole = blake3::Hasher::new();
        whole.update(self.map.finalize().as_bytes());
        whole.update(self.data.finalize().as_bytes());
        whole.update(&bytes.to_le_bytes());
        whole.finalize().to_hex().to_string()
    }

    fn end_run(&mut self) {
        if self.run.0 != self.run.1 {
            self.map.update(&self.run.0.to_le_bytes());
            self.map.update(&self.run.1.to_le_bytes());
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
