//! Takes connections, over the unix socket and over TCP.
//!
//! A task for each listener. Invariant: a connection is taken only into a place that its peer's share has; one that does
//! not come to terms over TLS in time is given up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::Door;
use super::connection;
use super::peers::{Peer, Peers, Place};
use super::tls::Tls;

/// How long the first words of TLS may take.
const TLS_WAIT: Duration = Duration::from_secs(10);
/// How long a client over TCP may be silent before it is asked whether it is there.
const KEEP_IDLE: Duration = Duration::from_secs(60);
/// How often it is asked, and how long apart.
const KEEP_ASKED: (u32, Duration) = (4, Duration::from_secs(15));
/// How long a host that has no descriptors left is given to get some.
const PAUSE: Duration = Duration::from_millis(200);

/// Where clients come in.
pub enum Entrance {
    /// The unix socket: the kernel says who comes.
    Unix(UnixListener),
    /// TCP, with TLS but where somebody wanted it without, on loopback.
    Tcp(TcpListener, Option<Box<Tls>>),
}

impl Entrance {
    /// Over TCP, at an address such as `127.0.0.1:2376`; without TLS on loopback alone.
    ///
    /// # Errors
    /// When nobody can listen there.
    pub async fn tcp(address: &str, tls: Option<Tls>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        if tls.is_none() && !listener.local_addr()?.ip().is_loopback() {
            return Err(io::Error::other(
                "without TLS tokens could be read on the way: only loopback is possible",
            ));
        }
        Ok(Self::Tcp(listener, tls.map(Box::new)))
    }

    /// Where it is, for people.
    pub fn describe(&self) -> String {
        let address = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string());
        match self {
            Self::Unix(_) => "the unix socket".into(),
            Self::Tcp(listener, Some(_)) => format!("https://{}", address(listener).unwrap_or_default()),
            Self::Tcp(listener, None) => format!("http://{}", address(listener).unwrap_or_default()),
        }
    }
}

/// Why a connection did not come to its first request.
#[derive(Debug, thiserror::Error)]
enum Greeting {
    #[error("TLS: {0}")]
    Tls(#[from] io::Error),
    #[error("TLS: nothing was said in time")]
    Slow(#[from] tokio::time::error::Elapsed),
}

/// Answers whoever comes in until the daemon leaves and the last request is answered.
pub async fn serve(door: Arc<Door>, entrances: Vec<Entrance>, peers: Peers, leaving: watch::Receiver<bool>) {
    let connections = TaskTracker::new();
    let mut listeners = Vec::new();
    for entrance in entrances {
        let inside = Inside {
            door: door.clone(),
            connections: connections.clone(),
            peers: peers.clone(),
            leaving: leaving.clone(),
        };
        listeners.push(tokio::spawn(inside.take_from(entrance)));
    }
    let watch = async move { door.connections.watch(&door.fleet.host().tenants).await };
    let _to_the_end = AbortOnDropHandle::new(tokio::spawn(watch));
    for listener in listeners {
        if let Err(error) = listener.await {
            tracing::error!("a listener ended: {error}");
        }
    }
    connections.close();
    connections.wait().await;
}

/// Has answers go out at once, for they are small and waited for; has the kernel notice clients that have vanished, which
/// would keep their places for ever.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (times, apart) = KEEP_ASKED;
    sockopt::set_tcp_keepidle(stream, KEEP_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, apart)?;
    sockopt::set_tcp_keepcnt(stream, times)?;
    Ok(sockopt::set_socket_keepalive(stream, true)?)
}

/// What every connection gets.
struct Inside {
    door: Arc<Door>,
    connections: TaskTracker,
    peers: Peers,
    leaving: watch::Receiver<bool>,
}

impl Inside {
    async fn take_from(self, entrance: Entrance) {
        let mut leaving = self.leaving.clone();
        loop {
            let taken = tokio::select! {
                taken = self.take(&entrance) => taken,
                () = connection::left(&mut leaving) => return,
            };
            if let Err(error) = taken {
                // One that came and went is no trouble; a host without descriptors gets some time.
                tracing::debug!("a connection could not be taken: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn take(&self, entrance: &Entrance) -> io::Result<()> {
        let (door, leaving) = (self.door.clone(), self.leaving.clone());
        match entrance {
            Entrance::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let peer = Peer::User(stream.peer_cred()?.uid());
                if let Some(place) = self.place(&peer) {
                    self.connections.spawn(connection::serve(door, peer, stream, place, leaving));
                }
            }
            Entrance::Tcp(listener, tls) => {
                let (stream, address) = listener.accept().await?;
                let peer = Peer::Address(address);
                let Some(place) = self.place(&peer) else { return Ok(()) };
                if let Err(error) = prepare(&stream) {
                    tracing::debug!("a connection from {peer} has gone already: {error}");
                    return Ok(());
                }
                let Some(tls) = tls.as_ref().map(|tls| tls.acceptor()) else {
                    self.connections.spawn(connection::serve(door, peer, stream, place, leaving));
                    return Ok(());
                };
                self.connections.spawn(async move {
                    let greeted = async {
                        Ok::<_, Greeting>(tokio::time::timeout(TLS_WAIT, tls.accept(stream)).await??)
                    };
                    match greeted.await {
                        Ok(stream) => connection::serve(door, peer, stream, place, leaving).await,
                        Err(error) => door.note_stranger(&peer, 401, &error.to_string()),
                    }
                });
            }
        }
        Ok(())
    }

    fn place(&self, peer: &Peer) -> Option<Place> {
        let place = self.peers.enter(peer, self.door.is_own(peer));
        if place.is_none() {
            self.door.note_stranger(peer, 429, "this peer has as many connections as it may");
        }
        place
    }
}
