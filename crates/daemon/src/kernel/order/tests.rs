#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use proptest::prelude::*;

use super::*;

/// Modules by name, each with what it says, `key=value` by `key=value`.
fn modules(all: &[(&str, &[(&str, &str)])]) -> BTreeMap<String, Modinfo> {
    all.iter()
        .map(|(name, texts)| {
            let mut info = Modinfo::default();
            texts.iter().for_each(|(key, value)| info.take(key, value));
            ((*name).to_owned(), info)
        })
        .collect()
}

fn order(
    all: &[(&str, &[(&str, &str)])],
    builtin: &[&str],
    wanted: &[&str],
) -> Result<Vec<String>, OrderError> {
    let builtin = builtin.iter().map(|name| (*name).to_owned()).collect();
    load_order(wanted, &Offer { modules: &modules(all), builtin: &builtin })
}

#[test]
fn dependencies_come_first_and_once() {
    let all: &[(&str, &[(&str, &str)])] = &[
        ("blk", &[("depends", "ring,virtio")]),
        ("mmio", &[("depends", "virtio,ring")]),
        ("ring", &[]),
        ("unwanted", &[]),
        ("virtio", &[("depends", "ring")]),
    ];
    assert_eq!(order(all, &[], &["mmio", "blk", "absent"]).unwrap(), ["ring", "virtio", "mmio", "blk"]);
}

#[test]
fn soft_dependencies_are_met_when_they_can_be() {
    let all: &[(&str, &[(&str, &str)])] = &[
        ("erofs", &[("depends", "libcrc32c")]),
        ("libcrc32c", &[("softdep", "pre: crc32c post: later nowhere")]),
        ("crc32c_generic", &[("alias", "crc32c")]),
        ("crc32c_intel", &[("alias", "crc32c"), ("alias", "cpu:type:x86")]),
        ("later", &[("depends", "libcrc32c")]),
    ];
    let whole = ["crc32c_generic", "libcrc32c", "later", "erofs"];
    assert_eq!(order(all, &[], &["erofs"]).unwrap(), whole);
    assert_eq!(order(all, &["crc32c"], &["erofs"]).unwrap(), whole[1..]);
}

#[test]
fn circles_and_gaps_are_named() {
    let all: &[(&str, &[(&str, &str)])] = &[
        ("a", &[("depends", "b")]),
        ("b", &[("depends", "a")]),
        ("c", &[("depends", "gone")]),
        ("d", &[("softdep", "pre: e")]),
        ("e", &[("softdep", "pre: d")]),
    ];
    assert_eq!(order(all, &[], &["a"]), Err(OrderError::Circle("a".to_owned())));
    let missing = OrderError::Missing { module: "c".to_owned(), missing: "gone".to_owned() };
    assert_eq!(order(all, &[], &["c"]), Err(missing));
    assert_eq!(order(all, &["gone"], &["c"]).unwrap(), ["c"]);
    assert_eq!(order(all, &[], &["d"]).unwrap(), ["e", "d"]);
    let all: &[(&str, &[(&str, &str)])] = &[
        ("a", &[("softdep", "pre: b c")]),
        ("b", &[("depends", "d,gone")]),
        ("c", &[("depends", "a")]),
        ("d", &[]),
    ];
    assert_eq!(order(all, &[], &["a"]).unwrap(), ["a"], "a wish is no condition");
}

proptest! {
    /// Whatever depends on what: there is an order in which it holds, or an error.
    #[test]
    fn an_order_always_holds(edges in prop::collection::vec((0..12_u8, 0..12_u8, any::<bool>()), 0..40)) {
        let mut all: BTreeMap<String, Modinfo> = (0..12).map(|i| (format!("m{i}"), Modinfo::default())).collect();
        for (from, to, soft) in edges {
            let info = all.get_mut(&format!("m{from}")).unwrap();
            if soft { &mut info.before } else { &mut info.depends }.push(format!("m{to}"));
        }
        let builtin = BTreeSet::new();
        if let Ok(order) = load_order(&["m0", "m1", "m2"], &Offer { modules: &all, builtin: &builtin }) {
            for (position, name) in order.iter().enumerate() {
                prop_assert!(!order[..position].contains(name));
                prop_assert!(all[name].depends.iter().all(|needed| order[..position].contains(needed)));
            }
            prop_assert!(["m0", "m1", "m2"].iter().all(|name| order.iter().any(|module| module == name)));
        }
    }

    #[test]
    fn long_chains_end(length in 1..200_usize) {
        let all: BTreeMap<String, Modinfo> = (0..length)
            .map(|i| {
                let depends = if i + 1 < length { vec![format!("m{}", i + 1)] } else { Vec::new() };
                (format!("m{i}"), Modinfo { depends, ..Modinfo::default() })
            })
            .collect();
        let found = load_order(&["m0"], &Offer { modules: &all, builtin: &BTreeSet::new() });
        prop_assert_eq!(found.is_ok(), length <= DEPTH_MAX + 1);
    }
}
