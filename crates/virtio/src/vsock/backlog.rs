//! What a socket of the host has not taken yet of a stream from the guest.
//!
//! Part of a connection, on the I/O thread. Invariant: bytes leave in the order they came, and an empty backlog holds
//! no memory. The connection sees to its bound.

use crate::chain::Reader;
use crate::fault::Fault;

/// Bytes from the guest that the socket has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// Bytes before this one have been taken.
    start: usize,
}

impl Backlog {
    pub(super) fn pending(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.pending().len()).unwrap_or(u32::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending().is_empty()
    }

    pub(super) fn append(&mut self, mut reader: Reader<'_>) -> Result<(), Fault> {
        let at = self.bytes.len();
        let count = usize::try_from(reader.remaining()).unwrap_or(0);
        self.bytes.resize(at.saturating_add(count), 0);
        reader.read(self.bytes.get_mut(at..).unwrap_or_default())
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.bytes.len());
        if self.start == self.bytes.len() {
            *self = Self::default();
        } else if self.start >= 64 * 1024 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}
