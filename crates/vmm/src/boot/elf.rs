//! An ELF kernel's segments, read to the addresses it names, and where it can be entered (ELF object file format;
//! for 32-bit files too, which have the PVH entry only).
//!
//! Invariant: a header is believed only as far as the file and guest memory reach.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use hull_virtio::device::Memory;

use crate::layout;
use crate::memory::{self, MemoryError};

mod notes;

const HEADER: usize = 64;
const PROGRAM_HEADERS_MAX: u16 = 64;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
const I386: u16 = 3;
const X86_64: u16 = 62;
/// The most notes that are searched, in bytes.
const NOTES_MAX: u64 = 64 << 10;

/// Why a file is not a kernel that can be started.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The file could not be read.
    #[error("the kernel file cannot be read")]
    Read(#[from] io::Error),
    /// It is ELF, but not a kernel for this machine.
    #[error("the kernel is not an x86 ELF file: give a vmlinux or bzImage for x86-64")]
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
    /// Its first instruction in long mode, if it has such an entry.
    pub linux64: Option<u64>,
    /// Its first instruction in 32-bit mode without paging, if it has the PVH note.
    pub pvh: Option<u32>,
    /// The first address after it.
    pub end: u64,
}

/// Where a class of files has its fields: 32-bit or 64-bit.
struct Class {
    wide: bool,
    program_header: usize,
}

impl Class {
    fn of(header: &[u8]) -> Result<Self, ElfError> {
        let machine = u16_at(header, 18);
        match header.get(4..6) {
            Some([2, 1]) if machine == X86_64 => Ok(Self { wide: true, program_header: 56 }),
            Some([1, 1]) if machine == I386 || machine == X86_64 => {
                Ok(Self { wide: false, program_header: 32 })
            }
            _ => Err(ElfError::Foreign),
        }
    }

    /// A field as wide as the class, by its place in either.
    fn word(&self, raw: &[u8], narrow: usize, wide: usize) -> u64 {
        if self.wide { u64_at(raw, wide) } else { u64::from(u32_at(raw, narrow)) }
    }

    fn half(&self, raw: &[u8], narrow: usize, wide: usize) -> u16 {
        u16_at(raw, if self.wide { wide } else { narrow })
    }

    fn segment(&self, raw: &[u8]) -> Segment {
        Segment {
            kind: u32_at(raw, 0),
            offset: self.word(raw, 4, 8),
            address: self.word(raw, 12, 24),
            in_file: self.word(raw, 16, 32),
            in_memory: self.word(raw, 20, 40),
            align: self.word(raw, 28, 48),
        }
    }
}

/// One segment.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
    align: u64,
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
    if !is_elf(&header) {
        return Err(ElfError::Foreign);
    }
    let class = Class::of(&header)?;
    let length = file.metadata()?.len();
    let (mut end, mut pvh) = (0, None);
    for segment in segments(file, &header, &class)? {
        match segment.kind {
            LOAD => end = end.max(place(memory, file, length, segment)?),
            NOTE => pvh = pvh.or(pvh_entry(file, segment)?),
            _ => {}
        }
    }
    let inside = |entry: u64| (layout::HIGH_RAM_START..end).contains(&entry);
    let pvh = pvh.filter(|entry| inside(u64::from(*entry)));
    let entry = class.word(&header, 24, 24);
    // A file whose one entry is PVH's may name it in its header too: that is no entry for long mode.
    let linux64 =
        Some(entry).filter(|entry| class.wide && inside(*entry) && pvh.map(u64::from) != Some(*entry));
    if linux64.is_none() && pvh.is_none() {
        return Err(ElfError::Damaged("the entry point is outside the kernel"));
    }
    Ok(Loaded { linux64, pvh, end })
}

fn segments(file: &File, header: &[u8], class: &Class) -> Result<Vec<Segment>, ElfError> {
    let table = class.word(header, 28, 32);
    let (size, count) = (class.half(header, 42, 54), class.half(header, 44, 56));
    if usize::from(size) != class.program_header || count == 0 || count > PROGRAM_HEADERS_MAX {
        return Err(ElfError::Damaged("no usable program headers"));
    }
    let mut raw = vec![0; class.program_header * usize::from(count)];
    file.read_exact_at(&mut raw, table)?;
    Ok(raw.chunks_exact(class.program_header).map(|raw| class.segment(raw)).collect())
}

fn place(memory: &Memory, file: &File, length: u64, segment: Segment) -> Result<u64, ElfError> {
    let Segment { offset, address, in_file, in_memory, .. } = segment;
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

/// The PVH entry that a segment of notes names.
fn pvh_entry(file: &File, segment: Segment) -> Result<Option<u32>, ElfError> {
    let mut raw = vec![0; usize::try_from(segment.in_file.min(NOTES_MAX)).unwrap_or(0)];
    file.read_exact_at(&mut raw, segment.offset)?;
    Ok(notes::pvh_entry(&raw, if segment.align == 8 { 8 } else { 4 }))
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
