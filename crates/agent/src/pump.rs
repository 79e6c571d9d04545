//! Bytes between a process's pipe or terminal and the host's connection for it, in order and without loss.
//!
//! One thread for each direction. A host that does not read stops the process, as a full pipe does; a host that
//! went away is waited for.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use hull_protocol::agent::StreamKind;

use crate::streams::{Offer, Streams};

const CHUNK: usize = 64 << 10;

/// One stream of one process.
pub(crate) struct Pump {
    pub(crate) streams: Arc<Streams>,
    pub(crate) process: String,
    pub(crate) kind: StreamKind,
}

impl Pump {
    fn newer(&self, than: &Offer, limit: Option<Duration>) -> Option<Offer> {
        self.streams.take(&self.process, self.kind, than.number, limit)
    }

    /// From the process to the host, until the process's end is closed.
    pub(crate) fn outward(&self, mut source: File, mut offer: Offer) {
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = match source.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // The last holder of a terminal's other end has gone.
                Err(_) => break,
            };
            let mut rest = chunk.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                match (&*offer.connection).write(rest) {
                    Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => match self.newer(&offer, None) {
                        Some(next) => offer = next,
                        None => return,
                    },
                }
            }
        }
        // A host that came back meanwhile is told on its new connection.
        let offer = self.newer(&offer, Some(Duration::ZERO)).unwrap_or(offer);
        let _gone_already = offer.connection.shutdown(Shutdown::Write);
    }

    /// From the host to the process, until the host says end of file or the process closes its end.
    pub(crate) fn inward(&self, mut offer: Offer, mut sink: File) {
        let mut chunk = vec![0; CHUNK];
        loop {
            let next = match (&*offer.connection).read(&mut chunk) {
                // A terminal has no end of file: the host may come back. Else it ends here, unless the host has
                // come back already.
                Ok(0) if self.kind == StreamKind::Terminal => self.newer(&offer, None),
                Ok(0) => self.newer(&offer, Some(Duration::ZERO)),
                Ok(length) => match sink.write_all(chunk.get(..length).unwrap_or_default()) {
                    Ok(()) => continue,
                    Err(_) => None,
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => self.newer(&offer, None),
            };
            match next {
                Some(next) => offer = next,
                None => break,
            }
        }
        if self.kind == StreamKind::Stdin {
            self.streams.release(&self.process, self.kind, offer.number);
        }
    }
}
