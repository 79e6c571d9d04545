//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2): decodes a window of [`WINDOW`] bytes.
//!
//! Owned by the VMM's bus; vCPU threads call it under the VMM's lock, which is taken for set-up only: what a driver
//! reads is in a [`Window`] that the guest may map, and notifications and acknowledgements go by ioeventfd. Owns the
//! device until `DRIVER_OK`, then hands it over in [`Action::Start`] and takes it back in [`MmioTransport::stopped`].
//! Invariants: any access at any offset and length is harmless: what section 4.2.2 does not allow reads what lies there
//! and writes nothing; the window shows what the registers are as soon as a write has been obeyed.

use log::warn;

use crate::device::Device;
use crate::needs_reset::NeedsReset;
use crate::queue::Queue;
use crate::registers::{Area, Half, QueueConfig, Registers, Transition};
use crate::window::Window;

/// The offset of `QueueNotify`, to which the VMM attaches one ioeventfd per queue (32-bit data match: its index).
pub const QUEUE_NOTIFY: u64 = reg::QUEUE_NOTIFY;
/// The offset of `InterruptACK`. Nothing is to be done for [`USED_BUFFER`] alone: the VMM may have KVM complete such a write.
pub const INTERRUPT_ACK: u64 = reg::INTERRUPT_ACK;

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

/// The bit for used buffers in `InterruptStatus`. Once set it stays until a reset: a driver that finds nothing new has been
/// told once too often, which it must bear, and acknowledging costs no exit.
pub const USED_BUFFER: u32 = 1;
const CONFIG_CHANGE: u32 = 2;

impl Window {
    /// Used buffers are to be looked at. To be called before the interrupt is signalled.
    pub fn raise_queue(&self) {
        self.set_bits(reg::INTERRUPT_STATUS, USED_BUFFER);
    }

    /// A field of the configuration space is now another. To be called before [`Window::raise_config`]. A field of 16 bits
    /// is read at once or not at all, so its generation stays (section 2.5.1).
    pub fn set_config(&self, offset: u64, field: u16) {
        self.set_half(reg::CONFIG.saturating_add(offset), field);
    }

    /// Configuration or status changed. To be called before the interrupt is signalled.
    pub fn raise_config(&self) {
        self.set_bits(reg::INTERRUPT_STATUS, CONFIG_CHANGE);
    }
}

/// With which the I/O loop sets `DEVICE_NEEDS_RESET` when the device faulted; it then signals a configuration interrupt.
#[derive(Clone)]
pub struct Broken {
    needs_reset: NeedsReset,
    window: Window,
}

impl Broken {
    /// The device faulted.
    pub fn set(&self) {
        if let Some(register) = self.window.word(reg::STATUS) {
            self.needs_reset.set_in(register);
        }
    }

    /// Whether the device faulted and has not been reset since.
    #[must_use]
    pub fn get(&self) -> bool {
        self.needs_reset.get()
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
    window: Window,
    /// Absent while the I/O loop has it.
    device: Option<Box<dyn Device>>,
    generation: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
}

impl MmioTransport {
    /// A transport for `device`; `window` is shared with the device's [`crate::device::Interrupt`].
    #[must_use]
    pub fn new(device: Box<dyn Device>, window: Window) -> Self {
        let info = device.info();
        window.set(reg::MAGIC, MAGIC);
        window.set(reg::VERSION, VERSION);
        window.set(reg::DEVICE_ID, info.id as u32);
        window.set(reg::VENDOR_ID, VENDOR);
        // No shared memory regions: length and base of each are -1.
        (reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH).step_by(4).for_each(|offset| window.set(offset, u32::MAX));
        window.set_bytes(reg::CONFIG, &device.config());
        let transport = Self {
            registers: Registers::new(&info),
            window,
            device: Some(device),
            generation: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
        };
        transport.show();
        transport
    }

    /// A handle with which the I/O loop says that the device faulted.
    #[must_use]
    pub fn broken(&self) -> Broken {
        Broken { needs_reset: self.registers.needs_reset(), window: self.window.clone() }
    }

    /// Has the device grow to so many bytes ([`Device::grow`]); `running` does it where the I/O loop has the device.
    /// Whether the driver is to be told, by a configuration interrupt. No processor of the guest may run meanwhile: one
    /// would read half of what was and half of what is.
    pub fn grow(&mut self, bytes: u64, running: impl FnOnce() -> Option<Vec<u8>>) -> bool {
        let config = match &mut self.device {
            Some(device) => device.grow(bytes),
            None => running(),
        };
        let Some(config) = config else { return false };
        self.window.set_bytes(reg::CONFIG, &config);
        // A driver that reads a field in parts sees that it has to do it again (section 2.5.1).
        self.generation = self.generation.wrapping_add(1);
        self.window.set(reg::CONFIG_GENERATION, self.generation);
        true
    }

    /// The guest reads `data.len()` bytes at `offset` in the window.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.window.read(offset, data);
    }

    /// Shows the driver what the registers are.
    fn show(&self) {
        let queue = self.registers.queue(self.queue_sel);
        self.window.set(reg::DEVICE_FEATURES, self.registers.device_features(self.device_features_sel));
        self.window.set(reg::QUEUE_SIZE_MAX, queue.map_or(0, |queue| u32::from(queue.max_size)));
        self.window.set(reg::QUEUE_READY, queue.map_or(0, |queue| u32::from(queue.ready)));
        if let Some(register) = self.window.word(reg::STATUS) {
            self.registers.needs_reset().show_in(register, self.registers.status());
        }
    }

    /// The guest writes `data` at `offset` in the window.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        // Configuration space is read-only for all devices here.
        let Ok(word) = <[u8; 4]>::try_from(data) else { return Action::None };
        let action = self.obey(offset, u32::from_le_bytes(word));
        self.show();
        action
    }

    fn obey(&mut self, offset: u64, value: u32) -> Action {
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::DRIVER_FEATURES => self.registers.set_driver_features(self.driver_features_sel, value),
            reg::QUEUE_SEL => self.queue_sel = value,
            reg::INTERRUPT_ACK => self.window.clear_bits(reg::INTERRUPT_STATUS, value & !USED_BUFFER),
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
        self.show();
    }

    /// What a reset clears beyond the common registers.
    fn clear(&mut self) {
        self.window.set(reg::INTERRUPT_STATUS, 0);
        (self.device_features_sel, self.driver_features_sel, self.queue_sel) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests;
