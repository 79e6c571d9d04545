//! Hull's own programs, built the one way that demo, tests and lab share.

use std::path::PathBuf;

use anyhow::Result;

use crate::shell::{cargo, check, target};

/// Builds them; returns the directory they are in.
pub fn build() -> Result<PathBuf> {
    check(cargo().args(["build", "--profile", "lab", "--package", "hull", "--package", "hull-vmm"]))?;
    Ok(target().join("lab"))
}
