//! A network of the test's own: a namespace with a tap in it, on which the host has the address 10.77.0.1. It goes
//! with the value.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use hull_protocol::network::{Mac, NetPlan, RateLimit};
use hull_protocol::plan::Slot;
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The tap's name.
pub const TAP: &str = "tap0";
/// The guest's card.
pub const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
/// The guest's address.
pub const GUEST: &str = "10.77.0.2";

/// A namespace with a tap.
pub struct Network {
    keeper: Child,
    // The keeper stays for as long as it can read.
    _stdin: ChildStdin,
    namespace: File,
}

impl Network {
    /// A network where the host's card is up.
    pub fn new() -> Self {
        let set_up = format!(
            "set -e; ip link set lo up; ip tuntap add {TAP} mode tap vnet_hdr
            echo 1 > /proc/sys/net/ipv6/conf/{TAP}/disable_ipv6
            ip addr add 10.77.0.1/24 dev {TAP}; ip link set {TAP} up
            ip neigh add {GUEST} lladdr {MAC} dev {TAP} nud permanent; echo ready; cat"
        );
        // Where the shell cannot write its own settings, IPv6 only makes the wire noisier.
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", &set_up])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "no network of the test's own: run the tests as root");
        let namespace = File::open(format!("/proc/{}/ns/net", keeper.id())).unwrap();
        let stdin = keeper.stdin.take().unwrap();
        Self { keeper, _stdin: stdin, namespace }
    }

    /// Does something on a thread in the namespace.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// The opened tap.
    pub fn tap(&self) -> OwnedFd {
        self.within(|| hull_tap::attach(TAP, false).unwrap())
    }

    /// The guest's card on the tap in a slot, without limits; guarded, the guest is itself only.
    pub fn card(tap: Slot, guarded: bool) -> NetPlan {
        NetPlan {
            tap,
            mac: MAC,
            mtu: 1500,
            guard: guarded.then(|| vec![GUEST.parse().unwrap()]),
            receive: RateLimit::default(),
            transmit: RateLimit::default(),
        }
    }

    /// A socket of the host on that network.
    pub fn udp(&self, port: u16) -> UdpSocket {
        let socket = self.within(|| UdpSocket::bind(("10.77.0.1", port)).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    }

    /// Hears every frame on the network from now on.
    pub fn listen(&self) -> Frames {
        let every = Protocol::from_raw(u32::from(3_u16.to_be()).try_into().unwrap());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Frames(
            self.within(|| socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(every)).unwrap()),
        )
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ended_already = self.keeper.kill();
        let _status = self.keeper.wait();
    }
}

/// What is heard on a network.
pub struct Frames(OwnedFd);

impl Frames {
    /// The next frame that is there.
    pub fn next(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        let (length, _) = recv(&self.0, &mut frame, RecvFlags::DONTWAIT).ok()?;
        frame.truncate(length);
        Some(frame)
    }
}
