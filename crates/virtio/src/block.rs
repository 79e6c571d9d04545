//! The block device (VIRTIO 1.2, section 5.2) over a raw file or a host's block device.
//!
//! Owner: as every device. Invariants: a read-only disk is never written, whatever the guest asks; no request
//! reaches outside the disk; data moves straight between the file and guest memory. A host error fails that
//! request in that guest and nothing else.

mod engine;

use std::fs::File;
use std::io;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};

use self::engine::{Engine, FileEngine};
use crate::device::{COMMON_FEATURES, Context, Device, DeviceId, DeviceInfo, Fault, Memory};
use crate::queue::{Buffers, Chain};

const SECTOR: u64 = 512;
const QUEUE_SIZES: &[u16] = &[256];
/// Data segments per request: the queue's size less header and status.
const SEGMENTS_MAX: u32 = 254;
/// The most bytes one request may move.
const REQUEST_MAX: u64 = 16 << 20;
/// The most sectors one discard or write-zeroes segment may cover: 1 GiB.
const RANGE_SECTORS_MAX: u32 = 1 << 21;
/// The most segments of one discard or write-zeroes request.
const RANGES_MAX: u32 = 16;
const RANGE_LEN: u64 = 16;
/// Requests served before other devices have their turn.
const BATCH: usize = 64;
const ID_LEN: usize = 20;
const HEADER_LEN: usize = 16;

/// A block device.
pub struct Block {
    engine: Box<dyn Engine>,
    sectors: u64,
    read_only: bool,
    id: [u8; ID_LEN],
}

/// How a request that the device understood went wrong.
enum Failure {
    /// The disk failed or the request does not fit it.
    Io,
    /// No such request.
    Unsupported,
}

impl Block {
    /// A block device over a raw file or block device. A trailing part of a sector is out of the guest's reach.
    ///
    /// # Errors
    /// When the file's size cannot be found out.
    pub fn new(file: File, read_only: bool, serial: &str) -> io::Result<Self> {
        let engine = FileEngine::new(file)?;
        let sectors = engine.size()? / SECTOR;
        Ok(Self::with_engine(Box::new(engine), sectors, read_only, serial))
    }

    fn with_engine(engine: Box<dyn Engine>, sectors: u64, read_only: bool, serial: &str) -> Self {
        let mut id = [0; ID_LEN];
        id.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
        Self { engine, sectors, read_only, id }
    }

    fn serve(&mut self, ctx: &mut Context<'_>, queue: usize, mut chain: Chain) -> Result<(), Fault> {
        let mut header = [0; HEADER_LEN];
        let got =
            chain.readable.read(ctx.mem, &mut header).map_err(|source| Fault::Ring { queue, source })?;
        // The status is the last writable byte, wherever the driver's descriptors split.
        let room = chain.writable.left().checked_sub(1);
        let (Some(room), HEADER_LEN) = (room, got) else {
            return Err(Fault::Request("a block request without header or status"));
        };
        let mut data = chain.writable.split(room);
        let before = data.left();
        let (status, written) = match self.execute(ctx.mem, header, &mut chain.readable, &mut data) {
            Ok(()) => (VIRTIO_BLK_S_OK, before - data.left()),
            Err(Failure::Io) => (VIRTIO_BLK_S_IOERR, 0),
            Err(Failure::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
        };
        let status = u8::try_from(status).unwrap_or(1);
        chain.writable.write(ctx.mem, &[status]).map_err(|source| Fault::Ring { queue, source })?;
        ctx.push(queue, chain, u32::try_from(written + 1).unwrap_or(u32::MAX))
    }

    fn execute(
        &mut self,
        mem: &Memory,
        header: [u8; HEADER_LEN],
        from_guest: &mut Buffers,
        to_guest: &mut Buffers,
    ) -> Result<(), Failure> {
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => {
                let at = self.offset(sector, to_guest.left())?;
                let all = to_guest.split(u64::MAX);
                let slices = all.slices(mem).map_err(|_| Failure::Io)?;
                self.engine.read(at, &slices).map_err(|error| self.failed("read", &error))
            }
            VIRTIO_BLK_T_OUT => {
                self.writable()?;
                let at = self.offset(sector, from_guest.left())?;
                let slices = from_guest.slices(mem).map_err(|_| Failure::Io)?;
                self.engine.write(at, &slices).map_err(|error| self.failed("write", &error))
            }
            VIRTIO_BLK_T_FLUSH => self.engine.flush().map_err(|error| self.failed("flush", &error)),
            VIRTIO_BLK_T_GET_ID => {
                to_guest.write(mem, &self.id).map_err(|_| Failure::Io)?;
                Ok(())
            }
            VIRTIO_BLK_T_DISCARD => self.ranges(mem, from_guest, false),
            VIRTIO_BLK_T_WRITE_ZEROES => self.ranges(mem, from_guest, true),
            _ => Err(Failure::Unsupported),
        }
    }

    /// Discard and write-zeroes: ranges of sectors, each with flags (5.2.6).
    fn ranges(&mut self, mem: &Memory, from_guest: &mut Buffers, zero: bool) -> Result<(), Failure> {
        self.writable()?;
        let length = from_guest.left();
        if length == 0 || !length.is_multiple_of(RANGE_LEN) || length / RANGE_LEN > u64::from(RANGES_MAX) {
            return Err(Failure::Io);
        }
        while from_guest.left() > 0 {
            let mut raw = [0; 16];
            from_guest.read(mem, &mut raw).map_err(|_| Failure::Io)?;
            let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = raw;
            let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
            let flags = u32::from_le_bytes(flags);
            // Unmap is the one flag there is, and it means something for write-zeroes only.
            if flags > u32::from(zero) {
                return Err(Failure::Unsupported);
            }
            if sectors > RANGE_SECTORS_MAX {
                return Err(Failure::Io);
            }
            let length = u64::from(sectors) * SECTOR;
            let at = self.offset(u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]), length)?;
            if length == 0 {
                continue;
            }
            let done =
                if zero { self.engine.zero(at, length, flags == 1) } else { self.engine.discard(at, length) };
            done.map_err(|error| self.failed("discard or write-zeroes", &error))?;
        }
        Ok(())
    }

    /// The byte offset of a request that fits the disk.
    fn offset(&self, sector: u64, length: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(length / SECTOR).ok_or(Failure::Io)?;
        if !length.is_multiple_of(SECTOR)
            || length > REQUEST_MAX.max(u64::from(RANGE_SECTORS_MAX) * SECTOR)
            || end > self.sectors
        {
            return Err(Failure::Io);
        }
        sector.checked_mul(SECTOR).ok_or(Failure::Io)
    }

    fn writable(&self) -> Result<(), Failure> {
        if self.read_only { Err(Failure::Io) } else { Ok(()) }
    }

    fn failed(&self, what: &str, error: &io::Error) -> Failure {
        log::warn!(
            "disk {}: {what} failed: {error}",
            String::from_utf8_lossy(&self.id).trim_end_matches('\0')
        );
        Failure::Io
    }
}

impl Device for Block {
    fn info(&self) -> DeviceInfo {
        let bit = |feature: u32| 1u64 << feature;
        let mut features = COMMON_FEATURES
            | bit(VIRTIO_BLK_F_FLUSH)
            | bit(VIRTIO_BLK_F_SEG_MAX)
            | bit(VIRTIO_BLK_F_BLK_SIZE);
        features |= if self.read_only {
            bit(VIRTIO_BLK_F_RO)
        } else {
            bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES)
        };
        DeviceInfo { id: DeviceId::Block, features, queue_sizes: QUEUE_SIZES }
    }

    /// Section 5.2.4, field by field.
    fn config(&self) -> Vec<u8> {
        let mut config = Vec::with_capacity(60);
        config.extend(self.sectors.to_le_bytes());
        config.extend(0u32.to_le_bytes()); // size_max: not offered
        config.extend(SEGMENTS_MAX.to_le_bytes());
        config.extend([0; 4]); // geometry: not offered
        config.extend(512u32.to_le_bytes()); // blk_size
        config.extend([0; 8]); // topology: not offered
        config.extend([0; 4]); // writeback, num_queues: not offered
        for _ in ["discard", "write zeroes"] {
            config.extend(RANGE_SECTORS_MAX.to_le_bytes());
            config.extend(RANGES_MAX.to_le_bytes());
            config.extend(if config.len() < 48 { 8u32.to_le_bytes() } else { [1, 0, 0, 0] });
        }
        config
    }

    fn on_queue(&mut self, ctx: &mut Context<'_>, queue: usize) -> Result<bool, Fault> {
        for _ in 0..BATCH {
            let Some(chain) = ctx.pop(queue)? else {
                ctx.signal(queue)?;
                return Ok(false);
            };
            self.serve(ctx, queue, chain)?;
        }
        ctx.signal(queue)?;
        Ok(true)
    }

    fn drain(&mut self, _ctx: &mut Context<'_>) {
        // Every request is finished when its call returns; what is left is to make it durable.
        if !self.read_only
            && let Err(error) = self.engine.flush()
        {
            self.failed("flush", &error);
        }
    }
}

#[cfg(test)]
mod tests;
