//! The split virtqueue (VIRTIO 1.2, section 2.7), over rust-vmm's ring.
//!
//! Owner: the device's owner. Invariant: a chain is popped once and pushed once; its buffers are checked against
//! guest memory when it is popped, so readers and writers cannot run past them. A chain that loops, nests
//! indirect tables, leaves guest memory or puts a readable buffer after a writable one is an error, not a short chain.

use std::num::Wrapping;
use std::sync::atomic::Ordering;

use virtio_queue::{Error, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

use crate::device::Memory;

/// The most bytes one chain may describe: far more than any request, far less than what overflows.
const CHAIN_BYTES_MAX: u64 = 1 << 30;

/// One virtqueue, configured by the driver.
#[derive(Debug)]
pub struct Queue {
    ring: virtio_queue::Queue,
}

/// A chain of buffers that the driver made available. It is given back with [`Queue::push`]; dropping it leaks
/// the driver's buffers until the next reset.
#[must_use = "a chain that is not pushed is lost to the driver"]
#[derive(Debug)]
pub struct Chain {
    head: u16,
    /// What the device may read.
    pub readable: Buffers,
    /// What the device may write.
    pub writable: Buffers,
}

/// A sequence of guest memory ranges with a cursor. All ranges lie in guest memory.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    ranges: std::collections::VecDeque<(GuestAddress, u32)>,
    left: u64,
}

impl Queue {
    /// A queue as the transport configured it.
    pub(crate) fn new(ring: virtio_queue::Queue) -> Self {
        Self { ring }
    }

    /// The next available chain. When there is none, notifications are on again.
    ///
    /// # Errors
    /// When the ring or the chain is not usable.
    pub fn pop(&mut self, mem: &Memory) -> Result<Option<Chain>, Error> {
        loop {
            // The index is the guest's: more entries than the ring holds is a lie, not a backlog.
            let avail = self.ring.avail_idx(mem, Ordering::Acquire)?;
            let waiting = (avail - Wrapping(self.ring.next_avail())).0;
            if waiting > self.ring.size() {
                return Err(Error::InvalidAvailRingIndex);
            }
            if waiting > 0 {
                let head = self.head(mem)?;
                self.ring.set_next_avail(self.ring.next_avail().wrapping_add(1));
                return self.chain(mem, head).map(Some);
            }
            if !self.ring.enable_notification(mem)? {
                return Ok(None);
            }
        }
    }

    /// Puts the chain last popped back, to be popped again.
    pub fn undo_pop(&mut self, chain: Chain) {
        self.ring.set_next_avail(self.ring.next_avail().wrapping_sub(1));
        drop(chain);
    }

    /// Hands a chain back to the driver with so many bytes written.
    ///
    /// # Errors
    /// When the used ring is outside guest memory.
    pub fn push(&mut self, mem: &Memory, chain: Chain, written: u32) -> Result<(), Error> {
        self.ring.add_used(mem, chain.head, written)
    }

    /// Whether the driver wants an interrupt for what was pushed since the last one.
    ///
    /// # Errors
    /// When the ring is outside guest memory.
    pub fn should_signal(&mut self, mem: &Memory) -> Result<bool, Error> {
        self.ring.needs_notification(mem)
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    fn head(&self, mem: &Memory) -> Result<u16, Error> {
        let slot = u64::from(self.ring.next_avail() % self.ring.size());
        let at =
            GuestAddress(self.ring.avail_ring()).checked_add(4 + 2 * slot).ok_or(Error::AddressOverflow)?;
        let head: u16 = mem.read_obj(at).map_err(Error::GuestMemory)?;
        if head >= self.ring.size() {
            return Err(Error::InvalidDescriptorIndex);
        }
        Ok(u16::from_le(head))
    }

    fn chain(&self, mem: &Memory, head: u16) -> Result<Chain, Error> {
        let mut walk = Walk {
            mem,
            table: GuestAddress(self.ring.desc_table()),
            size: self.ring.size(),
            index: head,
            left: self.ring.size(),
            indirect: false,
            done: false,
        };
        let mut chain = Chain { head, readable: Buffers::default(), writable: Buffers::default() };
        while let Some((address, length, write)) = walk.next()? {
            if write {
                chain.writable.add(address, length)?;
            } else if chain.writable.ranges.is_empty() {
                chain.readable.add(address, length)?;
            } else {
                return Err(Error::InvalidChain);
            }
        }
        Ok(chain)
    }
}

/// A walk along the descriptors of one chain.
struct Walk<'a> {
    mem: &'a Memory,
    table: GuestAddress,
    size: u16,
    index: u16,
    left: u16,
    indirect: bool,
    done: bool,
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const DESCRIPTOR_LEN: u64 = 16;

impl Walk<'_> {
    fn next(&mut self) -> Result<Option<(GuestAddress, u32, bool)>, Error> {
        if self.done {
            return Ok(None);
        }
        let (address, length, flags, next) = self.read()?;
        if flags & INDIRECT != 0 {
            if self.indirect || flags & (NEXT | WRITE) != 0 {
                return Err(Error::InvalidIndirectDescriptor);
            }
            self.enter(address, length)?;
            return self.next();
        }
        if flags & NEXT != 0 {
            if next >= self.size {
                return Err(Error::InvalidDescriptorIndex);
            }
            self.index = next;
            self.left = self.left.saturating_sub(1);
            // The last descriptor that fits says there is one more: a loop.
            if self.left == 0 {
                return Err(Error::InvalidChain);
            }
        } else {
            self.done = true;
        }
        if length > 0 && !self.mem.check_range(address, length as usize) {
            return Err(Error::FindMemoryRegion);
        }
        Ok(Some((address, length, flags & WRITE != 0)))
    }

    /// Reads a descriptor once: address, length, flags, next.
    fn read(&self) -> Result<(GuestAddress, u32, u16, u16), Error> {
        if self.index >= self.size {
            return Err(Error::InvalidDescriptorIndex);
        }
        let at =
            self.table.checked_add(DESCRIPTOR_LEN * u64::from(self.index)).ok_or(Error::AddressOverflow)?;
        let mut raw = [0u8; 16];
        self.mem.read_slice(&mut raw, at).map_err(Error::GuestMemory)?;
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = raw;
        Ok((
            GuestAddress(u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7])),
            u32::from_le_bytes([l0, l1, l2, l3]),
            u16::from_le_bytes([f0, f1]),
            u16::from_le_bytes([n0, n1]),
        ))
    }

    fn enter(&mut self, table: GuestAddress, length: u32) -> Result<(), Error> {
        let entries = u64::from(length) / DESCRIPTOR_LEN;
        if entries == 0 || u64::from(length) % DESCRIPTOR_LEN != 0 {
            return Err(Error::InvalidIndirectDescriptorTable);
        }
        let entries = u16::try_from(entries).map_err(|_| Error::InvalidIndirectDescriptorTable)?;
        self.table = table;
        self.size = entries;
        self.index = 0;
        self.left = entries;
        self.indirect = true;
        Ok(())
    }
}

impl Buffers {
    fn add(&mut self, address: GuestAddress, length: u32) -> Result<(), Error> {
        self.left = self.left.saturating_add(u64::from(length));
        if self.left > CHAIN_BYTES_MAX {
            return Err(Error::DescriptorChainOverflow);
        }
        if length > 0 {
            self.ranges.push_back((address, length));
        }
        Ok(())
    }

    /// Bytes left.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes the next `length` bytes off the front; fewer when fewer are left.
    pub fn split(&mut self, length: u64) -> Buffers {
        let mut taken = Buffers::default();
        let mut wanted = length.min(self.left);
        while let Some((address, size)) = self.ranges.pop_front() {
            let part = u64::from(size).min(wanted);
            let part32 = part as u32;
            if part > 0 {
                taken.ranges.push_back((address, part32));
                taken.left += part;
                self.left -= part;
                wanted -= part;
            }
            if part32 < size {
                self.ranges.push_front((address.unchecked_add(part), size - part32));
                break;
            }
        }
        taken
    }

    /// Reads bytes from the front into `out`, as many as there are; returns how many.
    ///
    /// # Errors
    /// When guest memory cannot be read.
    pub fn read(&mut self, mem: &Memory, out: &mut [u8]) -> Result<usize, Error> {
        let part = self.split(out.len() as u64);
        let mut rest = out;
        for (address, length) in part.ranges {
            let Some((now, later)) = rest.split_at_mut_checked(length as usize) else { break };
            mem.read_slice(now, address).map_err(Error::GuestMemory)?;
            rest = later;
        }
        Ok(part.left as usize)
    }

    /// Writes `data` to the front, as much as fits; returns how much.
    ///
    /// # Errors
    /// When guest memory cannot be written.
    pub fn write(&mut self, mem: &Memory, data: &[u8]) -> Result<usize, Error> {
        let part = self.split(data.len() as u64);
        let mut rest = data;
        for (address, length) in part.ranges {
            let Some((now, later)) = rest.split_at_checked(length as usize) else { break };
            mem.write_slice(now, address).map_err(Error::GuestMemory)?;
            rest = later;
        }
        Ok(part.left as usize)
    }

    /// The host's view of all that is left, piece by piece, for vectored I/O straight to guest memory.
    ///
    /// # Errors
    /// When guest memory has gone (it never does while a device runs).
    pub fn slices<'m>(&self, mem: &'m Memory) -> Result<Vec<vm_memory::VolatileSlice<'m>>, Error> {
        let mut out = Vec::with_capacity(self.ranges.len());
        for (address, length) in &self.ranges {
            // A range may cross from one region into the next.
            for piece in GuestMemoryBackend::get_slices(mem, *address, *length as usize) {
                out.push(piece.map_err(Error::GuestMemory)?);
            }
        }
        Ok(out)
    }
}
