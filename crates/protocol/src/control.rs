//! The control socket of a running VMM: one JSON message a packet, on `SOCK_SEQPACKET`.
//!
//! The socket listens and can be connected to again, so the daemon may die and come back. One peer at a
//! time; a second one waits until the first has gone.

use serde::{Deserialize, Serialize};

use crate::exit::ExitReason;
use crate::units::Bytes;

/// The largest packet either side sends or accepts, in bytes.
pub const PACKET_MAX: usize = 4096;

/// What the daemon asks of the VMM. Every request is answered by exactly one [`Reply`] with its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Chosen by the daemon, repeated in the reply.
    pub seq: u64,
    /// What is to be done.
    pub command: Command,
}

/// The commands a VMM obeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Say how it is.
    Status,
    /// Stop all virtual CPUs and drain all devices, in place. Pausing what is paused is no error.
    Pause,
    /// Go on after a pause. Resuming what runs is no error.
    Resume,
    /// Press the ACPI power button.
    PowerButton,
    /// End at once, with [`ExitReason::Killed`].
    Kill,
    /// The answer to [`Event::VsockRequest`]: the packet carries one descriptor (a connected unix stream
    /// socket) to accept, none to refuse.
    VsockAnswer {
        /// The number in the offer.
        offer: u64,
    },
}

/// What the VMM says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// The answer to a request.
    Reply(Reply),
    /// Something that happened by itself.
    Event(Event),
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// The request's number.
    pub seq: u64,
    /// The state after the command, or why it was not obeyed.
    pub result: Result<VmmStatus, String>,
}

/// How a VMM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmmStatus {
    /// Whether the guest is paused.
    pub paused: bool,
    /// Number of virtual CPUs.
    pub cpus: u8,
    /// Guest memory.
    pub memory: Bytes,
}

/// What a VMM reports by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The guest has ended; the process leaves right after, with [`ExitReason::status`].
    Exited(ExitReason),
    /// The guest asks for a connection to a port of the host.
    VsockRequest {
        /// Number of the offer, repeated in [`Command::VsockAnswer`].
        offer: u64,
        /// The host port the guest asked for.
        port: u32,
    },
}
