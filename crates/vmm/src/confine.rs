//! The VMM's way into its jail: the process first, each thread as it starts, main once the machine runs.
//!
//! Owner: `main` and every thread it starts. Invariant: nothing but the sealed plan is read outside the jail, and no
//! thread goes on without its wall.

use hull_jail::seccomp::{self, Role};
use hull_jail::vmm::{JailError, Missing, VmmJail};
use hull_protocol::plan::{BootPlan, FIRST_USER, JAIL_NOTICE, PLAN_SLOT};
use hull_virtio::vsock::CONNECTIONS_MAX;

/// Threads beside those of the processors: main, io, console, loader, and KVM's own workers.
const THREADS: u32 = 8;
/// Descriptors that the VM itself takes: KVM's, the event loop's, eventfds, one for each processor.
const DESCRIPTORS: u32 = 256;

/// Jails the process for a plan, and says once what this host cannot give.
///
/// # Errors
/// When a layer that every host has cannot be had.
pub fn enter(plan: &BootPlan) -> Result<(), JailError> {
    let jail = VmmJail {
        first_user: plan.first_user,
        last_descriptor: last_descriptor(plan),
        descriptors: DESCRIPTORS + u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX / 2),
        threads: THREADS + u32::from(plan.cpus),
    };
    for missing in jail.enter()? {
        log::warn!("{JAIL_NOTICE}{missing}");
    }
    Ok(())
}

/// What this host cannot give, found out by entering the jail.
///
/// # Errors
/// When a layer that every host has cannot be had.
pub fn probe() -> Result<Vec<Missing>, JailError> {
    let jail = VmmJail {
        first_user: Some(FIRST_USER),
        last_descriptor: 2,
        descriptors: DESCRIPTORS,
        threads: THREADS,
    };
    jail.enter()
}

/// Confines the calling thread to the system calls of its role; without that the VM ends.
pub fn to(role: Role) {
    if let Err(error) = seccomp::confine(role) {
        log::error!("a thread cannot be confined: {error}");
        std::process::exit(1);
    }
}

/// The highest descriptor that a plan names.
fn last_descriptor(plan: &BootPlan) -> u32 {
    let BootPlan { kvm, kernel, disks, vsock, nets, console, control, cgroups, .. } = plan;
    let slots = [PLAN_SLOT, *kvm, kernel.image]
        .into_iter()
        .chain(kernel.initrd)
        .chain(disks.iter().map(|disk| disk.file))
        .chain(vsock.iter().map(|vsock| vsock.listener))
        .chain(nets.iter().map(|net| net.tap))
        .chain(console.input)
        .chain(console.output)
        .chain(*control)
        .chain(cgroups.iter().copied());
    slots.map(|slot| u32::try_from(slot.0).unwrap_or(0)).max().unwrap_or(0)
}
