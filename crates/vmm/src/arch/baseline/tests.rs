#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
use super::*;

const LEAVES: [u32; 17] = [
    0,
    1,
    7,
    0xa,
    0xd,
    0x12,
    0x14,
    0x1d,
    0x24,
    0x4000_0001,
    EXTENDED,
    0x8000_0007,
    0x8000_0008,
    0x8000_000a,
    0x8000_001e,
    0x8000_001f,
    0x8000_0021,
];

/// A processor that has every feature there may ever be.
fn everything() -> Vec<kvm_cpuid_entry2> {
    let entry = |function, index| kvm_cpuid_entry2 {
        function,
        index,
        eax: u32::MAX,
        ebx: u32::MAX,
        ecx: u32::MAX,
        edx: u32::MAX,
        ..Default::default()
    };
    let mut table: Vec<_> = LEAVES.map(|leaf| entry(leaf, 0)).into();
    table.extend([entry(7, 1), entry(7, 2), entry(0xd, 1)]);
    // AVX, MPX, AVX-512 in three parts, PKRU, AMX tiles: size and offset as processors have them.
    for (index, size, offset) in [
        (2, 256, 576),
        (3, 64, 960),
        (5, 64, 1088),
        (6, 512, 1152),
        (7, 1024, 1664),
        (9, 8, 2688),
        (18, 8192, 2752),
    ] {
        table.push(kvm_cpuid_entry2 { eax: size, ebx: offset, ..entry(0xd, index) });
    }
    table
}

fn find(table: &[kvm_cpuid_entry2], leaf: u32, index: u32) -> Option<kvm_cpuid_entry2> {
    table.iter().copied().find(|entry| entry.function == leaf && entry.index == index)
}

fn limited(level: Level) -> Vec<kvm_cpuid_entry2> {
    let mut table = everything();
    limit(&mut table, level, "test").unwrap();
    table
}

#[test]
fn a_level_shows_its_features_and_none_above() {
    for level in 2..=4 {
        let table = limited(level);
        for feature in &FEATURES {
            let mut entry = find(&table, feature.leaf, 0).unwrap();
            let shown = *word(&mut entry, feature.register) >> feature.bit & 1 == 1;
            assert_eq!(shown, feature.level <= level, "{} on level {level}", feature.name);
        }
    }
}

#[test]
fn what_no_level_has_is_not_shown() {
    for level in 2..=4 {
        let table = limited(level);
        let leaf_1 = find(&table, 1, 0).unwrap();
        // MONITOR, VMX, PCID, AES, RDRAND.
        assert_eq!(leaf_1.ecx & bits([3, 5, 17, 25, 30]), 0);
        let leaf_7 = find(&table, 7, 0).unwrap();
        // FSGSBASE, SGX, RTM, IFMA, SHA; VBMI, PKU, VNNI, LA57; 4VNNIW, AMX.
        assert_eq!(leaf_7.ebx & bits([0, 2, 11, 21, 29]), 0);
        assert_eq!(leaf_7.ecx & bits([1, 3, 11, 16]), 0);
        assert_eq!(leaf_7.edx & bits([2, 22, 24, 25]), 0);
        assert_eq!(leaf_7.eax, 0);
        for (leaf, index) in [(7, 1), (7, 2), (0x12, 0), (0x14, 0), (0x1d, 0), (0x24, 0), (0x8000_000a, 0)] {
            assert!(find(&table, leaf, index).is_none(), "leaf {leaf:#x}.{index}");
        }
        let counters = find(&table, 0xa, 0).unwrap();
        assert_eq!((counters.eax, counters.ebx, counters.ecx, counters.edx), (0, 0, 0, 0));
    }
}

#[test]
fn the_platform_and_what_protects_the_guest_stay() {
    let table = limited(2);
    let leaf_1 = find(&table, 1, 0).unwrap();
    assert_eq!(leaf_1.ecx & bits([21, 24, 31]), bits([21, 24, 31]));
    assert_eq!((leaf_1.eax, leaf_1.ebx), (u32::MAX, u32::MAX), "signature and APIC id are no features");
    let leaf_7 = find(&table, 7, 0).unwrap();
    assert_eq!(leaf_7.ebx, bits([7, 20]));
    assert_eq!(leaf_7.edx & bits([26, 29, 31]), bits([26, 29, 31]));
    assert_eq!(find(&table, EXTENDED, 0).unwrap().edx & bits([11, 20, 29]), bits([11, 20, 29]));
    assert_eq!(find(&table, 0x4000_0001, 0), find(&everything(), 0x4000_0001, 0));
}

#[test]
fn the_save_area_has_the_levels_registers() {
    assert!(find(&limited(2), 0xd, 0).is_none(), "level 2 has no XSAVE");
    for (level, components, size) in [(3, 0x07, 832), (4, 0xe7, 2688)] {
        let table = limited(level);
        let main = find(&table, 0xd, 0).unwrap();
        assert_eq!((main.eax, main.ebx, main.ecx, main.edx), (components, 576, size, 0));
        assert_eq!(find(&table, 0xd, 1).unwrap().eax, 0);
        for index in 2..32 {
            let there = find(&everything(), 0xd, index).is_some() && components >> index & 1 == 1;
            assert_eq!(find(&table, 0xd, index).is_some(), there, "component {index} on level {level}");
        }
    }
}

#[test]
fn a_host_that_lacks_a_feature_is_told_which() {
    for lacking in &FEATURES {
        for (level, model) in [(2, "x86-64-v2"), (3, "x86-64-v3"), (4, "x86-64-v4")] {
            let mut table = everything();
            let entry = table.iter_mut().find(|entry| is(entry, lacking.leaf)).unwrap();
            *word(entry, lacking.register) &= !(1 << lacking.bit);
            match limit(&mut table, level, model) {
                Ok(()) => assert!(lacking.level > level, "{} on level {level}", lacking.name),
                Err(error) => {
                    assert!(lacking.level <= level);
                    let said = error.to_string();
                    assert!(said.contains(lacking.name) && said.contains(model), "{said}");
                }
            }
        }
    }
}

#[test]
fn limiting_what_is_limited_changes_nothing() {
    for level in 2..=4 {
        let once = limited(level);
        let mut twice = once.clone();
        limit(&mut twice, level, "test").unwrap();
        assert_eq!(twice, once);
    }
}
