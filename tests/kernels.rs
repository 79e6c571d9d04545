//! Stock kernels of a distribution, imported from their packages, each with a container on it.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/hull.rs"]
mod support;

use support::{Hull, fixture};

#[test]
fn every_stock_kernel_runs_containers() {
    let hull = Hull::empty();
    hull.ok(&["import", fixture("busybox.tar").to_str().unwrap(), "busybox"]);
    // Without a kernel of its own the daemon takes the host's, if the host has one that it can read.
    let without = hull.hull(&["run", "--rm", "busybox", "true"]);
    assert!(without.status == 0 || without.stderr.contains("hull kernel import"), "{without:?}");
    for (package, name, part) in [
        ("linux-image-cloud-amd64-backports", "newer", "-cloud-amd64"),
        ("linux-image-amd64", "full", "-amd64"),
        ("linux-image-cloud-amd64", "cloud", "-cloud-amd64"),
    ] {
        let deb = fixture(package).join("package.deb");
        hull.ok(&["kernel", "import", "--deb", deb.to_str().unwrap(), "--name", name]);
        let script = "uname -r; touch /written && echo $$; ip -o -4 addr show eth0 | wc -l";
        let said = hull.hull(&["run", "--rm", "--kernel", name, "busybox", "sh", "-c", script]);
        let lines: Vec<&str> = said.stdout.lines().collect();
        assert!(said.status == 0 && lines.len() == 3 && lines[0].ends_with(part), "{name}: {said:?}");
        assert_eq!(lines[1..], ["1", "1"], "{name}");
    }
    let listed = hull.ok(&["kernel", "ls"]);
    assert!(["newer", "full", "cloud"].iter().all(|name| listed.contains(name)), "{listed}");
    hull.ok(&["kernel", "rm", "full"]);
    assert!(!hull.ok(&["kernel", "ls"]).contains("full"));
}
