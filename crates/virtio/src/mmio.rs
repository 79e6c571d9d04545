//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2): decodes a window of [`WINDOW`] bytes.
//!
//! Owned by the VMM's bus; vCPU threads call it under the VMM's lock, which is taken for set-up only: notifications
//! go by ioeventfd and the interrupt status is atomic. Owns the device until `DRIVER_OK`, then hands it over in
//! [`Action::Start`] and takes it back in [`MmioTransport::stopped`]. Invariant: any access at any offset and length is
//! harmless: what section 4.2.2 does not allow reads as zero and writes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use log::warn;

use crate::device::Device;
use crate::queue::Queue;
use crate::registers::{Area, Half, NeedsReset, QueueConfig, Registers, Transition};

/// The size of a device's window in bytes.
pub const WINDOW: u64 = 0x1000;
/// The offset of `QueueNotify`, to which the VMM attaches one ioeventfd per queue (32-bit data match: its index).
pub const QUEUE_NOTIFY: u64 = reg::QUEUE_NOTIFY;

/// Register offsets, section 4.2.2.
mod reg {
    pub(super) const MAGIC: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(super) const QUEUE_SIZE: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x080;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x084;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(super) const SHM_LEN_LOW: u64 = 0x0b0;
    pub(super) const SHM_BASE_HIGH: u64 = 0x0bc;
    pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// `virt`, little endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"HULL");

const USED_BUFFER: u32 = 1;
const CONFIG_CHANGE: u32 = 2;

/// The interrupt status register, shared with whoever signals interrupts.
#[derive(Debug, Default)]
pub struct InterruptStatus(AtomicU32);

impl InterruptStatus {
    /// A register with nothing pending.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Used buffers are to be looked at. To be called before the interrupt is signalled.
    pub fn raise_queue(&self) {
        self.0.fetch_or(USED_BUFFER, Ordering::SeqCst);
    }

    /// Configuration or status changed. To be called before the interrupt is signalled.
    pub fn raise_config(&self) {
        self.0.fetch_or(CONFIG_CHANGE, Ordering::SeqCst);
    }

    /// The register as the driver reads it: bit 0 for used buffers, bit 1 for a change of configuration.
    #[must_use]
    pub fn read(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// The driver has handled these bits.
    pub fn acknowledge(&self, bits: u32) {
        self.0.fetch_and(!bits, Ordering::SeqCst);
    }
}

/// What moves from the transport to the I/O loop at `DRIVER_OK`.
pub struct Started {
    /// The device, on which [`Device::start`] is to be called.
    pub device: Box<dyn Device>,
    /// All its queues, in order, ready or not.
    pub queues: Vec<Queue>,
    /// The features negotiated.
    pub features: u64,
}

/// What the VMM has to do after a write.
#[must_use]
pub enum Action {
    /// Nothing.
    None,
    /// Hand this to the I/O loop.
    Start(Box<Started>),
    /// Fetch the device back from the I/O loop (drained, unwatched, reset), then call [`MmioTransport::stopped`].
    /// The driver polls the status register until that has been done; it is best done before the vCPU goes on.
    Stop,
    /// The driver notifies this queue by an exit instead of by ioeventfd. The queue exists and the device runs.
    Notify(usize),
}

/// The virtio-mmio registers of one device.
pub struct MmioTransport {
    registers: Registers,
    /// Absent while the I/O loop has it.
    device: Option<Box<dyn Device>>,
    device_id: u32,
    config: Vec<u8>,
    generation: u32,
    interrupts: Arc<InterruptStatus>,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
}

impl MmioTransport {
    /// A transport for `device`; `isr` is shared with the device's [`crate::device::Interrupt`].
    #[must_use]
    pub fn new(device: Box<dyn Device>, isr: Arc<InterruptStatus>) -> Self {
        let info = device.info();
        Self {
            registers: Registers::new(&info),
            device_id: info.id as u32,
            config: device.config(),
            generation: 0,
            device: Some(device),
            interrupts: isr,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
        }
    }

    /// A handle with which the I/O loop sets `DEVICE_NEEDS_RESET` when the device faulted; it then signals a
    /// configuration interrupt.
    #[must_use]
    pub fn needs_reset(&self) -> NeedsReset {
        self.registers.needs_reset()
    }

    /// Has the device grow to so many bytes ([`Device::grow`]); `running` does it where the I/O loop has the device.
    /// Whether the driver is to be told, by a configuration interrupt: it sees the new configuration from now on.
    pub fn grow(&mut self, bytes: u64, running: impl FnOnce() -> Option<Vec<u8>>) -> bool {
        let config = match &mut self.device {
            Some(device) => device.grow(bytes),
            None => running(),
        };
        let Some(config) = config else { return false };
        self.config = config;
        // A driver that reads a field in parts sees that it has to do it again (section 2.5.1).
        self.generation = self.generation.wrapping_add(1);
        true
    }

    /// The guest reads `data.len()` bytes at `offset` in the window.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(at) = offset.checked_sub(reg::CONFIG) {
            let tail = usize::try_from(at).ok().and_then(|at| self.config.get(at..)).unwrap_or_default();
            data.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
        } else if let (Ok(word), true) = (<&mut [u8; 4]>::try_from(data), offset.is_multiple_of(4)) {
            *word = self.register(offset).to_le_bytes();
        }
    }

    fn register(&self, offset: u64) -> u32 {
        let queue = self.registers.queue(self.queue_sel);
        match offset {
            reg::MAGIC => MAGIC,
            reg::VERSION => VERSION,
            reg::DEVICE_ID => self.device_id,
            reg::VENDOR_ID => VENDOR,
            reg::DEVICE_FEATURES => self.registers.device_features(self.device_features_sel),
            reg::QUEUE_SIZE_MAX => queue.map_or(0, |queue| u32::from(queue.max_size)),
            reg::QUEUE_READY => queue.map_or(0, |queue| u32::from(queue.ready)),
            reg::INTERRUPT_STATUS => self.interrupts.read(),
            reg::STATUS => u32::from(self.registers.status()),
            // No shared memory regions: length and base of each are -1.
            reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH => u32::MAX,
            reg::CONFIG_GENERATION => self.generation,
            _ => 0,
        }
    }

    /// The guest writes `data` at `offset` in the window.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        // Configuration space is read-only for all devices here.
        let Ok(word) = <[u8; 4]>::try_from(data) else { return Action::None };
        let value = u32::from_le_bytes(word);
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::DRIVER_FEATURES => self.registers.set_driver_features(self.driver_features_sel, value),
            reg::QUEUE_SEL => self.queue_sel = value,
            reg::INTERRUPT_ACK => self.interrupts.acknowledge(value),
            reg::QUEUE_NOTIFY => return self.notify(value),
            reg::STATUS => return self.set_status(value),
            _ => self.configure_queue(offset, value),
        }
        Action::None
    }

    fn configure_queue(&mut self, offset: u64, value: u32) {
        let (area, part) = match offset {
            reg::QUEUE_SIZE => return self.registers.set_queue_size(self.queue_sel, value),
            reg::QUEUE_READY => return self.registers.set_queue_ready(self.queue_sel, value & 1 != 0),
            reg::QUEUE_DESC_LOW => (Area::Descriptors, Half::Low),
            reg::QUEUE_DESC_HIGH => (Area::Descriptors, Half::High),
            reg::QUEUE_DRIVER_LOW => (Area::Driver, Half::Low),
            reg::QUEUE_DRIVER_HIGH => (Area::Driver, Half::High),
            reg::QUEUE_DEVICE_LOW => (Area::Device, Half::Low),
            reg::QUEUE_DEVICE_HIGH => (Area::Device, Half::High),
            _ => return,
        };
        self.registers.set_queue_address(self.queue_sel, area, part, value);
    }

    fn notify(&self, index: u32) -> Action {
        let exists = self.registers.queue(index).is_some_and(|queue| queue.ready);
        match usize::try_from(index) {
            Ok(index) if exists && self.device.is_none() => Action::Notify(index),
            _ => Action::None,
        }
    }

    fn set_status(&mut self, value: u32) -> Action {
        let Ok(value) = u8::try_from(value) else { return Action::None };
        match self.registers.set_status(value) {
            Transition::None => {
                if value == 0 {
                    self.clear();
                }
                Action::None
            }
            Transition::Stop => Action::Stop,
            Transition::Start => self.start(),
        }
    }

    fn start(&mut self) -> Action {
        let features = self.registers.driver_features();
        let build = |config: &QueueConfig| Queue::new(config, features);
        let queues: Result<Vec<_>, _> = self.registers.queues().iter().map(build).collect();
        match (queues, self.device.take()) {
            (Ok(queues), Some(device)) => Action::Start(Box::new(Started { device, queues, features })),
            (queues, device) => {
                // Neither happens: ready queues are well formed, and a device that runs does not start again.
                warn!("a virtio device could not start: {:?}", queues.err());
                self.device = device;
                self.registers.needs_reset().set();
                Action::None
            }
        }
    }

    /// Gives the device back after [`Action::Stop`], reset: the driver then reads a status of zero.
    pub fn stopped(&mut self, device: Box<dyn Device>) {
        self.device = Some(device);
        self.registers.reset();
        self.clear();
    }

    /// What a reset clears beyond the common registers.
    fn clear(&mut self) {
        self.interrupts.acknowledge(u32::MAX);
        (self.device_features_sel, self.driver_features_sel, self.queue_sel) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests;
