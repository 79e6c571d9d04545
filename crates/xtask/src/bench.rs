//! `cargo xtask bench boot`: a boot of Hull beside the same boot by others, side by side in one lab.
//!
//! Everything shown was measured in this run: times on a clock that counts instructions, exits by KVM's own
//! tracepoints and counters, memory from smaps. The numbers of other machines carry over as ratios only.

mod jail;
mod near;
mod net;
mod peer;
mod smaps;
mod table;
mod taken;
mod trace;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::shell::need_packages;
use crate::{fixtures, programs};
use peer::Peer;

/// What was measured of one VMM; times are medians, counts and sizes are of the same boots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Figures {
    /// From its exec to its first entry into the guest, in microseconds.
    first_entry: u64,
    /// From its exec to the guest's first line on its standard output, in microseconds.
    first_line: u64,
    /// Exits to user space up to then.
    user_exits: u64,
    /// The same, by KVM's number of the reason.
    user_exits_by_reason: BTreeMap<String, u64>,
    /// KVM's counters of the VM at that point.
    kvm: BTreeMap<String, u64>,
    /// Resident memory of the VMM process but for the guest's, in KiB.
    held: u64,
    /// What of it is anonymous, so this process's alone.
    held_anonymous: u64,
    /// Resident memory of the guest, in KiB.
    guest: u64,
    /// What of it is anonymous, not shared with the file that was loaded.
    guest_anonymous: u64,
    /// Resident memory of the program that started the VMM and waits for it, in KiB; 0 without one.
    launcher: u64,
    /// Threads of the VMM.
    threads: u64,
}

/// By the VMM's name.
type Measured = Vec<(String, Figures)>;

const USAGE: &str = "usage: cargo xtask bench boot|net [--json] [--rounds N] [--peer NAME=PATH] ...
       cargo xtask bench jail

Each figure is the median of N boots, 5 unless told. PATH is the program of Firecracker, Cloud Hypervisor,
QEMU or another Hull, told by its file name.";

/// `cargo xtask bench ARGS`.
pub fn run(args: &[String]) -> Result<()> {
    match args.split_first() {
        Some((verb, rest)) if verb == "boot" => boot(rest),
        Some((verb, rest)) if verb == "net" => net::run(rest),
        Some((verb, [])) if verb == "jail" => jail::run(),
        // What the above run in the lab.
        Some((verb, rest)) if verb == "net-in-lab" => net::run_in_lab(rest),
        Some((verb, rest)) if verb == "boot-in-lab" => taken::run(rest),
        _ => bail!("{USAGE}"),
    }
}

fn boot(args: &[String]) -> Result<()> {
    let (mut json, mut rounds, mut peers) = (false, 5, Vec::new());
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => json = true,
            "--rounds" => {
                rounds = words.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).context(USAGE)?
            }
            "--peer" => peers.push(Peer::parse(words.next().context(USAGE)?)?),
            _ => bail!("{USAGE}"),
        }
    }
    need_packages(&["qemu-system-x86", "busybox-static"])?;
    let place = programs::build()?;
    let mut vmms = vec![
        Peer { name: "hull".into(), path: place.join("hull") },
        Peer { name: "qemu".into(), path: "/usr/bin/qemu-system-x86_64".into() },
    ];
    vmms.extend(peers);
    let measured = in_lab(rounds, &vmms)?;
    if json {
        println!("{}", table::json(&measured)?);
    } else {
        print!("{}", table::text(&measured)?);
    }
    Ok(())
}

/// Measures in the lab, whose standard output is ours.
fn in_lab(rounds: usize, vmms: &[Peer]) -> Result<Measured> {
    let this = std::env::current_exe()?;
    let kernel = fixtures::guest()?.join("vmlinux");
    let output = Command::new(&this)
        .args(["lab", "--count", "--"])
        .arg(&this)
        .args(["bench", "boot-in-lab", &rounds.to_string()])
        .args([kernel, fixtures::first_line()?])
        .args(vmms.iter().map(Peer::to_string))
        .stderr(Stdio::inherit())
        .output()
        .context("the lab could not be started")?;
    if !output.status.success() {
        bail!("the measurement failed: {}", String::from_utf8_lossy(&output.stdout));
    }
    serde_json::from_slice(&output.stdout).context("the lab did not hand back a measurement")
}
