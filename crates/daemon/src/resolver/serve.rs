//! A network's sockets: queries in, answers out.
//!
//! Owner: the network's one task, and a task for each query and connection that is under way, which ends with it.
//! Invariant: a query is taken up only with a place in its client's share and among all queries; nothing is sent to
//! who is not of the network.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::message::{self, Asked, QUERY_MAX, Received, STREAM_MAX, encode};
use super::share::{Kind, Place};
use super::zone::{Known, otherwise, spelled};
use super::{Answer, Network, Shared};

/// How long a connection may be silent, and an answer take to be read.
const IDLE: Duration = Duration::from_secs(10);
/// How long the watcher has.
const WATCHED: Duration = Duration::from_secs(3);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 64;
/// The pause after a failed receive or accept: no descriptors, no memory.
const PAUSE: Duration = Duration::from_millis(20);

/// Both sockets of an address.
pub(super) struct Sockets {
    datagrams: UdpSocket,
    listener: TcpListener,
}

impl Sockets {
    /// Binds both.
    pub(super) fn open(address: SocketAddr, device: Option<&str>) -> io::Result<Self> {
        let (family, listener) = if address.is_ipv4() {
            (AddressFamily::INET, TcpSocket::new_v4()?)
        } else {
            (AddressFamily::INET6, TcpSocket::new_v6()?)
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let datagrams = UdpSocket::from_std(socket_with(family, SocketType::DGRAM, flags, None)?.into())?;
        // A bridge without ports may have its address later than this; and not one query from elsewhere is let in.
        sockopt::set_ip_freebind(&datagrams, true)?;
        sockopt::set_ip_freebind(&listener, true)?;
        datagrams.bind_device(device.map(str::as_bytes))?;
        listener.bind_device(device.map(str::as_bytes))?;
        listener.set_reuseaddr(true)?;
        bind(&datagrams, &address)?;
        listener.bind(address)?;
        Ok(Self { datagrams, listener: listener.listen(BACKLOG)? })
    }
}

/// Serves a network until its task is ended.
pub(super) async fn serve(shared: Arc<Shared>, network: Arc<Network>, sockets: Vec<Sockets>) {
    // Dropped with this task, and everything in it ends.
    let mut tasks = JoinSet::new();
    for Sockets { datagrams, listener } in sockets {
        tasks.spawn(serve_datagrams(shared.clone(), network.clone(), Arc::new(datagrams)));
        tasks.spawn(serve_connections(shared.clone(), network.clone(), listener));
    }
    while tasks.join_next().await.is_some() {}
}

/// Room for one query.
struct Admitted {
    _among_all: OwnedSemaphorePermit,
    _of_client: Place,
}

fn admit(shared: &Shared, network: &Network, client: IpAddr) -> Option<Admitted> {
    let of_client = network.shares.take(client, Kind::Query, Instant::now())?;
    let among_all = shared.queries.clone().try_acquire_owned().ok()?;
    Some(Admitted { _among_all: among_all, _of_client: of_client })
}

async fn serve_datagrams(shared: Arc<Shared>, network: Arc<Network>, socket: Arc<UdpSocket>) {
    let mut tasks = JoinSet::new();
    let mut room = vec![0; QUERY_MAX];
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok((length, client)) = socket.recv_from(&mut room).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Who is over its share asks again, or does not.
        let Some(admitted) =
            network.has(client.ip()).then(|| admit(&shared, &network, client.ip())).flatten()
        else {
            continue;
        };
        let received = message::receive(room.get(..length).unwrap_or_default());
        let (shared, network, socket) = (shared.clone(), network.clone(), socket.clone());
        tasks.spawn(async move {
            let _admitted = admitted;
            let (answer, limit) = match received {
                Received::Query(asked) => {
                    (respond(&shared, &network, client.ip(), &asked).await, asked.datagram_limit())
                }
                Received::Refused(refusal) => (refusal, STREAM_MAX),
                Received::Noise => return,
            };
            if let Some(bytes) = encode(&answer, limit) {
                let _the_client_asks_again = socket.send_to(&bytes, client).await;
            }
        });
    }
}

async fn serve_connections(shared: Arc<Shared>, network: Arc<Network>, listener: TcpListener) {
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok((stream, client)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let client = client.ip();
        if !network.has(client) {
            continue;
        }
        let Some(place) = network.shares.take(client, Kind::Connection, Instant::now()) else { continue };
        let (shared, network) = (shared.clone(), network.clone());
        tasks.spawn(async move {
            let _place = place;
            // However it ended, there is nobody to tell.
            let _ended = converse(&shared, &network, client, stream).await;
        });
    }
}

/// Answers a connection's queries, one after the other, until its client is silent, gone, or over its share.
async fn converse(
    shared: &Shared,
    network: &Network,
    client: IpAddr,
    mut stream: TcpStream,
) -> io::Result<()> {
    let mut room = vec![0; QUERY_MAX];
    loop {
        let length = usize::from(timeout(IDLE, stream.read_u16()).await??);
        let Some(query) = room.get_mut(..length) else { return Ok(()) };
        timeout(IDLE, stream.read_exact(query)).await??;
        let Some(_admitted) = admit(shared, network, client) else { return Ok(()) };
        let answer = match message::receive(query) {
            Received::Query(asked) => respond(shared, network, client, &asked).await,
            Received::Refused(refusal) => refusal,
            Received::Noise => return Ok(()),
        };
        let Some(bytes) = encode(&answer, STREAM_MAX) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        timeout(IDLE, stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat())).await??;
    }
}

/// What is known here: names of the client's network, of its other networks, and what is never asked for outside.
fn known(shared: &Shared, network: &Network, client: IpAddr, asked: &Asked) -> Known {
    let (question, turn) = (&asked.question, asked.turn());
    let own = shared.zone(&network.id);
    let of_others = || own.others_of(client).iter().find_map(|id| shared.zone(id).find(question, turn));
    let found = own.find(question, turn).or_else(of_others);
    found.unwrap_or_else(|| otherwise(question, |address| network.has(address)))
}

/// The answer to a query.
async fn respond(shared: &Shared, network: &Network, client: IpAddr, asked: &Asked) -> Message {
    match known(shared, network, client, asked) {
        Known::Records(records) => {
            let mut reply = asked.reply(ResponseCode::NoError);
            reply.metadata.authoritative = true;
            reply.answers = records;
            return reply;
        }
        Known::Code(code) => return asked.reply(code),
        Known::Nothing => {}
    }
    let name = spelled(asked.question.name());
    if shared.permit.as_ref().is_some_and(|permit| !permit(&network.id, client, &name)) {
        return asked.reply(ResponseCode::Refused);
    }
    let Some(outside) = shared.upstreams.resolve(asked).await else {
        return asked.reply(ResponseCode::ServFail);
    };
    if let (Some(watcher), Some((addresses, lifetime))) = (&shared.watcher, message::addresses(&outside)) {
        let answer = Answer { network: network.id.clone(), client, name, addresses, lifetime };
        if !timeout(WATCHED, watcher(answer)).await.unwrap_or(false) {
            return asked.reply(ResponseCode::ServFail);
        }
    }
    asked.relay(outside)
}
