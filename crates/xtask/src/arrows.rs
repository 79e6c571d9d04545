//! The dependency law: `.deny.toml`, and what it cannot say: that nothing links a program.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{cargo, check, repository, target};

/// Programs that are spawned and never linked.
const PROGRAMS: [&str; 2] = ["hull-vmm", "hull-agent"];
/// What reaches into everything, and nobody depends on.
const FUZZER: &str = "hull-fuzz";
/// The version of cargo-deny that reads `.deny.toml`.
const CARGO_DENY: &str = "0.20.2";

/// Checks crates, licences and versions; installs the checker where it is missing.
pub fn deny() -> Result<()> {
    let place = target().join("tools");
    let program = place.join("bin/cargo-deny");
    if !installed(&program) {
        eprintln!("xtask: building cargo-deny, once");
        let version = format!("--version={CARGO_DENY}");
        check(
            cargo().args(["install", "--quiet", "--locked", "cargo-deny", &version, "--root"]).arg(&place),
        )?;
    }
    let mut deny = Command::new(program);
    deny.args([
        "--workspace",
        "--config",
        ".deny.toml",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]);
    check(deny.current_dir(repository()))
}

fn installed(program: &PathBuf) -> bool {
    let version = Command::new(program).arg("--version").output();
    version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim().ends_with(CARGO_DENY))
}

/// Fails when a crate links a program.
pub fn run() -> Result<()> {
    let mut command = cargo();
    command.args(["metadata", "--format-version=1", "--no-deps"]);
    let output = command.output().context("cargo metadata could not be started")?;
    if !output.status.success() {
        check(&mut command)?;
    }
    let broken = broken(&serde_json::from_slice(&output.stdout)?);
    if !broken.is_empty() {
        bail!("dependencies that the architecture forbids: {}", broken.join(", "));
    }
    Ok(())
}

/// Forbidden arrows, as `from -> to`.
fn broken(metadata: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let mut broken = Vec::new();
    for package in list(&metadata["packages"]) {
        let from = name(&package);
        if from == FUZZER {
            continue;
        }
        for to in list(&package["dependencies"]).iter().map(name) {
            if PROGRAMS.contains(&to.as_str()) {
                broken.push(format!("{from} -> {to}"));
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_arrow_is_found() {
        let package =
            |from: &str, to: &str| serde_json::json!({"name": from, "dependencies": [{"name": to}]});
        let metadata = serde_json::json!({"packages": [
            package("hull-daemon", "hull-vmm"), package("hull-vmm", "kvm-ioctls"), package(FUZZER, "hull-vmm"),
        ]});
        assert_eq!(broken(&metadata), ["hull-daemon -> hull-vmm"]);
    }
}
