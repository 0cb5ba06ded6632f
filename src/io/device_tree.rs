//! Looks up text in a flattened device tree, as the Devicetree Specification 0.4, chapter 5, lays it out.
//!
//! The blobs come from the DUT's own image: every offset is checked, and whatever is not as specified ends the
//! search. Nothing to clean up.

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;

/// Whether `blob` is a whole device tree that says how its addresses are written. QEMU ends with an error when it
/// is handed another.
pub fn is_usable(blob: &[u8]) -> bool {
    let given =
        |name| property(blob, &[""], name).is_some_and(|cells| word(cells, 0).is_some_and(|cells| cells > 0));
    given("#address-cells") && given("#size-cells")
}

/// The kernel arguments that the device tree itself brings: `bootargs` of `/chosen`.
pub fn boot_arguments(blob: &[u8]) -> Option<&str> {
    let value = property(blob, &["", "chosen"], "bootargs")?;
    let text = value.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(text).ok()
}

/// The value of a property of the node whose path has these names; the root's name is empty.
fn property<'a>(blob: &'a [u8], node: &[&str], property: &str) -> Option<&'a [u8]> {
    let whole = word(blob, 0)? == MAGIC && word(blob, 4)? as usize <= blob.len();
    whole.then_some(())?;
    let strings = blob.get(word(blob, 12)? as usize..)?;
    let mut at = word(blob, 8)? as usize;
    let mut path: Vec<&[u8]> = Vec::new();
    loop {
        let token = word(blob, at)?;
        at = at.checked_add(4)?;
        match token {
            BEGIN_NODE => {
                let name = text(blob, at)?;
                path.push(name);
                at = aligned(at.checked_add(name.len() + 1)?)?;
            }
            END_NODE => {
                path.pop()?;
            }
            PROPERTY => {
                let size = word(blob, at)? as usize;
                let name = text(strings, word(blob, at.checked_add(4)?)? as usize)?;
                let start = at.checked_add(8)?;
                let end = start.checked_add(size)?;
                let value = blob.get(start..end)?;
                if name == property.as_bytes()
                    && path.iter().copied().eq(node.iter().map(|name| name.as_bytes()))
                {
                    return Some(value);
                }
                at = aligned(end)?;
            }
            NOP => {}
            _ => return None,
        }
    }
}

fn word(blob: &[u8], at: usize) -> Option<u32> {
    let bytes = blob.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().expect("4 bytes are an array of 4 bytes")))
}

fn text(blob: &[u8], at: usize) -> Option<&[u8]> {
    blob.get(at..)?.split(|byte| *byte == 0).next()
}

fn aligned(at: usize) -> Option<usize> {
    at.checked_next_multiple_of(4)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A device tree with `/chosen/bootargs` and what every device tree must have.
    pub(crate) fn with_boot_arguments(arguments: &str) -> Vec<u8> {
        let mut structure = Vec::new();
        let mut push = |bytes: &[u8]| {
            structure.extend_from_slice(bytes);
            structure.resize(structure.len().next_multiple_of(4), 0);
        };
        push(&BEGIN_NODE.to_be_bytes());
        push(b"\0");
        for name_at in [9_u32, 24] {
            for word in [PROPERTY, 4, name_at, 1] {
                push(&word.to_be_bytes());
            }
        }
        push(&BEGIN_NODE.to_be_bytes());
        push(b"chosen\0");
        push(&PROPERTY.to_be_bytes());
        push(&(arguments.len() as u32 + 1).to_be_bytes());
        push(&0_u32.to_be_bytes());
        push(format!("{arguments}\0").as_bytes());
        for end in [END_NODE, END_NODE, 9] {
            push(&u32::to_be_bytes(end));
        }
        let strings_at = 56 + structure.len() as u32;
        let strings = b"bootargs\0#address-cells\0#size-cells\0";
        let total = strings_at + strings.len() as u32;
        let header = [MAGIC, total, 56, strings_at, 40, 17, 16, 0, strings.len() as u32, strings_at - 56];
        let mut blob: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
        blob.resize(56, 0); // the empty memory reservation block
        blob.extend(structure);
        blob.extend_from_slice(strings);
        blob
    }

    #[test]
    fn boot_arguments_are_found() {
        let blob = with_boot_arguments("coherent_pool=1M 8250.nr_uarts=1");
        assert!(is_usable(&blob));
        assert_eq!(boot_arguments(&blob), Some("coherent_pool=1M 8250.nr_uarts=1"));
    }

    #[test]
    fn a_damaged_device_tree_ends_the_search_without_harm() {
        let blob = with_boot_arguments("quiet");
        for length in 0..blob.len() {
            assert_eq!(boot_arguments(&blob[..length]), None);
        }
        for at in 0..blob.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = blob.clone();
                damaged[at] = value;
                let _ = (is_usable(&damaged), boot_arguments(&damaged)); // any answer will do
            }
        }
    }
}
