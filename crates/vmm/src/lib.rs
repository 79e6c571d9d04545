//! One microVM: KVM, memory, boot, devices.
//!
//! Start reading at [`machine`]. The process is `hull-vmm`: main speaks on the control socket, `io` runs the
//! devices, `vcpuN` run the guest, `console` prints what the guest says. Everything the guest does is hostile until checked,
//! and the process is in a jail ([`hull_jail::vmm`]) before it looks at any of it.

pub mod arch;
pub mod boot;
mod bus;
mod confine;
mod control;
mod devices;
mod gate;
mod inherit;
mod io_loop;
pub mod layout;
mod logger;
pub mod machine;
pub mod memory;
mod platform;
mod serial;
mod vcpu;
mod watch;

use std::io::Write;
use std::process::ExitCode;

use hull_jail::seccomp::Role;
use hull_protocol::exit::ExitReason;
use hull_protocol::plan::BootPlan;
use vmm_sys_util::eventfd::EventFd;

use crate::inherit::Slots;
use crate::machine::Machine;

/// What threads share by. `tests/gate.rs` has a model in its place.
mod sync {
    pub use std::sync::{Condvar, Mutex, MutexGuard, atomic};
}

/// A door for `tests/fuzz`: the plan in a text, if a machine could be built from it.
#[doc(hidden)]
pub fn acceptable_plan(text: &str) -> Option<BootPlan> {
    inherit::read(text).ok()
}

/// The argument with which `hull doctor` asks what the jail goes without on this host.
const PROBE: &str = "--probe-jail";

/// The whole life of `hull-vmm`: reads its plan, enters its jail, builds the machine, runs it to its end.
pub fn run() -> ExitCode {
    logger::install();
    one_heap();
    std::panic::set_hook(Box::new(|panic| {
        // A bug ends this VM and nothing else; no thread goes on without the others.
        log::error!("hull-vmm met a bug and ends: {panic}");
        std::process::exit(ExitReason::Bug.status());
    }));
    if std::env::args_os().nth(1).is_some_and(|argument| argument == PROBE) {
        return probe();
    }
    let mut slots = Slots::default();
    let plan = match inherit::plan(&mut slots) {
        Ok(plan) => plan,
        Err(error) => return refuse(&error, 2),
    };
    if let Some(trace) = plan.trace {
        logger::trace(trace);
    }
    if let Err(error) = enter_groups(&plan, &mut slots) {
        return refuse(&error, 1);
    }
    if let Err(error) = confine::enter(&plan) {
        return refuse(&error, 1);
    }
    match boot(&plan, &mut slots) {
        Ok(reason) => ExitCode::from(u8::try_from(reason.status()).unwrap_or(1)),
        Err(error) => refuse(error.as_ref(), 1),
    }
}

/// Enters the control groups of the plan, so that all it takes from now on counts there.
fn enter_groups(plan: &BootPlan, slots: &mut Slots) -> Result<(), inherit::InheritError> {
    for slot in &plan.cgroups {
        let mut group = slots.take(*slot)?;
        group.write_all(b"0").map_err(inherit::InheritError::Cgroup)?;
    }
    Ok(())
}

/// Has all threads allocate from the main heap. The C library gives threads heaps of their own, and looks a setting of
/// the system up, in a file, before it shrinks one: nobody opens files here.
#[expect(unsafe_code, reason = "the allocator's settings have no safe interface")]
fn one_heap() {
    // SAFETY: this thread is the only one yet, and the call changes nothing but a limit of the allocator.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    debug_assert_eq!(set, 1, "the C library has this setting");
}

fn boot(plan: &BootPlan, slots: &mut Slots) -> Result<ExitReason, Box<dyn std::error::Error>> {
    let listener = plan.control.map(|slot| slots.take(slot)).transpose()?;
    let woken = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
    vmm_sys_util::signal::register_signal_handler(machine::kick_signal(), on_kick)?;
    let mut machine = Machine::build(plan, slots, woken.try_clone()?)?;
    confine::to(Role::Main);
    let reason = control::serve(&mut machine, plan, listener.map(Into::into), &woken)?;
    machine.finish();
    Ok(reason)
}

/// Says on standard output, a line each, what the jail goes without.
fn probe() -> ExitCode {
    match confine::probe() {
        Ok(missing) => {
            missing.iter().for_each(|missing| println!("{missing}"));
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error, 1),
    }
}

/// Being interrupted is all a kick is for.
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn refuse(error: &dyn std::error::Error, status: u8) -> ExitCode {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    log::error!("{line}");
    ExitCode::from(status)
}
