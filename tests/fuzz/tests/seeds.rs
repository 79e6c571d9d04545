//! Every target takes its seeds, and inputs made of them: a target that is broken shows before anybody fuzzes.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::collections::BTreeSet;

use hull_fuzz::Target;
use hull_fuzz::mutate::{Dice, mutated};

/// Inputs tried of each target, unless `HULL_FUZZ_ROUNDS` says otherwise; `HULL_SEED` makes others.
const ROUNDS: u64 = 1000;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn every_target_bears_its_seeds_and_what_is_made_of_them() {
    for target in Target::all() {
        let seeds = target.seeds();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        seeds.iter().for_each(|seed| target.run(seed));
        let mut dice = Dice::new(number("HULL_SEED", 0x9e37_79b9));
        for _ in 0..number("HULL_FUZZ_ROUNDS", ROUNDS) {
            let input = mutated(&seeds, &mut dice);
            let outcome = std::panic::catch_unwind(|| target.run(&input));
            assert!(outcome.is_ok(), "{} does not bear {input:02x?}", target.name);
        }
    }
}

#[test]
fn the_seeds_in_the_tree_are_all_of_a_target() {
    let names: BTreeSet<_> = Target::all().iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), Target::all().len(), "two targets have one name");
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds");
    for entry in std::fs::read_dir(place).into_iter().flatten() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&name), "seeds of no target: {name}");
    }
}
