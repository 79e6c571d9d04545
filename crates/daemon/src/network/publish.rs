//! Ports of the host that lead to a guest: held by a socket of the daemon's, so that nobody else takes them and a port
//! that is taken is known before anything starts.
//!
//! Owner: [`super::host::HostNetworks`], for each running microVM. The kernel translates what arrives for them before it
//! reaches the socket; what the host sends to its own loopback it does not, and the socket's [`proxy`] carries that.
//! Invariant: a port is held from before its guest's start until after its end.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use hull_protocol::api::Card;
use hull_protocol::network::{PublishedPort, Transport};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use tokio::task::JoinSet;

use super::NetworkError;
use super::proxy;

/// How many connections wait for the proxy.
const BACKLOG: i32 = 1024;
/// How many random ports are tried.
const TRIES: u32 = 16;

/// The published ports of one microVM; dropped, they are free again.
#[derive(Debug, Default)]
pub struct Held {
    /// With the host's port filled in.
    pub ports: Vec<PublishedPort>,
    _proxies: JoinSet<()>,
}

/// Takes the ports for the guest with this card, all or none. Needs the runtime.
///
/// # Errors
/// Which one cannot be had.
pub fn hold(wanted: &[PublishedPort], card: &Card) -> Result<Held, NetworkError> {
    let mut held = Held::default();
    let mut sockets = Vec::new();
    for port in wanted {
        let (socket, host_port) = take(port)?;
        sockets.push((socket, *port));
        held.ports.push(PublishedPort { host_port: Some(host_port), ..*port });
    }
    for (socket, port) in sockets {
        // Over IPv4, which every guest has.
        let guest = SocketAddr::new(card.ip.into(), port.port);
        let failed = |error| NetworkError::Port(describe(&port), error);
        match port.transport {
            Transport::Tcp => {
                let listener = TcpListener::from(socket);
                listener.set_nonblocking(true).map_err(failed)?;
                let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
                held._proxies.spawn(proxy::tcp(listener, guest));
            }
            Transport::Udp => {
                let socket = UdpSocket::from(socket);
                socket.set_nonblocking(true).map_err(failed)?;
                let socket = tokio::net::UdpSocket::from_std(socket).map_err(failed)?;
                held._proxies.spawn(proxy::udp(socket, guest));
            }
        }
    }
    Ok(held)
}

/// A published port, for people.
pub fn describe(port: &PublishedPort) -> String {
    let transport = match port.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    let number = port.host_port.map_or_else(|| "(any)".to_owned(), |port| port.to_string());
    match port.host_ip {
        Some(IpAddr::V6(address)) => format!("[{address}]:{number}/{transport}"),
        Some(address) => format!("{address}:{number}/{transport}"),
        None => format!("{number}/{transport}"),
    }
}

fn take(port: &PublishedPort) -> Result<(OwnedFd, u16), NetworkError> {
    let mut last = None;
    for _ in 0..if port.host_port.is_some() { 1 } else { TRIES } {
        match socket(port) {
            Ok(taken) => return Ok(taken),
            Err(error) => last = Some(error),
        }
    }
    let name = describe(port);
    Err(match last {
        Some(error) if error.kind() == io::ErrorKind::AddrInUse => NetworkError::PortTaken(name),
        Some(error) => NetworkError::Port(name, error),
        None => NetworkError::PortTaken(name),
    })
}

/// A bound socket and its port. Without an address it is bound to all of both families; where the host has no IPv6, to
/// those of IPv4.
fn socket(port: &PublishedPort) -> io::Result<(OwnedFd, u16)> {
    let number = port.host_port.unwrap_or(0);
    let bound = match port.host_ip {
        Some(address) => bound(port.transport, SocketAddr::new(address, number), true)?,
        None => match bound(port.transport, (Ipv6Addr::UNSPECIFIED, number).into(), false) {
            Err(error)
                if error.kind() != io::ErrorKind::AddrInUse
                    && error.kind() != io::ErrorKind::PermissionDenied =>
            {
                bound(port.transport, (Ipv4Addr::UNSPECIFIED, number).into(), false)?
            }
            bound => bound?,
        },
    };
    let address: SocketAddr = rustix::net::getsockname(&bound)?.try_into()?;
    Ok((bound, address.port()))
}

fn bound(transport: Transport, address: SocketAddr, only: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, only)?;
    }
    if transport == Transport::Tcp {
        // Connections of a former holder that linger are in nobody's way.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    if transport == Transport::Tcp {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn card() -> Card {
        Card {
            network_id: "0".into(),
            network: "default".into(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            ip: Ipv4Addr::LOCALHOST,
            ip6: Ipv6Addr::LOCALHOST,
            tap: "hull-t1".into(),
            aliases: Vec::new(),
            refused: None,
            forged: None,
        }
    }

    fn port(host_ip: Option<&str>, host_port: Option<u16>, port: u16, transport: Transport) -> PublishedPort {
        PublishedPort { host_ip: host_ip.map(|ip| ip.parse().unwrap()), host_port, port, transport }
    }

    #[tokio::test]
    async fn a_port_is_held_carried_and_given_back() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let guest = TcpListener::bind("127.0.0.1:0").unwrap();
        let inner = guest.local_addr().unwrap().port();
        let held = hold(&[port(Some("127.0.0.1"), None, inner, Transport::Tcp)], &card()).unwrap();
        let number = held.ports[0].host_port.unwrap();
        let taken = hold(&[port(Some("127.0.0.1"), Some(number), inner, Transport::Tcp)], &card());
        assert!(
            matches!(&taken, Err(NetworkError::PortTaken(name)) if name.contains(&number.to_string())),
            "{taken:?}"
        );
        let mut client = tokio::net::TcpStream::connect(("127.0.0.1", number)).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let (mut server, _) = tokio::net::TcpListener::from_std({
            guest.set_nonblocking(true).unwrap();
            guest
        })
        .unwrap()
        .accept()
        .await
        .unwrap();
        let mut said = [0; 4];
        server.read_exact(&mut said).await.unwrap();
        server.write_all(b"pong").await.unwrap();
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!((&said, answer.as_slice()), (b"ping", b"pong".as_slice()));
        drop(held);
        // The proxy's task ends when the runtime comes round to it.
        for _ in 0..100 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            if hold(&[port(Some("127.0.0.1"), Some(number), inner, Transport::Tcp)], &card()).is_ok() {
                return;
            }
        }
        panic!("the port {number} was not given back");
    }

    #[tokio::test]
    async fn datagrams_find_their_way_back() {
        let guest = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let inner = guest.local_addr().unwrap().port();
        let held = hold(&[port(None, None, inner, Transport::Udp)], &card()).unwrap();
        let number = held.ports[0].host_port.unwrap();
        for (own, to) in [("127.0.0.1:0", "127.0.0.1"), ("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
            let Ok(client) = tokio::net::UdpSocket::bind(own).await else { continue };
            client.send_to(b"ping", (to, number)).await.unwrap();
            let mut buffer = [0; 16];
            let (length, from) = guest.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], b"ping");
            guest.send_to(b"pong", from).await.unwrap();
            let (length, from) = client.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..length], from.port()), (b"pong".as_slice(), number));
        }
    }
}
