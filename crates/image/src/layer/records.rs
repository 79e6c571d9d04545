//! The entries of a tar stream, one at a time, with their extensions applied (POSIX.1-2017 ustar and pax; GNU tar).
//!
//! Owned by the thread that reads the layer. It walks the headers itself instead of through `tar::Archive`, which
//! reads long names and extended headers into memory without a bound and cannot be stopped before old GNU sparse
//! maps. Invariant: at most [`MAX_EXTENSION`] bytes of extensions and one sparse map are held at a time.

use std::io::{self, Read};
use std::ops::Range;

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::LayerError;
use super::pax::{Pax, decimal};
use super::sparse::{MAX_SEGMENTS, Segment, SparseMap, push_gnu};

/// Most bytes of one long name or extended header.
const MAX_EXTENSION: u64 = 1 << 20;

/// Bytes of file data handed out at a time.
const PIECE: usize = 128 << 10;

const BLOCK: u64 = 512;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// A regular file of this logical size.
    File(u64),
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// Another name for the file at this path.
    HardLink(Vec<u8>),
    /// A character device.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// Ownership, mode, time and extended attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
    pub(crate) mtime_nsec: u32,
    /// Full names and values, sorted by name.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// One entry.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The path as written.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: RecordKind,
    pub(crate) meta: Meta,
}

/// A part of a file's content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Bytes that are there.
    Data(&'a [u8]),
    /// So many zeros.
    Hole(u64),
}

/// Reads entries; a file's pieces are read before the next entry, or skipped.
pub(crate) struct Records<R> {
    inner: R,
    /// Bytes read so far.
    at: u64,
    /// Stored bytes of the current entry that are still ahead, and the padding after them.
    remaining: u64,
    padding: u64,
    /// What is still to be handed out of the current entry: runs in reverse order, the position, the logical size.
    segments: Vec<Segment>,
    position: u64,
    size: u64,
    buffer: Vec<u8>,
    globals: Pax,
    ended: bool,
    complete: bool,
}

impl<R: Read> Records<R> {
    /// Begins at the first header of `inner`.
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            at: 0,
            remaining: 0,
            padding: 0,
            segments: Vec::new(),
            position: 0,
            size: 0,
            buffer: vec![0; PIECE],
            globals: Pax::default(),
            ended: false,
            complete: false,
        }
    }

    /// Whether the archive's end was marked, as opposed to its bytes just ending between two entries.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Gives the stream back, for what may follow the archive.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry, or `None` at the end.
    pub(crate) fn next_record(&mut self) -> Result<Option<Record>, LayerError> {
        let mut pax = self.globals.clone();
        let (mut long_name, mut long_link) = (None, None);
        let mut extended = false;
        loop {
            self.skip_rest()?;
            let Some(header) = self.next_header()? else {
                if extended {
                    return Err(self.malformed("an extension without the entry it belongs to"));
                }
                return Ok(None);
            };
            let size = size(&header).ok_or_else(|| self.malformed("a bad size"))?;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.long_text(size)?),
                EntryType::GNULongLink => long_link = Some(self.long_text(size)?),
                EntryType::XHeader => {
                    let data = self.extension(size)?;
                    pax.apply(&data, self.at)?;
                }
                EntryType::XGlobalHeader => {
                    let data = self.extension(size)?;
                    self.globals.apply(&data, self.at)?;
                    pax = self.globals.clone();
                    continue;
                }
                kind if kind.as_byte() == b'V' => self.begin(size),
                _ => {
                    pax.path = pax.path.or(long_name);
                    pax.link = pax.link.or(long_link);
                    return self.entry(&header, pax).map(Some);
                }
            }
            extended = true;
        }
    }

    /// The next part of the current file's content, or `None` after the last.
    pub(crate) fn next_piece(&mut self) -> Result<Option<Piece<'_>>, LayerError> {
        loop {
            let Some(segment) = self.segments.last_mut() else {
                let hole = self.size.saturating_sub(self.position);
                self.position = self.size;
                return Ok((hole > 0).then_some(Piece::Hole(hole)));
            };
            if segment.offset > self.position {
                let hole = segment.offset - self.position;
                self.position = segment.offset;
                return Ok(Some(Piece::Hole(hole)));
            }
            if segment.length == 0 {
                self.segments.pop();
                continue;
            }
            let wanted = usize::try_from(segment.length).unwrap_or(PIECE).min(PIECE);
            segment.length -= wanted as u64;
            segment.offset += wanted as u64;
            self.position = segment.offset;
            self.remaining = self.remaining.saturating_sub(wanted as u64);
            self.at = self.at.saturating_add(wanted as u64);
            let buffer = self.buffer.get_mut(..wanted).unwrap_or_default();
            self.inner.read_exact(buffer)?;
            return Ok(Some(Piece::Data(buffer)));
        }
    }

    fn malformed(&self, what: &str) -> LayerError {
        LayerError::Malformed { what: what.to_owned(), at: self.at }
    }

    fn begin(&mut self, stored: u64) {
        self.remaining = stored;
        self.padding = (BLOCK - stored % BLOCK) % BLOCK;
        self.segments.clear();
        self.position = 0;
        self.size = 0;
    }

    fn read_block(&mut self) -> Result<Option<[u8; 512]>, LayerError> {
        let mut block = [0; 512];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.inner.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.malformed("a header that is cut short")),
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.at = self.at.saturating_add(BLOCK);
        Ok(Some(block))
    }

    fn skip_rest(&mut self) -> Result<(), LayerError> {
        let mut left = self.remaining.saturating_add(self.padding);
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            self.inner.read_exact(self.buffer.get_mut(..wanted).unwrap_or_default())?;
            left -= wanted as u64;
            self.at = self.at.saturating_add(wanted as u64);
        }
        self.begin(0);
        Ok(())
    }

    fn next_header(&mut self) -> Result<Option<Header>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        let Some(block) = self.read_block()? else {
            self.ended = true;
            return Ok(None);
        };
        if block.iter().all(|byte| *byte == 0) {
            self.ended = true;
            self.complete = true;
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        match header.cksum() {
            Ok(stated) if stated == sum => Ok(Some(header)),
            _ => Err(self.malformed("a header with a wrong checksum")),
        }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > MAX_EXTENSION {
            return Err(self.malformed("an extended header or name of more than 1 MiB"));
        }
        let mut data = vec![0; usize::try_from(size).unwrap_or_default()];
        self.inner.read_exact(&mut data)?;
        self.at = self.at.saturating_add(size);
        self.begin(size);
        self.remaining = 0;
        Ok(data)
    }

    fn long_text(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        let mut text = self.extension(size)?;
        if let Some(end) = text.iter().position(|byte| *byte == 0) {
            text.truncate(end);
        }
        if text.is_empty() {
            return Err(self.malformed("an empty long name"));
        }
        Ok(text)
    }

    fn entry(&mut self, header: &Header, pax: Pax) -> Result<Record, LayerError> {
        let path = pax.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
        let stored = match pax.size {
            Some(size) => size,
            None => size(header).ok_or_else(|| self.malformed("a bad size"))?,
        };
        let meta = meta(header, &pax, &path)?;
        let link = || -> Result<Vec<u8>, LayerError> {
            let link = pax.link.clone().or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
            link.filter(|link| !link.is_empty())
                .ok_or_else(|| LayerError::entry(&path, "a link without a target"))
        };
        let kind = match header.entry_type() {
            EntryType::Directory => RecordKind::Directory,
            EntryType::Symlink => RecordKind::Symlink(link()?),
            EntryType::Link => RecordKind::HardLink(link()?),
            EntryType::Char => {
                device(header, &path).map(|(major, minor)| RecordKind::CharDevice(major, minor))?
            }
            EntryType::Block => {
                device(header, &path).map(|(major, minor)| RecordKind::BlockDevice(major, minor))?
            }
            EntryType::Fifo => RecordKind::Fifo,
            EntryType::GNUSparse => {
                return self.gnu_sparse(header, Record { path, kind: RecordKind::Fifo, meta }, stored);
            }
            EntryType::Regular | EntryType::Continuous => {
                if header.as_ustar().is_none() && header.as_gnu().is_none() && path.ends_with(b"/") {
                    RecordKind::Directory // how archives before POSIX write them
                } else {
                    return self.regular(pax, Record { path, kind: RecordKind::Fifo, meta }, stored);
                }
            }
            other => {
                let why = format!(
                    "unknown entry type {:?}: this kind of archive is not supported",
                    char::from(other.as_byte())
                );
                return Err(LayerError::entry(&path, why));
            }
        };
        // Links, directories, devices and pipes have no data, whatever size some writers put in their headers.
        self.begin(0);
        Ok(Record { path, kind, meta })
    }

    fn regular(&mut self, pax: Pax, mut record: Record, stored: u64) -> Result<Record, LayerError> {
        self.begin(stored);
        let sparse = pax.sparse;
        if sparse.unsupported {
            return Err(LayerError::entry(
                &record.path,
                "sparse format 0.0 is not supported: pack it again with --sparse-version=1.0",
            ));
        }
        if let Some(name) = sparse.name {
            record.path = name;
        }
        let segments = match (sparse.major, sparse.minor, sparse.map) {
            (Some(1), Some(0), _) => self.sparse_map(&record.path)?,
            (None | Some(0), _, Some(map)) => map,
            (None, None, None) => {
                self.size = stored;
                self.segments = vec![Segment { offset: 0, length: stored }];
                record.kind = RecordKind::File(stored);
                return Ok(record);
            }
            _ => {
                return Err(LayerError::entry(
                    &record.path,
                    "unknown sparse format: pack it with --sparse-version=1.0",
                ));
            }
        };
        let size = sparse
            .real_size
            .ok_or_else(|| LayerError::entry(&record.path, "sparse file without its size"))?;
        self.sparse(record, segments, size)
    }

    fn sparse(
        &mut self,
        mut record: Record,
        segments: Vec<Segment>,
        size: u64,
    ) -> Result<Record, LayerError> {
        let map = SparseMap::new(segments, size, self.remaining)
            .map_err(|why| LayerError::entry(&record.path, why))?;
        self.segments = map.into_segments();
        self.segments.reverse();
        self.size = size;
        record.kind = RecordKind::File(size);
        Ok(record)
    }

    fn gnu_sparse(&mut self, header: &Header, record: Record, stored: u64) -> Result<Record, LayerError> {
        let broken = || LayerError::entry(&record.path, "broken or oversized sparse map");
        let gnu = header.as_gnu().ok_or_else(broken)?;
        let size = gnu.real_size().map_err(|_| broken())?;
        let mut segments = Vec::new();
        let mut more = gnu.is_extended();
        if !push_gnu(&mut segments, &gnu.sparse) {
            return Err(broken());
        }
        let mut blocks = 0_usize;
        while more {
            blocks += 1;
            let block = self.read_block()?.filter(|_| blocks <= MAX_SEGMENTS / 21).ok_or_else(broken)?;
            let mut extension = GnuExtSparseHeader::new();
            extension.as_mut_bytes().copy_from_slice(&block);
            if !push_gnu(&mut segments, extension.sparse()) {
                return Err(broken());
            }
            more = extension.is_extended();
        }
        self.begin(stored);
        self.sparse(record, segments, size)
    }

    /// Format 1.0: the map is text before the data, a number to a line, padded to a block.
    fn sparse_map(&mut self, path: &[u8]) -> Result<Vec<Segment>, LayerError> {
        let broken = || LayerError::entry(path, "broken or oversized sparse map");
        let mut line = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = 1_usize;
        while numbers.len() < wanted {
            if self.remaining < BLOCK {
                return Err(broken());
            }
            let block = self.read_block()?.ok_or_else(broken)?;
            self.remaining -= BLOCK;
            for byte in block {
                if numbers.len() == wanted {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(broken());
                    }
                    continue;
                }
                let number = decimal(&line).ok_or_else(broken)?;
                line.clear();
                if numbers.is_empty() {
                    let count = usize::try_from(number).ok().filter(|count| *count <= MAX_SEGMENTS);
                    wanted = count.ok_or_else(broken)? * 2 + 1;
                }
                numbers.push(number);
            }
        }
        let pairs = numbers.get(1..).unwrap_or_default().chunks_exact(2);
        Ok(pairs.filter_map(|pair| Some(Segment { offset: *pair.first()?, length: *pair.get(1)? })).collect())
    }
}

/// A number of the header; fields that are left blank mean zero.
fn number(header: &Header, field: Range<usize>, value: io::Result<u64>) -> Option<u64> {
    let blank = || {
        header.as_bytes().get(field).is_some_and(|field| field.iter().all(|byte| matches!(byte, 0 | b' ')))
    };
    value.ok().or_else(|| blank().then_some(0))
}

fn size(header: &Header) -> Option<u64> {
    number(header, 124..136, header.entry_size())
}

fn device(header: &Header, path: &[u8]) -> Result<(u32, u32), LayerError> {
    match (header.device_major(), header.device_minor()) {
        // What Linux can hold in a device number.
        (Ok(Some(major)), Ok(Some(minor))) if major < 1 << 12 && minor < 1 << 20 => Ok((major, minor)),
        _ => Err(LayerError::entry(path, "device numbers that Linux does not have")),
    }
}

fn meta(header: &Header, pax: &Pax, path: &[u8]) -> Result<Meta, LayerError> {
    let owner = |from_pax: Option<u64>, from_header: Option<u64>| {
        let id = from_pax.or(from_header).and_then(|id| u32::try_from(id).ok());
        id.filter(|id| *id != u32::MAX)
            .ok_or_else(|| LayerError::entry(path, "owner or group that Linux does not have"))
    };
    let mode = number(header, 100..108, header.mode().map(u64::from));
    let mode = mode.ok_or_else(|| LayerError::entry(path, "unreadable mode"))?;
    let (mtime, mtime_nsec) = match pax.mtime {
        Some(mtime) => mtime,
        // Base-256 holds times before 1970 as two's complement.
        None => {
            let seconds = number(header, 136..148, header.mtime());
            (seconds.ok_or_else(|| LayerError::entry(path, "unreadable time"))?.cast_signed(), 0)
        }
    };
    let mut xattrs = pax.xattrs.clone();
    // Attributes that steer overlayfs would let a layer redirect or hide what the guest sees.
    xattrs.retain(|(name, _)| !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay."));
    xattrs.sort();
    Ok(Meta {
        mode: u16::try_from(mode & 0o7777).unwrap_or_default(),
        uid: owner(pax.uid, number(header, 108..116, header.uid()))?,
        gid: owner(pax.gid, number(header, 116..124, header.gid()))?,
        mtime,
        mtime_nsec,
        xattrs,
    })
}
