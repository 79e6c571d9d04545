//! Connections the guest starts: offered to whoever runs the VM, who hands back a socket or refuses.
//!
//! The device cannot open paths, and must not: it asks a [`Dialer`] and goes on. The answer comes from another thread
//! through [`Answers`], which wakes the I/O loop by an eventfd. Invariant: each offer is answered at most once;
//! answers to offers that are gone close the socket they bring.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::event::{EventfdFlags, eventfd};

/// Names one offer for as long as the device lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OfferId(
    /// A number that is never used twice.
    pub u64,
);

/// The dialer takes no offers (now): the guest's connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connections from the guest are not taken; allow them for this microVM")]
pub struct Refused;

/// Takes offers of connections. Called on the I/O thread: it must not wait.
pub trait Dialer: Send {
    /// The guest wants to connect to this port of the host. The answer is given through [`Answers`].
    ///
    /// # Errors
    /// [`Refused`] refuses at once.
    fn offer(&mut self, offer: OfferId, port: u32) -> Result<(), Refused>;
}

/// Refuses every connection.
#[derive(Clone, Copy, Debug)]
pub struct RefuseAll;

impl Dialer for RefuseAll {
    fn offer(&mut self, _: OfferId, _: u32) -> Result<(), Refused> {
        Err(Refused)
    }
}

/// The end through which offers are answered, from any thread.
#[derive(Clone, Debug)]
pub struct Answers {
    sender: Sender<(OfferId, Option<UnixStream>)>,
    wake: Arc<OwnedFd>,
}

impl Answers {
    /// Connects the guest to `stream`, or refuses if there is none.
    ///
    /// # Errors
    /// The host's, if the device cannot be woken. An answer to a device that is gone is dropped without one.
    pub fn answer(&self, offer: OfferId, stream: Option<UnixStream>) -> io::Result<()> {
        if self.sender.send((offer, stream)).is_ok() {
            rustix::io::write(&self.wake, &1_u64.to_ne_bytes())?;
        }
        Ok(())
    }
}

/// The device's end.
#[derive(Debug)]
pub struct AnswerQueue {
    receiver: Receiver<(OfferId, Option<UnixStream>)>,
    wake: Arc<OwnedFd>,
}

impl AnswerQueue {
    /// Readable when there are answers.
    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Resets the wake-up; to be called before the answers are taken.
    pub(super) fn clear(&self) {
        // An error means there was no wake-up to reset.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    pub(super) fn next(&self) -> Option<(OfferId, Option<UnixStream>)> {
        self.receiver.try_recv().ok()
    }
}

/// The two ends through which offers are answered.
///
/// # Errors
/// The host's, if it has no descriptor left.
pub fn answers() -> io::Result<(Answers, AnswerQueue)> {
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = channel();
    Ok((Answers { sender, wake: Arc::clone(&wake) }, AnswerQueue { receiver, wake }))
}
