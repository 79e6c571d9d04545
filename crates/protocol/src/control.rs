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
    /// Say what one network card has counted; the answer is in [`Reply::net`].
    NetStats {
        /// Which card, in the plan's order from 0.
        net: u8,
    },
    /// A disk's file has grown, and its guest is to know. A size that is not larger changes nothing.
    GrowDisk {
        /// Which disk, in the plan's order from 0.
        disk: u8,
        /// The size of the file.
        size: Bytes,
    },
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
    /// The answer to [`Command::NetStats`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<NetStats>,
}

/// What a network card has counted since the VMM started. A frame that was cut up later, or put together earlier,
/// counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetStats {
    /// What the guest received.
    pub receive: Traffic,
    /// What the guest sent.
    pub transmit: Traffic,
}

/// One direction of a card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Frames that passed.
    pub frames: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// Frames that did not.
    #[serde(default)]
    pub dropped: Dropped,
}

/// Frames dropped, by cause. What is missing is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dropped {
    /// To the guest: longer than all the buffers it offered.
    pub no_buffer: u64,
    /// To the guest: for another card, or a group it does not listen to.
    pub filtered: u64,
    /// To the guest: it needs an offload that the guest did not agree to.
    pub offload: u64,
    /// No frame, or headers that make no sense.
    pub malformed: u64,
    /// From the guest: with another card's address.
    pub source_mac: u64,
    /// From the guest: from, or claiming, another's IP address.
    pub source_address: u64,
    /// From the guest: what only routers, bridges and servers send.
    pub forbidden: u64,
    /// From the guest: the host did not take it.
    pub host: u64,
}

impl Dropped {
    /// All of them.
    pub fn sum(&self) -> u64 {
        let Self { no_buffer, filtered, offload, malformed, source_mac, source_address, forbidden, host } =
            *self;
        [no_buffer, filtered, offload, malformed, source_mac, source_address, forbidden, host]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    #[test]
    fn the_longest_answer_fits_a_packet() {
        let all = u64::MAX;
        let dropped = Dropped {
            no_buffer: all,
            filtered: all,
            offload: all,
            malformed: all,
            source_mac: all,
            source_address: all,
            forbidden: all,
            host: all,
        };
        let traffic = Traffic { frames: all, bytes: all, dropped };
        let status = VmmStatus { paused: false, cpus: u8::MAX, memory: Bytes(all) };
        let net = Some(NetStats { receive: traffic, transmit: traffic });
        let reply = Message::Reply(Reply { seq: all, result: Ok(status), net });
        let packet = serde_json::to_vec(&reply).unwrap();
        assert!(packet.len() <= PACKET_MAX, "{} bytes", packet.len());
        assert_eq!(serde_json::from_slice::<Message>(&packet).unwrap(), reply);
        assert_eq!(dropped.sum(), all);
    }
}
