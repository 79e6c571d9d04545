//! What happens in a container's namespaces before its own process: mounts, devices, terminal, user, limits, then
//! `execve`.
//!
//! The agent starts itself again with [`ARGUMENT`] as the first process of a PID namespace; descriptor [`SOCKET`]
//! carries one [`Stage`] in, and out only a report when it fails. The caller is single-threaded all along. For a
//! process that joins a container [`crate::join`] takes the place of most of it.
//! Invariant: nothing of the guest outside the container is reachable once the root has been entered.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hull_jail::cgroup::Cgroup;
use hull_jail::{capabilities, execute, namespaces, rlimits, root};
use hull_protocol::agent::{AgentError, AgentErrorKind, Mount, ProcessSpec, WindowSize};
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, open, symlink};
use rustix::mount::MountFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{ioctl_tiocsctty, setsid, umask};
use rustix::thread::{set_no_new_privs, set_thread_gid, set_thread_groups, set_thread_uid};
use serde::{Deserialize, Serialize};

use crate::mounts::{Root, bind, by_descriptor, exists, make_read_only, mount_at};
use crate::setup::{NAME_FILES, failed};
use crate::user::{self, User};
use crate::{binds, exec, join};

/// The argument that makes the agent this stage.
pub const ARGUMENT: &str = "container";
/// The descriptor of the socket to the agent.
pub(crate) const SOCKET: i32 = 3;
/// What the terminal's descriptor travels with.
pub(crate) const TERMINAL_NOTE: &[u8] = b"T";

/// What file systems of the kernel's own are mounted with.
const TIGHT: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What is to be made of this process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stage {
    pub(crate) process: ProcessSpec,
    pub(crate) root: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) hostname: String,
    pub(crate) cgroup: Option<PathBuf>,
    /// What it sees besides the root; nothing for one that joins.
    pub(crate) mounts: Vec<Mount>,
    /// Whether the process joins a container that runs; [`join::CONTAINER`] says which.
    pub(crate) joins: bool,
}

/// Becomes the container's process; comes back only to say why not.
pub fn run() -> ExitCode {
    let Ok(mut socket) = take_descriptor(SOCKET).map(UnixStream::from) else { return ExitCode::from(2) };
    let mut order = Vec::new();
    let error = match socket.read_to_end(&mut order).map(|_| serde_json::from_slice::<Stage>(&order)) {
        Ok(Ok(stage)) => become_process(&stage, &socket),
        Ok(Err(error)) => failed("reading the order", error),
        Err(error) => failed("reading the order", error),
    };
    let report = serde_json::to_vec(&error).unwrap_or_default();
    let _nobody_listens = socket.write_all(&report);
    ExitCode::FAILURE
}

/// A descriptor that this process has inherited, to be taken once, before anything is opened.
#[expect(unsafe_code, reason = "an inherited descriptor is only known by its number")]
pub(crate) fn take_descriptor(number: i32) -> rustix::io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: nothing in this process has opened or owns a descriptor yet but the three standard ones and those taken
    // here, each once; if the number is not open, the call below says so before it is used.
    let taken = unsafe { OwnedFd::from_raw_fd(number) };
    match rustix::io::fcntl_setfd(&taken, rustix::io::FdFlags::CLOEXEC) {
        Ok(()) => Ok(taken),
        Err(error) => {
            std::mem::forget(taken);
            Err(error)
        }
    }
}

fn become_process(stage: &Stage, socket: &UnixStream) -> AgentError {
    let user = if stage.joins { join::enter(stage, socket) } else { isolate(stage, socket) };
    match user {
        Ok(user) => exec::execute(&stage.process, &user, &stage.hostname),
        Err(error) => error,
    }
}

fn isolate(stage: &Stage, socket: &UnixStream) -> Result<User, AgentError> {
    if let Some(cgroup) = &stage.cgroup {
        Cgroup::at(cgroup).enter().map_err(|error| failed("entering the control group", error))?;
    }
    namespaces::new_for_container().map_err(|error| failed("making namespaces", error))?;
    root::make_private().map_err(|error| failed("making mounts private", error))?;
    rustix::system::sethostname(stage.hostname.as_bytes())
        .map_err(|error| failed("setting the host name", error))?;
    populate(stage).map_err(|error| failed("mounting /proc, /dev and /sys", error))?;
    binds::mount_all(&stage.root, &stage.mounts)?;
    setsid().map_err(|error| failed("starting a session", error))?;
    if let Some(size) = stage.process.terminal {
        open_terminal(&stage.root, size, socket).map_err(|error| failed("making the terminal", error))?;
    }
    root::enter(&stage.root).map_err(|error| failed("entering the root", error))?;
    shut_off().map_err(|error| failed("hiding parts of /proc", error))?;
    if stage.read_only {
        read_only_root().map_err(|error| failed("making the root read-only", error))?;
    }
    take_identity(&stage.process)
}

fn populate(stage: &Stage) -> io::Result<()> {
    let tight = TIGHT;
    let root = Root::open(&stage.root)?;
    root.mount("/proc", "proc", tight, "")?;
    root.mount("/sys", "sysfs", tight | MountFlags::RDONLY, "")?;
    if stage.cgroup.is_some() {
        root.mount("/sys/fs/cgroup", "cgroup2", tight | MountFlags::RDONLY, "")?;
    }
    root.mount("/dev", "tmpfs", MountFlags::NOSUID | MountFlags::STRICTATIME, "mode=755,size=65536k")?;
    let tty = MountFlags::NOSUID | MountFlags::NOEXEC;
    root.mount("/dev/pts", "devpts", tty, "newinstance,ptmxmode=0666,mode=0620,gid=5")?;
    root.mount("/dev/shm", "tmpfs", tight, "mode=1777,size=65536k")?;
    if let Err(error) = root.mount("/dev/mqueue", "mqueue", tight, "") {
        crate::kmsg::log(&format!("no message queues: {error}"));
    }
    devices(&stage.root.join("dev"))
}

/// The devices every container has, as the OCI runtime specification lists them.
fn devices(dev: &Path) -> io::Result<()> {
    let mask = umask(Mode::empty());
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, dev.join(name), FileType::CharacterDevice, mode, makedev(major, minor))?;
    }
    umask(mask);
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
        ("pts/ptmx", "ptmx"),
    ] {
        symlink(target, dev.join(name))?;
    }
    Ok(())
}

/// Makes a terminal in the container's own devpts, makes it this session's, and hands its other end to the agent.
fn open_terminal(root: &Path, size: WindowSize, socket: &UnixStream) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ours = open(root.join("dev/pts/ptmx"), flags, Mode::empty())?;
    take_terminal(&ours, size)?;
    let inside = Root::open(root)?;
    std::fs::File::create(root.join("dev/console"))?;
    let name = rustix::pty::ptsname(&ours, Vec::new())?;
    let path = root.join(name.to_string_lossy().trim_start_matches('/'));
    bind(&path, &inside.existing("/dev/console")?)?;
    send_descriptor(socket, ours.as_fd())
}

/// Makes the other end of a new terminal this session's, and its standard streams.
pub(crate) fn take_terminal(ours: &OwnedFd, size: WindowSize) -> io::Result<()> {
    rustix::pty::unlockpt(ours)?;
    let opened =
        rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let theirs = rustix::pty::ioctl_tiocgptpeer(ours, opened)?;
    let winsize =
        rustix::termios::Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(ours, winsize)?;
    ioctl_tiocsctty(&theirs)?;
    rustix::stdio::dup2_stdin(&theirs)?;
    rustix::stdio::dup2_stdout(&theirs)?;
    Ok(rustix::stdio::dup2_stderr(&theirs)?)
}

pub(crate) fn send_descriptor(socket: &UnixStream, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(TERMINAL_NOTE)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Hides what says much about the machine, and keeps its settings from being written, as Docker does.
fn shut_off() -> io::Result<()> {
    let root = Root::open(Path::new("/"))?;
    for path in ["/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"]
    {
        if exists(path) {
            mount_over(path)?;
        }
    }
    for path in ["/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/timer_list"]
    {
        if root.has(path) {
            bind(Path::new("/dev/null"), &root.existing(path)?)?;
        }
    }
    for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
        if root.has(path) {
            bind(Path::new(path), &root.existing(path)?)?;
            make_read_only(Path::new(path), TIGHT)?;
        }
    }
    Ok(())
}

/// The root, and the files that are mounted over the image's own.
fn read_only_root() -> io::Result<()> {
    let root = Root::open(Path::new("/"))?;
    for name in NAME_FILES {
        let path = format!("/etc/{name}");
        // Only what is a mount by itself can be made read-only by itself; the rest is part of the root.
        if let Ok(file) = root.existing(&path)
            && let Err(error) = make_read_only(by_descriptor(&file), TIGHT)
            && error.raw_os_error() != Some(rustix::io::Errno::INVAL.raw_os_error())
        {
            return Err(error);
        }
    }
    make_read_only("/", MountFlags::empty())
}

fn mount_over(path: &str) -> io::Result<()> {
    mount_at(path, "tmpfs", "tmpfs", MountFlags::RDONLY, "size=0k")
}

/// User, groups, capabilities, limits. From here on the process can do what the container can.
pub(crate) fn take_identity(process: &ProcessSpec) -> Result<User, AgentError> {
    let invalid = |message: String| AgentError { kind: AgentErrorKind::Invalid, message };
    let passwd = user::read_image_file("/etc/passwd");
    let group = user::read_image_file("/etc/group");
    let user = user::find(&process.user, &passwd, &group).map_err(|error| invalid(error.to_string()))?;
    enter_workdir(&process.workdir)?;
    for limit in &process.rlimits {
        rlimits::set(&limit.name, limit.soft, limit.hard).map_err(|error| invalid(error.to_string()))?;
    }
    let kept = capabilities::parse(&process.capabilities).map_err(|error| invalid(error.to_string()))?;
    let refused = |error: &dyn std::fmt::Display| failed("taking on the user", error);
    own_streams(user.uid);
    capabilities::bound(kept).map_err(|error| refused(&error))?;
    let groups: Vec<_> = user.groups.iter().map(|gid| rustix::process::Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups).map_err(|error| refused(&error))?;
    set_thread_gid(rustix::process::Gid::from_raw(user.gid)).map_err(|error| refused(&error))?;
    set_thread_uid(rustix::process::Uid::from_raw(user.uid)).map_err(|error| refused(&error))?;
    if user.uid == 0 {
        capabilities::restrict(kept).map_err(|error| refused(&error))?;
    }
    if process.no_new_privileges {
        set_no_new_privs(true).map_err(|error| refused(&error))?;
    }
    umask(Mode::from_raw_mode(0o022));
    execute::keep_descriptors_below(3).map_err(|error| refused(&error))?;
    Ok(user)
}

/// Another user than root could not open `/dev/stdout` again if its pipes belonged to root.
fn own_streams(uid: u32) {
    let uid = Some(rustix::process::Uid::from_raw(uid));
    for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let kind = rustix::fs::fstat(stream).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind.is_ok_and(|kind| kind != FileType::CharacterDevice || rustix::termios::isatty(stream)) {
            let _stays_roots = rustix::fs::fchown(stream, uid, None);
        }
    }
}

fn enter_workdir(workdir: &str) -> Result<(), AgentError> {
    let workdir = if workdir.is_empty() { "/" } else { workdir };
    if !workdir.starts_with('/') {
        let message = format!("the working directory '{workdir}' is not absolute");
        return Err(AgentError { kind: AgentErrorKind::Invalid, message });
    }
    // On a read-only root a directory that is missing stays missing, and the next line says so.
    let _made = std::fs::create_dir_all(workdir);
    std::env::set_current_dir(workdir).map_err(|error| AgentError {
        kind: AgentErrorKind::Invalid,
        message: format!("the working directory '{workdir}' cannot be entered: {error}"),
    })
}
