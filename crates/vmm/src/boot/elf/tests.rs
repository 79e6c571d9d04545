#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;

fn memory() -> Memory {
    Memory::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap()
}

/// An ELF file with one segment of `content` at `offset`, loaded at 2 MiB.
fn elf(content: &[u8], offset: u64, in_memory: u64) -> File {
    let mut raw = vec![0u8; 4096];
    raw[..6].copy_from_slice(b"\x7fELF\x02\x01");
    raw[18..20].copy_from_slice(&62u16.to_le_bytes());
    raw[24..32].copy_from_slice(&0x20_0000u64.to_le_bytes());
    raw[32..40].copy_from_slice(&64u64.to_le_bytes());
    raw[54..56].copy_from_slice(&56u16.to_le_bytes());
    raw[56..58].copy_from_slice(&1u16.to_le_bytes());
    raw[64..68].copy_from_slice(&1u32.to_le_bytes());
    raw[72..80].copy_from_slice(&offset.to_le_bytes());
    raw[88..96].copy_from_slice(&0x20_0000u64.to_le_bytes());
    raw[96..104].copy_from_slice(&(content.len() as u64).to_le_bytes());
    raw[104..112].copy_from_slice(&in_memory.to_le_bytes());
    raw.resize(usize::try_from(offset).unwrap().max(4096), 0);
    raw.extend(content);
    raw.extend([0xee; 5000]);
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&raw, 0).unwrap();
    file
}

#[test]
fn a_segment_is_read_and_what_follows_it_is_zero() {
    for offset in [4096u64, 4099] {
        let memory = memory();
        let content: Vec<u8> = (0..5000u32).map(|n| (n % 255) as u8).collect();
        let loaded = load(&memory, &elf(&content, offset, 9000)).unwrap();
        assert_eq!(loaded, Loaded { linux64: Some(0x20_0000), pvh: None, end: 0x20_0000 + 9000 });
        let mut got = vec![1; 9000];
        memory.read_slice(&mut got, GuestAddress(0x20_0000)).unwrap();
        assert_eq!(&got[..5000], content);
        assert!(got[5000..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn kernels_that_do_not_fit_or_are_damaged_are_refused() {
    let memory = memory();
    assert!(matches!(load(&memory, &elf(&vec![1; 7 << 20], 4096, 7 << 20)), Err(ElfError::Memory(_))));
    assert!(matches!(load(&memory, &elf(&[1; 16], 4096, 8)), Err(ElfError::Damaged(_))));
    let file = tempfile::tempfile().unwrap();
    assert!(matches!(load(&memory, &file), Err(ElfError::Read(_))));
    file.write_all_at(&[0x7f; 200], 0).unwrap();
    assert!(matches!(load(&memory, &file), Err(ElfError::Foreign)));
}

/// A 32-bit file with one segment at 2 MiB and the PVH note for `entry`, which is its header's entry as well.
fn elf_32(entry: u32) -> File {
    let mut raw = vec![0u8; 8192];
    let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x01\x01");
    put(18, &3u16.to_le_bytes());
    put(24, &entry.to_le_bytes());
    put(28, &52u32.to_le_bytes());
    put(42, &32u16.to_le_bytes());
    put(44, &2u16.to_le_bytes());
    for (header, words) in
        [(52, [1, 4096, 0, 0x20_0000, 100, 4096, 7, 4]), (84, [4, 4096, 0, 0x20_0000, 20, 20, 4, 4u32])]
    {
        for (at, word) in (header..).step_by(4).zip(words) {
            put(at, &word.to_le_bytes());
        }
    }
    for (at, word) in (4096..).step_by(4).zip([4, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry]) {
        put(at, &word.to_le_bytes());
    }
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&raw, 0).unwrap();
    file
}

#[test]
fn a_32_bit_kernel_has_the_pvh_entry_only() {
    let loaded = load(&memory(), &elf_32(0x20_0010)).unwrap();
    assert_eq!(loaded, Loaded { linux64: None, pvh: Some(0x20_0010), end: 0x20_1000 });
    assert!(matches!(load(&memory(), &elf_32(0x30_0000)), Err(ElfError::Damaged(_))));
}

proptest! {
    #[test]
    fn damaged_headers_never_panic(at in 0..120usize, bytes in prop::collection::vec(any::<u8>(), 1..16)) {
        let file = elf(&[9; 100], 4096, 100);
        file.write_all_at(&bytes, at as u64).unwrap();
        let _outcome = load(&memory(), &file);
    }
}
