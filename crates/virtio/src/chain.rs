//! A chain of descriptors and the cursors over its buffers (virtio 1.2, sections 2.7.4 and 2.7.5).
//!
//! [`Queue::pop`](crate::queue::Queue::pop) walks a chain once, checks all of it and keeps what it found in host
//! memory, so a driver that changes descriptors later changes nothing. A chain is owned by the device, on the I/O
//! thread, until it is pushed or undone. Invariant: every segment lies in guest memory as a whole, readable ones come
//! first, lengths add up to less than 4 GiB; cursors cannot run past the end.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemory, Permissions};

use crate::device::Memory;
use crate::fault::Fault;
use crate::iovec::IoVecs;

/// `VIRTQ_DESC_F_NEXT`: the chain goes on.
pub(crate) const F_NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`: the device writes this buffer.
pub(crate) const F_WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`: the buffer is a table of descriptors.
pub(crate) const F_INDIRECT: u16 = 4;
/// The size of a descriptor in bytes.
pub(crate) const DESCRIPTOR_BYTES: u32 = 16;

/// One buffer of a chain, in guest memory, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    addr: GuestAddress,
    len: u32,
}

/// A chain of buffers the driver handed to the device.
#[derive(Debug)]
#[must_use = "a chain that is neither pushed nor undone is lost to the driver"]
pub struct Chain {
    head: u16,
    segments: Vec<Segment>,
    readable: usize,
    read_len: u32,
    write_len: u32,
}

/// A table of descriptors: the queue's own or an indirect one.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub(crate) addr: GuestAddress,
    pub(crate) size: u16,
}

/// What a walk has to keep to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The most descriptors a chain may have.
    pub(crate) limit: u16,
    /// Whether indirect descriptors were negotiated.
    pub(crate) indirect: bool,
}

impl Chain {
    /// Walks the chain that starts at `head`. `segments` lends its allocation.
    pub(crate) fn walk(
        mem: &Memory,
        table: Table,
        head: u16,
        rules: Rules,
        mut segments: Vec<Segment>,
    ) -> Result<Self, Fault> {
        segments.clear();
        let mut chain = Self { head, segments, readable: 0, read_len: 0, write_len: 0 };
        let (mut table, mut index, mut nested) = (table, head, false);
        let mut left = rules.limit;
        loop {
            let desc = read_descriptor(mem, table, index)?;
            let flags = desc.flags();
            if flags & F_INDIRECT != 0 {
                if nested {
                    return Err(Fault::Indirect("is inside an indirect table"));
                }
                table = indirect_table(&desc, rules)?;
                (index, nested) = (0, true);
                continue;
            }
            left = left.checked_sub(1).ok_or(Fault::ChainLoop { limit: rules.limit })?;
            chain.add(mem, &desc)?;
            if flags & F_NEXT == 0 {
                return Ok(chain);
            }
            index = desc.next();
        }
    }

    fn add(&mut self, mem: &Memory, desc: &Descriptor) -> Result<(), Fault> {
        let segment = Segment { addr: desc.addr(), len: desc.len() };
        let writable = desc.flags() & F_WRITE != 0;
        if !writable && self.readable < self.segments.len() {
            return Err(Fault::Order);
        }
        if segment.len == 0 {
            return Ok(());
        }
        let outside = Fault::Address { addr: segment.addr.0, len: segment.len };
        let len = usize::try_from(segment.len).map_err(|_| Fault::Length)?;
        let access = if writable { Permissions::Write } else { Permissions::Read };
        if !GuestMemory::check_range(mem, segment.addr, len, access) {
            return Err(outside);
        }
        let sum = if writable { &mut self.write_len } else { &mut self.read_len };
        *sum = sum.checked_add(segment.len).ok_or(Fault::Length)?;
        self.read_len.checked_add(self.write_len).ok_or(Fault::Length)?;
        if !writable {
            self.readable = self.readable.saturating_add(1);
        }
        self.segments.push(segment);
        Ok(())
    }

    /// The index of its first descriptor, by which the driver knows it.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes the device can read.
    #[must_use]
    pub fn read_len(&self) -> u32 {
        self.read_len
    }

    /// Bytes the device can write.
    #[must_use]
    pub fn write_len(&self) -> u32 {
        self.write_len
    }

    /// A cursor over what the device can read.
    #[must_use]
    pub fn reader<'a>(&'a self, mem: &'a Memory) -> Reader<'a> {
        let segments = self.segments.get(..self.readable).unwrap_or_default();
        Reader(Cursor { mem, segments, skip: 0, left: self.read_len })
    }

    /// A cursor over what the device can write.
    #[must_use]
    pub fn writer<'a>(&'a self, mem: &'a Memory) -> Writer<'a> {
        let segments = self.segments.get(self.readable..).unwrap_or_default();
        Writer(Cursor { mem, segments, skip: 0, left: self.write_len })
    }

    /// Appends all that the device can write to a list of host buffers, which may outlive the chain.
    ///
    /// # Errors
    /// [`Fault::Memory`] if guest memory is gone.
    pub fn gather_writable<'a>(&self, mem: &'a Memory, vecs: &mut IoVecs<'a>) -> Result<(), Fault> {
        let writable = self.segments.get(self.readable..).unwrap_or_default();
        writable.iter().try_for_each(|segment| vecs.push(mem, segment.addr, segment.len))
    }

    /// Gives the allocation back.
    pub(crate) fn into_segments(self) -> Vec<Segment> {
        self.segments
    }
}

fn read_descriptor(mem: &Memory, table: Table, index: u16) -> Result<Descriptor, Fault> {
    if index >= table.size {
        return Err(Fault::DescriptorIndex { index, size: table.size });
    }
    let offset = u64::from(index).saturating_mul(u64::from(DESCRIPTOR_BYTES));
    let addr = table.addr.0.checked_add(offset).ok_or(Fault::Length)?;
    Ok(mem.read_obj(GuestAddress(addr))?)
}

fn indirect_table(desc: &Descriptor, rules: Rules) -> Result<Table, Fault> {
    if !rules.indirect {
        return Err(Fault::Indirect("was used without being negotiated"));
    }
    if desc.flags() & F_NEXT != 0 {
        return Err(Fault::Indirect("is followed by another"));
    }
    if desc.len() == 0 || !desc.len().is_multiple_of(DESCRIPTOR_BYTES) {
        return Err(Fault::Indirect("has a length that is no multiple of a descriptor's"));
    }
    let size = u16::try_from(desc.len() / DESCRIPTOR_BYTES)
        .map_err(|_| Fault::Indirect("has a table that is too long"))?;
    Ok(Table { addr: desc.addr(), size })
}

/// A position in the buffers of a chain and an end it cannot pass.
#[derive(Clone)]
struct Cursor<'a> {
    mem: &'a Memory,
    segments: &'a [Segment],
    /// Bytes of the first segment that are behind the cursor, always fewer than it has.
    skip: u32,
    left: u32,
}

impl<'a> Cursor<'a> {
    fn check(&self, needed: usize) -> Result<u32, Fault> {
        let needed = u32::try_from(needed).unwrap_or(u32::MAX);
        if needed > self.left {
            return Err(Fault::Short { needed, available: self.left });
        }
        Ok(needed)
    }

    /// Moves on by `count` bytes at most and calls `each` with address and length of every piece.
    fn advance(
        &mut self,
        count: u32,
        mut each: impl FnMut(&'a Memory, GuestAddress, u32) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut count = count.min(self.left);
        while count > 0 {
            let Some((first, rest)) = self.segments.split_first() else { break };
            let piece = first.len.saturating_sub(self.skip).min(count);
            let addr = first.addr.0.checked_add(u64::from(self.skip)).ok_or(Fault::Length)?;
            each(self.mem, GuestAddress(addr), piece)?;
            self.skip = self.skip.saturating_add(piece);
            if self.skip >= first.len {
                (self.segments, self.skip) = (rest, 0);
            }
            self.left = self.left.saturating_sub(piece);
            count = count.saturating_sub(piece);
        }
        Ok(())
    }

    /// Splits off the next `count` bytes as a cursor of their own.
    fn take(&mut self, count: u32) -> Result<Self, Fault> {
        self.check(usize::try_from(count).unwrap_or(usize::MAX))?;
        let head = Self { left: count, ..self.clone() };
        self.advance(count, |_, _, _| Ok(()))?;
        Ok(head)
    }

    fn gather(mut self, vecs: &mut IoVecs<'a>) -> Result<(), Fault> {
        self.advance(self.left, |mem, addr, len| vecs.push(mem, addr, len))
    }
}

/// Reads what the driver wrote, each byte once.
#[derive(Clone)]
pub struct Reader<'a>(Cursor<'a>);

impl<'a> Reader<'a> {
    /// Bytes left.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.0.left
    }

    /// Copies the next bytes out.
    ///
    /// # Errors
    /// [`Fault::Short`] if there are not that many; nothing is read then.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<(), Fault> {
        let count = self.0.check(buf.len())?;
        let mut rest = buf;
        self.0.advance(count, |mem, addr, len| {
            let at = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(at);
            rest = after;
            Ok(mem.read_slice(piece, addr)?)
        })
    }

    /// Reads a value laid out as in memory; the caller sees to its byte order.
    ///
    /// # Errors
    /// [`Fault::Short`] if there are not enough bytes.
    pub fn read_obj<T: ByteValued + Default>(&mut self) -> Result<T, Fault> {
        let mut value = T::default();
        self.read(value.as_mut_slice())?;
        Ok(value)
    }

    /// Splits off the next `count` bytes as a reader of their own.
    ///
    /// # Errors
    /// [`Fault::Short`] if there are not that many.
    pub fn take(&mut self, count: u32) -> Result<Self, Fault> {
        Ok(Self(self.0.take(count)?))
    }

    /// All that is left as a list of host buffers, for a system call that reads them.
    ///
    /// # Errors
    /// [`Fault::Memory`] if guest memory is gone.
    pub fn gather(self, vecs: &mut IoVecs<'a>) -> Result<(), Fault> {
        self.0.gather(vecs)
    }
}

/// Writes what the driver will read.
#[derive(Clone)]
pub struct Writer<'a>(Cursor<'a>);

impl<'a> Writer<'a> {
    /// Bytes left.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.0.left
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// [`Fault::Short`] if there is no room for them; nothing is written then.
    pub fn write(&mut self, buf: &[u8]) -> Result<(), Fault> {
        let count = self.0.check(buf.len())?;
        let mut rest = buf;
        self.0.advance(count, |mem, addr, len| {
            let (piece, after) = rest.split_at(usize::try_from(len).unwrap_or(usize::MAX).min(rest.len()));
            rest = after;
            Ok(mem.write_slice(piece, addr)?)
        })
    }

    /// Splits off the next `count` bytes as a writer of their own.
    ///
    /// # Errors
    /// [`Fault::Short`] if there are not that many.
    pub fn take(&mut self, count: u32) -> Result<Self, Fault> {
        Ok(Self(self.0.take(count)?))
    }

    /// All that is left as a list of host buffers, for a system call that fills them.
    ///
    /// # Errors
    /// [`Fault::Memory`] if guest memory is gone.
    pub fn gather(self, vecs: &mut IoVecs<'a>) -> Result<(), Fault> {
        self.0.gather(vecs)
    }
}

#[cfg(test)]
mod exhaustive;
