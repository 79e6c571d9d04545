//! Takes what the VMM was started with: the plan, and the descriptors it names.
//!
//! Owner: `main`, before anything else. Invariant: each descriptor is taken once, and one that the plan does not
//! name is not touched.
#![allow(unsafe_code, reason = "a descriptor known only by its number becomes an owned one")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};

use hull_protocol::network::{ADDRESSES_MAX, MTU_MIN, NETS_MAX, NetPlan, Rate};
use hull_protocol::plan::{
    BootPlan, CGROUPS_MAX, CPUS_MAX, DISKS_MAX, MEMORY_MIN, PLAN_MAX, PLAN_SLOT, Slot,
};
use hull_protocol::units::{Bytes, MIB};

/// Why the VMM cannot use what it was given.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// The plan cannot be read.
    #[error("no boot plan in descriptor {}: hull-vmm is started by hull, not by hand", PLAN_SLOT.0)]
    NoPlan(#[source] io::Error),
    /// The plan is no plan.
    #[error("the boot plan is not readable")]
    Plan(#[from] serde_json::Error),
    /// A number is out of range.
    #[error("the boot plan asks for {0}")]
    Range(String),
    /// A control group lets it not in.
    #[error("a control group cannot be entered: is it one of the host's, with room for another process?")]
    Cgroup(#[source] io::Error),
    /// A slot is not an open descriptor, or named twice.
    #[error("the boot plan names descriptor {0}, which is not open or already taken")]
    Slot(i32),
}

/// Reads the plan from its slot and checks its numbers.
///
/// # Errors
/// When there is none or it asks for what no machine has.
pub fn plan(slots: &mut Slots) -> Result<BootPlan, InheritError> {
    let file = slots.take(PLAN_SLOT).map_err(|_| InheritError::NoPlan(io::ErrorKind::NotFound.into()))?;
    let mut text = String::new();
    file.take(PLAN_MAX).read_to_string(&mut text).map_err(InheritError::NoPlan)?;
    read(&text)
}

/// A plan from its text, with its numbers checked.
///
/// # Errors
/// When it asks for what no machine has.
pub fn read(text: &str) -> Result<BootPlan, InheritError> {
    let plan: BootPlan = serde_json::from_str(text)?;
    check(&plan)?;
    Ok(plan)
}

fn check(plan: &BootPlan) -> Result<(), InheritError> {
    let range = |what: String| Err(InheritError::Range(what));
    if plan.cpus == 0 || plan.cpus > CPUS_MAX {
        return range(format!("{} CPUs: 1 to {CPUS_MAX} are possible", plan.cpus));
    }
    // KVM takes regions up to 8 TiB; more than that is a slip of the pen.
    if plan.memory < MEMORY_MIN || plan.memory > Bytes::gib(4096) || !plan.memory.get().is_multiple_of(MIB) {
        return range(format!(
            "{} of memory: whole MiB from {MEMORY_MIN} to 4 TiB are possible",
            plan.memory
        ));
    }
    if plan.cgroups.len() > CGROUPS_MAX {
        return range(format!("{} control groups: at most {CGROUPS_MAX} are possible", plan.cgroups.len()));
    }
    if plan.disks.len() > DISKS_MAX {
        return range(format!("{} disks: at most {DISKS_MAX} are possible", plan.disks.len()));
    }
    if plan.disks.iter().any(|disk| disk.serial.len() > 20 || !disk.serial.is_ascii()) {
        return range("a disk serial that is not up to 20 bytes of ASCII".into());
    }
    plan.disks.iter().try_for_each(|disk| check_rates(&[disk.limit.bytes, disk.limit.requests]))?;
    if plan.nets.len() > NETS_MAX {
        return range(format!("{} network cards: at most {NETS_MAX} are possible", plan.nets.len()));
    }
    plan.nets.iter().try_for_each(check_net)
}

fn check_net(net: &NetPlan) -> Result<(), InheritError> {
    let range = |what: String| Err(InheritError::Range(what));
    if net.mtu < MTU_MIN {
        return range(format!(
            "a largest packet of {} bytes: {MTU_MIN} to {} are possible",
            net.mtu,
            u16::MAX
        ));
    }
    check_rates(&[net.receive.bytes, net.receive.packets, net.transmit.bytes, net.transmit.packets])?;
    if net.guard.as_ref().is_some_and(|guard| guard.len() > ADDRESSES_MAX) {
        return range(format!("more than {ADDRESSES_MAX} addresses of one network card"));
    }
    Ok(())
}

fn check_rates(rates: &[Option<Rate>]) -> Result<(), InheritError> {
    if rates.iter().flatten().any(|rate| rate.is_zero()) {
        let what = "a rate of zero: at least 1 a second is possible, at once as well";
        return Err(InheritError::Range(what.into()));
    }
    Ok(())
}

/// The descriptors that were handed over.
#[derive(Debug, Default)]
pub struct Slots {
    taken: BTreeSet<i32>,
}

impl Slots {
    /// Takes the descriptor in a slot.
    ///
    /// # Errors
    /// When it is a standard stream, is not open, or was taken before.
    pub fn take(&mut self, slot: Slot) -> Result<File, InheritError> {
        let bad = || InheritError::Slot(slot.0);
        if slot.0 < PLAN_SLOT.0 || !self.taken.insert(slot.0) {
            return Err(bad());
        }
        // SAFETY: no Rust code in this process has opened or owns a descriptor of the plan: they were there at
        // exec, each is turned into an owner once (`taken`), and F_GETFD tells whether it is open.
        unsafe {
            if libc::fcntl(slot.0, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
                return Err(bad());
            }
            Ok(File::from(OwnedFd::from_raw_fd(slot.0)))
        }
    }

    /// Takes a descriptor that may be a standard stream, by duplicating it.
    ///
    /// # Errors
    /// When it is not open.
    pub fn stream(&mut self, slot: Slot) -> Result<File, InheritError> {
        use std::os::fd::AsFd;
        let copy = match slot.0 {
            0 => io::stdin().as_fd().try_clone_to_owned(),
            1 => io::stdout().as_fd().try_clone_to_owned(),
            2 => io::stderr().as_fd().try_clone_to_owned(),
            _ => return self.take(slot),
        };
        copy.map(File::from).map_err(|_| InheritError::Slot(slot.0))
    }
}
