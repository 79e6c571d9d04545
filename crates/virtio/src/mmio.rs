//! The MMIO transport, version 2 (VIRTIO 1.2, section 4.2).
//!
//! Owner: the bus, which serializes accesses of the vCPUs. It decodes addresses; what a register means is in
//! `registers.rs`. It owns the device until DRIVER_OK and again after [`MmioTransport::stopped`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::device::{Device, Interrupt};
use crate::queue::Queue;
use crate::registers::{Half, Part, Registers, Transition};

/// Size of a device's window, in bytes.
pub const WINDOW: u64 = 0x1000;
/// Offset of the register that a driver writes a queue's index to.
pub const QUEUE_NOTIFY: u64 = 0x50;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "HULL", little-endian.
const VENDOR: u32 = 0x4c4c_5548;
const CONFIG_SPACE: u64 = 0x100;

/// Interrupt bits of section 4.2.2: what the driver reads before it acknowledges.
const QUEUE_BIT: u32 = 1;
const CONFIG_BIT: u32 = 2;

/// What a device and its transport share: the pending interrupt bits, and whether the device is broken.
#[derive(Debug, Default)]
pub struct Shared {
    pending: AtomicU32,
    broken: AtomicBool,
}

impl Shared {
    /// The guest broke this device: the driver will read DEVICE_NEEDS_RESET.
    pub fn set_broken(&self) {
        self.broken.store(true, Ordering::Release);
    }
}

/// An interrupt that sets the bit in the shared status before it raises the line.
pub struct Line<F> {
    shared: Arc<Shared>,
    raise: F,
}

impl<F: Fn() + Send + Sync> Line<F> {
    /// A line whose level is changed by `raise`.
    pub fn new(shared: Arc<Shared>, raise: F) -> Self {
        Self { shared, raise }
    }
}

impl<F: Fn() + Send + Sync> Interrupt for Line<F> {
    fn queue(&self, _index: usize) {
        self.shared.pending.fetch_or(QUEUE_BIT, Ordering::AcqRel);
        (self.raise)();
    }

    fn config(&self) {
        self.shared.pending.fetch_or(CONFIG_BIT, Ordering::AcqRel);
        (self.raise)();
    }
}

/// A device that its driver has started, with what the driver set up for it.
pub struct Started {
    /// The device.
    pub device: Box<dyn Device>,
    /// Its queues; their configuration cannot change any more.
    pub queues: Vec<Queue>,
    /// The features the driver accepted.
    pub features: u64,
}

/// What a register write asks of the transport's owner.
pub enum Action {
    /// Nothing.
    None,
    /// The device starts: it moves to the I/O loop.
    Start(Started),
    /// The driver resets the device: take it from the I/O loop and give it back with [`MmioTransport::stopped`].
    Stop,
    /// The driver notified this queue, past the ioeventfd.
    Notify(u32),
}

/// The registers of one device on the bus.
pub struct MmioTransport {
    registers: Registers,
    id: u32,
    config: Vec<u8>,
    device: Option<Box<dyn Device>>,
    shared: Arc<Shared>,
}

impl MmioTransport {
    /// A transport for a device, sharing the interrupt status with the device's [`Line`].
    pub fn new(device: Box<dyn Device>, shared: Arc<Shared>) -> Self {
        let info = device.info();
        Self {
            registers: Registers::new(info),
            id: info.id as u32,
            config: device.config(),
            device: Some(device),
            shared,
        }
    }

    /// The guest reads. A register is read by four aligned bytes; anything else reads as zero.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(at) = offset.checked_sub(CONFIG_SPACE) {
            return self.read_config(at, data);
        }
        if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = self.register(offset).to_le_bytes();
        }
    }

    /// The guest writes. Anything but four aligned bytes to a writable register is ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        let Ok(word) = <[u8; 4]>::try_from(data) else { return Action::None };
        let value = u32::from_le_bytes(word);
        let registers = &mut self.registers;
        match offset {
            0x14 => registers.device_features_select = value,
            0x20 => registers.accept_features(value),
            0x24 => registers.driver_features_select = value,
            0x30 => registers.queue_select = value,
            0x38 => registers.set_queue_size(value),
            0x44 => registers.set_queue_ready(value == 1),
            QUEUE_NOTIFY => return Action::Notify(value),
            0x64 => {
                self.shared.pending.fetch_and(!value, Ordering::AcqRel);
            }
            0x70 => return self.write_status(value),
            0x80 => registers.set_queue_address(Part::Descriptors, Half::Low(value)),
            0x84 => registers.set_queue_address(Part::Descriptors, Half::High(value)),
            0x90 => registers.set_queue_address(Part::Available, Half::Low(value)),
            0x94 => registers.set_queue_address(Part::Available, Half::High(value)),
            0xa0 => registers.set_queue_address(Part::Used, Half::Low(value)),
            0xa4 => registers.set_queue_address(Part::Used, Half::High(value)),
            _ => {}
        }
        Action::None
    }

    /// Takes the device back after [`Action::Stop`].
    pub fn stopped(&mut self, mut device: Box<dyn Device>) {
        device.reset();
        self.device = Some(device);
        self.shared.pending.store(0, Ordering::Release);
        self.shared.broken.store(false, Ordering::Release);
    }

    fn register(&mut self, offset: u64) -> u32 {
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.id,
            0x0c => VENDOR,
            0x10 => self.registers.device_features(),
            0x34 => self.registers.queue_size_max(),
            0x44 => self.registers.queue_ready(),
            0x60 => self.shared.pending.load(Ordering::Acquire),
            0x70 => {
                if self.shared.broken.load(Ordering::Acquire) {
                    self.registers.set_needs_reset();
                }
                self.registers.status()
            }
            // No shared memory regions: length and base read as all ones (4.2.2).
            0xb0..=0xbc => u32::MAX,
            // The configuration never changes, so its generation does not either.
            _ => 0,
        }
    }

    fn read_config(&self, at: u64, data: &mut [u8]) {
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        let there = self.config.get(from..).unwrap_or_default();
        data.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
    }

    fn write_status(&mut self, value: u32) -> Action {
        match self.registers.write_status(value) {
            Transition::None => Action::None,
            Transition::Reset => Action::Stop,
            Transition::Start => match self.device.take() {
                Some(device) => {
                    let (features, queues) = self.registers.started();
                    Action::Start(Started { device, queues, features })
                }
                None => Action::None,
            },
        }
    }
}

#[cfg(test)]
mod tests;
