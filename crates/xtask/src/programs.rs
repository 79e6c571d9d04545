//! Hull's own programs, built the one way that demo, tests and lab share.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::shell::{cargo, check, output, target};

/// Programs that stand alone are linked statically, which needs the target to be named.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds them; returns the directory they are in.
pub fn build() -> Result<PathBuf> {
    check(cargo().args(["build", "--profile", "lab", "--package", "hull"]))?;
    build_beside_hull()
}

/// Writes the manual's pages and the shells' completions, for whoever packs Hull; says where they are.
pub fn manual() -> Result<()> {
    let hull = build()?.join("hull");
    let (pages, completions) = (target().join("man"), target().join("completions"));
    check(Command::new(&hull).arg("manual").arg(&pages))?;
    std::fs::create_dir_all(&completions)?;
    for (shell, file) in [("bash", "hull.bash"), ("zsh", "_hull"), ("fish", "hull.fish")] {
        let script = output(&hull.display().to_string(), &["completion", shell])?;
        std::fs::write(completions.join(file), script)?;
    }
    println!("{}\n{}", pages.display(), completions.display());
    Ok(())
}

/// Builds what `hull` starts, and puts it beside it; returns their directory.
pub fn build_beside_hull() -> Result<PathBuf> {
    // The agent is alone in its guest, and the VMM in an empty root; without a dynamic linker it also starts sooner.
    build_static("hull-vmm", "lab")?;
    build_static("hull-agent", "agent")?;
    Ok(target().join("lab"))
}

fn build_static(program: &str, profile: &str) -> Result<()> {
    check(
        cargo()
            .args(["build", "--profile", profile, "--package", program, "--target", STATIC_TARGET])
            .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static"),
    )?;
    let built = target().join(STATIC_TARGET).join(profile).join(program);
    // Renamed into place: a copy under way is never taken for the program.
    let place = target().join("lab");
    let half = place.join(format!("{program}.half"));
    std::fs::copy(built, &half)?;
    std::fs::rename(half, place.join(program))?;
    Ok(())
}
