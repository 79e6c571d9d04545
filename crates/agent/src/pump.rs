//! Bytes between a process's pipe or terminal and the host's connection for it, in order and without loss.
//!
//! One thread for each direction. A host that does not read stops the process, as a full pipe does; a host that
//! went away is waited for. Invariant: no pump outlives its process for long. What the process wrote is passed on
//! whole; what others write later, who have its pipes from it, is not waited for.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hull_protocol::agent::StreamKind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::streams::{Offer, Streams};

const CHUNK: usize = 64 << 10;

/// One stream of one process.
pub(crate) struct Pump {
    pub(crate) streams: Arc<Streams>,
    pub(crate) process: String,
    pub(crate) kind: StreamKind,
    /// One end of a pipe whose other end is closed when the process has ended.
    pub(crate) over: Arc<OwnedFd>,
}

impl Pump {
    fn newer(&self, than: &Offer, limit: Option<Duration>) -> Option<Offer> {
        self.streams.take(&self.process, self.kind, than.number, limit)
    }

    /// Waits until `end` can be read or written; false when it cannot and the process has ended.
    fn ready(&self, end: &File, wanted: PollFlags) -> bool {
        let mut limit = None;
        loop {
            let mut both = [PollFd::new(end, wanted), PollFd::new(&*self.over, PollFlags::IN)];
            match poll(&mut both, limit) {
                Err(Errno::INTR) => continue,
                Err(_) => return false,
                Ok(_) => {}
            }
            let [end, over] = both.map(|one| !one.revents().is_empty());
            if end {
                return true;
            }
            if limit.is_some() {
                return false;
            }
            if over {
                // What it wrote between the first look and its end is there by now: the second look is the last.
                limit = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
            }
        }
    }

    /// From the process to the host, until the process's end is closed or the process has ended.
    pub(crate) fn outward(&self, mut source: File, mut offer: Offer) {
        let mut chunk = vec![0; CHUNK];
        while self.ready(&source, PollFlags::IN) {
            let length = match source.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {
                    continue;
                }
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
                Ok(length) if self.pass_in(&mut sink, chunk.get(..length).unwrap_or_default()) => continue,
                Ok(_) => None,
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

    /// Writes what the host has sent; false when nobody reads it any more.
    fn pass_in(&self, sink: &mut File, mut rest: &[u8]) -> bool {
        while !rest.is_empty() {
            match sink.write(rest) {
                Ok(0) => return false,
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.ready(sink, PollFlags::OUT) {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        true
    }
}
