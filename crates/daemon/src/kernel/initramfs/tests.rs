#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use proptest::prelude::*;

use super::*;

fn archive(modules: &[Vec<u8>], agent: &[u8]) -> (Vec<u8>, u64) {
    let mut bytes = Vec::new();
    let mut archive = Initramfs::begin(&mut bytes).unwrap();
    for (position, module) in modules.iter().enumerate() {
        archive.module(position, "name", module).unwrap();
    }
    let end = archive.written();
    assert_eq!(archive.finish(agent).unwrap(), bytes.len() as u64);
    (bytes, end)
}

#[test]
fn the_archive_begins_as_the_format_says() {
    let (bytes, _) = archive(&[], b"agent");
    let first = "070701\
        00000001000041ed00000000000000000000000200000000\
        0000000000000000000000000000000000000000\
        0000000400000000dev\0";
    assert_eq!(std::str::from_utf8(&bytes[..first.len()]).unwrap(), first);
    let console = bytes.windows(12).position(|window| window == b"dev/console\0").unwrap() - 110;
    let field = |index: usize| std::str::from_utf8(&bytes[console + 6 + index * 8..][..8]).unwrap();
    assert_eq!((field(1), field(9), field(10)), ("00002180", "00000005", "00000001"));
}

proptest! {
    #[test]
    fn archives_are_whole_pages_and_another_agent_fits(
        modules in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..5),
        agent: Vec<u8>,
        other: Vec<u8>,
    ) {
        let (bytes, end) = archive(&modules, &agent);
        prop_assert_eq!(bytes.len() % 4096, 0);
        prop_assert_eq!(end % 4, 0);
        let mut replaced = bytes[..end as usize].to_vec();
        Initramfs::resume(&mut replaced, end).finish(&other).unwrap();
        let (fresh, _) = archive(&modules, &other);
        prop_assert_eq!(replaced.len(), fresh.len());
        // Only the inode numbers behind the modules may differ.
        prop_assert_eq!(&replaced[..end as usize], &fresh[..end as usize]);
        prop_assert_eq!(&replaced[end as usize + 14..][..other.len()], &fresh[end as usize + 14..][..other.len()]);
    }
}
