//! The measurement itself, in the lab: every VMM boots the same guest, taking turns.
//!
//! Times and counts are taken in boots of their own, so that counting does not slow what is timed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::peer::{Guest, Peer};
use super::{Figures, Measured, near, smaps, trace};

/// From the first line until the guest has come to rest.
const REST: Duration = Duration::from_millis(200);
const KVM_COUNTERS: &str = "/sys/kernel/debug/kvm";

/// `boot-in-lab ROUNDS KERNEL INITRD NAME=PATH ...`: prints [`Measured`] as JSON.
pub fn run(args: &[String]) -> Result<()> {
    let [rounds, kernel, initrd, peers @ ..] = args else { bail!("the lab is given what to measure") };
    let rounds: usize = rounds.parse()?;
    let guest = Guest { kernel: kernel.into(), initrd: initrd.into() };
    let peers: Vec<Peer> = peers.iter().map(|text| Peer::parse(text)).collect::<Result<_>>()?;
    near::enter(&peers, &guest)?;
    let mut taken: Vec<Vec<Figures>> = vec![Vec::new(); peers.len()];
    // One more than is counted: the first fills the caches.
    for round in 0..=rounds {
        for (peer, taken) in peers.iter().zip(&mut taken) {
            eprintln!(
                "bench: {} {}",
                peer.name,
                if round == 0 { "warms up".into() } else { round.to_string() }
            );
            let figures = measure(peer, &guest).with_context(|| format!("measuring {}", peer.name))?;
            if round > 0 {
                taken.push(figures);
            }
        }
    }
    let measured: Measured =
        peers.into_iter().zip(&taken).map(|(peer, taken)| (peer.name, medians(taken))).collect();
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// One boot for the times and one for the rest.
fn measure(peer: &Peer, guest: &Guest) -> Result<Figures> {
    trace::prepare_times()?;
    let booted = Booted::new(peer.boot(guest)?)?;
    let times = trace::times()?;
    booted.end()?;
    trace::prepare_counts()?;
    let booted = Booted::new(peer.boot(guest)?)?;
    sleep(REST);
    let user_exits_by_reason = trace::user_exits()?;
    let vm = Vm::only()?;
    let (own, theirs) = smaps::split(&smaps_of(vm.process)?, Guest::MIB << 20)?;
    let launcher = if vm.process == booted.0.id() {
        smaps::Resident::default()
    } else {
        smaps::whole(&smaps_of(booted.0.id())?)?
    };
    let figures = Figures {
        first_entry: times.first_entry,
        first_line: times.first_line,
        user_exits: user_exits_by_reason.values().sum(),
        user_exits_by_reason,
        kvm: vm.counters()?,
        held: own.all,
        held_anonymous: own.anonymous,
        guest: theirs.all,
        guest_anonymous: theirs.anonymous,
        launcher: launcher.all,
        threads: fs::read_dir(format!("/proc/{}/task", vm.process))?.count() as u64,
    };
    booted.end()?;
    Ok(figures)
}

fn smaps_of(process: u32) -> Result<String> {
    let path = format!("/proc/{process}/smaps");
    fs::read_to_string(&path).with_context(|| format!("reading {path}"))
}

/// A VMM whose guest has said its first line.
struct Booted(Child);

impl Booted {
    /// Starts tracing and the VMM, and waits for the line.
    fn new(mut command: Command) -> Result<Self> {
        let words = fs::File::create("/tmp/words")?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(words);
        trace::start()?;
        let mut child = command.spawn().context("the VMM could not be started")?;
        let output = child.stdout.take().context("the VMM has no output")?;
        let mut line = String::new();
        let mut output = BufReader::new(output);
        while output.read_line(&mut line)? > 0 {
            // Firmware may have something to say first.
            if line.trim_end().ends_with("READY") {
                trace::mark_line()?;
                return Ok(Self(child));
            }
        }
        let _ended = child.kill();
        bail!("the guest did not start: {line}{}", fs::read_to_string("/tmp/words")?);
    }

    /// Ends the VMM, and with it whoever waits for it; returns when KVM has let go of its VM.
    fn end(mut self) -> Result<()> {
        let vm = Vm::only()?;
        let killed = Command::new(near::BUSYBOX).args(["kill", "-9", &vm.process.to_string()]).status()?;
        if !killed.success() {
            bail!("the VMM cannot be ended");
        }
        let _killed = self.0.wait()?;
        while vm.place.exists() {
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// A VM as KVM lists it.
#[derive(Clone, Debug)]
pub(super) struct Vm {
    pub(super) process: u32,
    place: PathBuf,
}

impl Vm {
    /// From the name of its directory, process and descriptor.
    fn parse(name: &str) -> Option<Self> {
        let process = name.split_once('-')?.0.parse().ok()?;
        Some(Self { process, place: Path::new(KVM_COUNTERS).join(name) })
    }

    /// The one VM there is.
    pub(super) fn only() -> Result<Self> {
        let names = fs::read_dir(KVM_COUNTERS)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>>>()?;
        let vms: Vec<Self> = names.iter().filter_map(|name| Self::parse(name)).collect();
        let [vm] = vms.as_slice() else { bail!("KVM has {} VMs, not one", vms.len()) };
        Ok(vm.clone())
    }

    /// Its counters that are not zero.
    pub(super) fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let mut counters = BTreeMap::new();
        for entry in fs::read_dir(&self.place)? {
            let entry = entry?;
            // Directories and histograms are no counters.
            let count = fs::read_to_string(entry.path()).ok().and_then(|text| text.trim().parse().ok());
            if let Some(count) = count.filter(|count| *count > 0) {
                counters.insert(entry.file_name().to_string_lossy().into_owned(), count);
            }
        }
        Ok(counters)
    }
}

/// Each figure's median.
fn medians(taken: &[Figures]) -> Figures {
    let of = |figure: &dyn Fn(&Figures) -> u64| median(taken.iter().map(figure).collect());
    let map = |figure: &dyn Fn(&Figures) -> &BTreeMap<String, u64>| {
        let keys = taken.iter().flat_map(|taken| figure(taken).keys());
        let count = |taken: &Figures, key: &String| figure(taken).get(key).copied().unwrap_or(0);
        keys.map(|key| (key.clone(), median(taken.iter().map(|taken| count(taken, key)).collect()))).collect()
    };
    Figures {
        first_entry: of(&|f| f.first_entry),
        first_line: of(&|f| f.first_line),
        user_exits: of(&|f| f.user_exits),
        user_exits_by_reason: map(&|f| &f.user_exits_by_reason),
        kvm: map(&|f| &f.kvm),
        held: of(&|f| f.held),
        held_anonymous: of(&|f| f.held_anonymous),
        guest: of(&|f| f.guest),
        guest_anonymous: of(&|f| f.guest_anonymous),
        launcher: of(&|f| f.launcher),
        threads: of(&|f| f.threads),
    }
}

pub(super) fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![9, 1, 5, 7, 3]), 5);
        let taken = [3, 1, 2].map(|n| Figures {
            first_line: n,
            kvm: BTreeMap::from([("exits".into(), n)]),
            ..Figures::default()
        });
        let medians = medians(&taken);
        assert_eq!((medians.first_line, medians.kvm.get("exits")), (2, Some(&2)));
    }

    #[test]
    fn a_vm_is_named_by_its_process() {
        assert!(Vm::parse("4711-12").is_some_and(|vm| vm.process == 4711));
        assert!(Vm::parse("halt_exits").is_none());
    }
}
