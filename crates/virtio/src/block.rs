//! The block device (virtio 1.2, section 5.2) on a raw file or a host block device.
//!
//! Owned by the transport, then by the I/O loop, on whose thread every request runs to its end. Invariant: a request
//! touches only whole sectors below the capacity, never writes to a disk that is read-only, and whatever the host
//! refuses (a full disk above all) is an I/O error of that one request. A call serves a bounded number of bytes and
//! requests, so that other devices get their turn.

pub mod engine;
mod request;

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use log::warn;
use rustix::fs::{FileType, OFlags, SeekFrom, fcntl_getfl, fstat, seek};

use crate::block::engine::{Engine, FileEngine};
use crate::block::request::Disk;
use crate::bucket::{Limiter, Limits};
use crate::device::{Context, Device, DeviceId, DeviceInfo, Ready, TIMER_TOKEN};
use crate::fault::Fault;
use crate::log_limit::LogLimit;
use crate::registers::F_COMMON;

/// The unit of capacity and of sector numbers, in bytes.
pub const SECTOR: u64 = 512;
/// The length of a device id in bytes.
pub const ID_LEN: usize = 20;

/// Feature bits, section 5.2.3.
mod feature {
    pub(super) const SIZE_MAX: u64 = 1 << 1;
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

const QUEUE_SIZES: &[u16] = &[256];
/// Bytes in one segment, and segments in one request: with header and status they fill the queue.
const SIZE_MAX: u32 = 128 * 1024;
const SEG_MAX: u32 = 254;
const BOUNDS: request::Bounds = request::Bounds {
    data: SIZE_MAX * SEG_MAX,
    // 2 GiB a segment: making a hole is quick.
    discard_sectors: 4 << 20,
    discard_segments: 16,
    // 64 MiB: it may have to be written out.
    zero_sectors: 128 << 10,
    zero_segments: 1,
};
/// A host page in sectors: the granularity of holes.
const PAGE_SECTORS: u32 = 8;

/// What one call serves at most before other devices get their turn.
const TURN_REQUESTS: u32 = 128;
const TURN_BYTES: u64 = 8 << 20;

/// How a disk is offered to the guest.
#[derive(Clone, Debug, Default)]
pub struct BlockOptions {
    /// Refuse all changes, whatever the guest thinks.
    pub read_only: bool,
    /// The identifier the guest reads (its serial number), cut at 20 bytes.
    pub id: String,
    /// How much the guest may ask of it in a time, reading and writing together.
    pub limits: Limits,
}

/// Why a disk cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The descriptor is a directory, a pipe or the like.
    #[error("a disk must be a regular file or a block device, this is {0:?}; give another path")]
    NotADisk(FileType),
    /// A writable disk on a descriptor that cannot write.
    #[error("the disk is not open for reading{}; open it so or offer it read-only", if *writes { " and writing" } else { "" })]
    Access {
        /// Whether writing was asked for.
        writes: bool,
    },
    /// The host does not say how long it is.
    #[error("the disk cannot be examined; check that it is still there")]
    Examine(#[source] io::Error),
}

/// The block device.
pub struct Block {
    engine: Box<dyn Engine>,
    read_only: bool,
    sectors: u64,
    id: [u8; ID_LEN],
    /// Where there are limits.
    limiter: Option<Limiter>,
    /// What the limiter's clock counts from.
    since: Instant,
    log: LogLimit,
}

impl Block {
    /// A disk on an open raw file or block device. A trailing part of less than 512 bytes is not offered.
    ///
    /// # Errors
    /// [`BlockError`] if it is neither, or not open for what is asked.
    pub fn open(file: File, options: &BlockOptions) -> Result<Self, BlockError> {
        let stat = fstat(&file).map_err(|error| BlockError::Examine(error.into()))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
            return Err(BlockError::NotADisk(kind));
        }
        let flags = fcntl_getfl(&file).map_err(|error| BlockError::Examine(error.into()))?;
        let mode = flags & OFlags::RWMODE;
        if mode != OFlags::RDWR && !(options.read_only && mode == OFlags::RDONLY) {
            return Err(BlockError::Access { writes: !options.read_only });
        }
        // The end of a block device is its size (what BLKGETSIZE64 says), as it is for a file.
        let bytes = seek(&file, SeekFrom::End(0)).map_err(|error| BlockError::Examine(error.into()))?;
        if !bytes.is_multiple_of(SECTOR) {
            warn!(
                "disk {:?}: the last {} of {bytes} bytes are no whole sector and are left out",
                options.id,
                bytes % SECTOR
            );
        }
        Ok(Self::with_engine(Box::new(FileEngine::new(file)), bytes, options))
    }

    /// A disk of `bytes` bytes, rounded down to sectors, on any engine.
    #[must_use]
    pub fn with_engine(engine: Box<dyn Engine>, bytes: u64, options: &BlockOptions) -> Self {
        let mut id = [0; ID_LEN];
        id.iter_mut().zip(options.id.bytes()).for_each(|(to, from)| *to = from);
        let limiter = (options.limits != Limits::default()).then(|| Limiter::new(&options.limits));
        Self {
            engine,
            read_only: options.read_only,
            sectors: bytes / SECTOR,
            id,
            limiter,
            since: Instant::now(),
            log: LogLimit::default(),
        }
    }

    /// The capacity in 512-byte sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    fn serve(&mut self, ctx: &mut Context<'_>) -> Result<(), Fault> {
        let outcome = self.serve_turn(ctx);
        let Some(queue) = ctx.queues.first_mut() else { return Ok(()) };
        if queue.should_notify(ctx.mem)? {
            ctx.interrupt.queue(0);
        }
        if let Some(after) = outcome? {
            ctx.watch.timer(after);
        }
        Ok(())
    }

    /// Serves one turn's worth of requests; after which time to look for more, if there may be any.
    fn serve_turn(&mut self, ctx: &mut Context<'_>) -> Result<Option<Duration>, Fault> {
        let Some(queue) = ctx.queues.first_mut() else { return Ok(None) };
        let mut disk = Disk {
            engine: self.engine.as_mut(),
            sectors: self.sectors,
            read_only: self.read_only,
            write_through: ctx.features & feature::FLUSH == 0,
            discard: ctx.features & feature::DISCARD != 0,
            write_zeroes: ctx.features & feature::WRITE_ZEROES != 0,
            id: &self.id,
            bounds: BOUNDS,
            log: &mut self.log,
        };
        let mut bytes = 0_u64;
        for _ in 0..TURN_REQUESTS {
            // How long a request is shows when it has been taken, so it is paid off afterwards: by the next one.
            let wait = self.limiter.as_mut().and_then(|limiter| limiter.wait(self.since.elapsed(), 1, 1));
            if wait.is_some() {
                return Ok(wait);
            }
            let Some(chain) = queue.pop(ctx.mem)? else { return Ok(None) };
            let length = u64::from(chain.read_len()).saturating_add(u64::from(chain.write_len()));
            bytes = bytes.saturating_add(length);
            if let Some(limiter) = &mut self.limiter {
                limiter.take(length, 1);
            }
            let written = disk.serve(ctx.mem, &chain)?;
            queue.push(ctx.mem, chain, written)?;
            if bytes >= TURN_BYTES {
                break;
            }
        }
        Ok(Some(Duration::ZERO))
    }
}

impl Device for Block {
    fn info(&self) -> DeviceInfo {
        use feature::{BLK_SIZE, DISCARD, FLUSH, RO, SEG_MAX, SIZE_MAX, TOPOLOGY, WRITE_ZEROES};
        let access = if self.read_only { RO } else { DISCARD | WRITE_ZEROES };
        let features = F_COMMON | SIZE_MAX | SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY | access;
        DeviceInfo { id: DeviceId::Block, features, queue_sizes: QUEUE_SIZES }
    }

    /// `struct virtio_blk_config`, section 5.2.4.
    fn config(&self) -> Vec<u8> {
        let mut config = Vec::with_capacity(60);
        config.extend_from_slice(&self.sectors.to_le_bytes());
        config.extend_from_slice(&SIZE_MAX.to_le_bytes());
        config.extend_from_slice(&SEG_MAX.to_le_bytes());
        // No geometry.
        config.extend_from_slice(&[0; 4]);
        config.extend_from_slice(&512_u32.to_le_bytes());
        // Eight logical blocks to a physical one, aligned; at least one physical block at a time, no optimum.
        config.extend_from_slice(&[3, 0]);
        config.extend_from_slice(&8_u16.to_le_bytes());
        config.extend_from_slice(&0_u32.to_le_bytes());
        // No cache mode to choose, no further queues.
        config.extend_from_slice(&[0; 4]);
        let LimitWords { discard, zeroes } = LimitWords::new(!self.read_only);
        for word in discard.into_iter().chain(zeroes) {
            config.extend_from_slice(&word.to_le_bytes());
        }
        // Zeroes may be holes.
        config.extend_from_slice(&[u8::from(!self.read_only), 0, 0, 0]);
        config
    }

    /// The capacity may change while the driver runs (section 5.2.5); here it only ever grows, so that no request that
    /// was good becomes bad.
    fn grow(&mut self, bytes: u64) -> Option<Vec<u8>> {
        let sectors = bytes / SECTOR;
        if sectors <= self.sectors {
            return None;
        }
        self.sectors = sectors;
        Some(self.config())
    }

    fn start(&mut self, ctx: &mut Context<'_>) -> Result<(), Fault> {
        self.serve(ctx)
    }

    fn on_queue(&mut self, ctx: &mut Context<'_>, index: usize) -> Result<(), Fault> {
        if index == 0 { self.serve(ctx) } else { Ok(()) }
    }

    fn on_source(&mut self, ctx: &mut Context<'_>, token: u32, _: Ready) -> Result<(), Fault> {
        if token == TIMER_TOKEN { self.serve(ctx) } else { Ok(()) }
    }

    fn drain(&mut self, _: &mut Context<'_>) {
        // Requests run to their end within a call: nothing is in flight between two.
    }

    fn reset(&mut self) {
        // The guest leaves nothing behind but what it wrote.
    }
}

/// The discard and write-zeroes limits of the configuration, all zero if they are not offered.
struct LimitWords {
    discard: [u32; 3],
    zeroes: [u32; 2],
}

impl LimitWords {
    fn new(offered: bool) -> Self {
        if !offered {
            return Self { discard: [0; 3], zeroes: [0; 2] };
        }
        Self {
            discard: [BOUNDS.discard_sectors, BOUNDS.discard_segments, PAGE_SECTORS],
            zeroes: [BOUNDS.zero_sectors, BOUNDS.zero_segments],
        }
    }
}

#[cfg(test)]
mod tests;
