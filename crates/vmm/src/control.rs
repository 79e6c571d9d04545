//! The control socket: the daemon's words to a running VM, one JSON message a packet.
//!
//! Owner: the main thread. Invariants: one peer at a time; a packet that is no request costs its peer the
//! connection and the VM nothing; nothing is sent to a peer that does not read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use hull_protocol::control::{Command, Event, Message, PACKET_MAX, Reply, Request, VmmStatus};
use hull_protocol::exit::ExitReason;
use hull_protocol::plan::BootPlan;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use vmm_sys_util::eventfd::EventFd;

use crate::devices;
use crate::machine::Machine;

/// Serves the control socket until the VM ends; returns why it did.
///
/// # Errors
/// When the host fails the main loop.
pub fn serve(
    machine: &mut Machine,
    plan: &BootPlan,
    listener: Option<OwnedFd>,
    woken: &EventFd,
) -> io::Result<ExitReason> {
    let mut control = Control { listener, peer: None };
    loop {
        if let Some(reason) = machine.ended() {
            control.send(&Message::Event(Event::Exited(reason)));
            return Ok(reason);
        }
        let (connecting, speaking) = control.wait(woken)?;
        if connecting {
            control.accept();
        }
        if speaking && let Some(reason) = control.hear(machine, plan) {
            control.send(&Message::Event(Event::Exited(reason)));
            return Ok(reason);
        }
    }
}

struct Control {
    listener: Option<OwnedFd>,
    peer: Option<OwnedFd>,
}

impl Control {
    /// Sleeps until something happens: whether a peer connects, whether the peer speaks.
    fn wait(&self, woken: &EventFd) -> io::Result<(bool, bool)> {
        let wake = crate::io_loop::borrow(woken);
        let mut waits = vec![PollFd::from_borrowed_fd(wake, PollFlags::IN)];
        // While there is a peer, the next one waits in the listener's queue.
        let other = self.peer.as_ref().or(self.listener.as_ref());
        waits.extend(other.map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut waits, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if waits.first().is_some_and(|wait| !wait.revents().is_empty()) {
            let _count = woken.read();
        }
        let heard = waits.get(1).is_some_and(|wait| !wait.revents().is_empty());
        Ok((heard && self.peer.is_none(), heard && self.peer.is_some()))
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(peer) => self.peer = Some(peer),
            Err(error) => log::warn!("a control connection was not accepted: {error}"),
        }
    }

    /// Obeys one request; returns the reason when it was to end.
    fn hear(&mut self, machine: &mut Machine, plan: &BootPlan) -> Option<ExitReason> {
        let mut packet = [0; PACKET_MAX];
        let got = self.peer.as_ref().map(|peer| recv(peer.as_fd(), &mut packet, RecvFlags::TRUNC));
        let length = match got? {
            Ok((_, length)) if length > 0 && length <= PACKET_MAX => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return None,
            Ok(_) | Err(_) => {
                self.peer = None;
                return None;
            }
        };
        let request: Request = match serde_json::from_slice(packet.get(..length).unwrap_or_default()) {
            Ok(request) => request,
            Err(error) => {
                log::warn!("the control peer sent no request: {error}");
                self.peer = None;
                return None;
            }
        };
        let mut net = None;
        let done = match request.command {
            Command::Status => Ok(()),
            Command::NetStats { net: index } => {
                net = machine.net(index).map(devices::stats);
                net.map(|_| ()).ok_or_else(|| format!("there is no network card {index}"))
            }
            Command::GrowDisk { disk, size } => {
                let found = machine.grow_disk(disk, size);
                found.then_some(()).ok_or_else(|| format!("there is no disk {disk}"))
            }
            Command::Pause => {
                machine.pause();
                Ok(())
            }
            Command::Resume => {
                machine.resume();
                Ok(())
            }
            Command::PowerButton => machine.press_power_button().map_err(|error| error.to_string()),
            Command::Kill => Ok(()),
            Command::VsockAnswer { .. } => Err("no such offer".to_owned()),
        };
        let status = VmmStatus { paused: machine.is_paused(), cpus: plan.cpus, memory: plan.memory };
        self.send(&Message::Reply(Reply { seq: request.seq, result: done.map(|()| status), net }));
        (request.command == Command::Kill).then_some(ExitReason::Killed)
    }

    fn send(&mut self, message: &Message) {
        let (Some(peer), Ok(packet)) = (&self.peer, serde_json::to_vec(message)) else { return };
        if send(peer, &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_err() {
            self.peer = None;
        }
    }
}
