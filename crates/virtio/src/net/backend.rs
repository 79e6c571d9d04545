//! Where a card's frames go and come from: a tap of the host.
//!
//! The seam between the device, which speaks virtio, and the host. Owned by the device, called on the I/O thread.
//! Invariant: one call moves one whole frame behind its header, or nothing, and never waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hull_tap::Offload;
pub use hull_tap::TapError;

use crate::iovec::IoVecs;

/// The other end of a card.
pub trait Backend: Send {
    /// Receives one frame: the first bytes of its header and itself into `head`, the rest into `vecs` from the same
    /// distance on. Its length with the header, or none if it is longer than `vecs` and lost.
    ///
    /// # Errors
    /// The host's; `WouldBlock` if there is none.
    fn receive(&mut self, head: &mut [u8], vecs: &IoVecs<'_>) -> io::Result<Option<usize>>;

    /// Sends one frame: `head`, which begins with the header, then `vecs`.
    ///
    /// # Errors
    /// The host's; `WouldBlock` if there is no room.
    fn send(&mut self, head: &[u8], vecs: &IoVecs<'_>) -> io::Result<()>;

    /// Says which offloads the guest takes.
    ///
    /// # Errors
    /// The host's.
    fn set_offload(&mut self, offload: Offload) -> io::Result<()>;

    /// What is to be watched: readable when there is a frame, writable when there is room for one.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Whether frames may hold several UDP datagrams, in both directions.
    fn segments_udp(&self) -> bool;
}

/// A tap.
#[derive(Debug)]
pub struct Tap {
    descriptor: OwnedFd,
    name: String,
    segments_udp: bool,
}

impl Tap {
    /// A tap that was opened as [`hull_tap::open`] does it.
    ///
    /// # Errors
    /// When it is no such tap.
    pub fn new(descriptor: OwnedFd) -> Result<Self, TapError> {
        let name = hull_tap::verify(descriptor.as_fd())?;
        // Only Linux 6.2 and later knows it, for either direction.
        let udp = Offload::CHECKSUM.and(Offload::USO);
        let segments_udp = hull_tap::set_offload(descriptor.as_fd(), udp).is_ok();
        let tap = Self { descriptor, name, segments_udp };
        let source = hull_tap::set_offload(tap.descriptor.as_fd(), Offload::NONE).err();
        match source {
            None => Ok(tap),
            Some(source) => Err(TapError::Host { step: "configure", name: tap.name, source }),
        }
    }

    /// Its name on the host.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Backend for Tap {
    fn receive(&mut self, head: &mut [u8], vecs: &IoVecs<'_>) -> io::Result<Option<usize>> {
        vecs.read_frame(self.descriptor.as_fd(), head)
    }

    fn send(&mut self, head: &[u8], vecs: &IoVecs<'_>) -> io::Result<()> {
        vecs.write_frame(self.descriptor.as_fd(), head).map(|_| ())
    }

    fn set_offload(&mut self, offload: Offload) -> io::Result<()> {
        hull_tap::set_offload(self.descriptor.as_fd(), offload)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    fn segments_udp(&self) -> bool {
        self.segments_udp
    }
}
