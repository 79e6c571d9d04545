//! A split virtqueue as a device sees it (virtio 1.2, section 2.7).
//!
//! Owned by the device's owner and lent to the device for each call, on the I/O thread. It wraps the rings of
//! `virtio-queue` and adds what a device must not get wrong: chains are checked as a whole before they are handed
//! out, no more are out than the queue has descriptors, and notifications are suppressed such that no kick is lost.
//! Invariant: when [`Queue::pop`] says there is nothing, the driver has been asked to kick for the next buffer.

use std::num::Wrapping;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue as Rings, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::chain::{Chain, Rules, Segment, Table};
use crate::device::Memory;
use crate::fault::Fault;
use crate::registers::{F_EVENT_IDX, F_INDIRECT_DESC, QueueConfig};

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`: without `EVENT_IDX`, the driver wants no interrupts.
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// How many allocations for chains are kept.
const SPARES: usize = 32;

/// A virtqueue whose configuration is frozen.
#[derive(Debug)]
pub struct Queue {
    rings: Rings,
    rules: Rules,
    event_idx: bool,
    /// The driver has been asked to kick for the entry at `next_avail`.
    listening: bool,
    /// Chains handed out and not yet pushed or undone.
    in_flight: u16,
    /// Buffers were used since the driver was last considered for an interrupt.
    unsignalled: bool,
    spares: Vec<Vec<Segment>>,
}

impl Queue {
    /// A queue with the configuration the driver left at `DRIVER_OK`; `features` are those negotiated.
    pub(crate) fn new(config: &QueueConfig, features: u64) -> Result<Self, virtio_queue::Error> {
        let event_idx = features & F_EVENT_IDX != 0;
        let mut rings = Rings::new(config.max_size)?;
        if config.ready {
            rings.try_set_size(config.size)?;
            rings.try_set_desc_table_address(GuestAddress(config.desc_table))?;
            rings.try_set_avail_ring_address(GuestAddress(config.avail_ring))?;
            rings.try_set_used_ring_address(GuestAddress(config.used_ring))?;
            rings.set_event_idx(event_idx);
            rings.set_ready(true);
        }
        let rules = Rules { limit: config.max_size, indirect: features & F_INDIRECT_DESC != 0 };
        Ok(Self {
            rings,
            rules,
            event_idx,
            listening: false,
            in_flight: 0,
            unsignalled: false,
            spares: Vec::new(),
        })
    }

    /// Whether the driver set this queue up.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.rings.ready()
    }

    /// Its size in descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.rings.size()
    }

    /// How many chains are handed out.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// The next chain, or `None` after the driver has been asked to kick for one. A queue the driver did not set up
    /// is empty.
    ///
    /// # Errors
    /// A [`Fault`] if the ring or the chain breaks the rules.
    pub fn pop(&mut self, mem: &Memory) -> Result<Option<Chain>, Fault> {
        if !self.ready() {
            return Ok(None);
        }
        loop {
            if let Some(head) = self.next_head(mem)? {
                self.silence(mem)?;
                self.in_flight = self.in_flight.saturating_add(1);
                let table = Table { addr: GuestAddress(self.rings.desc_table()), size: self.rings.size() };
                let spare = self.spares.pop().unwrap_or_default();
                return Chain::walk(mem, table, head, self.rules, spare).map(Some);
            }
            if self.listening || !self.listen(mem)? {
                return Ok(None);
            }
        }
    }

    /// The head of the next chain in the available ring, each entry read once.
    fn next_head(&mut self, mem: &Memory) -> Result<Option<u16>, Fault> {
        let size = self.rings.size();
        let idx = self.rings.avail_idx(mem, Ordering::Acquire).map_err(Fault::Ring)?;
        let unread = (idx - Wrapping(self.rings.next_avail())).0;
        if unread == 0 {
            return Ok(None);
        }
        match unread.checked_add(self.in_flight) {
            Some(ahead) if ahead <= size => {}
            ahead => return Err(Fault::AvailableIndex { ahead: ahead.unwrap_or(u16::MAX), size }),
        }
        let next = self.rings.next_avail();
        let entry = next.checked_rem(size).map_or(0, u64::from).saturating_mul(2).saturating_add(4);
        let entry = GuestAddress(self.rings.avail_ring().saturating_add(entry));
        let head: u16 = mem.load(entry, Ordering::Acquire)?;
        self.rings.set_next_avail(next.wrapping_add(1));
        Ok(Some(u16::from_le(head)))
    }

    /// Asks the driver to kick for the next buffer; true if there is one already.
    fn listen(&mut self, mem: &Memory) -> Result<bool, Fault> {
        self.listening = true;
        self.rings.enable_notification(mem).map_err(Fault::Ring)
    }

    /// Tells the driver that no kicks are needed while the device is at work.
    fn silence(&mut self, mem: &Memory) -> Result<(), Fault> {
        if std::mem::take(&mut self.listening) {
            self.rings.disable_notification(mem).map_err(Fault::Ring)?;
        }
        Ok(())
    }

    /// Hands a chain back as used, with the number of bytes written into it.
    ///
    /// # Errors
    /// A [`Fault`] if the used ring is not in guest memory.
    pub fn push(&mut self, mem: &Memory, chain: Chain, written: u32) -> Result<(), Fault> {
        let head = chain.head();
        self.recycle(chain);
        self.unsignalled = true;
        self.rings.add_used(mem, head, written).map_err(Fault::Ring)
    }

    /// Puts the chain popped last back, as if it had not been popped. Several are undone last first.
    pub fn undo(&mut self, chain: Chain) {
        self.recycle(chain);
        self.rings.go_to_previous_position();
    }

    fn recycle(&mut self, chain: Chain) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.spares.len() < SPARES {
            self.spares.push(chain.into_segments());
        }
    }

    /// Whether the driver wants an interrupt for what has been pushed since the last call. To be asked once per
    /// batch, after its last push.
    ///
    /// # Errors
    /// A [`Fault`] if the available ring is not in guest memory.
    pub fn should_notify(&mut self, mem: &Memory) -> Result<bool, Fault> {
        if !std::mem::take(&mut self.unsignalled) {
            return Ok(false);
        }
        // Orders the used index before the read of what the driver wants.
        let wanted = self.rings.needs_notification(mem).map_err(Fault::Ring)?;
        if self.event_idx {
            return Ok(wanted);
        }
        let flags: u16 = mem.load(GuestAddress(self.rings.avail_ring()), Ordering::Relaxed)?;
        Ok(u16::from_le(flags) & AVAIL_F_NO_INTERRUPT == 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;
    use crate::testing::{Guest, REGION};

    #[test]
    fn an_available_ring_that_leaves_memory_is_a_fault() {
        let guest = Guest::new(0, 8);
        // Flags and index are memory's last four bytes, the entries lie behind it.
        let end = 2 * REGION;
        let config = QueueConfig {
            max_size: 8,
            size: 8,
            ready: true,
            desc_table: 0x1000,
            avail_ring: end - 4,
            used_ring: 0x2000,
        };
        let mut queue = Queue::new(&config, 0).unwrap();
        assert!(queue.pop(&guest.mem).unwrap().is_none());
        guest.write(end - 2, &1_u16.to_le_bytes());
        assert!(matches!(queue.pop(&guest.mem), Err(Fault::Memory(_))));
    }
}
