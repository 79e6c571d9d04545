//! From the kernel file a distribution ships to the ELF program inside it.
//!
//! Linux's x86 boot protocol (Documentation/arch/x86/boot.rst): the setup header of a `bzImage` says where its
//! compressed payload lies. Pure but for the decoders; the importer's blocking thread. Invariant: no byte of
//! the file leads to a panic or to more than [`VMLINUX_MAX`] of memory.

use std::io;

use super::bounded::read_whole;
use super::compression::Compression;

/// Largest unpacked kernel: several times what distributions ship.
const VMLINUX_MAX: usize = 512 << 20;
/// Largest configuration inside a kernel, unpacked.
const CONFIG_MAX: usize = 4 << 20;
/// The longest release that Linux can have (`utsname`).
const RELEASE_MAX: usize = 64;

const SECTOR: u64 = 512;
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// Why a file is not a kernel that can boot here.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Neither a bzImage nor an ELF program.
    #[error("this is not an x86-64 Linux kernel: neither a bzImage nor an ELF vmlinux")]
    NotAKernel,
    /// The image of another processor.
    #[error("this is a kernel for {0}: give one for x86-64")]
    OtherProcessor(&'static str),
    /// The header contradicts the file.
    #[error("the bzImage is damaged: {0}; fetch it again")]
    Damaged(&'static str),
    /// The boot protocol knows no payload before 2.08.
    #[error("the bzImage speaks boot protocol {}.{:02}: 2.08 (Linux 2.6.26) is the oldest supported", .0 >> 8, .0 & 0xff)]
    TooOld(u16),
    /// A payload that nothing here reads.
    #[error(
        "the kernel inside the bzImage is packed in an unknown or unsupported way (known are gzip, xz, lzma, zstd, bzip2 and lz4)"
    )]
    Packing,
    /// The payload does not unpack.
    #[error("cannot unpack the kernel inside the bzImage: the file is damaged, fetch it again")]
    Unpack(#[source] io::Error),
    /// Too large unpacked.
    #[error("the unpacked kernel is larger than {} MiB: strip its debug information first", VMLINUX_MAX >> 20)]
    TooLarge,
    /// No version text inside.
    #[error("there is no Linux version in this ELF file: it is not a Linux kernel")]
    NoRelease,
}

/// The ELF program in `file`, which is a bzImage or already that program.
pub(super) fn vmlinux(file: Vec<u8>) -> Result<Vec<u8>, ImageError> {
    if file.starts_with(ELF_MAGIC) {
        return if file.len() > VMLINUX_MAX { Err(ImageError::TooLarge) } else { Ok(file) };
    }
    let payload = payload(&file)?;
    let format = Compression::of(payload).filter(|format| *format != Compression::Lzo);
    // The build appends the unpacked size; in gzip it is part of the format.
    let (packed, size) =
        payload.split_last_chunk::<4>().ok_or(ImageError::Damaged("its payload is empty"))?;
    let unpacked = match format {
        None if payload.starts_with(ELF_MAGIC) => return Ok(payload.to_vec()),
        None => return Err(ImageError::Packing),
        Some(Compression::Lz4) => Compression::Lz4.decode(packed),
        Some(format) => format.decode(payload),
    };
    let whole = unpacked.and_then(|reader| read_whole(reader, VMLINUX_MAX)).map_err(ImageError::Unpack)?;
    let whole = whole.ok_or(ImageError::TooLarge)?;
    if u32::try_from(whole.len()) != Ok(u32::from_le_bytes(*size)) {
        return Err(ImageError::Damaged("its payload unpacks to another size than it says"));
    }
    Ok(whole)
}

/// The compressed payload of a bzImage.
fn payload(file: &[u8]) -> Result<&[u8], ImageError> {
    if bytes::<4>(file, 0x38) == Some(*b"ARM\x64") {
        return Err(ImageError::OtherProcessor("arm64"));
    }
    if bytes::<2>(file, 0x1FE) != Some([0x55, 0xAA]) || bytes::<4>(file, 0x202) != Some(*b"HdrS") {
        return Err(ImageError::NotAKernel);
    }
    let header = ImageError::Damaged("its setup header is cut short");
    let (Some(version), Some(&sectors), Some(offset), Some(length)) =
        (bytes(file, 0x206), file.get(0x1F1), bytes(file, 0x248), bytes(file, 0x24C))
    else {
        return Err(header);
    };
    let version = u16::from_le_bytes(version);
    if version < 0x0208 {
        return Err(ImageError::TooOld(version));
    }
    // Zero stands for four: the header's oldest rule.
    let sectors = if sectors == 0 { 4 } else { u64::from(sectors) };
    let setup = sectors.saturating_add(1).saturating_mul(SECTOR);
    let start = setup.saturating_add(u32::from_le_bytes(offset).into());
    let end = start.saturating_add(u32::from_le_bytes(length).into());
    usize::try_from(start)
        .ok()
        .zip(usize::try_from(end).ok())
        .and_then(|(start, end)| file.get(start..end))
        .ok_or(ImageError::Damaged("its payload lies beyond its end"))
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..)?.first_chunk().copied()
}

/// The release a kernel gives itself, such as `6.1.0-40-cloud-amd64`, from the banner it prints at boot.
pub(super) fn release(vmlinux: &[u8]) -> Result<String, ImageError> {
    const BANNER: &[u8] = b"Linux version ";
    let mut rest = vmlinux;
    while let Some(at) = find(rest, BANNER) {
        rest = rest.get(at.saturating_add(BANNER.len())..).unwrap_or_default();
        let word: Vec<u8> =
            rest.iter().copied().take(RELEASE_MAX + 1).take_while(u8::is_ascii_graphic).collect();
        // The text also stands in the kernel as a format, without a number.
        if word.first().is_some_and(u8::is_ascii_digit)
            && word.len() <= RELEASE_MAX
            && let Ok(release) = String::from_utf8(word)
        {
            return Ok(release);
        }
    }
    Err(ImageError::NoRelease)
}

/// The configuration a kernel was built with, when it carries it (`CONFIG_IKCONFIG`).
pub(super) fn config(vmlinux: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"IKCFG_ST";
    let at = find(vmlinux, &[MARK, &[0x1F, 0x8B]].concat())?;
    let unpacked = Compression::Gzip.decode(vmlinux.get(at..)?.strip_prefix(MARK)?).ok()?;
    String::from_utf8(read_whole(unpacked, CONFIG_MAX).ok()??).ok()
}

/// Where `needle` first stands in `hay`.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let (first, _) = needle.split_first()?;
    let mut from = 0;
    loop {
        let rest = hay.get(from..)?;
        let at = rest.iter().position(|byte| byte == first)?.saturating_add(from);
        if hay.get(at..)?.starts_with(needle) {
            return Some(at);
        }
        from = at.saturating_add(1);
    }
}

#[cfg(test)]
mod tests;
