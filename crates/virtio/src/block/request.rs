//! One block request from header to status byte (virtio 1.2, section 5.2.6).
//!
//! Runs on the I/O thread within one call of the device. Invariant: every request ends with a status byte that says
//! what happened; only a chain without room for one is a [`Fault`].

use std::io::{self, ErrorKind};

use log::warn;

use crate::block::engine::Engine;
use crate::block::{ID_LEN, SECTOR};
use crate::chain::{Chain, Reader, Writer};
use crate::device::Memory;
use crate::fault::Fault;
use crate::iovec::IoVecs;
use crate::log_limit::LogLimit;

/// `VIRTIO_BLK_S_OK`.
pub(super) const S_OK: u8 = 0;
/// `VIRTIO_BLK_S_IOERR`.
pub(super) const S_IOERR: u8 = 1;
/// `VIRTIO_BLK_S_UNSUPP`.
pub(super) const S_UNSUPP: u8 = 2;

/// Request types.
pub(super) mod kind {
    pub(in crate::block) const IN: u32 = 0;
    pub(in crate::block) const OUT: u32 = 1;
    pub(in crate::block) const FLUSH: u32 = 4;
    pub(in crate::block) const GET_ID: u32 = 8;
    pub(in crate::block) const DISCARD: u32 = 11;
    pub(in crate::block) const WRITE_ZEROES: u32 = 13;
}

/// The flag with which a range of zeroes may become a hole.
const UNMAP: u32 = 1;
/// The length of a range in a discard or write-zeroes request.
const RANGE_BYTES: u32 = 16;

/// What one request may ask for.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes read or written.
    pub(super) data: u32,
    /// Sectors in one range given up.
    pub(super) discard_sectors: u32,
    /// Ranges given up.
    pub(super) discard_segments: u32,
    /// Sectors in one range zeroed.
    pub(super) zero_sectors: u32,
    /// Ranges zeroed.
    pub(super) zero_segments: u32,
}

/// Why a request failed.
enum Failure {
    /// The guest asked for what this disk does not do.
    Unsupported,
    /// The guest asked for what no disk does: out of range, not whole sectors, a write to a read-only disk.
    Refused,
    /// The host failed.
    Host(&'static str, io::Error),
    /// The chain cannot be used at all.
    Fault(Fault),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The disk as one request sees it.
pub(super) struct Disk<'a> {
    pub(super) engine: &'a mut dyn Engine,
    pub(super) sectors: u64,
    pub(super) read_only: bool,
    /// Without `VIRTIO_BLK_F_FLUSH` a write must last once it is reported (section 5.2.6.2).
    pub(super) write_through: bool,
    pub(super) discard: bool,
    pub(super) write_zeroes: bool,
    pub(super) id: &'a [u8; ID_LEN],
    pub(super) bounds: Bounds,
    pub(super) log: &'a mut LogLimit,
}

impl Disk<'_> {
    /// Serves one request; returns the number of bytes written into the chain.
    pub(super) fn serve(&mut self, mem: &Memory, chain: &Chain) -> Result<u32, Fault> {
        let mut writer = chain.writer(mem);
        let room = writer.remaining().checked_sub(1).ok_or(Fault::Short { needed: 1, available: 0 })?;
        let data = writer.take(room)?;
        let (status, written) = match self.execute(chain.reader(mem), data) {
            Ok(written) => (S_OK, written),
            Err(Failure::Fault(fault)) => return Err(fault),
            Err(Failure::Unsupported) => (S_UNSUPP, 0),
            Err(Failure::Refused) => (S_IOERR, 0),
            Err(Failure::Host(what, error)) => {
                if let Some(more) = self.log.allow() {
                    warn!("a disk's {what} failed, the guest sees an I/O error: {error} ({more} more)");
                }
                (S_IOERR, 0)
            }
        };
        writer.write(&[status])?;
        Ok(written.saturating_add(1))
    }

    fn execute(&mut self, mut input: Reader<'_>, output: Writer<'_>) -> Result<u32, Failure> {
        let mut header = [0; 16];
        input.read(&mut header).map_err(|_| Failure::Refused)?;
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([k0, k1, k2, k3]) {
            kind::IN => self.read(sector, output),
            kind::OUT => self.write(sector, input),
            kind::FLUSH => self.flush(),
            kind::GET_ID => self.get_id(output),
            kind::DISCARD if self.discard => self.discard(input),
            kind::WRITE_ZEROES if self.write_zeroes => self.zero(input),
            _ => Err(Failure::Unsupported),
        }
    }

    /// The offset of a range in bytes, if it is on the disk.
    fn range(&self, sector: u64, bytes: u64) -> Result<u64, Failure> {
        let end = bytes
            .is_multiple_of(SECTOR)
            .then_some(bytes / SECTOR)
            .and_then(|count| sector.checked_add(count));
        match (end, sector.checked_mul(SECTOR)) {
            (Some(end), Some(offset)) if end <= self.sectors => Ok(offset),
            _ => Err(Failure::Refused),
        }
    }

    fn read(&mut self, sector: u64, output: Writer<'_>) -> Result<u32, Failure> {
        let count = output.remaining();
        let mut offset = self.range(sector, u64::from(count))?;
        if count > self.bounds.data {
            return Err(Failure::Refused);
        }
        let mut vecs = IoVecs::with_capacity(16);
        output.gather(&mut vecs)?;
        while vecs.remaining() > 0 {
            let moved = self.engine.read_at(&vecs, offset).map_err(|error| Failure::Host("read", error))?;
            offset = step(&mut vecs, offset, moved, ErrorKind::UnexpectedEof)
                .map_err(|error| Failure::Host("read", error))?;
        }
        Ok(count)
    }

    fn write(&mut self, sector: u64, input: Reader<'_>) -> Result<u32, Failure> {
        let count = input.remaining();
        let mut offset = self.range(sector, u64::from(count))?;
        if self.read_only || count > self.bounds.data {
            return Err(Failure::Refused);
        }
        let mut vecs = IoVecs::with_capacity(16);
        input.gather(&mut vecs)?;
        while vecs.remaining() > 0 {
            let moved = self.engine.write_at(&vecs, offset).map_err(|error| Failure::Host("write", error))?;
            offset = step(&mut vecs, offset, moved, ErrorKind::WriteZero)
                .map_err(|error| Failure::Host("write", error))?;
        }
        if self.write_through { self.flush() } else { Ok(0) }
    }

    fn flush(&mut self) -> Result<u32, Failure> {
        if !self.read_only {
            self.engine.flush().map_err(|error| Failure::Host("flush", error))?;
        }
        Ok(0)
    }

    fn get_id(&mut self, mut output: Writer<'_>) -> Result<u32, Failure> {
        // The buffer is to have 20 bytes; one that is shorter gets what fits.
        let room = usize::try_from(output.remaining()).unwrap_or(ID_LEN).min(ID_LEN);
        output.write(self.id.get(..room).unwrap_or(self.id))?;
        Ok(u32::try_from(room).unwrap_or(0))
    }

    fn discard(&mut self, input: Reader<'_>) -> Result<u32, Failure> {
        let bounds = (self.bounds.discard_segments, self.bounds.discard_sectors);
        self.each_range(input, bounds, |disk, offset, len, flags| {
            if flags != 0 {
                return Err(Failure::Unsupported);
            }
            disk.engine.discard(offset, len).map_err(|error| match error.kind() {
                ErrorKind::Unsupported | ErrorKind::InvalidInput => Failure::Unsupported,
                _ => Failure::Host("discard", error),
            })
        })
    }

    fn zero(&mut self, input: Reader<'_>) -> Result<u32, Failure> {
        let bounds = (self.bounds.zero_segments, self.bounds.zero_sectors);
        self.each_range(input, bounds, |disk, offset, len, flags| {
            if flags & !UNMAP != 0 {
                return Err(Failure::Unsupported);
            }
            let unmap = flags & UNMAP != 0;
            disk.engine
                .write_zeroes(offset, len, unmap)
                .map_err(|error| Failure::Host("write of zeroes", error))
        })?;
        if self.write_through { self.flush() } else { Ok(0) }
    }

    /// Calls `act` with offset, length and flags of every range, each of at most `bounds.1` sectors, at most
    /// `bounds.0` of them.
    fn each_range(
        &mut self,
        mut input: Reader<'_>,
        bounds: (u32, u32),
        mut act: impl FnMut(&mut Self, u64, u64, u32) -> Result<(), Failure>,
    ) -> Result<u32, Failure> {
        let whole = input.remaining().is_multiple_of(RANGE_BYTES);
        if self.read_only || !whole || input.remaining() / RANGE_BYTES > bounds.0 {
            return Err(Failure::Refused);
        }
        while input.remaining() > 0 {
            let mut range = [0; 16];
            input.read(&mut range)?;
            let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = range;
            let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
            let count = u32::from_le_bytes([n0, n1, n2, n3]);
            let len = u64::from(count).saturating_mul(SECTOR);
            let offset = self.range(sector, len)?;
            if count > bounds.1 {
                return Err(Failure::Refused);
            }
            if len > 0 {
                act(self, offset, len, u32::from_le_bytes(flags))?;
            }
        }
        Ok(0)
    }
}

/// Moves on after the host moved `moved` bytes; none at all is the error `stuck`.
fn step(vecs: &mut IoVecs<'_>, offset: u64, moved: usize, stuck: ErrorKind) -> io::Result<u64> {
    if moved == 0 {
        return Err(stuck.into());
    }
    vecs.advance(moved);
    Ok(offset.saturating_add(u64::try_from(moved).unwrap_or(u64::MAX)))
}
