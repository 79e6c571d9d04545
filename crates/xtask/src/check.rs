//! `cargo xtask check`: formatting, lints, the dependency law, and sizes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::arrows;
use crate::shell::{cargo, check, output, repository};

/// Lines at which a file is too long.
const FILE_LINES_MAX: usize = 600;
/// Lines at which a file is worth a look.
const FILE_LINES_SOFT: usize = 400;

/// Runs every check.
pub fn run() -> Result<()> {
    check(cargo().args(["fmt", "--all", "--check"]))?;
    check(cargo().args([
        "clippy",
        "--profile",
        "lab",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    arrows::run()?;
    arrows::deny()?;
    sizes()
}

fn sizes() -> Result<()> {
    let root = repository();
    let listed = output("git", &["-C", &root.display().to_string(), "ls-files", "*.rs"])?;
    let mut too_long = Vec::new();
    for file in listed.lines() {
        let text =
            fs::read_to_string(root.join(Path::new(file))).with_context(|| format!("reading {file}"))?;
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            too_long.push(format!("{file} ({lines})"));
        } else if lines > FILE_LINES_SOFT {
            println!("long: {file} has {lines} lines");
        }
    }
    if !too_long.is_empty() {
        bail!("files over {FILE_LINES_MAX} lines: {}", too_long.join(", "));
    }
    Ok(())
}
