//! What a card counts: frames and bytes that passed, and those dropped, by cause.
//!
//! Written by the device on the I/O thread, read from any other. Invariant: every frame that was taken from the guest or
//! from the host is counted exactly once, as passed or under one cause.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a frame was dropped. The first three happen to what the guest should receive, most others to what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Cause {
    /// Longer than all the buffers the guest offers.
    NoBuffer,
    /// For another card or a group the guest does not listen to.
    Filtered,
    /// It needs an offload that the guest did not agree to; it was under way when the guest started anew.
    Offload,
    /// No frame, or a virtio header that makes no sense for it.
    Malformed,
    /// From another card's address.
    SourceMac,
    /// From, or claiming, another's IP address.
    SourceAddress,
    /// What only routers, bridges and servers send.
    Forbidden,
    /// The host did not take it.
    Host,
}

const DROPS: usize = Cause::Host as usize + 1;

/// The counters of one direction.
#[derive(Debug, Default)]
pub struct Traffic {
    frames: AtomicU64,
    bytes: AtomicU64,
    dropped: [AtomicU64; DROPS],
}

impl Traffic {
    /// Frames that passed.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Their bytes, from the Ethernet header on.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Frames dropped for a cause.
    pub fn dropped(&self, cause: Cause) -> u64 {
        self.dropped.get(cause as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    pub(super) fn pass(&self, bytes: u64) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn drop(&self, cause: Cause) {
        if let Some(count) = self.dropped.get(cause as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The counters of a card, for its whole life: a reset of the device does not clear them.
#[derive(Debug, Default)]
pub struct Counters {
    /// What the guest received.
    pub receive: Traffic,
    /// What the guest sent.
    pub transmit: Traffic,
}
