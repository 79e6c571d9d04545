//! What one device has the event loop watch for it: host descriptors and one timer.
//!
//! Owner: the device's seat in the event loop, on the I/O thread. Invariant: after [`Watches::clear`] nothing of
//! the device is watched, so that it can be started anew.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use hull_virtio::device::{Interest, Watch};
use rustix::event::epoll;

/// A device's watched descriptors and its timer.
#[derive(Debug, Default)]
pub struct Watches {
    descriptors: BTreeSet<RawFd>,
    /// When the timer is due.
    pub due: Option<Instant>,
}

impl Watches {
    /// Lends the list, with the loop's epoll; `data` says what an event of a token is.
    pub fn lend<'a>(
        &'a mut self,
        poll: &'a OwnedFd,
        data: impl Fn(u32) -> epoll::EventData + 'a,
    ) -> impl Watch + 'a {
        Lent { poll, data, watches: self }
    }

    /// Stops watching everything.
    #[expect(unsafe_code, reason = "descriptors are kept by number: the device owns them")]
    pub fn clear(&mut self, poll: &OwnedFd) {
        for descriptor in std::mem::take(&mut self.descriptors) {
            // SAFETY: a device takes a descriptor off the list before it closes it, so this one is open.
            let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
            let _not_watched = epoll::delete(poll, descriptor);
        }
        self.due = None;
    }
}

struct Lent<'a, D> {
    poll: &'a OwnedFd,
    data: D,
    watches: &'a mut Watches,
}

impl<D: Fn(u32) -> epoll::EventData> Watch for Lent<'_, D> {
    fn add(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()> {
        epoll::add(self.poll, fd, (self.data)(token), flags(interest))?;
        self.watches.descriptors.insert(fd.as_raw_fd());
        Ok(())
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(self.poll, fd, (self.data)(token), flags(interest))?)
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) {
        self.watches.descriptors.remove(&fd.as_raw_fd());
        let _not_watched = epoll::delete(self.poll, fd);
    }

    fn timer(&mut self, after: Duration) {
        self.watches.due = Instant::now().checked_add(after);
    }
}

fn flags(interest: Interest) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, interest.reads());
    flags.set(epoll::EventFlags::OUT, interest.writes());
    flags
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_was_watched_can_be_watched_again_after_a_reset() {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let (read, _write) = rustix::pipe::pipe().unwrap();
        let mut watches = Watches::default();
        let data = |token| epoll::EventData::new_u64(u64::from(token));
        for _ in 0..2 {
            let mut watch = watches.lend(&poll, data);
            watch.add(read.as_fd(), 1, Interest::Read).unwrap();
            assert!(watch.add(read.as_fd(), 1, Interest::Read).is_err());
            watch.timer(Duration::ZERO);
            drop(watch);
            watches.clear(&poll);
            assert!(watches.due.is_none());
        }
    }
}
