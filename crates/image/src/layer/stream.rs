//! A layer's bytes, decompressed within limits and hashed on the way (RFC 1952 gzip, RFC 8878 zstd, or plain).
//!
//! Owned by the thread that reads the layer. Invariant: it never yields more bytes than the limits allow for the
//! compressed bytes consumed so far, so that an expansion bomb ends early.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::LayerError;
use crate::digest::Digest;
use crate::limits::Limits;

/// 2^27 bytes: what zstd itself accepts for streams without being asked.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Bytes read from the compressed side at a time.
const BUFFER: usize = 256 << 10;

/// How a stream is packed, as its first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Not at all.
    Plain,
    /// RFC 1952, one or many members.
    Gzip,
    /// RFC 8878, one or many frames.
    Zstd,
}

impl Compression {
    /// Tells by the magic numbers, which no tar header can begin with in practice: an entry's name starts there.
    pub(crate) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [skippable, 0x2a, 0x4d, 0x18, ..] if skippable & 0xf0 == 0x50 => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Counts what the decompressor has taken in.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.count.set(self.count.get().saturating_add(read as u64));
        Ok(read)
    }
}

/// A decompressed layer.
pub(crate) struct LayerStream<'a> {
    inner: Box<dyn Read + 'a>,
    consumed: Rc<Cell<u64>>,
    produced: u64,
    hasher: Sha256,
    limit: u64,
    ratio: u64,
}

impl<'a> LayerStream<'a> {
    /// Begins to read `raw`.
    pub(crate) fn new(raw: impl Read + 'a, limits: &Limits) -> Result<Self, LayerError> {
        let consumed = Rc::new(Cell::new(0));
        let mut raw = BufReader::with_capacity(BUFFER, Counted { inner: raw, count: Rc::clone(&consumed) });
        let start = raw.fill_buf()?;
        let inner: Box<dyn Read + 'a> = match Compression::of(start) {
            Compression::Plain => Box::new(raw),
            Compression::Gzip => Box::new(MultiGzDecoder::new(raw)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(raw)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        };
        Ok(Self {
            inner,
            consumed,
            produced: 0,
            hasher: Sha256::new(),
            limit: limits.max_layer_bytes,
            ratio: limits.max_expansion_ratio,
        })
    }

    /// Reads whatever is left and says the digest of all that was unpacked.
    pub(crate) fn finish(mut self) -> Result<Digest, LayerError> {
        let mut buffer = vec![0; 64 << 10];
        while self.read(&mut buffer)? > 0 {}
        Ok(Digest::finish(self.hasher))
    }

    fn check(&self) -> Result<(), LayerError> {
        if self.produced > self.limit {
            return Err(LayerError::Limit {
                what: "bytes once unpacked",
                limit: self.limit,
                name: "max_layer_bytes",
            });
        }
        let allowed = self.consumed.get().saturating_mul(self.ratio).saturating_add(Limits::FREE_EXPANSION);
        if self.produced > allowed {
            return Err(LayerError::Limit {
                what: "times its own size once unpacked",
                limit: self.ratio,
                name: "max_expansion_ratio",
            });
        }
        Ok(())
    }
}

impl Read for LayerStream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.hasher.update(buf.get(..read).unwrap_or_default());
        self.produced = self.produced.saturating_add(read as u64);
        self.check().map_err(io::Error::other)?;
        Ok(read)
    }
}
