//! The stage of a process that joins a container that runs: its namespaces, its control group, a terminal in its own
//! devpts.
//!
//! The caller is single-threaded all along, and a child of the agent's in the container's PID namespace already.
//! Invariant: nothing of the container can look into this process before it is the container's own: what is open here
//! and the agent's program are out of reach of a hostile first process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use hull_jail::cgroup::Cgroup;
use hull_jail::namespaces;
use hull_protocol::agent::{AgentError, WindowSize};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, major, minor, openat2};
use rustix::process::{DumpableBehavior, set_dumpable_behavior, setsid};

use crate::setup::failed;
use crate::stage::{self, Stage};
use crate::user::User;

/// The descriptor of the container's own process.
pub(crate) const CONTAINER: i32 = 4;
/// The device that makes terminals.
const PTMX: (u32, u32) = (5, 2);

/// Makes this process one of the container's.
pub(crate) fn enter(stage: &Stage, socket: &UnixStream) -> Result<User, AgentError> {
    let container =
        stage::take_descriptor(CONTAINER).map_err(|error| failed("finding the container", error))?;
    enter_namespaces(stage, &container)?;
    drop(container);
    setsid().map_err(|error| failed("starting a session", error))?;
    if let Some(size) = stage.process.terminal {
        open_terminal(size, socket).map_err(|error| failed("making the terminal", error))?;
    }
    stage::take_identity(&stage.process)
}

fn enter_namespaces(stage: &Stage, container: &OwnedFd) -> Result<(), AgentError> {
    // The container's /proc shows this process from its start on: it shows nothing of it but its name.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| failed("closing this process to others", error))?;
    if let Some(cgroup) = &stage.cgroup {
        Cgroup::at(cgroup).enter().map_err(|error| failed("entering the control group", error))?;
    }
    namespaces::join_container(container.as_fd()).map_err(|error| failed("joining the container", error))
}

/// Makes a terminal in the container's own devpts, makes it this session's, and hands its other end to the agent.
fn open_terminal(size: WindowSize, socket: &UnixStream) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    // The container's processes may have put anything there: only the device itself will do.
    let ours = openat2(CWD, "/dev/pts/ptmx", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    let found = fstat(&ours)?;
    let device = (major(found.st_rdev), minor(found.st_rdev));
    if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice || device != PTMX {
        return Err(io::Error::other("/dev/pts/ptmx in the container is not the device it should be"));
    }
    stage::take_terminal(&ours, size)?;
    stage::send_descriptor(socket, ours.as_fd())
}
