//! A split virtqueue as a device sees it (virtio 1.2, section 2.7).
//!
//! Owned by the device's owner and lent to the device for each call, on the I/O thread. It wraps the rings of
//! `virtio-queue` and adds what a device must not get wrong: chains are checked as a whole before they are handed
//! out, no more are out than the queue has descriptors, and notifications are suppressed such that no kick is lost.
//! Invariant: when [`Queue::pop`] says there is nothing, the driver has been asked to kick for the next buffer.

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

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
    /// The used index when the driver was last considered for an interrupt.
    signalled: u16,
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
            signalled: 0,
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
        self.push_all(mem, [(chain, written)])
    }

    /// Hands several chains back as used, each with the number of bytes written into it. The driver sees all of them
    /// or none: it may not look at one buffer of a frame before the others are there.
    ///
    /// # Errors
    /// A [`Fault`] if the used ring is not in guest memory.
    pub fn push_all(
        &mut self,
        mem: &Memory,
        chains: impl IntoIterator<Item = (Chain, u32)>,
    ) -> Result<(), Fault> {
        let (ring, size) = (self.rings.used_ring(), self.rings.size());
        let mut next = self.rings.next_used();
        for (chain, written) in chains {
            let slot = u64::from(next.checked_rem(size).unwrap_or(0));
            let at = ring.saturating_add(4).saturating_add(slot.saturating_mul(8));
            let entry = u64::from(chain.head()) | u64::from(written) << 32;
            mem.write_obj(entry.to_le(), GuestAddress(at))?;
            self.recycle(chain);
            next = next.wrapping_add(1);
        }
        self.rings.set_next_used(next);
        self.unsignalled = true;
        Ok(mem.store(next.to_le(), GuestAddress(ring.saturating_add(2)), Ordering::Release)?)
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
        let avail = self.rings.avail_ring();
        let used = self.rings.next_used();
        let before = std::mem::replace(&mut self.signalled, used);
        // Orders the used index before the read of what the driver wants.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let at = u64::from(self.rings.size()).saturating_mul(2).saturating_add(4);
            let event: u16 = mem.load(GuestAddress(avail.saturating_add(at)), Ordering::Relaxed)?;
            // The index the driver named has been passed since the last call.
            let behind = used.wrapping_sub(u16::from_le(event)).wrapping_sub(1);
            return Ok(behind < used.wrapping_sub(before));
        }
        let flags: u16 = mem.load(GuestAddress(avail), Ordering::Relaxed)?;
        Ok(u16::from_le(flags) & AVAIL_F_NO_INTERRUPT == 0)
    }
}

#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;
    use crate::testing::{DATA, Guest, REGION, ring_base};

    fn next_head(queue: &mut Queue, guest: &Guest) -> Chain {
        queue.pop(&guest.mem).unwrap().unwrap()
    }

    fn queue(guest: &Guest, features: u64) -> Queue {
        let base = ring_base(0);
        let config = QueueConfig {
            max_size: 8,
            size: 8,
            ready: true,
            desc_table: base,
            avail_ring: base + 0x1000,
            used_ring: base + 0x2000,
        };
        guest.write(base + 0x2002, &[0; 2]);
        Queue::new(&config, features).unwrap()
    }

    #[test]
    fn several_chains_are_used_at_once_and_in_order() {
        let mut guest = Guest::new(1, 8);
        let mut queue = queue(&guest, 0);
        for round in 0..20_u32 {
            for _ in 0..3 {
                guest.offer(0, &[(DATA, 64, true)]);
            }
            let chains: Vec<_> = (0..3).map(|_| next_head(&mut queue, &guest)).collect();
            let heads: Vec<_> = chains.iter().map(|chain| u32::from(chain.head())).collect();
            queue.push_all(&guest.mem, chains.into_iter().zip([round, 1, 2])).unwrap();
            let used = [0; 3].map(|_: i32| guest.used_entry(0).unwrap());
            assert_eq!(used, [(heads[0], round), (heads[1], 1), (heads[2], 2)]);
            assert!(guest.used(0).is_none() && queue.in_flight() == 0);
        }
    }

    #[test]
    fn the_driver_is_interrupted_when_the_index_it_named_is_passed() {
        let mut guest = Guest::new(1, 8);
        let mut queue = queue(&guest, F_EVENT_IDX);
        let event = ring_base(0) + 0x1000 + 4 + 2 * 8;
        let (mut used, mut asked) = (0_u16, 0_u16);
        // 40,000 times two buffers: the index wraps.
        for round in 0..40_000_u32 {
            if round % 3 == 0 {
                asked = used.wrapping_add((round % 7) as u16);
                guest.write(event, &asked.to_le_bytes());
            }
            for _ in 0..2 {
                guest.offer(0, &[(DATA, 64, true)]);
            }
            let chains = [next_head(&mut queue, &guest), next_head(&mut queue, &guest)];
            queue.push_all(&guest.mem, chains.map(|chain| (chain, 0))).unwrap();
            let passed = (0..2).any(|step| used.wrapping_add(step) == asked);
            used = used.wrapping_add(2);
            assert_eq!(queue.should_notify(&guest.mem).unwrap(), passed, "round {round}");
            assert!(!queue.should_notify(&guest.mem).unwrap());
        }
    }

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
