//! The compressed streams that kernels, modules and packages come in, told apart by their first bytes.
//!
//! gzip (RFC 1952), xz and its predecessor lzma, Zstandard (RFC 8878), bzip2, and the legacy LZ4 frame that
//! Linux uses for its own image. Owner: the importer, on its blocking thread. Invariant: a decoder holds no
//! more memory than its window, whatever the bytes say.

use std::io::{self, BufReader, Cursor, Read};

use super::bounded::read_up_to;

/// Largest dictionary accepted: kernels are packed with up to 128 MiB.
const XZ_MEMORY: u64 = 256 << 20;
/// A block of a legacy LZ4 frame unpacks to at most this much.
const LZ4_BLOCK: usize = 8 << 20;
/// An incompressible block grows by one byte in 255, and a few.
const LZ4_PACKED: usize = LZ4_BLOCK + LZ4_BLOCK / 255 + 16;
const LZ4_MAGIC: [u8; 4] = 0x184C_2102_u32.to_le_bytes();
const MAGIC_LEN: usize = 6;

/// A format of compressed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Xz,
    Lzma,
    Zstd,
    Bzip2,
    /// The legacy frame: neither checksums nor an end mark.
    Lz4,
    /// Recognized to be named in the error; nothing here reads it.
    Lzo,
}

impl Compression {
    /// What starts with these bytes, or nothing known.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        const MAGICS: [(&[u8], Compression); 7] = [
            (&[0x1F, 0x8B], Compression::Gzip),
            (&[0xFD, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
            (&[0x5D, 0, 0], Compression::Lzma),
            (&[0x28, 0xB5, 0x2F, 0xFD], Compression::Zstd),
            (b"BZh", Compression::Bzip2),
            (&LZ4_MAGIC, Compression::Lz4),
            (&[0x89, b'L', b'Z', b'O'], Compression::Lzo),
        ];
        MAGICS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, format)| *format)
    }

    /// The bytes behind `input`, whose first bytes said that it is of this format.
    pub(super) fn decode<'a>(self, input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::GzDecoder::new(input)),
            Self::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0).map_err(invalid)?;
                Box::new(liblzma::read::XzDecoder::new_stream(input, stream))
            }
            Self::Lzma => {
                let stream = liblzma::stream::Stream::new_lzma_decoder(XZ_MEMORY).map_err(invalid)?;
                Box::new(liblzma::read::XzDecoder::new_stream(input, stream))
            }
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(input)?.single_frame()),
            Self::Bzip2 => Box::new(bzip2::read::BzDecoder::new(input)),
            Self::Lz4 => Box::new(LegacyLz4::new(input)),
            Self::Lzo => return Err(io::Error::new(io::ErrorKind::Unsupported, "LZO is not supported")),
        })
    }
}

/// `input` as it is when it is not compressed, else what it unpacks to.
pub(super) fn unpacked<'a>(mut input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let head = read_up_to(&mut input, MAGIC_LEN)?;
    let format = Compression::of(&head);
    let whole = Cursor::new(head).chain(input);
    match format {
        Some(format) => format.decode(whole),
        None => Ok(Box::new(BufReader::new(whole))),
    }
}

/// Reads a legacy LZ4 frame: the magic number, then blocks, each after its packed length, until the input
/// ends. Frames may follow one another, each with its magic number.
struct LegacyLz4<R> {
    input: R,
    block: Vec<u8>,
    position: usize,
}

impl<R: Read> LegacyLz4<R> {
    fn new(input: R) -> Self {
        Self { input, block: Vec::new(), position: 0 }
    }

    /// Unpacks the next block; false at the end of the input.
    fn advance(&mut self) -> io::Result<bool> {
        let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
        let length = loop {
            let field = read_up_to(&mut self.input, 4)?;
            match <[u8; 4]>::try_from(field.as_slice()) {
                Ok(LZ4_MAGIC) => {}
                Ok(field) => break usize::try_from(u32::from_le_bytes(field)).unwrap_or(usize::MAX),
                Err(_) if field.is_empty() => return Ok(false),
                Err(_) => return Err(invalid("an LZ4 block's length is cut short")),
            }
        };
        if length > LZ4_PACKED {
            return Err(invalid("an LZ4 block is longer than the format allows"));
        }
        let packed = read_up_to(&mut self.input, length)?;
        if packed.len() < length {
            return Err(invalid("an LZ4 block is cut short"));
        }
        self.block.resize(LZ4_BLOCK, 0);
        let unpacked = lz4_flex::block::decompress_into(&packed, &mut self.block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.block.truncate(unpacked);
        self.position = 0;
        Ok(true)
    }
}

impl<R: Read> Read for LegacyLz4<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position >= self.block.len() {
            if !self.advance()? {
                return Ok(0);
            }
        }
        let mut rest = self.block.get(self.position..).unwrap_or_default();
        let count = rest.read(buffer)?;
        self.position = self.position.saturating_add(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
