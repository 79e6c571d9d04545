//! Small queues, every order of what driver and device do, with indexes that wrap: not a sample, all of them.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use super::*;
use crate::testing::{DATA, Guest, ring_base};

/// How many acts in a row.
const DEPTH: usize = 7;
/// Where the indexes begin: soon they wrap.
const START: u16 = 0xfffe;

/// What either side does.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// The driver makes the next descriptor available; not more than the queue has.
    Offer,
    /// The device takes a chain.
    Pop,
    /// The device uses the chain it took first.
    Push,
    /// The device puts the chain it took last back.
    Undo,
}

const ACTS: [Act; 4] = [Act::Offer, Act::Pop, Act::Push, Act::Undo];

/// A queue at [`START`], and what both sides should think of it.
struct Pair<'a> {
    guest: &'a mut Guest,
    queue: Queue,
    size: u16,
    held: Vec<Chain>,
    offered: u16,
    popped: u16,
    used: u16,
}

impl<'a> Pair<'a> {
    fn new(guest: &'a mut Guest, size: u16) -> Self {
        let base = ring_base(0);
        let config = QueueConfig {
            max_size: size,
            size,
            ready: true,
            desc_table: base,
            avail_ring: base + 0x1000,
            used_ring: base + 0x2000,
        };
        let mut queue = Queue::new(&config, 0).unwrap();
        queue.rings.set_next_avail(START);
        queue.rings.set_next_used(START);
        for ring in [0x1000, 0x2000] {
            guest.write(base + ring, &[0, 0]);
            guest.write(base + ring + 2, &START.to_le_bytes());
        }
        for index in 0..size {
            guest.descriptor(base, index, (DATA + 64 * u64::from(index), 64, 2, 0));
        }
        Self { guest, queue, size, held: Vec::new(), offered: 0, popped: 0, used: 0 }
    }

    /// The descriptor of the chain with this number.
    fn descriptor(&self, number: u16) -> u16 {
        number % self.size
    }

    fn act(&mut self, act: Act) {
        let in_flight = u16::try_from(self.held.len()).unwrap();
        match act {
            Act::Offer if self.offered - self.used < self.size => {
                let slot = u64::from(START.wrapping_add(self.offered) % self.size);
                let avail = ring_base(0) + 0x1000;
                self.guest.write(avail + 4 + 2 * slot, &self.descriptor(self.offered).to_le_bytes());
                self.offered += 1;
                self.guest.write(avail + 2, &START.wrapping_add(self.offered).to_le_bytes());
            }
            Act::Pop => {
                let chain = self.queue.pop(&self.guest.mem).unwrap();
                assert_eq!(
                    chain.is_some(),
                    self.popped < self.offered,
                    "what is there is popped, and no more"
                );
                if let Some(chain) = chain {
                    assert_eq!(chain.head(), self.descriptor(self.popped), "in the driver's order");
                    self.held.push(chain);
                    self.popped += 1;
                }
            }
            Act::Push if in_flight > 0 => {
                let chain = self.held.remove(0);
                let head = u32::from(chain.head());
                self.queue.push(&self.guest.mem, chain, u32::from(self.used)).unwrap();
                let slot = u64::from(START.wrapping_add(self.used) % self.size);
                let entry = self.guest.read(ring_base(0) + 0x2004 + 8 * slot, 8);
                let expected = [head.to_le_bytes(), u32::from(self.used).to_le_bytes()].concat();
                assert_eq!(entry, expected, "the used entry");
                self.used += 1;
                assert!(self.queue.should_notify(&self.guest.mem).unwrap());
            }
            Act::Undo if in_flight > 0 => {
                self.queue.undo(self.held.pop().unwrap());
                self.popped -= 1;
            }
            _ => {}
        }
        assert_eq!(usize::from(self.queue.in_flight()), self.held.len());
        let index = self.guest.read(ring_base(0) + 0x2002, 2);
        assert_eq!(index, START.wrapping_add(self.used).to_le_bytes(), "the used index");
    }
}

#[test]
fn every_order_of_acts_keeps_both_sides_agreed() {
    let mut guest = Guest::new(1, 8);
    for size in [1, 2, 4] {
        for order in 0..ACTS.len().pow(DEPTH as u32) {
            let mut pair = Pair::new(&mut guest, size);
            let mut rest = order;
            for _ in 0..DEPTH {
                pair.act(ACTS[rest % ACTS.len()]);
                rest /= ACTS.len();
            }
        }
    }
}

/// Every index a driver may show to a small queue: what is within its size is taken, all else is a fault.
#[test]
fn every_available_index_is_taken_or_a_fault() {
    let mut guest = Guest::new(1, 8);
    for size in [1_u16, 2, 4, 8] {
        for ahead in 0..=u16::MAX {
            let pair = Pair::new(&mut guest, size);
            let Pair { guest, mut queue, .. } = pair;
            guest.write(ring_base(0) + 0x1002, &START.wrapping_add(ahead).to_le_bytes());
            match queue.pop(&guest.mem) {
                Ok(chain) => assert_eq!(chain.is_some(), ahead > 0 && ahead <= size, "{ahead} in {size}"),
                Err(fault) => assert!(
                    ahead > size
                        && matches!(fault, Fault::AvailableIndex { ahead: told, .. } if told == ahead),
                    "{ahead} in {size}: {fault}"
                ),
            }
        }
    }
}
