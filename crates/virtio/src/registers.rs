//! Device status, feature negotiation and queue configuration as one state machine (virtio 1.2, sections 2.1 to 2.4
//! and 3.1), whatever the transport.
//!
//! Owned by the transport, which the VMM calls under its lock from the vCPU threads. Invariant: features do not change
//! after `FEATURES_OK`, queue configuration does not change after `DRIVER_OK`, and a queue is ready only with a
//! size and addresses that are valid in form. (Whether the rings are in guest memory shows at first use.)

use crate::device::DeviceInfo;
use crate::needs_reset::NeedsReset;

/// `VIRTIO_F_INDIRECT_DESC`.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`.
pub const F_VERSION_1: u64 = 1 << 32;
/// What every device here offers besides its own features.
pub const F_COMMON: u64 = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1;

/// `ACKNOWLEDGE`: the guest has seen the device.
pub const STATUS_ACKNOWLEDGE: u8 = 1;
/// `DRIVER`: the guest has a driver for it.
pub const STATUS_DRIVER: u8 = 2;
/// `DRIVER_OK`: the driver is ready.
pub const STATUS_DRIVER_OK: u8 = 4;
/// `FEATURES_OK`: the features are agreed on.
pub const STATUS_FEATURES_OK: u8 = 8;
/// `FAILED`: the driver gave up.
pub const STATUS_FAILED: u8 = 128;

/// What a write to the status register asks of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Nothing.
    None,
    /// The driver is ready: build the queues and hand the device over.
    Start,
    /// The driver resets a device that runs: fetch it back, then call [`Registers::reset`].
    Stop,
}

/// One of the three parts of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// The descriptor table.
    Descriptors,
    /// The available ring.
    Driver,
    /// The used ring.
    Device,
}

/// Half of a 64-bit register that is written in two accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Bits 0 to 31.
    Low,
    /// Bits 32 to 63.
    High,
}

/// What the driver set up for one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueConfig {
    /// The greatest size the device allows, in descriptors.
    pub max_size: u16,
    /// The size in descriptors; a power of two once the queue is ready.
    pub size: u16,
    /// Whether the driver enabled the queue.
    pub ready: bool,
    /// Guest physical address of the descriptor table, 16-byte aligned once the queue is ready.
    pub desc_table: u64,
    /// Guest physical address of the available ring, 2-byte aligned once the queue is ready.
    pub avail_ring: u64,
    /// Guest physical address of the used ring, 4-byte aligned once the queue is ready.
    pub used_ring: u64,
}

impl QueueConfig {
    fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size, ..Self::default() }
    }

    /// Whether size and addresses have the form section 2.7 asks for.
    fn well_formed(&self) -> bool {
        let size = u64::from(self.size);
        let fits = |addr: u64, align: u64, bytes: u64| {
            addr != 0 && addr.is_multiple_of(align) && addr.checked_add(bytes).is_some()
        };
        self.size.is_power_of_two()
            && self.size <= self.max_size
            && fits(self.desc_table, 16, size.saturating_mul(16))
            && fits(self.avail_ring, 2, size.saturating_mul(2).saturating_add(6))
            && fits(self.used_ring, 4, size.saturating_mul(8).saturating_add(6))
    }
}

/// The registers every transport has.
#[derive(Debug)]
pub struct Registers {
    offered: u64,
    status: u8,
    running: bool,
    driver_features: u64,
    queues: Vec<QueueConfig>,
    needs_reset: NeedsReset,
}

impl Registers {
    /// The registers of a device after reset.
    #[must_use]
    pub fn new(info: &DeviceInfo) -> Self {
        Self {
            offered: info.features,
            status: 0,
            running: false,
            driver_features: 0,
            queues: info.queue_sizes.iter().map(|&size| QueueConfig::new(size)).collect(),
            needs_reset: NeedsReset::default(),
        }
    }

    /// The flag behind `DEVICE_NEEDS_RESET`.
    #[must_use]
    pub fn needs_reset(&self) -> NeedsReset {
        self.needs_reset.clone()
    }

    /// The device status as the driver reads it.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.needs_reset.with(self.status)
    }

    /// The driver writes the device status. Bits can only be added, in the order of section 3.1.1; zero resets.
    pub fn set_status(&mut self, value: u8) -> Transition {
        if value == 0 {
            if self.running {
                return Transition::Stop;
            }
            self.reset();
            return Transition::None;
        }
        let asks = |bit: u8| value & bit != 0;
        if asks(STATUS_FAILED) {
            self.status |= STATUS_FAILED;
        }
        if asks(STATUS_ACKNOWLEDGE) {
            self.status |= STATUS_ACKNOWLEDGE;
        }
        if asks(STATUS_DRIVER) && self.has(STATUS_ACKNOWLEDGE) {
            self.status |= STATUS_DRIVER;
        }
        if asks(STATUS_FEATURES_OK) && self.has(STATUS_DRIVER) && self.features_agreed() {
            self.status |= STATUS_FEATURES_OK;
        }
        let starts = asks(STATUS_DRIVER_OK) && self.has(STATUS_FEATURES_OK) && !self.has(STATUS_FAILED);
        if !starts || self.running || self.needs_reset.get() {
            return Transition::None;
        }
        self.status |= STATUS_DRIVER_OK;
        self.running = true;
        Transition::Start
    }

    fn has(&self, bit: u8) -> bool {
        self.status & bit != 0
    }

    fn features_agreed(&self) -> bool {
        self.driver_features & !self.offered == 0 && self.driver_features & F_VERSION_1 != 0
    }

    /// Back to the state after power-on. For a device that ran: once it has been fetched back.
    pub fn reset(&mut self) {
        self.status = 0;
        self.running = false;
        self.driver_features = 0;
        for queue in &mut self.queues {
            *queue = QueueConfig::new(queue.max_size);
        }
        self.needs_reset.clear();
    }

    /// 32 of the feature bits offered; `select` 0 are bits 0 to 31, 1 are 32 to 63, all others are zero.
    #[must_use]
    pub fn device_features(&self, select: u32) -> u32 {
        half(self.offered, select)
    }

    /// The driver writes 32 of its feature bits; ignored from `FEATURES_OK` on and before `DRIVER`.
    pub fn set_driver_features(&mut self, select: u32, bits: u32) {
        if !self.has(STATUS_DRIVER) || self.has(STATUS_FEATURES_OK) {
            return;
        }
        match select {
            0 => replace(&mut self.driver_features, Half::Low, bits),
            1 => replace(&mut self.driver_features, Half::High, bits),
            _ => {}
        }
    }

    /// The features the driver chose; final from `FEATURES_OK` on.
    #[must_use]
    pub fn driver_features(&self) -> u64 {
        self.driver_features
    }

    /// The configuration of one queue, if there is such a queue.
    #[must_use]
    pub fn queue(&self, index: u32) -> Option<&QueueConfig> {
        self.queues.get(usize::try_from(index).ok()?)
    }

    /// All queues' configurations.
    #[must_use]
    pub fn queues(&self) -> &[QueueConfig] {
        &self.queues
    }

    /// The queue if the driver may still configure queues.
    fn open_queue(&mut self, index: u32) -> Option<&mut QueueConfig> {
        if !self.has(STATUS_FEATURES_OK) || self.running {
            return None;
        }
        self.queues.get_mut(usize::try_from(index).ok()?)
    }

    /// The driver writes the queue's size in descriptors; ignored while the queue is ready. What is no power of two or
    /// too great keeps the queue from becoming ready.
    pub fn set_queue_size(&mut self, index: u32, size: u32) {
        if let Some(queue) = self.open_queue(index).filter(|queue| !queue.ready) {
            queue.size = u16::try_from(size).unwrap_or(0);
        }
    }

    /// The driver writes half an address; ignored while the queue is ready.
    pub fn set_queue_address(&mut self, index: u32, area: Area, part: Half, value: u32) {
        let Some(queue) = self.open_queue(index).filter(|queue| !queue.ready) else { return };
        let address = match area {
            Area::Descriptors => &mut queue.desc_table,
            Area::Driver => &mut queue.avail_ring,
            Area::Device => &mut queue.used_ring,
        };
        replace(address, part, value);
    }

    /// The driver enables or disables a queue; one that is not well formed stays disabled.
    pub fn set_queue_ready(&mut self, index: u32, ready: bool) {
        if let Some(queue) = self.open_queue(index) {
            queue.ready = ready && queue.well_formed();
        }
    }
}

/// 32 bits of a 64-bit value; selectors past the second read as zero.
fn half(value: u64, select: u32) -> u32 {
    let bits = match select {
        0 => value & 0xffff_ffff,
        1 => value >> 32,
        _ => 0,
    };
    u32::try_from(bits).unwrap_or(0)
}

fn replace(value: &mut u64, part: Half, bits: u32) {
    *value = match part {
        Half::Low => (*value & !0xffff_ffff) | u64::from(bits),
        Half::High => (*value & 0xffff_ffff) | (u64::from(bits) << 32),
    };
}

#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod tests;
