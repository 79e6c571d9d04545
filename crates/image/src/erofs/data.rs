//! File contents, streamed straight to their place in the image.
//!
//! Owned by the thread that flattens; one [`FileSink`] at a time. Invariant: a block is written at most once, and a
//! run of zeros as long as a chunk takes no block at all.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{BLOCK, ErofsError, blocks};
use crate::layer::LayerError;
use crate::limits::Limits;

/// Files up to this size are kept and put beside their inode.
const INLINE: u64 = 2048;

/// What all kept files together may take.
const INLINE_BUDGET: u64 = 64 << 20;

/// Smallest chunk of a file with holes: large enough for good read-ahead.
const MIN_CHUNK_BLOCKS: u64 = 16;

/// Most chunks of a file with holes, so that its map stays small however large it is.
const MAX_CHUNKS: u64 = 16 << 10;

/// Bytes gathered before they are written.
const WINDOW: usize = 256 << 10;

static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// Where a file's content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileData {
    /// Beside its inode.
    Inline(Box<[u8]>),
    /// In consecutive blocks.
    Flat {
        /// First block.
        block: u32,
        /// Bytes.
        size: u64,
    },
    /// In chunks of `chunk_blocks` blocks each, some of them holes.
    Chunked {
        /// Bytes.
        size: u64,
        /// A power of two.
        chunk_blocks: u64,
        /// First block of each chunk.
        chunks: Box<[Option<u32>]>,
    },
}

impl FileData {
    /// Logical size in bytes.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Flat { size, .. } | Self::Chunked { size, .. } => *size,
        }
    }

    /// Bytes of memory beyond its own.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Flat { .. } => 0,
            Self::Chunked { chunks, .. } => chunks.len() * 8,
        }
    }
}

/// Appends contents to an image.
#[derive(Debug)]
pub(crate) struct DataWriter<'a> {
    file: &'a File,
    next_block: u64,
    max_blocks: u64,
    max_file_bytes: u64,
    inline_left: u64,
}

impl<'a> DataWriter<'a> {
    /// Begins after the superblock's block of an empty file.
    pub(crate) fn new(file: &'a File, limits: &Limits) -> Self {
        Self {
            file,
            next_block: 1,
            max_blocks: blocks(limits.max_image_bytes).min(u64::from(u32::MAX) - 1),
            max_file_bytes: limits.max_file_bytes.min(16 << 40),
            inline_left: INLINE_BUDGET,
        }
    }

    /// The first block that is free.
    pub(crate) fn next_block(&self) -> u64 {
        self.next_block
    }

    /// Begins a file of a known size.
    pub(crate) fn begin(&mut self, size: u64) -> Result<FileSink<'_, 'a>, ErofsError> {
        if size > self.max_file_bytes {
            let limit = self.max_file_bytes;
            let what = "bytes in one file";
            return Err(LayerError::Limit { what, limit, name: "max_file_bytes" }.into());
        }
        let inline = size <= INLINE && size <= self.inline_left;
        let per_chunk = blocks(size).div_ceil(MAX_CHUNKS).next_power_of_two().max(MIN_CHUNK_BLOCKS);
        Ok(FileSink {
            writer: self,
            size,
            inline,
            chunk_blocks: per_chunk,
            chunks: Vec::new(),
            base: 0,
            buffer: Vec::with_capacity(usize::try_from(size).unwrap_or(WINDOW).min(WINDOW)),
        })
    }

    /// Gives the blocks of a file that is gone back to the host's file system. What it cannot give back stays
    /// as dead bytes in the image.
    pub(crate) fn punch(&self, data: &FileData) {
        let punch = |block: u32, count: u64| {
            use rustix::fs::FallocateFlags;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if let Err(error) =
                rustix::fs::fallocate(self.file, flags, u64::from(block) * BLOCK, count * BLOCK)
            {
                tracing::debug!(%error, "cannot punch a hole for replaced data");
            }
        };
        match data {
            FileData::Inline(_) => {}
            FileData::Flat { block, size } => punch(*block, blocks(*size)),
            FileData::Chunked { size, chunk_blocks, chunks } => {
                for (index, block) in chunks.iter().enumerate() {
                    if let Some(block) = block {
                        punch(*block, chunk_len(*size, *chunk_blocks, index as u64));
                    }
                }
            }
        }
    }

    /// Takes `count` blocks.
    pub(crate) fn allocate(&mut self, count: u64) -> Result<u64, ErofsError> {
        let first = self.next_block;
        let end = first.saturating_add(count);
        if end > self.max_blocks {
            let limit = self.max_blocks * BLOCK;
            let what = "bytes in the flattened image";
            return Err(LayerError::Limit { what, limit, name: "max_image_bytes" }.into());
        }
        self.next_block = end;
        Ok(first)
    }

    /// Writes at a block.
    pub(crate) fn write_at(&self, block: u64, bytes: &[u8]) -> Result<(), ErofsError> {
        self.file.write_all_at(bytes, block * BLOCK).map_err(ErofsError::Write)
    }
}

/// Blocks of the chunk at `index`: the last one may be short.
fn chunk_len(size: u64, chunk_blocks: u64, index: u64) -> u64 {
    blocks(size).saturating_sub(index.saturating_mul(chunk_blocks)).min(chunk_blocks)
}

/// Takes one file's content, in order.
#[derive(Debug)]
pub(crate) struct FileSink<'w, 'a> {
    writer: &'w mut DataWriter<'a>,
    size: u64,
    inline: bool,
    chunk_blocks: u64,
    chunks: Vec<Option<u32>>,
    /// Blocks before the buffer.
    base: u64,
    buffer: Vec<u8>,
}

impl FileSink<'_, '_> {
    /// Appends bytes.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), ErofsError> {
        if self.inline {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        while !bytes.is_empty() {
            let room = WINDOW.saturating_sub(self.buffer.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() >= WINDOW {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Appends zeros.
    pub(crate) fn skip(&mut self, count: u64) -> Result<(), ErofsError> {
        let mut left = count;
        let fill = (BLOCK - self.buffer.len() as u64 % BLOCK) % BLOCK;
        let fill = if self.inline { left } else { fill.min(left) };
        self.write(ZEROS.get(..usize::try_from(fill).unwrap_or(0)).unwrap_or_default())?;
        left -= fill;
        if left >= BLOCK {
            self.flush()?;
            self.base += left / BLOCK;
            left %= BLOCK;
        }
        self.write(ZEROS.get(..usize::try_from(left).unwrap_or(0)).unwrap_or_default())
    }

    /// Ends the file and says where its content is.
    pub(crate) fn finish(mut self) -> Result<FileData, ErofsError> {
        if self.inline {
            self.writer.inline_left = self.writer.inline_left.saturating_sub(self.size);
            return Ok(FileData::Inline(self.buffer.into_boxed_slice()));
        }
        let padding = (BLOCK - self.buffer.len() as u64 % BLOCK) % BLOCK;
        self.write(ZEROS.get(..usize::try_from(padding).unwrap_or(0)).unwrap_or_default())?;
        self.flush()?;
        let count = usize::try_from(blocks(self.size).div_ceil(self.chunk_blocks)).unwrap_or(usize::MAX);
        self.chunks.resize(count, None);
        if let (Some(Some(block)), true) = (self.chunks.first(), self.chunks.iter().all(Option::is_some)) {
            // Chunks are taken in the order of the file: without holes they are one run.
            return Ok(FileData::Flat { block: *block, size: self.size });
        }
        let chunks = self.chunks.into_boxed_slice();
        Ok(FileData::Chunked { size: self.size, chunk_blocks: self.chunk_blocks, chunks })
    }

    /// Writes the buffer, whole blocks only, leaving out the chunks that are all zeros.
    fn flush(&mut self) -> Result<(), ErofsError> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut run: Option<(u64, usize)> = None; // image block and start in the buffer of what is to be written
        for (index, block) in buffer.chunks(BLOCK as usize).enumerate() {
            let at = index * BLOCK as usize;
            let place = if block == ZEROS { None } else { Some(self.place(self.base + index as u64)?) };
            match (run, place) {
                (Some((first, start)), Some(place)) if first + ((at - start) as u64 / BLOCK) == place => {}
                _ => {
                    if let Some((first, start)) = run {
                        self.writer.write_at(first, buffer.get(start..at).unwrap_or_default())?;
                    }
                    run = place.map(|place| (place, at));
                }
            }
        }
        if let Some((first, start)) = run {
            self.writer.write_at(first, buffer.get(start..).unwrap_or_default())?;
        }
        self.base += (buffer.len() as u64) / BLOCK;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    /// The image block for a block of this file, taking its chunk if it is the first of it.
    fn place(&mut self, block: u64) -> Result<u64, ErofsError> {
        let index = block / self.chunk_blocks;
        let slot = usize::try_from(index).unwrap_or(usize::MAX);
        if self.chunks.len() <= slot {
            self.chunks.resize(slot + 1, None);
        }
        let known = self.chunks.get(slot).copied().flatten();
        let first = match known {
            Some(first) => u64::from(first),
            None => {
                let first = self.writer.allocate(chunk_len(self.size, self.chunk_blocks, index))?;
                if let Some(chunk) = self.chunks.get_mut(slot) {
                    *chunk = u32::try_from(first).ok();
                }
                first
            }
        };
        Ok(first + block % self.chunk_blocks)
    }
}
