//! An ELF kernel's segments, read to the addresses it names (ELF-64 object file format).
//!
//! Invariant: a header is believed only as far as the file and guest memory reach.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use hull_virtio::device::Memory;

use crate::layout;
use crate::memory::{self, MemoryError};

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PROGRAM_HEADERS_MAX: u16 = 64;
const LOAD: u32 = 1;
const X86_64: u16 = 62;

/// Why a file is not a kernel that can be started.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The file could not be read.
    #[error("the kernel file cannot be read")]
    Read(#[from] io::Error),
    /// It is ELF, but not a kernel for this machine.
    #[error("the kernel is not a 64-bit x86 ELF file: give a vmlinux or bzImage for x86-64")]
    Foreign,
    /// Its headers contradict themselves.
    #[error("the kernel's ELF headers are damaged: {0}")]
    Damaged(&'static str),
    /// It does not fit.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Where a loaded kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its first instruction, for the 64-bit entry.
    pub entry: u64,
    /// The first address after it.
    pub end: u64,
}

/// One loadable segment.
#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

/// Whether a file starts as ELF files do.
pub fn is_elf(start: &[u8]) -> bool {
    start.starts_with(b"\x7fELF")
}

/// Loads an ELF kernel to the physical addresses it names.
///
/// # Errors
/// When it is not a kernel for this machine, is damaged, or does not fit.
pub fn load(memory: &Memory, file: &File) -> Result<Loaded, ElfError> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)?;
    if !is_elf(&header) || header.get(4..6) != Some(&[2, 1]) || u16_at(&header, 18) != X86_64 {
        return Err(ElfError::Foreign);
    }
    let (entry, table) = (u64_at(&header, 24), u64_at(&header, 32));
    let (size, count) = (u16_at(&header, 54), u16_at(&header, 56));
    if usize::from(size) != PROGRAM_HEADER || count == 0 || count > PROGRAM_HEADERS_MAX {
        return Err(ElfError::Damaged("no usable program headers"));
    }
    let mut raw = vec![0; PROGRAM_HEADER * usize::from(count)];
    file.read_exact_at(&mut raw, table)?;
    let length = file.metadata()?.len();
    let mut end = 0;
    for segment in raw.chunks_exact(PROGRAM_HEADER).filter(|raw| u32_at(raw, 0) == LOAD).map(segment) {
        end = end.max(place(memory, file, length, segment)?);
    }
    if entry < layout::HIGH_RAM_START || entry >= end {
        return Err(ElfError::Damaged("the entry point is outside the kernel"));
    }
    Ok(Loaded { entry, end })
}

fn place(memory: &Memory, file: &File, length: u64, segment: Segment) -> Result<u64, ElfError> {
    let Segment { offset, address, in_file, in_memory } = segment;
    if offset.checked_add(in_file).is_none_or(|end| end > length) {
        return Err(ElfError::Damaged("a segment reaches past the end of the file"));
    }
    if in_memory < in_file || address < layout::HIGH_RAM_START {
        return Err(ElfError::Damaged("a segment is out of place"));
    }
    let end = address.checked_add(in_memory).ok_or(ElfError::Damaged("a segment is out of place"))?;
    if end > layout::LOW_MEMORY_END {
        return Err(MemoryError::TooSmall("the kernel").into());
    }
    // What a segment has in memory beyond the file is zero; fresh guest memory is zero already.
    memory::place_file(memory, address, file, (offset, in_file), "the kernel")?;
    Ok(end)
}

fn segment(raw: &[u8]) -> Segment {
    Segment {
        offset: u64_at(raw, 8),
        address: u64_at(raw, 24),
        in_file: u64_at(raw, 32),
        in_memory: u64_at(raw, 40),
    }
}

fn bytes<const N: usize>(raw: &[u8], at: usize) -> [u8; N] {
    raw.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn u16_at(raw: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(raw, at))
}

fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(raw, at))
}

fn u64_at(raw: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(raw, at))
}

#[cfg(test)]
mod tests;
