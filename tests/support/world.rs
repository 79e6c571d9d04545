//! A small world for networks: a host with a daemon of its own, and a neighbour that is the outside, each in a network
//! namespace that goes with the test program. Nothing of the machine that the tests run on is touched.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use super::hull::{Hull, Namespace, Said, fixture};

/// The host's addresses towards its neighbour.
pub const HOST: &str = "203.0.113.1";
pub const HOST6: &str = "2001:db8:1::1";
/// The neighbour's: it has no way to the guests' own addresses.
pub const FAR: &str = "203.0.113.2";
pub const FAR6: &str = "2001:db8:1::2";
/// Where a cloud keeps what a guest must not read.
pub const METADATA: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];
/// What the neighbour's web server has, in MiB: a path that is a number gets so many from its beginning.
pub const FAR_MIB: usize = 100;

/// A host, its daemon, and its neighbour.
pub struct World {
    pub daemon: Hull,
    far: Namespace,
}

fn shell(script: &str) {
    let done = Command::new("sh").args(["-euc", script]).output().unwrap();
    assert!(done.status.success(), "{script}\n{}", String::from_utf8_lossy(&done.stderr));
}

/// The checksum that a guest's `sha256sum` prints.
pub fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    output.split_whitespace().next().unwrap().to_owned()
}

/// Bytes that do not repeat.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).collect()
}

impl World {
    /// The world of all tests of a program: a kernel, and the image `tools`, which is busybox and the program `net`.
    pub fn get() -> &'static Self {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(|| {
            let world = Self { daemon: Hull::empty(), far: Namespace::new() };
            world.connect();
            world.start_daemon();
            world.clear_up_at_the_end();
            world.furnish();
            world
        })
    }

    /// A value for all tests is never dropped, so a process of its own waits for this one's end. The namespaces end
    /// with the processes in them.
    fn clear_up_at_the_end(&self) {
        let (hull, dir) = (env!("CARGO_BIN_EXE_hull"), self.daemon.dir.path().display());
        let script = format!(
            "tail --pid={} -f /dev/null
             for id in $({hull} ps -a -q); do {hull} rm -f $id; done
             kill {}; rm -r {dir}",
            std::process::id(),
            self.daemon.daemon_pid()
        );
        let mut command = self.daemon.wrapped("setsid", &["--fork", "sh", "-c", &script]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    }

    fn connect(&self) {
        let [metadata, metadata6] = METADATA;
        let (host, far) = (self.daemon.namespace.flag(), self.far.flag());
        let path = self.far.path();
        shell(&format!(
            "host='nsenter {host} ip'; far='nsenter {far} ip'
             $host link add out type veth peer name in netns {}
             $host addr add {HOST}/24 dev out; $host addr add {HOST6}/64 dev out nodad
             $far addr add {FAR}/24 dev in; $far addr add {FAR6}/64 dev in nodad
             $far addr add {metadata}/32 dev lo; $far addr add {metadata6}/128 dev lo nodad
             $host link set out up; $far link set in up
             $host route add default via {FAR}; $host route add default via {FAR6}",
            path.display()
        ));
    }

    /// The daemon, whose host asks the neighbour for names: started by a command that sees a file of its own in place
    /// of the machine's.
    fn start_daemon(&self) {
        let resolvers = self.daemon.dir.path().join("resolv.conf");
        fs::write(&resolvers, format!("nameserver {FAR}\n")).unwrap();
        let script = "mount --bind $0 /etc/resolv.conf; exec $1 ps";
        let args = ["--mount", "sh", "-euc", script, resolvers.to_str().unwrap(), env!("CARGO_BIN_EXE_hull")];
        let said = Said::from(self.daemon.wrapped("unshare", &args).output().unwrap());
        assert_eq!(said.status, 0, "{said:?}");
    }

    fn furnish(&self) {
        let deb = fixture("linux-image-cloud-amd64/package.deb");
        self.ok(&["kernel", "import", "--deb", deb.to_str().unwrap()]);
        for name in ["busybox", "tools"] {
            let image = fixture(&format!("{name}.tar")).display().to_string();
            self.ok(&["import", &image, name]);
        }
    }

    /// A program in the host's namespace, not started yet.
    pub fn on_host(&self, args: &[&str]) -> Command {
        self.daemon.wrapped(args[0], &args[1..])
    }

    /// A program in the neighbour's namespace, not started yet.
    pub fn on_far(&self, args: &[&str]) -> Command {
        self.far.command(args[0], &args[1..])
    }

    /// Runs `hull ARGS` on the host.
    pub fn hull(&self, args: &[&str]) -> Said {
        self.daemon.hull(args)
    }

    /// Runs `hull ARGS` on the host, which must succeed; what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        self.daemon.ok(args)
    }

    /// Runs a shell script in a new container of the image `tools`; what it printed.
    pub fn script(&self, flags: &[&str], script: &str) -> String {
        self.ok(&[&["run", "--rm"], flags, &["tools", "sh", "-c", script]].concat())
    }

    /// Starts a container in the background and waits until it says `ready`.
    pub fn start(&self, name: &str, flags: &[&str], script: &str) {
        // The file `seen` is shown when the container is told to.
        let script = format!("trap 'cat /seen' USR1\n{script}\necho ready; while :; do sleep 1; done");
        self.ok(&[&["run", "-d", "--name", name], flags, &["tools", "sh", "-c", &script]].concat());
        for _ in 0..600 {
            if self.ok(&["logs", name]).contains("ready") {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(200));
        }
        panic!("{name} is never ready: {}", self.ok(&["logs", name]));
    }

    /// What belongs to a container's first card: `ip`, `ip6`, `mac` or `tap`.
    pub fn address(&self, name: &str, kind: &str) -> String {
        self.inspected(&["inspect", name])["cards"][0][kind].as_str().unwrap().to_owned()
    }

    /// How many frames a container's first card has had.
    pub fn frames(&self, name: &str) -> u64 {
        let shown =
            self.on_host(&["ip", "-j", "-s", "link", "show", &self.address(name, "tap")]).output().unwrap();
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        shown[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
    }

    /// An address of a network's bridge: `gateway` or `gateway6`.
    pub fn gateway(&self, network: &str, kind: &str) -> String {
        self.inspected(&["network", "inspect", network])[kind].as_str().unwrap().to_owned()
    }

    fn inspected(&self, args: &[&str]) -> Value {
        let shown: Value = serde_json::from_str(&self.ok(args)).unwrap();
        shown.get(0).cloned().unwrap_or(shown)
    }

    /// Does something in the neighbour's namespace: a socket that is made there stays there.
    pub fn far<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.far, work)
    }

    /// The same in the host's.
    pub fn near<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.daemon.namespace, work)
    }

    /// The neighbour's servers: a web server with much to have and a place for others, and one that returns datagrams.
    pub fn serve_far(&self) -> Arc<Vec<u8>> {
        let big = Arc::new(noise(FAR_MIB << 20));
        let (web, echo) =
            self.far(|| (TcpListener::bind("[::]:80").unwrap(), UdpSocket::bind("[::]:7").unwrap()));
        let content = Arc::clone(&big);
        thread::spawn(move || {
            for stream in web.incoming() {
                let content = Arc::clone(&content);
                thread::spawn(move || answer(stream.unwrap(), &content));
            }
        });
        thread::spawn(move || {
            let mut room = [0; 1 << 16];
            while let Ok((length, from)) = echo.recv_from(&mut room) {
                let _gone = echo.send_to(&room[..length], from);
            }
        });
        big
    }

    /// The neighbour's name server, which knows `www.outside.example` and nothing else.
    pub fn serve_names(&self) {
        let socket = self.far(|| UdpSocket::bind((FAR, 53)).unwrap());
        thread::spawn(move || {
            let mut room = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut room) {
                send_answer(&socket, &room[..length], from);
            }
        });
    }
}

/// Does something in a network namespace, on a thread of its own.
fn inside<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    let entered = File::open(namespace.path()).unwrap();
    thread::scope(|scope| {
        scope
            .spawn(move || {
                use std::os::fd::AsFd;
                move_into_link_name_space(entered.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            })
            .join()
            .unwrap()
    })
}

/// `GET /N` has so many MiB; what is sent any other way is answered with its checksum.
fn answer(mut stream: std::net::TcpStream, content: &[u8]) {
    let mut first = [0; 4];
    if stream.read_exact(&mut first).is_err() {
        return;
    }
    if &first == b"GET " {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
            head.push(byte[0]);
        }
        let path = String::from_utf8_lossy(&head).split(' ').next().unwrap_or_default().to_owned();
        let wanted = path.trim_start_matches('/').parse::<usize>().map_or(0, |mib| mib << 20);
        let content = content.get(..wanted).unwrap_or_default();
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
        let _gone = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(content));
        return;
    }
    let mut sent = first.to_vec();
    if stream.read_to_end(&mut sent).is_ok() {
        let _gone = stream.write_all(format!("{}\n", sha256(&sent)).as_bytes());
    }
}

/// Answers one query of RFC 1035: its question, and one record behind it, or an error.
fn send_answer(socket: &UdpSocket, query: &[u8], from: SocketAddr) {
    let mut end = 12;
    let mut name = Vec::new();
    while let Some(length) = query.get(end).map(|length| usize::from(*length)).filter(|length| *length > 0) {
        name.push(String::from_utf8_lossy(&query[end + 1..end + 1 + length]).to_lowercase());
        end += 1 + length;
    }
    let kind = query[end + 2];
    let data: Vec<u8> = match kind {
        1 => FAR.parse::<std::net::Ipv4Addr>().unwrap().octets().to_vec(),
        28 => FAR6.parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec(),
        _ => Vec::new(),
    };
    let known = name.join(".") == "www.outside.example";
    let records = u8::from(known && !data.is_empty());
    let mut answer = vec![query[0], query[1], 0x81, if known { 0x80 } else { 0x83 }];
    answer.extend([0, 1, 0, records, 0, 0, 0, 0]);
    answer.extend(&query[12..end + 5]);
    if records == 1 {
        answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 30, 0, data.len() as u8]);
        answer.extend(data);
    }
    socket.send_to(&answer, from).unwrap();
}
