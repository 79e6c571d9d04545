//! Carries what the host sends to a published port over its own loopback.
//!
//! Owner: a task for each port, on the runtime. Invariant: connections and datagram conversations are bounded, and
//! none outlives its port.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// The most connections of one port at a time.
const CONNECTIONS: usize = 1024;
/// The most conversations of one port at a time.
const CONVERSATIONS: usize = 256;
/// How long a conversation without a datagram lasts.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a guest may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long nothing is accepted when the host is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// The largest datagram.
const DATAGRAM: usize = 65_536;

/// Carries TCP connections.
pub async fn tcp(listener: TcpListener, guest: SocketAddr) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let Ok((mut outside, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        connections.spawn(async move {
            let _held_to_the_end = permit;
            if let Ok(Ok(mut inside)) = timeout(CONNECT, TcpStream::connect(guest)).await {
                let _either_side_may_break = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            }
        });
    }
}

/// Somebody who sends datagrams, and the socket on which the guest sees that one.
struct Conversation {
    socket: Arc<UdpSocket>,
    last: Instant,
    answers: tokio::task::AbortHandle,
}

/// Carries UDP datagrams.
pub async fn udp(socket: UdpSocket, guest: SocketAddr) {
    let socket = Arc::new(socket);
    let mut conversations: HashMap<SocketAddr, Conversation> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut datagram).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while tasks.try_join_next().is_some() {}
        if !conversations.contains_key(&from) {
            make_room(&mut conversations);
            let Ok(inside) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await else { continue };
            if inside.connect(guest).await.is_err() {
                continue;
            }
            let inside = Arc::new(inside);
            let answers = tasks.spawn(answer(inside.clone(), socket.clone(), from));
            conversations.insert(from, Conversation { socket: inside, last: Instant::now(), answers });
        }
        if let Some(conversation) = conversations.get_mut(&from) {
            conversation.last = Instant::now();
            // A guest that does not listen loses it, as on any network.
            let _lost = conversation.socket.send(datagram.get(..length).unwrap_or_default()).await;
        }
    }
}

/// Ends what has been silent for long, and the longest silent where all are in use.
fn make_room(conversations: &mut HashMap<SocketAddr, Conversation>) {
    let end = |conversation: &Conversation| conversation.answers.abort();
    conversations.retain(|_, conversation| {
        let lasts = conversation.last.elapsed() < SILENCE;
        if !lasts {
            end(conversation);
        }
        lasts
    });
    if conversations.len() < CONVERSATIONS {
        return;
    }
    let oldest =
        conversations.iter().min_by_key(|(_, conversation)| conversation.last).map(|(from, _)| *from);
    if let Some(conversation) = oldest.and_then(|from| conversations.remove(&from)) {
        end(&conversation);
    }
}

async fn answer(inside: Arc<UdpSocket>, outside: Arc<UdpSocket>, to: SocketAddr) {
    let mut datagram = vec![0; DATAGRAM];
    loop {
        match inside.recv(&mut datagram).await {
            Ok(length) => {
                let _lost = outside.send_to(datagram.get(..length).unwrap_or_default(), to).await;
            }
            // Nobody listened on the guest's port: the next datagram may find somebody.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
