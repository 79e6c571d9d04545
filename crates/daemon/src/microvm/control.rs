//! The daemon's end of a VMM's control socket.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use hull_protocol::control::{Command, Event, Message, PACKET_MAX, Request};
use hull_protocol::exit::ExitReason;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recv};
use tokio::sync::watch;

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

/// A connection to a running VMM. It serves one at a time.
pub(super) struct Control(OwnedFd);

impl Control {
    /// Connects.
    ///
    /// # Errors
    /// When no VMM has the socket.
    pub(super) fn connect(socket: &Path) -> io::Result<Self> {
        let connection = new_socket()?;
        rustix::net::connect(&connection, &SocketAddrUnix::new(socket)?)?;
        Ok(Self(connection))
    }

    /// Tells the VMM to end at once. Its end is seen elsewhere, so the reply is not waited for.
    ///
    /// # Errors
    /// When it has gone.
    pub(super) fn kill(&self) -> io::Result<()> {
        let packet = serde_json::to_vec(&Request { seq: 1, command: Command::Kill })?;
        rustix::net::send(&self.0, &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// Watches for the VMM's end, on a thread of its own; the reason, where it gives one.
    ///
    /// # Errors
    /// When there is no thread.
    pub(super) fn watch(&self) -> io::Result<watch::Receiver<Option<Option<ExitReason>>>> {
        let connection = self.0.try_clone()?;
        let (ended, seen) = watch::channel(None);
        thread::Builder::new().name("adopted".into()).spawn(move || {
            let mut packet = [0; PACKET_MAX];
            let reason = loop {
                match recv(&connection, &mut packet, RecvFlags::empty()) {
                    Ok((_, length @ 1..)) => {
                        let message = serde_json::from_slice(packet.get(..length).unwrap_or_default());
                        if let Ok(Message::Event(Event::Exited(reason))) = message {
                            break Some(reason);
                        }
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Ok(_) | Err(_) => break None,
                }
            };
            let _nobody_waits = ended.send(Some(reason));
        })?;
        Ok(seen)
    }
}
