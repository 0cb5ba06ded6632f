//! Data for blocks that can be told again later: by a word, and by the block's number.

/// Fills consecutive blocks.
pub fn fill(word: &str, first: u64, block_bytes: usize, data: &mut [u8]) {
    for (number, block) in (first..).zip(data.chunks_exact_mut(block_bytes)) {
        for (place, value) in block.chunks_exact_mut(8).zip(values(word, number)) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// The first block that is not what [`fill`] would have written.
pub fn first_difference(word: &str, first: u64, block_bytes: usize, data: &[u8]) -> Option<u64> {
    (first..).zip(data.chunks_exact(block_bytes)).find_map(|(number, block)| {
        let same = block
            .chunks_exact(8)
            .zip(values(word, number))
            .all(|(place, value)| place == value.to_le_bytes());
        (!same).then_some(number)
    })
}

/// A block's values: xorshift64, begun with the FNV-1a hash of the word and the number.
fn values(word: &str, number: u64) -> impl Iterator<Item = u64> {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in word.bytes().chain(number.to_le_bytes()) {
        state = (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    state |= 1; // zero would stay zero
    core::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}
