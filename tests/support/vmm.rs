//! Runs a guest in a `hull-vmm` with a plan of the test's own: disk, socket device, entropy, control socket.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hull_daemon::launch::{self, Descriptors};
use hull_protocol::control::{Command, Event, Message, NetStats, PACKET_MAX, Reply, Request, VmmStatus};
use hull_protocol::exit::ExitReason;
use hull_protocol::life::DiskLimit;
use hull_protocol::network::NetPlan;
use hull_protocol::plan::{
    BootPlan, ConsolePlan, CpuModel, DiskPlan, EntryPlan, FIRST_USER, KernelPlan, Slot, VsockPlan,
};
use hull_protocol::trace::TraceId;
use hull_protocol::units::Bytes;
use rustix::fd::OwnedFd;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen,
    recv, send, socket_with, sockopt,
};

/// No bare guest takes longer, wherever it runs; one that does hangs.
pub const LIMIT: Duration = Duration::from_secs(120);
/// The guest's context id.
pub const CID: u32 = 7;
/// What the disk holds at first.
pub const DISK_BYTE: u8 = 0xd5;

/// The bare guest's file.
pub fn bare(name: &str) -> PathBuf {
    let fixtures = std::env::var_os("HULL_FIXTURES").expect("system tests are run by `cargo xtask test`");
    Path::new(&fixtures).join("bare").join(name)
}

/// What the guest printed so far.
type Console = Arc<(Mutex<(String, bool)>, Condvar)>;

/// A running VMM.
pub struct Vmm {
    runtime: tokio::runtime::Runtime,
    child: tokio::process::Child,
    console: Console,
    dir: tempfile::TempDir,
}

/// Who owns the machine.
#[derive(Clone, Copy, Debug)]
pub enum Guest {
    /// The bare guest.
    Bare,
    /// The same as the first process of a Linux, which does not know of the devices nor of a quarter of the memory.
    Linux,
}

impl Guest {
    /// How much memory it is made for.
    pub fn memory(self) -> Bytes {
        match self {
            Self::Bare => Bytes::mib(32),
            Self::Linux => Bytes::mib(128),
        }
    }
}

/// How a VMM ended.
pub struct Ended {
    /// Its exit status.
    pub status: i32,
    /// What the guest printed.
    pub console: String,
    /// What the VMM said on standard error.
    pub log: String,
    /// The disk.
    pub disk: Vec<u8>,
}

impl Ended {
    /// Checks that the guest had nothing to complain of, and that the VMM met no bug of its own and said little: however
    /// often devices break, what is logged of it stays bounded.
    pub fn assert_sound(&self, what: &str) {
        let Self { console, log, .. } = self;
        assert!(!console.contains("FAIL") && !log.contains("met a bug"), "{what}: {console}{log}");
        assert!(log.len() < 64 << 10, "{what}: {} bytes of log", log.len());
    }

    /// The same of a guest that went to its end.
    pub fn assert_done(&self, what: &str) {
        self.assert_sound(what);
        let Self { status, console, log, .. } = self;
        assert!(*status == 0 && console.ends_with("DONE\n"), "{what}: {status}: {console}{log}");
    }
}

/// What a VM has besides its disk, socket device, entropy and control socket.
#[derive(Default)]
pub struct Extras {
    descriptors: Descriptors,
    nets: Vec<NetPlan>,
    cgroups: Vec<Slot>,
    trace: Option<TraceId>,
}

impl Extras {
    /// A network card on a tap.
    pub fn card(mut self, tap: OwnedFd, card: impl FnOnce(Slot) -> NetPlan) -> Self {
        self.nets.push(card(self.descriptors.add(tap)));
        self
    }

    /// The trace that its log is in.
    pub fn trace(mut self, trace: TraceId) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Control groups that the VMM enters.
    pub fn groups(mut self, entries: Vec<File>) -> Self {
        let descriptors = &mut self.descriptors;
        self.cgroups.extend(entries.into_iter().map(|entry| descriptors.add(entry)));
        self
    }
}

impl Vmm {
    /// Starts the bare guest.
    pub fn start(cmdline: &str) -> Self {
        Self::with(Guest::Bare, cmdline, Extras::default())
    }

    /// Starts the bare guest with a network card on a tap besides.
    pub fn on_network(cmdline: &str, tap: OwnedFd, card: impl FnOnce(Slot) -> NetPlan) -> Self {
        Self::with(Guest::Bare, cmdline, Extras::default().card(tap, card))
    }

    /// Starts a guest that does as the bare guest does, with more than it has by itself.
    pub fn with(guest: Guest, cmdline: &str, extras: Extras) -> Self {
        match guest {
            Guest::Bare => Self::launch((&bare("bare"), None), guest.memory(), cmdline, extras),
            Guest::Linux => {
                let (kernel, initrd) = (bare("").with_file_name("guest").join("vmlinux"), bare("hostile"));
                let cmdline = format!("console=ttyS0 quiet panic=-1 mem=96M -- {cmdline}");
                Self::launch((&kernel, Some(&initrd)), guest.memory(), &cmdline, extras)
            }
        }
    }

    /// Starts the bare guest on a disk with a content of the test's own.
    pub fn with_disk(cmdline: &str, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut disk = blank_disk();
        fill(&mut disk);
        Self::launch_on(&disk, (&bare("bare"), None), Bytes::mib(32), cmdline, Extras::default())
    }

    /// Starts Linux with the tests' first process and a network card.
    pub fn linux_on_network(cmdline: &str, tap: OwnedFd, card: impl FnOnce(Slot) -> NetPlan) -> Self {
        let guest = bare("").with_file_name("guest");
        let (kernel, initrd) = (guest.join("vmlinux"), guest.join("initramfs"));
        let cmdline = format!("console=ttyS0 quiet panic=-1 {cmdline}");
        let extras = Extras::default().card(tap, card);
        Self::launch((&kernel, Some(&initrd)), Bytes::mib(256), &cmdline, extras)
    }

    /// Starts a guest with a disk of 1 MiB, a socket device, entropy and a control socket.
    pub fn boot(kernel: &Path, initrd: Option<&Path>, memory: Bytes, cmdline: &str) -> Self {
        Self::launch((kernel, initrd), memory, cmdline, Extras::default())
    }

    fn launch(kernel: (&Path, Option<&Path>), memory: Bytes, cmdline: &str, extras: Extras) -> Self {
        Self::launch_on(&blank_disk(), kernel, memory, cmdline, extras)
    }

    fn launch_on(
        disk: &[u8],
        (kernel, initrd): (&Path, Option<&Path>),
        memory: Bytes,
        cmdline: &str,
        Extras { mut descriptors, nets, cgroups, trace }: Extras,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        fs::write(place("disk"), disk).unwrap();
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path).unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let plan = BootPlan {
            id: "bare".into(),
            kvm: descriptors.add(open(Path::new("/dev/kvm"))),
            memory,
            cpus: 1,
            cpu: CpuModel::Host,
            kernel: KernelPlan {
                image: descriptors.add(File::open(kernel).unwrap()),
                initrd: initrd.map(|path| descriptors.add(File::open(path).unwrap())),
                cmdline: cmdline.into(),
                entry: EntryPlan::Auto,
            },
            disks: vec![DiskPlan {
                file: descriptors.add(open(&place("disk"))),
                read_only: false,
                serial: "disk0".into(),
                limit: DiskLimit::default(),
            }],
            vsock: Some(VsockPlan {
                cid: CID,
                listener: descriptors.add(UnixListener::bind(place("vsock")).unwrap()),
            }),
            nets,
            cgroups,
            rng: true,
            console: ConsolePlan { input: None, output: Some(descriptors.add(write)), limit: None },
            control: Some(descriptors.add(control_listener(&place("control")))),
            first_user: Some(FIRST_USER),
            trace,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let vmm = Path::new(env!("CARGO_BIN_EXE_hull")).with_file_name("hull-vmm");
        let log = File::create(place("log")).unwrap();
        let child = {
            let _entered = runtime.enter();
            launch::spawn_apart(&vmm, &plan, descriptors, log).unwrap()
        };
        Self { runtime, child, console: listen_to(File::from(read)), dir }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Where the host's clients of the socket device connect.
    pub fn vsock(&self) -> PathBuf {
        self.dir.path().join("vsock")
    }

    /// A new connection to the control socket.
    pub fn control(&self) -> Peer {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(self.dir.path().join("control")).unwrap()).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(LIMIT)).unwrap();
        Peer { socket, seq: 0 }
    }

    /// What the guest printed so far.
    pub fn console(&self) -> String {
        self.console.0.lock().unwrap().0.clone()
    }

    /// Waits until the guest has printed a text.
    pub fn await_text(&self, text: &str) {
        let start = Instant::now();
        let mut console = self.console.0.lock().unwrap();
        while !console.0.contains(text) {
            let left = LIMIT.saturating_sub(start.elapsed());
            assert!(!left.is_zero() && !console.1, "no '{text}' in:\n{}", console.0);
            console = self.console.1.wait_timeout(console, left).unwrap().0;
        }
    }

    /// Waits until the guest has printed more than this.
    pub fn await_more(&self, than: usize) -> usize {
        let start = Instant::now();
        let mut console = self.console.0.lock().unwrap();
        while console.0.len() <= than {
            let left = LIMIT.saturating_sub(start.elapsed());
            assert!(!left.is_zero() && !console.1, "the guest printed nothing more");
            console = self.console.1.wait_timeout(console, left).unwrap().0;
        }
        console.0.len()
    }

    /// Waits for the end. A VMM that hangs is killed, and the test fails.
    pub fn wait(mut self) -> Ended {
        let wait = async { tokio::time::timeout(LIMIT, self.child.wait()).await };
        let Ok(status) = self.runtime.block_on(wait) else {
            self.runtime.block_on(self.child.kill()).unwrap();
            panic!("the VMM hangs; the guest printed:\n{}", self.console());
        };
        let mut console = self.console.0.lock().unwrap();
        while !console.1 {
            console = self.console.1.wait(console).unwrap();
        }
        let read = |name: &str| fs::read(self.dir.path().join(name)).unwrap();
        Ended {
            status: status.unwrap().code().unwrap_or(-1),
            console: console.0.clone(),
            log: String::from_utf8_lossy(&read("log")).into_owned(),
            disk: read("disk"),
        }
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // A test that failed leaves no VMM behind; of one that has ended nothing is left to kill.
        let _ended_already = self.child.start_kill();
    }
}

fn blank_disk() -> Vec<u8> {
    vec![DISK_BYTE; 1 << 20]
}

fn control_listener(path: &Path) -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&socket, 8).unwrap();
    socket
}

fn listen_to(mut from: File) -> Console {
    let console = Console::default();
    let theirs = console.clone();
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        loop {
            let length = from.read(&mut chunk).unwrap_or(0);
            let mut console = theirs.0.lock().unwrap();
            console.0.push_str(&String::from_utf8_lossy(&chunk[..length]));
            console.1 = length == 0;
            theirs.1.notify_all();
            if length == 0 {
                return;
            }
        }
    });
    console
}

/// The daemon's end of a control connection.
pub struct Peer {
    socket: OwnedFd,
    seq: u64,
}

impl Peer {
    /// Asks and returns the answer, which is the next message.
    pub fn ask(&mut self, command: Command) -> Result<VmmStatus, String> {
        self.send_request(command);
        match self.hear() {
            Some(Message::Reply(Reply { seq, result, .. })) if seq == self.seq => result,
            other => panic!("{command:?} was answered by {other:?}"),
        }
    }

    /// Asks what a network card has counted.
    pub fn ask_net(&mut self, net: u8) -> Result<NetStats, String> {
        self.send_request(Command::NetStats { net });
        match self.hear() {
            Some(Message::Reply(Reply { seq, result, net })) if seq == self.seq => {
                result.map(|_| net.expect("an answer without numbers"))
            }
            other => panic!("answered by {other:?}"),
        }
    }

    /// Asks without waiting for the answer.
    pub fn send_request(&mut self, command: Command) {
        self.seq += 1;
        self.send_raw(&serde_json::to_vec(&Request { seq: self.seq, command }).unwrap());
    }

    /// Asks without waiting for the answer; whether the VMM is still there.
    pub fn try_request(&mut self, command: Command) -> bool {
        self.seq += 1;
        let packet = serde_json::to_vec(&Request { seq: self.seq, command }).unwrap();
        send(&self.socket, &packet, SendFlags::NOSIGNAL).is_ok()
    }

    /// Sends a packet of any content.
    pub fn send_raw(&self, packet: &[u8]) {
        send(&self.socket, packet, SendFlags::NOSIGNAL).unwrap();
    }

    /// The next message; none when the VMM hung up.
    pub fn hear(&self) -> Option<Message> {
        let mut packet = [0; PACKET_MAX];
        match recv(&self.socket, &mut packet, RecvFlags::empty()) {
            Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => None,
            Ok((length, _)) => Some(serde_json::from_slice(&packet[..length]).unwrap()),
            Err(error) => panic!("the VMM does not answer: {error}"),
        }
    }

    /// Whether a message is there without waiting.
    pub fn has_message(&self) -> bool {
        let mut byte = [0];
        recv(&self.socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok()
    }

    /// The event that tells of the end.
    pub fn hear_end(&self) -> ExitReason {
        match self.hear() {
            Some(Message::Event(Event::Exited(reason))) => reason,
            other => panic!("expected the end, heard {other:?}"),
        }
    }
}

/// A client of the guest's port 52, which says back what it is told, over the VMM's socket at `place`.
pub fn converse(place: &Path, rounds: usize) {
    let mut client = UnixStream::connect(place).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.write_all(b"CONNECT 52\n").unwrap();
    let mut answers = BufReader::new(client.try_clone().unwrap());
    let mut line = String::new();
    answers.read_line(&mut line).unwrap();
    assert!(line.starts_with("OK "), "{line}");
    for round in 0..rounds {
        let said = format!("round {round} of a conversation\n");
        client.write_all(said.as_bytes()).unwrap();
        line.clear();
        answers.read_line(&mut line).unwrap();
        assert_eq!(line, said);
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answers.read_to_end(&mut Vec::new()).unwrap_or(0), 0);
}
