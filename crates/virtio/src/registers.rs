//! The register state machine of a virtio device: status, features, queues (VIRTIO 1.2, sections 2.1, 2.2, 3.1).
//!
//! Owner: a transport, which only decodes addresses. Invariants: features are frozen once FEATURES_OK is set,
//! queue configuration once DRIVER_OK is set; DRIVER_OK is reached only with valid features; every queue that
//! is handed to a device lies in guest memory.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;

use crate::device::DeviceInfo;
use crate::queue::Queue;

const DRIVER_BITS: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | VIRTIO_CONFIG_S_FEATURES_OK
    | VIRTIO_CONFIG_S_DRIVER_OK
    | VIRTIO_CONFIG_S_FAILED;

/// What a write to the status register asks of the transport.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    /// Nothing beyond the register.
    None,
    /// DRIVER_OK: hand device and queues over.
    Start,
    /// The driver wrote zero: take the device back.
    Reset,
}

/// Which half of a 64-bit address is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Half {
    Low(u32),
    High(u32),
}

/// Which of a queue's three parts is placed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Descriptors,
    Available,
    Used,
}

/// The registers of one device.
#[derive(Debug)]
pub(crate) struct Registers {
    info: DeviceInfo,
    status: u32,
    accepted: u64,
    /// Which 32 feature bits are shown and written: 0 or 1; any other shows zero.
    pub(crate) device_features_select: u32,
    pub(crate) driver_features_select: u32,
    pub(crate) queue_select: u32,
    rings: Vec<virtio_queue::Queue>,
}

impl Registers {
    pub(crate) fn new(info: DeviceInfo) -> Self {
        Self {
            info,
            status: 0,
            accepted: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            rings: rings(&info),
        }
    }

    pub(crate) fn status(&self) -> u32 {
        self.status
    }

    /// The 32 offered bits that are selected.
    pub(crate) fn device_features(&self) -> u32 {
        half(self.info.features, self.device_features_select)
    }

    /// The driver accepts 32 bits. Once FEATURES_OK is set nothing changes any more.
    pub(crate) fn accept_features(&mut self, bits: u32) {
        if self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            return;
        }
        match self.driver_features_select {
            0 => self.accepted = self.accepted & !0xffff_ffff | u64::from(bits),
            1 => self.accepted = self.accepted & 0xffff_ffff | u64::from(bits) << 32,
            _ => {}
        }
    }

    /// The driver writes the status register.
    pub(crate) fn write_status(&mut self, value: u32) -> Transition {
        if value == 0 {
            let was = std::mem::replace(self, Self::new(self.info));
            return if was.has(VIRTIO_CONFIG_S_DRIVER_OK) { Transition::Reset } else { Transition::None };
        }
        // Bits are set one by one and cleared only by a reset.
        let new = value & DRIVER_BITS & !self.status;
        if new & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            let wanted = 1 << VIRTIO_F_VERSION_1;
            let fits = self.accepted & !self.info.features == 0 && self.accepted & wanted != 0;
            if !fits || self.has(VIRTIO_CONFIG_S_DRIVER_OK) {
                // Refused: the driver reads the bit back as zero.
                self.status |= new & !(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
                return Transition::None;
            }
            self.status |= VIRTIO_CONFIG_S_FEATURES_OK;
        }
        let start = new & VIRTIO_CONFIG_S_DRIVER_OK != 0 && self.has(VIRTIO_CONFIG_S_FEATURES_OK);
        self.status |= new & !VIRTIO_CONFIG_S_DRIVER_OK;
        if !start {
            return Transition::None;
        }
        self.status |= VIRTIO_CONFIG_S_DRIVER_OK;
        Transition::Start
    }

    /// The device is broken until the driver resets it.
    pub(crate) fn set_needs_reset(&mut self) {
        self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    }

    /// Features and queues for the device, at DRIVER_OK. A queue that the driver left unready is there, and
    /// every attempt to use it fails.
    pub(crate) fn started(&mut self) -> (u64, Vec<Queue>) {
        let event_idx = self.accepted >> VIRTIO_RING_F_EVENT_IDX & 1 == 1;
        let rings = std::mem::replace(&mut self.rings, rings(&self.info));
        let queues = rings
            .into_iter()
            .map(|mut ring| {
                ring.set_event_idx(event_idx);
                Queue::new(ring)
            })
            .collect();
        (self.accepted, queues)
    }

    /// The largest size of the selected queue, 0 when there is no such queue.
    pub(crate) fn queue_size_max(&self) -> u32 {
        self.selected().map_or(0, |ring| u32::from(ring.max_size()))
    }

    pub(crate) fn queue_ready(&self) -> u32 {
        // After DRIVER_OK the rings are the device's; what the driver made ready stays ready.
        u32::from(self.has(VIRTIO_CONFIG_S_DRIVER_OK) || self.selected().is_some_and(QueueT::ready))
    }

    pub(crate) fn set_queue_size(&mut self, size: u32) {
        if let (Some(ring), Ok(size)) = (self.unready(), u16::try_from(size)) {
            // A size that is not a power of two within the limit is ignored by the ring.
            ring.set_size(size);
        }
    }

    pub(crate) fn set_queue_ready(&mut self, ready: bool) {
        if !self.has(VIRTIO_CONFIG_S_DRIVER_OK)
            && let Some(ring) = self.selected_mut()
        {
            ring.set_ready(ready);
        }
    }

    pub(crate) fn set_queue_address(&mut self, part: Part, half: Half) {
        let Some(ring) = self.unready() else { return };
        let (low, high) = match half {
            Half::Low(low) => (Some(low), None),
            Half::High(high) => (None, Some(high)),
        };
        match part {
            Part::Descriptors => ring.set_desc_table_address(low, high),
            Part::Available => ring.set_avail_ring_address(low, high),
            Part::Used => ring.set_used_ring_address(low, high),
        }
    }

    fn has(&self, bit: u32) -> bool {
        self.status & bit != 0
    }

    fn selected(&self) -> Option<&virtio_queue::Queue> {
        self.rings.get(usize::try_from(self.queue_select).ok()?)
    }

    fn selected_mut(&mut self) -> Option<&mut virtio_queue::Queue> {
        self.rings.get_mut(usize::try_from(self.queue_select).ok()?)
    }

    /// The selected queue while it may still be configured.
    fn unready(&mut self) -> Option<&mut virtio_queue::Queue> {
        if self.has(VIRTIO_CONFIG_S_DRIVER_OK) {
            return None;
        }
        self.selected_mut().filter(|ring| !ring.ready())
    }
}

fn rings(info: &DeviceInfo) -> Vec<virtio_queue::Queue> {
    // Sizes are constants of the devices; one that is not a power of two would leave the queue out.
    info.queue_sizes.iter().filter_map(|size| virtio_queue::Queue::new(*size).ok()).collect()
}

fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => (bits & 0xffff_ffff) as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
