//! Requests to the kernel's network configuration and their answers, rtnetlink(7).
//!
//! Blocking, one request at a time, for the thread that sets the guest up. Messages are written by
//! `netlink-packet-route`; of the answers only what is asked for is read, so that a guest's first process does not
//! carry a parser for every kind of link there is. Invariant: a request's answer is read to its end before the next.

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader,
    NlasIterator,
};
use netlink_packet_route::link::{LinkFlags, LinkHeader, LinkMessage};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};

/// Kinds of messages, `linux/rtnetlink.h`.
const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
/// Kinds of a link's attributes, `linux/if_link.h`.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
/// No answer of the kernel's is larger than what it is given room for, and it fills no more than this.
const ANSWER_MAX: usize = 32 << 10;

/// A link as the kernel lists it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) address: Vec<u8>,
    pub(crate) flags: LinkFlags,
}

/// A connection to the kernel.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is protocol zero.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        // From now on nobody but the kernel is heard.
        connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Has the kernel do something.
    pub(crate) fn request(&mut self, kind: u16, flags: u16, body: &impl Emitable) -> io::Result<()> {
        self.send(kind, flags | NLM_F_REQUEST | NLM_F_ACK, body)?;
        self.answers(|_, _| ())
    }

    /// All links of this network namespace.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        self.send(GETLINK, NLM_F_REQUEST | NLM_F_DUMP, &LinkMessage::default())?;
        let mut links = Vec::new();
        self.answers(|kind, body| {
            if kind == NEWLINK {
                links.extend(link(body));
            }
        })?;
        Ok(links)
    }

    fn send(&mut self, kind: u16, flags: u16, body: &impl Emitable) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = vec![0; HEADER.saturating_add(body.buffer_len())];
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(message.len()).map_err(io::Error::other)?;
        header.message_type = kind;
        header.flags = flags;
        header.sequence_number = self.sequence;
        header.emit(&mut message);
        body.emit(message.get_mut(HEADER..).unwrap_or_default());
        send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    /// Reads what the kernel says to the last request: an error, an acknowledgement, or messages and their end.
    fn answers(&self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut room = vec![0; ANSWER_MAX];
        loop {
            let (length, _) = recv(&self.socket, room.as_mut_slice(), RecvFlags::empty())?;
            let mut left = room.get(..length).unwrap_or_default();
            while let Some(message) = split(left) {
                left = message.rest;
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return outcome(message.body),
                    kind => each(kind, message.body),
                }
            }
        }
    }
}

/// The first message of many, and the others.
struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
    rest: &'a [u8],
}

fn split(bytes: &[u8]) -> Option<Message<'_>> {
    let header = NetlinkBuffer::new_checked(bytes).ok()?;
    let length = usize::try_from(header.length()).ok()?;
    Some(Message {
        kind: header.message_type(),
        sequence: header.sequence_number(),
        body: bytes.get(HEADER..length)?,
        rest: bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    })
}

/// An error message's number; zero is an acknowledgement.
fn outcome(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|number| i32::from_ne_bytes(*number)) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.wrapping_neg())),
        None => Err(io::Error::other("the kernel answered with less than an error's number")),
    }
}

fn link(body: &[u8]) -> Option<Link> {
    let header = LinkHeader::parse(body).ok()?;
    let mut link =
        Link { index: header.index, name: String::new(), address: Vec::new(), flags: header.flags };
    for attribute in NlasIterator::new(body.get(LINK_HEADER..)?).flatten() {
        match attribute.kind() {
            IFLA_ADDRESS => link.address = attribute.value().to_vec(),
            IFLA_IFNAME => {
                link.name = String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned();
            }
            _ => {}
        }
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn the_loopback_link_is_listed() {
        let links = Netlink::open().unwrap().links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert!(lo.index > 0 && lo.flags.contains(LinkFlags::Loopback) && lo.address == [0; 6], "{lo:?}");
    }

    #[test]
    fn what_the_kernel_refuses_is_its_own_error() {
        let mut nothing = LinkMessage::default();
        nothing.header.index = 0x7fff_fff0;
        let mut netlink = Netlink::open().unwrap();
        assert_eq!(
            netlink.request(NEWLINK, 0, &nothing).unwrap_err().raw_os_error(),
            Some(Errno::NODEV.raw_os_error())
        );
        // The connection goes on after it.
        assert!(!netlink.links().unwrap().is_empty());
    }

    #[test]
    fn half_messages_are_none() {
        for length in 0..HEADER {
            assert!(split(&vec![0; length]).is_none());
        }
        let mut lies = vec![0; 20];
        lies.splice(0..4, 400_u32.to_ne_bytes());
        assert!(split(&lies).is_none());
        assert!(outcome(&[0, 0]).is_err());
        assert_eq!(link(&[0; 7]), None);
    }
}
