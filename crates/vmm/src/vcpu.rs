//! One virtual processor: enter the guest, hand its exits to the bus, say how it went.
//!
//! Owner: the thread named after it.

use std::sync::Arc;

use hull_protocol::exit::ExitReason;
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::bus::{Bus, Effect};
use crate::gate::{Gate, Pass};

/// What one entry into the guest came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The guest goes on.
    Continue,
    /// The VM ends.
    End(ExitReason),
}

/// A virtual processor.
pub struct Vcpu {
    fd: VcpuFd,
    index: u8,
}

impl Vcpu {
    /// A processor that KVM has made and that has its registers.
    pub fn new(fd: VcpuFd, index: u8) -> Self {
        Self { fd, index }
    }

    /// Runs until the VM ends or the gate sends the thread away; returns the reason if this one ended it.
    pub fn run_all(&mut self, bus: &Arc<Bus>, gate: &Gate) -> Option<ExitReason> {
        loop {
            if gate.wants_attention() {
                self.complete_exit();
                if gate.pass() == Pass::Leave {
                    return None;
                }
            }
            if let Step::End(reason) = self.run(bus) {
                return Some(reason);
            }
        }
    }

    /// Enters the guest once.
    fn run(&mut self, bus: &Bus) -> Step {
        let effect = match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                bus.port_read(port, data);
                Effect::None
            }
            Ok(VcpuExit::IoOut(port, data)) => bus.port_write(port, data),
            Ok(VcpuExit::MmioRead(address, data)) => {
                bus.memory_read(address, data);
                Effect::None
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                bus.memory_write(address, data);
                Effect::None
            }
            Ok(VcpuExit::Shutdown) => Effect::End(ExitReason::TripleFault),
            Ok(VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IoapicEoi(_)) => Effect::None,
            Ok(other) => {
                log::error!("vcpu {}: KVM stopped with {other:?}", self.index);
                Effect::End(ExitReason::Unrecoverable)
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Effect::None,
            Err(error) => {
                log::error!("vcpu {}: the guest cannot be entered: {error}", self.index);
                Effect::End(ExitReason::Unrecoverable)
            }
        };
        match effect {
            Effect::None => Step::Continue,
            Effect::End(reason) => Step::End(reason),
        }
    }

    /// Lets KVM finish the instruction whose exit was just answered, without going on in the guest.
    fn complete_exit(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
        // Interrupted by design; a pending exit that fails will say so at the next entry.
        let _interrupted = self.fd.run().map(|_| ());
        self.fd.set_kvm_immediate_exit(0);
    }
}
