//! Questions that the host's own resolvers answer.
//!
//! RFC 5452 against forged answers: each attempt has a socket of its own, so a port that the kernel picks at random,
//! connected to the one server that is asked, and a random number. Owner: all networks' tasks. Invariant: a question
//! ends within [`TOTAL`], with one socket open at a time.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{Asked, STREAM_MAX, answer_to, encode};
use super::resolv_conf::servers;

/// How long one server has for an answer.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How often the whole list is gone through.
const ROUNDS: usize = 2;
/// How long all attempts may take together.
const TOTAL: Duration = Duration::from_secs(9);
/// How many datagrams that are no answer are looked at in one attempt.
const STRAY_MAX: usize = 16;
/// How often the list of servers is looked at.
const RELOAD: Duration = Duration::from_secs(1);
/// The longest list that is read.
const LIST_MAX: u64 = 64 << 10;
/// No datagram is larger.
const DATAGRAM_ROOM: usize = 4096;

/// The servers that the host uses.
pub(super) struct Upstreams {
    path: PathBuf,
    loaded: Mutex<Option<Loaded>>,
    /// The one that answered last is asked first.
    preferred: AtomicUsize,
}

struct Loaded {
    looked_at: Instant,
    stamp: Option<Stamp>,
    servers: Arc<[SocketAddr]>,
}

/// What changes when a file does: device, inode, size, seconds, nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
}

/// The file's text, or nothing: a list that is missing or too long names no server.
fn read(path: &Path) -> String {
    let short =
        std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() <= LIST_MAX);
    if short { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() }
}

impl Upstreams {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, loaded: Mutex::default(), preferred: AtomicUsize::new(0) }
    }

    fn servers(&self) -> Arc<[SocketAddr]> {
        let now = Instant::now();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = loaded.as_mut() {
            if now.saturating_duration_since(loaded.looked_at) < RELOAD {
                return loaded.servers.clone();
            }
            loaded.looked_at = now;
            if loaded.stamp == stamp(&self.path) {
                return loaded.servers.clone();
            }
        }
        // Taken first: a list that changes while it is read is read again.
        let stamp = stamp(&self.path);
        let servers: Arc<[SocketAddr]> = servers(&read(&self.path)).into();
        *loaded = Some(Loaded { looked_at: now, stamp, servers: servers.clone() });
        servers
    }

    /// What the host's resolvers say; None when none of them does.
    pub(super) async fn resolve(&self, asked: &Asked) -> Option<Message> {
        timeout(TOTAL, self.try_all(asked)).await.ok().flatten()
    }

    async fn try_all(&self, asked: &Asked) -> Option<Message> {
        let servers = self.servers();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failure = None;
        for _ in 0..ROUNDS {
            for offset in 0..servers.len() {
                let Some(number) = first.wrapping_add(offset).checked_rem(servers.len()) else { continue };
                let Some(server) = servers.get(number) else { continue };
                match timeout(ATTEMPT, ask(*server, asked)).await {
                    Ok(Ok(answer)) if is_final(&answer) => {
                        self.preferred.store(number, Ordering::Relaxed);
                        return Some(answer);
                    }
                    Ok(Ok(answer)) => failure = Some(answer),
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            if failure.is_some() {
                break;
            }
        }
        failure
    }
}

/// Whether another server could not know better.
fn is_final(answer: &Message) -> bool {
    matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// One server's answer; asked again without EDNS when it does not know that.
async fn ask(server: SocketAddr, asked: &Asked) -> io::Result<Message> {
    let answer = exchange(server, &asked.ask_outside(true)).await?;
    match answer.metadata.response_code {
        ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS => {
            exchange(server, &asked.ask_outside(false)).await
        }
        _ => Ok(answer),
    }
}

/// One query and its answer, over TCP when it is too long for a datagram.
async fn exchange(server: SocketAddr, query: &Message) -> io::Result<Message> {
    let bytes =
        encode(query, STREAM_MAX).ok_or_else(|| io::Error::other("a question that cannot be sent"))?;
    let answer = over_datagrams(server, query, &bytes).await?;
    if answer.metadata.truncation { over_stream(server, query, &bytes).await } else { Ok(answer) }
}

async fn over_datagrams(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    // The kernel drops what anybody else sends.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut room = vec![0; DATAGRAM_ROOM];
    for _ in 0..STRAY_MAX {
        let length = socket.recv(&mut room).await?;
        if let Some(answer) = answer_to(query, room.get(..length).unwrap_or_default()) {
            return Ok(answer);
        }
    }
    Err(io::Error::other("nothing but stray datagrams"))
}

async fn over_stream(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    answer_to(query, &answer).ok_or_else(|| io::Error::other("no answer to the question"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

    use super::*;

    #[test]
    fn a_list_that_changes_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let upstreams = Upstreams::new(path.clone());
        let text = |upstreams: &Upstreams| {
            upstreams.servers().iter().map(|server| server.ip().to_string()).collect::<Vec<_>>()
        };
        let later = || {
            let mut loaded = upstreams.loaded.lock().unwrap();
            let loaded = loaded.as_mut().unwrap();
            loaded.looked_at = loaded.looked_at.checked_sub(RELOAD).unwrap();
        };
        assert_eq!(text(&upstreams), ["127.0.0.1"]);
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(text(&upstreams), ["127.0.0.1"], "it is looked at once a second");
        later();
        assert_eq!(text(&upstreams), ["192.0.2.1"]);
        // Replaced by a rename, as programs that manage it do.
        std::fs::write(dir.path().join("new"), "nameserver 192.0.2.2\n").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        later();
        assert_eq!(text(&upstreams), ["192.0.2.2"]);
        std::fs::write(&path, vec![b'#'; 70_000]).unwrap();
        later();
        assert_eq!(text(&upstreams), ["127.0.0.1"]);
    }
}
