//! One microVM: KVM, memory, boot, devices.
//!
//! Start reading at [`machine`]. The process is `hull-vmm`: main speaks on the control socket, `io` runs the
//! devices, `vcpuN` run the guest, `console` prints what the guest says. Everything the guest does is hostile until checked.

pub mod arch;
pub mod boot;
mod bus;
mod control;
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

use std::process::ExitCode;

use hull_protocol::exit::ExitReason;
use hull_protocol::plan::BootPlan;
use vmm_sys_util::eventfd::EventFd;

use crate::inherit::Slots;
use crate::machine::Machine;

/// The whole life of `hull-vmm`: reads its plan, builds the machine, runs it to its end.
pub fn run() -> ExitCode {
    logger::install();
    std::panic::set_hook(Box::new(|panic| {
        // A bug ends this VM and nothing else; no thread goes on without the others.
        log::error!("hull-vmm met a bug and ends: {panic}");
        std::process::exit(101);
    }));
    let mut slots = Slots::default();
    let plan = match inherit::plan(&mut slots) {
        Ok(plan) => plan,
        Err(error) => return refuse(&error, 2),
    };
    match boot(&plan, &mut slots) {
        Ok(reason) => ExitCode::from(u8::try_from(reason.status()).unwrap_or(1)),
        Err(error) => refuse(error.as_ref(), 1),
    }
}

fn boot(plan: &BootPlan, slots: &mut Slots) -> Result<ExitReason, Box<dyn std::error::Error>> {
    let listener = plan.control.map(|slot| slots.take(slot)).transpose()?;
    let woken = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
    vmm_sys_util::signal::register_signal_handler(machine::kick_signal(), on_kick)?;
    let mut machine = Machine::build(plan, slots, woken.try_clone()?)?;
    let reason = control::serve(&mut machine, plan, listener.map(Into::into), &woken)?;
    machine.finish();
    Ok(reason)
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
