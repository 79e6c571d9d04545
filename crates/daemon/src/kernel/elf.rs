//! A kernel's ELF file laid out so that it can be mapped where it is loaded.
//!
//! ELF-64 program headers and the PVH note's place (System V gABI chapter 5; Xen's x86 PVH ABI). Owner: the
//! importer, on its blocking thread. Invariant: in a written file each loadable segment's offset is congruent
//! to its physical address, modulo a page at least, so that a VMM maps it from the page cache and copies nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use object::LittleEndian as LE;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};

const PAGE: u64 = 4096;
/// Larger alignments only spread the file.
const HUGE_PAGE: u64 = 2 << 20;
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
/// Kernels have four or five; more is not a kernel.
const SEGMENTS_MAX: usize = 16;
/// A kernel's notes are some hundred bytes.
const NOTES_MAX: u64 = 64 << 10;
/// Where a kernel may lie in guest-physical memory: below the devices' hole under 4 GiB.
const ADDRESS_MAX: u64 = 3 << 30;

/// Why an ELF file is not a kernel that can be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The headers cannot be read.
    #[error("the kernel's ELF headers are damaged; fetch it again")]
    Headers(#[source] object::Error),
    /// Of another kind.
    #[error("the kernel is not an x86-64 ELF program: give an x86-64 kernel")]
    OtherProcessor,
    /// Segments that contradict the file or one another.
    #[error("the kernel's ELF segments are not those of a Linux kernel: {0}")]
    Segments(&'static str),
}

/// A segment as it stands in the original, and where its bytes go.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    flags: u32,
    from: u64,
    to: u64,
    virtual_address: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

/// A kernel's loadable segments and notes, ready to be written.
pub(super) struct Program<'a> {
    bytes: &'a [u8],
    entry: u64,
    kind: u16,
    segments: Vec<Segment>,
    length: u64,
}

impl<'a> Program<'a> {
    /// Reads and checks the ELF file in `bytes` and plans its layout.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ElfError> {
        let header = elf::FileHeader64::<LE>::parse(bytes).map_err(ElfError::Headers)?;
        let endian = header.endian().map_err(ElfError::Headers)?;
        let kind = header.e_type(endian);
        if header.e_machine(endian) != elf::EM_X86_64 || ![elf::ET_EXEC, elf::ET_DYN].contains(&kind) {
            return Err(ElfError::OtherProcessor);
        }
        let headers = header.program_headers(endian, bytes).map_err(ElfError::Headers)?;
        let mut segments = Vec::new();
        for header in headers.iter().take(SEGMENTS_MAX * 4) {
            let kind = header.p_type(endian);
            if kind == elf::PT_LOAD || kind == elf::PT_NOTE {
                segments.push(Segment::read(header, bytes)?);
            }
        }
        let entry = header.e_entry(endian);
        let mut program = Self { bytes, entry, kind: kind.0, segments, length: 0 };
        program.lay_out()?;
        Ok(program)
    }

    /// Gives each segment its place in the new file: loadable ones one after another, notes where the
    /// loadable segment that holds them went, or behind everything.
    fn lay_out(&mut self) -> Result<(), ElfError> {
        let count = self.segments.len();
        let loads = self.segments.iter().filter(|segment| segment.is_load()).count();
        if loads == 0 || count > SEGMENTS_MAX {
            return Err(ElfError::Segments("their number is impossible"));
        }
        let mut placed: Vec<Segment> = Vec::with_capacity(loads);
        let mut end = HEADER.saturating_add(PROGRAM_HEADER.saturating_mul(count as u64));
        for segment in self.segments.iter_mut().filter(|segment| segment.is_load()) {
            if placed.iter().any(|other| other.overlaps(segment)) {
                return Err(ElfError::Segments("they overlap"));
            }
            segment.to = congruent(end, segment.address, segment.align);
            end = segment.to.saturating_add(segment.file_size);
            placed.push(*segment);
        }
        for note in self.segments.iter_mut().filter(|segment| !segment.is_load()) {
            let home = placed.iter().find(|load| load.holds(note));
            note.to = home.map_or_else(
                || end.next_multiple_of(note.align),
                |load| load.to.saturating_add(note.from.saturating_sub(load.from)),
            );
            end = end.max(note.to.saturating_add(note.file_size));
        }
        self.length = end;
        Ok(())
    }

    /// The written file's length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.length.next_multiple_of(PAGE)
    }

    /// Writes the program into an empty file. What lies between segments, and each page of zeros in them, stays
    /// a hole: a third of a kernel is zeros, which nobody then reads at each start.
    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        file.set_len(self.len())?;
        file.write_all_at(&self.headers(), 0)?;
        for segment in &self.segments {
            let range = usize::try_from(segment.from).ok().zip(usize::try_from(segment.file_size).ok());
            let bytes =
                range.and_then(|(from, size)| self.bytes.get(from..)?.get(..size)).unwrap_or_default();
            let (start, rest) =
                bytes.split_at((segment.to.wrapping_neg() % PAGE).min(bytes.len() as u64) as usize);
            file.write_all_at(start, segment.to)?;
            for (at, page) in
                (segment.to.next_multiple_of(PAGE)..).step_by(PAGE as usize).zip(rest.chunks(PAGE as usize))
            {
                if page.iter().any(|byte| *byte != 0) {
                    file.write_all_at(page, at)?;
                }
            }
        }
        Ok(())
    }

    fn headers(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(elf::EM_X86_64.0.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        for word in [self.entry, HEADER, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(0_u32.to_le_bytes());
        let count = u16::try_from(self.segments.len()).unwrap_or(u16::MAX);
        for half in [HEADER as u16, PROGRAM_HEADER as u16, count, 64, 0, 0] {
            bytes.extend(half.to_le_bytes());
        }
        for segment in &self.segments {
            bytes.extend(segment.kind.to_le_bytes());
            bytes.extend(segment.flags.to_le_bytes());
            for word in [
                segment.to,
                segment.virtual_address,
                segment.address,
                segment.file_size,
                segment.memory_size,
                segment.align,
            ] {
                bytes.extend(word.to_le_bytes());
            }
        }
        bytes
    }
}

impl Segment {
    fn read(header: &elf::ProgramHeader64<LE>, bytes: &[u8]) -> Result<Self, ElfError> {
        let endian = LE;
        let kind = header.p_type(endian);
        let load = kind == elf::PT_LOAD;
        let align = header.p_align(endian);
        let (low, high) = if load { (PAGE, HUGE_PAGE) } else { (4, 8) };
        let segment = Self {
            kind: kind.0,
            flags: header.p_flags(endian).0,
            from: header.p_offset(endian),
            to: 0,
            virtual_address: header.p_vaddr(endian),
            address: header.p_paddr(endian),
            file_size: header.p_filesz(endian),
            memory_size: header.p_memsz(endian),
            align: if align.is_power_of_two() { align.clamp(low, high) } else { low },
        };
        let length = bytes.len() as u64;
        if segment.from.checked_add(segment.file_size).is_none_or(|end| end > length) {
            return Err(ElfError::Segments("one lies beyond the end of the file"));
        }
        if !load && segment.file_size > NOTES_MAX {
            return Err(ElfError::Segments("its notes are too large"));
        }
        let end = segment.address.checked_add(segment.memory_size);
        if load && (end.is_none_or(|end| end > ADDRESS_MAX) || segment.file_size > segment.memory_size) {
            return Err(ElfError::Segments("one has an impossible address or size"));
        }
        Ok(segment)
    }

    fn is_load(&self) -> bool {
        self.kind == elf::PT_LOAD.0
    }

    /// Whether the two share memory, or bytes of the file.
    fn overlaps(&self, other: &Self) -> bool {
        let cross = |a: u64, a_size: u64, b: u64, b_size: u64| {
            a_size > 0 && b_size > 0 && a < b.saturating_add(b_size) && b < a.saturating_add(a_size)
        };
        cross(self.address, self.memory_size, other.address, other.memory_size)
            || cross(self.from, self.file_size, other.from, other.file_size)
    }

    fn holds(&self, note: &Self) -> bool {
        note.from >= self.from
            && note.from.saturating_add(note.file_size) <= self.from.saturating_add(self.file_size)
    }
}

/// The first offset from `end` on that equals `address` modulo `align`, a power of two.
fn congruent(end: u64, address: u64, align: u64) -> u64 {
    let mask = align.wrapping_sub(1);
    end.saturating_add(address.wrapping_sub(end) & mask)
}

#[cfg(test)]
mod tests;
