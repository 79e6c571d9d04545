//! What the guest's port and memory-mapped accesses reach.
//!
//! Owner: the machine, shared by all vCPU threads; fixed once built, so a look-up takes no lock. Invariant: no
//! access, of whatever address and length, does more than reach a device that checks it.

use std::sync::{Mutex, PoisonError};

use hull_protocol::exit::ExitReason;
use hull_virtio::mmio::{Action, MmioTransport};
use hull_virtio::window::WINDOW;

use crate::io_loop::IoHandle;
use crate::layout::DEVICES_START;
use crate::platform::Platform;
use crate::serial::SerialPort;

/// What a write means for the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The VM ends.
    End(ExitReason),
}

/// All that answers to the guest.
pub struct Bus {
    /// The serial port.
    pub serial: SerialPort,
    platform: Platform,
    devices: Vec<Mutex<MmioTransport>>,
    io: IoHandle,
}

impl Bus {
    /// A bus with one window for each transport, in the order of the layout.
    pub fn new(serial: SerialPort, transports: Vec<MmioTransport>, io: IoHandle) -> Self {
        let devices = transports.into_iter().map(Mutex::new).collect();
        Self { serial, platform: Platform::default(), devices, io }
    }

    /// The guest reads a port.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        // Wider reads of byte registers see the register in the first byte and nothing beyond.
        data.fill(0xff);
        if let Some(byte) = data.first_mut() {
            *byte = match self.serial.offset(port) {
                Some(offset) => self.serial.read(offset),
                None => self.platform.read(port),
            };
        }
    }

    /// The guest writes a port.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Effect {
        let Some(byte) = data.first() else { return Effect::None };
        match self.serial.offset(port) {
            Some(offset) => {
                // A string instruction sends several bytes to one port in one exit.
                data.iter().for_each(|byte| self.serial.write(offset, *byte));
                Effect::None
            }
            None => self.platform.write(port, *byte),
        }
    }

    /// The guest reads outside its memory.
    pub fn memory_read(&self, address: u64, data: &mut [u8]) {
        match self.device(address) {
            Some((_, offset, device)) => {
                device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
            }
            None => data.fill(0xff),
        }
    }

    /// The guest writes outside its memory.
    pub fn memory_write(&self, address: u64, data: &[u8]) {
        let Some((slot, offset, device)) = self.device(address) else { return };
        // Held while the device moves, so that another vCPU sees it either before or after.
        let mut transport = device.lock().unwrap_or_else(PoisonError::into_inner);
        match transport.write(offset, data) {
            Action::None => {}
            Action::Start(started) => self.io.start(slot, started),
            Action::Notify(queue) => self.io.notify(slot, queue),
            Action::Stop => {
                if let Some(device) = self.io.stop(slot) {
                    transport.stopped(device);
                }
            }
        }
    }

    /// Has the device of a slot grow to so many bytes, and its driver know. No processor may run meanwhile.
    pub fn grow(&self, slot: usize, bytes: u64) {
        let Some(device) = self.devices.get(slot) else { return };
        // Held while the device is asked, so that it does not move meanwhile.
        let mut transport = device.lock().unwrap_or_else(PoisonError::into_inner);
        if transport.grow(bytes, || self.io.grow(slot, bytes)) {
            self.io.config_changed(slot);
        }
    }

    fn device(&self, address: u64) -> Option<(usize, u64, &Mutex<MmioTransport>)> {
        let from_start = address.checked_sub(DEVICES_START)?;
        let slot = usize::try_from(from_start / WINDOW).ok()?;
        Some((slot, from_start % WINDOW, self.devices.get(slot)?))
    }
}
