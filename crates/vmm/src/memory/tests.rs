#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
use std::os::unix::fs::FileExt;

use hull_protocol::units::Bytes;
use proptest::prelude::*;

use vm_memory::Bytes as _;

use super::*;

fn memory() -> Memory {
    allocate(&Layout::of(Bytes::mib(32), 0).unwrap()).unwrap()
}

#[test]
fn ram_begins_at_a_large_page_of_the_host() {
    let layout = Layout::of(Bytes::gib(5), 0).unwrap();
    for region in allocate(&layout).unwrap().iter() {
        assert_eq!(region.as_ptr() as usize % LARGE_PAGE, 0);
    }
}

#[test]
fn a_file_that_is_too_short_or_too_long_is_refused() {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[1; 5000], 0).unwrap();
    let memory = memory();
    assert!(matches!(place_file(&memory, 0, &file, (0, 5001), "it"), Err(MemoryError::File(_))));
    assert!(matches!(place_file(&memory, 0, &file, (4000, 9000), "it"), Err(MemoryError::File(_))));
    assert!(matches!(place_file(&memory, 0, &file, (9000, 10), "it"), Err(MemoryError::File(_))));
    let past = (32 << 20) - 4999;
    assert!(matches!(place_file(&memory, past, &file, (0, 5000), "it"), Err(MemoryError::TooSmall("it"))));
    assert!(matches!(place_file(&memory, 0, &file, (u64::MAX, 2), "it"), Err(MemoryError::TooSmall("it"))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_file_with_holes_is_placed_whole(
        parts in prop::collection::vec((0..64u64, 1..9000usize), 0..6),
        offset in 0..9000u64,
        cut in 0..9000u64,
    ) {
        let mut content = vec![0u8; 65 * 4096 + 9000];
        let file = tempfile::tempfile().unwrap();
        file.set_len(content.len() as u64).unwrap();
        for (page, length) in parts {
            let part: Vec<u8> = (0..length).map(|n| (n % 251) as u8 + 1).collect();
            file.write_all_at(&part, page * 4096).unwrap();
            let start = page as usize * 4096;
            content[start..start + length].copy_from_slice(&part);
        }
        let length = content.len() as u64 - offset - cut;
        let memory = memory();
        place_file(&memory, 0x1000, &file, (offset, length), "it").unwrap();
        let mut got = vec![0xee; length as usize];
        memory.read_slice(&mut got, GuestAddress(0x1000)).unwrap();
        prop_assert!(got == content[offset as usize..][..length as usize]);
    }
}
