//! The daemon's end of a VMM's control socket.
//!
//! Owner: the run of a microVM and its actor share one connection; a task of its own reads it. Invariants: a VMM that
//! does not answer costs [`ANSWER_WAIT`] and no more; what it says is bounded, and nothing of it is believed but
//! answers to what was asked and its own end.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hull_protocol::control::{Command, Event, Message, PACKET_MAX, Request, VmmStatus};
use hull_protocol::exit::ExitReason;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixDatagram;
use tokio::sync::{oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

pub(super) const PAUSE: Command = Command::Pause;
pub(super) const RESUME: Command = Command::Resume;
pub(super) const STATUS: Command = Command::Status;

/// How long a VMM may take to an answer: to pause, it finishes what its devices have begun.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How long a VMM may take to take a connection: its kernel does it, while fewer wait than its socket lets.
const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// A listening control socket, for the VMM to inherit.
pub(super) fn listen(socket: &Path) -> io::Result<OwnedFd> {
    let listener = new_socket()?;
    rustix::net::bind(&listener, &SocketAddrUnix::new(socket)?)?;
    rustix::net::listen(&listener, 4)?;
    Ok(listener)
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// What the VMM has said of its end: nothing yet, or that it is over, with the reason where it gave one.
type End = Option<Option<ExitReason>>;
type Answer = Result<VmmStatus, String>;

/// A connection to a running VMM, which serves one at a time. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    link: Arc<Link>,
    ended: watch::Receiver<End>,
    /// Ends with the last clone.
    _reader: Arc<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Link {
    socket: UnixDatagram,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

impl Control {
    /// Connects. Needs the runtime.
    ///
    /// # Errors
    /// When no VMM has the socket.
    pub(super) fn connect(socket: &Path) -> io::Result<Self> {
        let connection = new_socket()?;
        // One that takes no connections, because it hangs or was taken over, must not keep the daemon from its start.
        set_socket_timeout(&connection, Timeout::Send, Some(CONNECT_WAIT))?;
        rustix::net::connect(&connection, &SocketAddrUnix::new(socket)?)?;
        rustix::io::ioctl_fionbio(&connection, true)?;
        // What the runtime has for datagrams does for packets: it sends, receives and waits.
        let socket = UnixDatagram::from_std(connection.into())?;
        let link = Arc::new(Link { socket, next: AtomicU64::new(1), waiting: Mutex::default() });
        let (told, ended) = watch::channel(None);
        let reader = tokio::spawn(read(link.clone(), told));
        Ok(Self { link, ended, _reader: Arc::new(AbortOnDropHandle::new(reader)) })
    }

    /// Has a command obeyed; how the VMM is afterwards.
    ///
    /// # Errors
    /// When it does not obey, or does not answer in time.
    pub(crate) async fn ask(&self, command: Command) -> io::Result<VmmStatus> {
        let (answer, answered) = oneshot::channel();
        let seq = self.link.next.fetch_add(1, Ordering::Relaxed);
        self.link.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(seq, answer);
        let answered = match self.send(&Request { seq, command }) {
            Ok(()) => tokio::time::timeout(ANSWER_WAIT, answered).await,
            Err(error) => {
                self.forget(seq);
                return Err(error);
            }
        };
        match answered {
            Ok(Ok(answer)) => answer.map_err(io::Error::other),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the VMM has hung up")),
            Err(_) => {
                self.forget(seq);
                Err(io::Error::new(io::ErrorKind::TimedOut, "the VMM does not answer"))
            }
        }
    }

    /// Tells the VMM to end at once. Its end is seen elsewhere, so the reply is not waited for.
    ///
    /// # Errors
    /// When it has gone.
    pub(super) fn kill(&self) -> io::Result<()> {
        self.send(&Request { seq: 0, command: Command::Kill })
    }

    /// Waits until it has ended or hung up; the reason, where it gave one.
    pub(super) async fn ended(&self) -> Option<ExitReason> {
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some).await;
        end.ok().and_then(|end| (*end)?)
    }

    fn send(&self, request: &Request) -> io::Result<()> {
        let packet = serde_json::to_vec(request)?;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::send(&self.link.socket, &packet, flags)?;
        Ok(())
    }

    fn forget(&self, seq: u64) {
        self.link.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&seq);
    }
}

/// Reads until the VMM ends or hangs up.
async fn read(link: Arc<Link>, told: watch::Sender<End>) {
    let reason = loop {
        // One byte more than a packet may have: a longer one is told from it.
        let mut packet = [0; PACKET_MAX + 1];
        match link.socket.recv(&mut packet).await {
            Ok(length @ 1..=PACKET_MAX) => {
                match serde_json::from_slice(packet.get(..length).unwrap_or_default()) {
                    Ok(Message::Event(Event::Exited(reason))) => break Some(reason),
                    Ok(Message::Reply(reply)) => {
                        let asked =
                            link.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&reply.seq);
                        let _nobody_waits = asked.map(|asked| asked.send(reply.result));
                    }
                    Ok(Message::Event(_)) | Err(_) => {}
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => break None,
        }
    };
    let _nobody_waits = told.send(Some(reason));
    link.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use hull_protocol::control::Reply;
    use hull_protocol::units::Bytes;
    use rustix::net::{RecvFlags, accept, recv};

    use super::*;

    const STATUS: VmmStatus = VmmStatus { paused: true, cpus: 1, memory: Bytes::mib(1) };

    /// A VMM that answers each request by what `answer` makes of its number.
    fn peer(listener: OwnedFd, answer: impl Fn(u64) -> Vec<Vec<u8>> + Send + 'static) {
        std::thread::spawn(move || {
            let peer = accept(&listener).unwrap();
            let mut packet = [0; PACKET_MAX];
            while let Ok((_, length @ 1..)) = recv(&peer, &mut packet, RecvFlags::empty()) {
                let request: Request = serde_json::from_slice(&packet[..length]).unwrap();
                for packet in answer(request.seq) {
                    rustix::net::send(&peer, &packet, SendFlags::NOSIGNAL).unwrap();
                }
            }
        });
    }

    fn bytes(message: &Message) -> Vec<u8> {
        serde_json::to_vec(message).unwrap()
    }

    #[tokio::test]
    async fn answers_find_who_asked_whatever_else_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control");
        peer(listen(&socket).unwrap(), |seq| {
            let stale =
                Message::Reply(Reply { seq: seq.wrapping_add(7), result: Err("stale".into()), net: None });
            let answer = Message::Reply(Reply { seq, result: Ok(STATUS), net: None });
            vec![b"garbage".to_vec(), vec![0xff; PACKET_MAX], bytes(&stale), bytes(&answer)]
        });
        let control = Control::connect(&socket).unwrap();
        for _ in 0..3 {
            assert_eq!(control.clone().ask(Command::Pause).await.unwrap(), STATUS);
        }
    }

    #[tokio::test]
    async fn its_end_is_told_to_whoever_waits() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control");
        peer(listen(&socket).unwrap(), |_| vec![bytes(&Message::Event(Event::Exited(ExitReason::Reset)))]);
        let control = Control::connect(&socket).unwrap();
        assert!(control.ask(Command::Status).await.is_err());
        assert_eq!(control.ended().await, Some(ExitReason::Reset));
    }
}
