//! The entries of a tar stream, tar(5): ustar blocks, GNU long names, POSIX extended headers.
//!
//! Invariants: a name has at most [`PATH_MAX`] bytes and an extended header [`EXTENDED_MAX`], refused before they are
//! read; an entry's content is read through a reader that ends with it, and what is left of it is skipped.

use std::io::{self, Read};

use tar::Header;

use crate::{ArchiveError, PATH_MAX};

/// The size of a header, and what content is filled up to.
const BLOCK: usize = 512;
/// The longest extended header, in bytes.
const EXTENDED_MAX: u64 = 1 << 20;
/// The most headers in a row that only describe the next one.
const DESCRIBING_MAX: usize = 16;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to [`Entry::target`].
    Symlink,
    /// Another name of the entry [`Entry::target`].
    HardLink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path, as it is written.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Bytes of content.
    pub size: u64,
    /// The last change, in seconds since the Unix epoch.
    pub mtime: i64,
    /// Where a link leads.
    pub target: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

/// What describing headers say of the entry after them.
#[derive(Default)]
struct Described {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<i64>,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// Reads entries one after the other.
pub struct Entries<R> {
    source: R,
    /// Bytes of the current entry's content that nobody has read, and what fills its last block up.
    left: u64,
    fill: u64,
}

fn format_error(why: impl Into<String>) -> ArchiveError {
    ArchiveError::Format(why.into())
}

impl<R: Read> Entries<R> {
    /// The entries of a stream.
    pub fn new(source: R) -> Self {
        Self { source, left: 0, fill: 0 }
    }

    /// The next entry, after what is left of the last one. None at the end of the archive.
    ///
    /// # Errors
    /// When the stream breaks off or is no tar stream.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut described = Described::default();
        for _ in 0..DESCRIBING_MAX {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size().map_err(|error| format_error(error.to_string()))?;
            match header.as_bytes().get(156).copied().unwrap_or(0) {
                b'L' => described.path = Some(self.long_name(size)?),
                b'K' => described.target = Some(self.long_name(size)?),
                b'x' => self.extended(size, &mut described)?,
                // Says things of all that follow, none of which matter here.
                b'g' => self.content_is(size),
                kind => return self.entry(&header, kind, described).map(Some),
            }
        }
        Err(format_error("too many headers describe one entry"))
    }

    /// The content of the current entry.
    pub fn content(&mut self) -> impl Read + '_ {
        Content(self)
    }

    /// What follows the archive's end is read and dropped.
    ///
    /// # Errors
    /// When the stream breaks off.
    pub fn finish(&mut self) -> Result<(), ArchiveError> {
        io::copy(&mut self.source, &mut io::sink()).map(drop).map_err(ArchiveError::Stream)
    }

    fn content_is(&mut self, size: u64) {
        self.left = size;
        self.fill = (BLOCK as u64).wrapping_sub(size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip(&mut self) -> Result<(), ArchiveError> {
        let rest = self.left.checked_add(self.fill).ok_or_else(|| format_error("an entry is too large"))?;
        (self.left, self.fill) = (0, 0);
        let skipped = io::copy(&mut (&mut self.source).take(rest), &mut io::sink());
        match skipped.map_err(ArchiveError::Stream)? {
            all if all == rest => Ok(()),
            _ => Err(broken_off()),
        }
    }

    /// The next block; None at the end, which is a block of zeros or the end of the stream.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.source.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(broken_off()),
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Stream(error)),
            }
        }
        if block == [0; BLOCK] {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum = block.iter().enumerate().map(|(at, byte)| match at {
            148..156 => u32::from(b' '),
            _ => u32::from(*byte),
        });
        if header.cksum().ok() != Some(sum.sum()) {
            return Err(format_error("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut name = self.small(size, PATH_MAX as u64 + 1, "a name")?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn small(&mut self, size: u64, limit: u64, what: &str) -> Result<Vec<u8>, ArchiveError> {
        if size > limit {
            return Err(format_error(format!("{what} of {size} bytes is over the limit of {limit}")));
        }
        self.content_is(size);
        let mut bytes = Vec::new();
        self.content().read_to_end(&mut bytes).map_err(ArchiveError::Stream)?;
        Ok(bytes)
    }

    fn extended(&mut self, size: u64, described: &mut Described) -> Result<(), ArchiveError> {
        let bytes = self.small(size, EXTENDED_MAX, "an extended header")?;
        for record in tar::PaxExtensions::new(&bytes) {
            let record = record.map_err(|error| format_error(error.to_string()))?;
            let (key, value) = (record.key_bytes(), record.value_bytes());
            let text = || std::str::from_utf8(value).unwrap_or_default();
            match key {
                b"path" => described.path = Some(value.to_vec()),
                b"linkpath" => described.target = Some(value.to_vec()),
                b"size" => described.size = Some(text().parse().map_err(|_| format_error("a bad size"))?),
                b"mtime" => described.mtime = text().split('.').next().and_then(|text| text.parse().ok()),
                b"uid" => described.uid = text().parse().ok(),
                b"gid" => described.gid = text().parse().ok(),
                key if key.starts_with(b"GNU.sparse.") => return Err(sparse()),
                _ => {}
            }
        }
        Ok(())
    }

    fn entry(&mut self, header: &Header, kind: u8, described: Described) -> Result<Entry, ArchiveError> {
        let path = described.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match kind {
            b'0' | b'7' | 0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | b'7' | 0 => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharacterDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(sparse()),
            other => return Err(format_error(format!("an entry of the unknown kind {other}"))),
        };
        let target = described
            .target
            .unwrap_or_else(|| header.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default());
        if path.len() > PATH_MAX || target.len() > PATH_MAX {
            return Err(format_error(format!("a name is longer than {PATH_MAX} bytes")));
        }
        let bad = |error: io::Error| format_error(error.to_string());
        let id = |id: u64| u32::try_from(id).unwrap_or(0);
        let size = match described.size {
            Some(size) => size,
            None => header.entry_size().map_err(bad)?,
        };
        // Links have no content, whatever the size says (tar(5) has archives where it is that of the file).
        let size = if matches!(kind, Kind::File) { size } else { 0 };
        self.content_is(size);
        let number = |number: io::Result<Option<u32>>| number.ok().flatten().unwrap_or(0);
        Ok(Entry {
            path,
            kind,
            mode: header.mode().map_err(bad)? & 0o7777,
            uid: described.uid.unwrap_or(id(header.uid().map_err(bad)?)),
            gid: described.gid.unwrap_or(id(header.gid().map_err(bad)?)),
            size,
            mtime: described.mtime.unwrap_or(header.mtime().map_err(bad)?.cast_signed()),
            target,
            device: (number(header.device_major()), number(header.device_minor())),
        })
    }
}

fn broken_off() -> ArchiveError {
    ArchiveError::Stream(io::ErrorKind::UnexpectedEof.into())
}

fn sparse() -> ArchiveError {
    format_error("sparse files are not supported: write the archive without --sparse")
}

struct Content<'a, R>(&'a mut Entries<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.0.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let length = self.0.source.read(buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.left = self.0.left.saturating_sub(length as u64);
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
