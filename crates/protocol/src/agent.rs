//! What the daemon and `hull-agent` (PID 1 in the guest) say to each other over vsock.
//!
//! The host connects to [`CONTROL_PORT`] and speaks [`Request`]s, answered by [`Message`]s, each framed by
//! [`crate::frame`]. For each standard stream of a process it connects to [`STREAM_PORT`], sends one framed
//! [`StreamHello`], and from then on the connection carries raw bytes. End of file is a half-close: of the
//! host's side for standard input, of the agent's side for output. Both sides treat the other as hostile.
//!
//! The order of a start: [`Command::Setup`] once, [`Command::Secret`] for each secret that it names, then
//! [`Command::Start`] (the process is forked but waits until the streams it names are connected), then streams, then
//! [`Event::Exited`] after its output streams have been closed. The first process that is started is the container's own: it makes the container's
//! namespaces, and with it ends all that runs in them. Those that are started while it runs join them.

use serde::{Deserialize, Serialize};

use crate::network::Interface;
use crate::secret::SecretValue;

/// The vsock port for control connections. The newest connection is served; an older one is closed.
pub const CONTROL_PORT: u32 = 1024;
/// The vsock port for stream connections.
pub const STREAM_PORT: u32 = 1025;
/// The version of this protocol, in [`Ready`].
pub const VERSION: u32 = 3;
/// The most processes that run beside the container's own.
pub const FURTHER_MAX: usize = 64;
/// The longest id of a process, in bytes.
pub const PROCESS_ID_MAX: usize = 64;

/// The device id of the read-only image disk.
pub const IMAGE_SERIAL: &str = "hull-image";
/// The device id of the writable disk.
pub const DATA_SERIAL: &str = "hull-data";
/// The device id of the read-only disk with copies of the host's files: an EROFS with one entry for each
/// [`MountSource::Copy`], by number.
pub const COPIES_SERIAL: &str = "hull-copies";

/// The device id of a volume's disk, by its place among the microVM's volumes.
pub fn volume_serial(place: usize) -> String {
    format!("hull-volume-{place}")
}

/// A numbered request from the host; answered by exactly one [`Message::Reply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Chosen by the host, repeated in the reply.
    pub seq: u64,
    /// What is to be done.
    pub command: Command,
}

/// What the host asks of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Mount the root, set clock, names and addresses. Once, first.
    Setup(Box<Setup>),
    /// Take the value of a secret. After the setup that names it, before the container's own process is started.
    Secret(Box<Secret>),
    /// Start a process: the container's own, or, while that runs, one beside it.
    Start(Box<ProcessSpec>),
    /// Send a signal to a process (`group`: to all processes of its container).
    Signal {
        /// The process's id.
        process: String,
        /// The signal's number, 1 to 64.
        signal: i32,
        /// Every process of the container instead of the one.
        group: bool,
    },
    /// Set the size of a process's terminal.
    Resize {
        /// The process's id.
        process: String,
        /// The new size.
        size: WindowSize,
    },
    /// Set the guest's clock, nanoseconds since the Unix epoch.
    SetTime(u64),
    /// A volume's disk is becoming larger: wait until it is, and grow its file system to it.
    Grow {
        /// The disk's device id.
        serial: String,
        /// Its new size in bytes.
        size: u64,
    },
    /// End all processes (SIGTERM, then SIGKILL after `grace_ms`), flush and unmount, power off.
    Shutdown {
        /// Milliseconds between SIGTERM and SIGKILL.
        grace_ms: u64,
    },
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// The first message on every control connection.
    Ready(Ready),
    /// The answer to a request.
    Reply {
        /// The request's number.
        seq: u64,
        /// Why it was not done.
        result: Result<(), AgentError>,
    },
    /// Something that happened by itself.
    Event(Event),
}

/// Who the agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// [`VERSION`] of the agent.
    pub version: u32,
    /// The guest kernel's release (`uname -r`).
    pub kernel: String,
    /// Processes that run or whose exit nobody has fetched yet, for a host that comes back.
    pub processes: Vec<ProcessState>,
}

/// One process, as the agent knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    /// Its id.
    pub id: String,
    /// Its exit status, once it has ended. Of those beside the container's own, only the last ones are remembered.
    pub exit: Option<ProcessExit>,
    /// Whether it has a terminal instead of pipes.
    #[serde(default)]
    pub terminal: bool,
}

/// Why the agent did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// What kind of failure it is.
    pub kind: AgentErrorKind,
    /// What went wrong, for the user.
    pub message: String,
}

/// Kinds of failure that the host acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentErrorKind {
    /// The command does not exist in the image (Docker's exit status 127).
    NotFound,
    /// The command exists but cannot be executed (Docker's exit status 126).
    NotExecutable,
    /// The request does not fit (unknown user, unknown process, bad directory).
    Invalid,
    /// The guest failed: a mount, a module, memory.
    Failed,
}

/// What the agent reports by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A process has ended and its output streams are closed.
    Exited {
        /// The process's id.
        process: String,
        /// How it ended.
        exit: ProcessExit,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessExit {
    /// The status as a shell has it: the exit code, or 128 + n for a death by signal n.
    pub status: i32,
    /// Whether the guest ran out of memory and its kernel chose this process.
    pub oom_killed: bool,
}

/// The guest as the container will find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Now, in nanoseconds since the Unix epoch.
    pub time_unix_ns: u64,
    /// The host name.
    pub hostname: String,
    /// Whether the container sees its root read-only (the writable disk then only holds `/tmp`-like mounts).
    pub read_only: bool,
    /// Whether there is a writable disk with id [`DATA_SERIAL`]; without one the upper layer is a tmpfs.
    pub data_disk: bool,
    /// Lines added to `/etc/hosts`: address and name.
    pub hosts: Vec<(String, String)>,
    /// Lines of `/etc/resolv.conf`, whole.
    pub resolv_conf: Vec<String>,
    /// Network cards, set up before anything runs.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Disks of volumes, each an ext4.
    #[serde(default)]
    pub volumes: Vec<VolumeDisk>,
    /// What the container sees besides its root, in this order: what lies inside another comes after it.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// The most processes and threads of the container; as many as the guest's kernel has when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes_max: Option<u32>,
}

/// A volume's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeDisk {
    /// Its device id, [`volume_serial`].
    pub serial: String,
    /// The volume's name, for messages.
    pub name: String,
    /// Whether the disk can only be read.
    pub read_only: bool,
}

/// Something mounted in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Where: absolute, made where it is missing.
    pub target: String,
    /// What.
    pub source: MountSource,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum MountSource {
    /// A volume.
    Volume {
        /// Its disk's device id.
        serial: String,
        /// Whether the container can only read here, even if the disk can be written.
        read_only: bool,
        /// Whether what the image has at the target is copied into the volume if that is empty.
        copy: bool,
    },
    /// Memory.
    Tmpfs {
        /// The most it holds, in bytes; half of the guest's memory when missing.
        size: Option<u64>,
        /// Permissions of its root.
        mode: u32,
        /// Whether programs in it may be executed.
        exec: bool,
    },
    /// A copy of a file or directory of the host's, by its number on the disk [`COPIES_SERIAL`]; read-only.
    Copy(u32),
    /// A secret, by its number; a file in memory that can only be read. Its value comes by [`Command::Secret`].
    Secret(u32),
}

/// A secret and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Which of those that are mounted: [`MountSource::Secret`].
    pub number: u32,
    /// Permissions of its file.
    pub mode: u32,
    /// The number of the user it belongs to.
    pub uid: u32,
    /// The number of the group it belongs to.
    pub gid: u32,
    /// What is in it.
    pub value: SecretValue,
}

/// One process in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// Chosen by the host; names the process from then on.
    pub id: String,
    /// Program and arguments; never empty. The program is looked up in `PATH` of `env` inside the root.
    pub args: Vec<String>,
    /// `NAME=value`. The agent adds `PATH`, `HOME`, `HOSTNAME` and (with a terminal) `TERM` where missing.
    pub env: Vec<String>,
    /// Absolute; created if it does not exist, as Docker does.
    pub workdir: String,
    /// `user`, `uid`, `user:group`, `uid:gid`; empty means root. Names are looked up in the image.
    pub user: String,
    /// A terminal instead of three pipes, with this size.
    pub terminal: Option<WindowSize>,
    /// Whether standard input is connected; else it is `/dev/null`.
    pub stdin: bool,
    /// Kept capabilities, by name without `CAP_`, such as `NET_BIND_SERVICE`.
    pub capabilities: Vec<String>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Whether set-user-id programs lose their effect (`no_new_privs`).
    pub no_new_privileges: bool,
}

/// A resource limit, see `setrlimit(2)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// Lower-case name without `RLIMIT_`, such as `nofile`.
    pub name: String,
    /// The soft limit; `u64::MAX` is no limit.
    pub soft: u64,
    /// The hard limit; `u64::MAX` is no limit.
    pub hard: u64,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub cols: u16,
}

/// The first message on a stream connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamHello {
    /// The process's id.
    pub process: String,
    /// Which of its streams.
    pub stream: StreamKind,
}

/// The streams of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamKind {
    /// Bytes to the process.
    Stdin,
    /// Bytes from the process.
    Stdout,
    /// Diagnostic bytes from the process.
    Stderr,
    /// Both ways, when the process has a terminal.
    Terminal,
}

/// The names of all capabilities, as a pattern for those who describe the API.
pub const CAPABILITY: &str = "^(CAP_)?(ALL|AUDIT_CONTROL|AUDIT_READ|AUDIT_WRITE|BLOCK_SUSPEND|BPF|CHECKPOINT_RESTORE|CHOWN|\
DAC_OVERRIDE|DAC_READ_SEARCH|FOWNER|FSETID|IPC_LOCK|IPC_OWNER|KILL|LEASE|LINUX_IMMUTABLE|MAC_ADMIN|MAC_OVERRIDE|MKNOD|\
NET_ADMIN|NET_BIND_SERVICE|NET_BROADCAST|NET_RAW|PERFMON|SETFCAP|SETGID|SETPCAP|SETUID|SYSLOG|SYS_ADMIN|SYS_BOOT|\
SYS_CHROOT|SYS_MODULE|SYS_NICE|SYS_PACCT|SYS_PTRACE|SYS_RAWIO|SYS_RESOURCE|SYS_TIME|SYS_TTY_CONFIG|WAKE_ALARM)$";

/// The capabilities a container keeps unless told otherwise: Docker's default set.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
