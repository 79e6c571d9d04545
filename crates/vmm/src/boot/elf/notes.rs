//! The one ELF note that matters: `XEN_ELFNOTE_PHYS32_ENTRY`, by which a kernel says where PVH enters it.
//!
//! A pure function of a file's bytes. Invariant: whatever they are, it ends and reads nothing else.

use super::u32_at;

const PHYS32_ENTRY: u32 = 18;
const OWNER: &[u8] = b"Xen\0";
/// Sizes of name and description, and the type.
const HEADER: usize = 12;

/// The address in the first such note among `raw`, whose parts are aligned to `align` bytes.
pub(super) fn pvh_entry(mut raw: &[u8], align: usize) -> Option<u32> {
    while raw.len() >= HEADER {
        let size = |at| usize::try_from(u32_at(raw, at)).ok();
        let (name_size, size, kind) = (size(0)?, size(4)?, u32_at(raw, 8));
        let name_end = HEADER.checked_add(name_size)?;
        let start = name_end.checked_next_multiple_of(align)?;
        let end = start.checked_add(size)?;
        let (name, description) = (raw.get(HEADER..name_end)?, raw.get(start..end)?);
        if name == OWNER && kind == PHYS32_ENTRY && matches!(size, 4 | 8) {
            // Eight bytes hold an address below 4 GiB all the same.
            return (size == 4 || u32_at(description, 4) == 0).then(|| u32_at(description, 0));
        }
        raw = raw.get(end.checked_next_multiple_of(align)?..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn note(owner: &[u8], kind: u32, description: &[u8]) -> Vec<u8> {
        let mut raw = Vec::new();
        for word in [owner.len() as u32, description.len() as u32, kind] {
            raw.extend(word.to_le_bytes());
        }
        for part in [owner, description] {
            raw.extend(part);
            raw.resize(raw.len().next_multiple_of(4), 0);
        }
        raw
    }

    #[test]
    fn the_entry_is_found_among_other_notes() {
        let address = 0x100_0370u32.to_le_bytes();
        let entry = note(b"Xen\0", 18, &address);
        let others =
            [note(b"GNU\0", 3, &[1; 20]), note(b"Xen\0", 6, b"linux\0"), note(b"Linux\0", 18, &[9; 4])];
        assert_eq!(pvh_entry(&entry, 4), Some(0x100_0370));
        assert_eq!(pvh_entry(&[others.concat(), entry.clone()].concat(), 4), Some(0x100_0370));
        assert_eq!(pvh_entry(&others.concat(), 4), None);
        assert_eq!(pvh_entry(&note(b"Xen\0", 18, &[address, [0; 4]].concat()), 4), Some(0x100_0370));
        assert_eq!(pvh_entry(&note(b"Xen\0", 18, &[address, [1; 4]].concat()), 4), None);
        assert_eq!(pvh_entry(&entry[..entry.len() - 1], 4), None);
    }

    proptest! {
        #[test]
        fn damaged_notes_never_panic(raw in prop::collection::vec(any::<u8>(), 0..200), eight in any::<bool>()) {
            let _entry = pvh_entry(&raw, if eight { 8 } else { 4 });
        }
    }
}
