//! `cargo xtask bench jail`: what a VMM's jail costs at its start.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::bench::taken::median;
use crate::shell::{cargo, check, output, target};

/// How often it is measured.
const ROUNDS: usize = 101;
/// What all walls of a VMM with one processor may take together, in microseconds.
const PROMISE: u64 = 3000;

/// Has a program put up the walls of a VMM, again and again, on this host; fails when they take longer than promised.
pub fn run() -> Result<()> {
    let build = ["build", "--profile", "lab", "--package", "hull-jail", "--example", "attempt"];
    check(cargo().args(build)).context("building the program that enters a jail")?;
    let program = target().join("lab/examples/attempt").display().to_string();
    let mut taken: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut sums = Vec::new();
    for _ in 0..ROUNDS {
        let round = read(&output(&program, &["measure"])?)?;
        sums.push(round.iter().map(|(_, micros)| micros).sum());
        round.into_iter().for_each(|(wall, micros)| taken.entry(wall).or_default().push(micros));
    }
    for (wall, micros) in taken {
        println!("{wall:<10} {:>6} us", median(micros));
    }
    let all = median(sums);
    println!("together   {all:>6} us, the median of {ROUNDS}; promised: at most {PROMISE}");
    if all > PROMISE {
        bail!("a jail takes longer than promised");
    }
    Ok(())
}

/// Reads lines of a wall's name and its microseconds.
fn read(said: &str) -> Result<Vec<(String, u64)>> {
    let line = |line: &str| {
        let (wall, micros) = line.split_once(' ')?;
        Some((wall.to_owned(), micros.parse().ok()?))
    };
    said.lines().map(|text| line(text).with_context(|| format!("no measurement: {text}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_read() -> Result<()> {
        assert_eq!(read("process 900\nio 40\n")?, [("process".into(), 900), ("io".into(), 40)]);
        assert!(read("process\n").is_err());
        Ok(())
    }
}
