//! Which crate may depend on which, read from cargo's own metadata.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{cargo, check};

/// A package, and the only workspace crates that may depend on it directly.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("kvm-ioctls", &["hull-vmm"]),
    ("kvm-bindings", &["hull-vmm"]),
    ("linux-loader", &["hull-vmm"]),
    ("virtio-queue", &["hull-virtio"]),
    ("hull-virtio", &["hull-vmm"]),
    ("hull-vmm", &[]),
    ("hull-daemon", &["hull"]),
    ("clap", &["hull"]),
];

/// Fails when a crate depends on what it may not.
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
        for to in list(&package["dependencies"]).iter().map(name) {
            let rule = ALLOWED.iter().find(|(target, _)| *target == to);
            if rule.is_some_and(|(_, allowed)| !allowed.contains(&from.as_str())) {
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
            package("hull-daemon", "hull-vmm"), package("hull-vmm", "kvm-ioctls"), package("hull", "kvm-ioctls"),
        ]});
        assert_eq!(broken(&metadata), ["hull-daemon -> hull-vmm", "hull -> kvm-ioctls"]);
    }
}
