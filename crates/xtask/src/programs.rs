//! Hull's own programs, built the one way that demo, tests and lab share.

use std::path::PathBuf;

use anyhow::Result;

use crate::shell::{cargo, check, target};

/// The agent stands alone in its guest, so it is linked statically, which needs the target to be named.
const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds them; returns the directory they are in.
pub fn build() -> Result<PathBuf> {
    check(cargo().args(["build", "--profile", "lab", "--package", "hull"]))?;
    build_beside_hull()
}

/// Builds what `hull` starts, and puts it beside it; returns their directory.
pub fn build_beside_hull() -> Result<PathBuf> {
    check(cargo().args(["build", "--profile", "lab", "--package", "hull-vmm"]))?;
    let place = target().join("lab");
    check(
        cargo()
            .args(["build", "--profile", "agent", "--package", "hull-agent", "--target", AGENT_TARGET])
            .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static"),
    )?;
    let agent = target().join(AGENT_TARGET).join("agent/hull-agent");
    // Renamed into place: a copy under way is never taken for the program.
    let half = place.join("hull-agent.half");
    std::fs::copy(agent, &half)?;
    std::fs::rename(half, place.join("hull-agent"))?;
    Ok(place)
}
