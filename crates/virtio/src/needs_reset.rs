//! `DEVICE_NEEDS_RESET` (virtio 1.2, section 2.1.2): the one bit of the status register that the device sets, beside a transport
//! that writes the whole register.
//!
//! Owner: the transport; the I/O loop shares it. Invariant: once a device has said so, the register shows it until the
//! reset, whatever the transport shows at the same time. `tests/needs_reset.rs` goes through every order of their steps.

use std::sync::Arc;

use super::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The bit: the device gave up.
pub const STATUS_NEEDS_RESET: u8 = 64;

/// Whether a device gave up and has not been reset since.
///
/// Flag and register are two places. The device sets the flag first, and both threads write the register by reading what was
/// there: a transport whose write covers the device's bit has then seen all that came before it, the flag among it.
#[derive(Clone, Debug, Default)]
pub struct NeedsReset(Arc<AtomicBool>);

impl NeedsReset {
    /// The device faulted.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// The device faulted, and the register says so. The caller then signals a configuration interrupt.
    pub fn set_in(&self, register: &AtomicU32) {
        self.set();
        register.fetch_or(u32::from(STATUS_NEEDS_RESET).to_le(), Ordering::AcqRel);
    }

    /// Shows a status, which [`NeedsReset::with`] has made.
    pub fn show_in(&self, register: &AtomicU32, status: u8) {
        register.swap(u32::from(status).to_le(), Ordering::AcqRel);
        // The device may have said so meanwhile, and the older status have covered it.
        if self.get() {
            register.fetch_or(u32::from(STATUS_NEEDS_RESET).to_le(), Ordering::AcqRel);
        }
    }

    /// A status of the driver's with the device's bit.
    #[must_use]
    pub fn with(&self, status: u8) -> u8 {
        if self.get() { status | STATUS_NEEDS_RESET } else { status }
    }

    /// Whether the device faulted and has not been reset since.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The device was reset; nobody else has it now.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }
}
