//! A daemon in a network namespace, a neighbour in another, and guests that are stood in for: what the daemon makes of
//! networks is real, what runs in its VMs is a process with the same cards.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::support::{Hull, Namespace, Said};

/// The host's address towards its neighbour, and the neighbour's.
pub const HOST: (&str, &str) = ("192.0.2.1", "2001:db8::1");
pub const NEIGHBOUR: (&str, &str) = ("192.0.2.2", "2001:db8::2");

pub struct World {
    pub hull: Hull,
    pub neighbour: Namespace,
}

/// A guest: its namespace by the process that stands in for it, and its card.
pub struct Guest {
    pub pid: String,
    pub ip: String,
    pub ip6: String,
    pub mac: String,
    pub tap: String,
}

/// A server that ends with the value.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn support(file: &str) -> String {
    format!("{}/tests/support/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// The output of a command that must succeed.
pub fn output(command: &mut Command) -> String {
    let said = Said::from(command.stdin(Stdio::null()).output().unwrap());
    assert_eq!(said.status, 0, "{command:?}: {said:?}");
    said.stdout
}

impl World {
    pub fn new() -> Self {
        let world = Self { hull: Hull::empty(), neighbour: Namespace::new() };
        let data = world.hull.dir.path();
        let stub = data.join("data/kernels/stub");
        std::fs::create_dir_all(&stub).unwrap();
        for file in ["vmlinux", "initrd"] {
            std::fs::write(stub.join(file), "").unwrap();
        }
        std::fs::write(stub.join("record.json"), RECORD).unwrap();
        std::fs::create_dir(data.join("libexec")).unwrap();
        let vmm = data.join("libexec/hull-vmm");
        let program = std::fs::read_to_string(support("guest.py")).unwrap();
        std::fs::write(&vmm, format!("#!/usr/bin/python3\n{program}")).unwrap();
        std::fs::set_permissions(&vmm, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(data.join("root")).unwrap();
        std::fs::write(data.join("root/hello"), "hello\n").unwrap();
        let far = world.neighbour.path();
        let far = far.to_str().unwrap();
        world.ip(&["link", "add", "up0", "type", "veth", "peer", "name", "far0", "netns", far]);
        for address in [format!("{}/24", HOST.0), format!("{}/64", HOST.1)] {
            world.ip(&["addr", "add", &address, "dev", "up0", "nodad"]
                [..if address.contains(':') { 6 } else { 5 }]);
        }
        world.ip(&["link", "set", "up0", "up"]);
        for address in [format!("{}/24", NEIGHBOUR.0), format!("{}/64", NEIGHBOUR.1)] {
            let words = ["addr", "add", &address, "dev", "far0", "nodad"];
            output(&mut world.neighbour.command("ip", &words[..if address.contains(':') { 6 } else { 5 }]));
        }
        output(&mut world.neighbour.command("ip", &["link", "set", "far0", "up"]));
        world.start_daemon();
        world.ok(&["import", data.join("root").to_str().unwrap(), "image"]);
        world
    }

    /// The daemon, whose host asks the neighbour for names: started by a command that sees a file of its own in place
    /// of the machine's.
    fn start_daemon(&self) {
        let resolvers = self.hull.dir.path().join("resolv.conf");
        std::fs::write(&resolvers, format!("nameserver {}\n", NEIGHBOUR.0)).unwrap();
        let script = "mount --bind $0 /etc/resolv.conf; exec $1 ps";
        let hull = env!("CARGO_BIN_EXE_hull");
        let args = ["--mount", "sh", "-euc", script, resolvers.to_str().unwrap(), hull];
        let mut command = self.hull.wrapped("unshare", &args);
        output(command.env("HULL_LIBEXEC", self.hull.dir.path().join("libexec")));
    }

    /// `ip` in the daemon's namespace.
    pub fn ip(&self, words: &[&str]) -> String {
        output(&mut self.hull.namespace.command("ip", words))
    }

    /// `nft` in the daemon's namespace.
    pub fn nft(&self, words: &[&str]) -> String {
        output(&mut self.hull.namespace.command("nft", words))
    }

    /// `hull` with the stand-in for VMMs.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.hull.command(args);
        command.env("HULL_LIBEXEC", self.hull.dir.path().join("libexec"));
        command
    }

    pub fn hull(&self, args: &[&str]) -> Said {
        self.command(args).output().unwrap().into()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let said = self.hull(args);
        assert_eq!(said.status, 0, "hull {args:?}: {said:?}\n{}", self.hull.daemon_log());
        said.stdout
    }

    /// What `hull` says when it refuses.
    pub fn refused(&self, args: &[&str]) -> String {
        let said = self.hull(args);
        assert!(said.status != 0 && said.stdout.is_empty(), "hull {args:?}: {said:?}");
        said.stderr
    }

    pub fn inspect(&self, args: &[&str]) -> serde_json::Value {
        let shown: serde_json::Value = serde_json::from_str(&self.ok(args)).unwrap();
        shown[0].clone()
    }

    /// Makes a guest and starts it.
    pub fn guest(&self, name: &str, flags: &[&str]) -> Guest {
        self.ok(
            &[&["run", "-d", "--kernel", "stub", "--name", name], flags, &["image", "/bin/true"]].concat()
        );
        self.find(name)
    }

    pub fn find(&self, name: &str) -> Guest {
        let shown = self.inspect(&["inspect", name]);
        let card = |field: &str| shown["cards"][0][field].as_str().unwrap_or_default().to_owned();
        Guest {
            pid: shown["vmm_pid"].to_string(),
            ip: card("ip"),
            ip6: card("ip6"),
            mac: card("mac"),
            tap: card("tap"),
        }
    }

    /// Nothing of Hull's is left in the kernel.
    pub fn assert_nothing_left(&self) {
        let links = self.ip(&["-br", "link"]);
        assert!(!links.contains("hull-"), "{links}");
        let tables = self.nft(&["list", "tables"]);
        assert!(!tables.contains("hull"), "{tables}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let ids: Vec<String> = Said::from(self.command(&["ps", "-aq", "--no-trunc"]).output().unwrap())
            .stdout
            .lines()
            .map(str::to_owned)
            .collect();
        for chunk in ids.chunks(100) {
            let words: Vec<&str> = ["rm", "-f"].into_iter().chain(chunk.iter().map(String::as_str)).collect();
            let _best_effort = self.command(&words).output();
        }
        let _best_effort = Command::new("kill").arg(self.hull.daemon_pid()).output();
    }
}

/// `talk.py` as somebody: a namespace's flag for `nsenter`, and what is to be said.
pub fn talk(flag: &str, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    let script = support("talk.py");
    command
        .args([flag, "--", "timeout", "200", "/usr/bin/python3", script.as_str()])
        .args(words)
        .stdin(Stdio::null());
    command
}

/// Starts a program that says one line when it is ready.
fn ready(mut command: Command, line: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    lines.read_line(&mut said).unwrap();
    assert_eq!(said.trim(), line);
    (child, lines)
}

/// A server of so many bytes.
pub fn serve(flag: &str, address: &str, port: &str, size: &str) -> Server {
    let mut command = Command::new("nsenter");
    let script = support("talk.py");
    command.args([flag, "--", "/usr/bin/python3", script.as_str(), "serve", address, port, size]);
    Server(ready(command, "serving").0)
}

/// A name server that answers everything with the address in a file.
pub fn serve_names(flag: &str, address: &str, file: &Path) -> Server {
    let mut command = Command::new("nsenter");
    let script = support("talk.py");
    command.args([flag, "--", "/usr/bin/python3", script.as_str(), "names", address]).arg(file);
    Server(ready(command, "serving").0)
}

/// The address that a name server has for a name; none when it has none.
pub fn resolve(flag: &str, server: &str, name: &str) -> Option<String> {
    let said = Said::from(talk(flag, &["resolve", server, name]).output().unwrap());
    let address = said.stdout.trim().to_owned();
    (said.status == 0 && !address.starts_with("none")).then_some(address)
}

/// Whom a server saw, the number of bytes that came and their checksum; or nothing when it could not be reached.
pub fn fetch(flag: &str, address: &str, port: &str) -> Option<[String; 3]> {
    let said = Said::from(talk(flag, &["fetch", address, port]).output().unwrap());
    let words: Vec<String> = said.stdout.split_whitespace().map(str::to_owned).collect();
    (said.status == 0).then(|| words.try_into().unwrap())
}

/// Whether datagrams come back.
pub fn echo(flag: &str, address: &str, port: &str) -> bool {
    talk(flag, &["echo", address, port]).output().unwrap().status.success()
}

/// Whether an address answers `ping`.
pub fn ping(flag: &str, address: &str) -> bool {
    let mut command = Command::new("nsenter");
    command.args([flag, "--", "busybox", "ping", "-c", "2", "-W", "2", address]).stdin(Stdio::null());
    Said::from(command.output().unwrap()).stdout.contains("bytes from")
}

/// Sends so many bytes in datagrams, which are echoed; whether all of them came back as they were.
pub fn datagrams(flag: &str, address: &str, port: &str, size: &str) -> bool {
    let said = output(&mut talk(flag, &["datagrams", address, port, size]));
    let (sent, back) = said.trim().split_once(' ').unwrap();
    sent == back
}

impl Guest {
    pub fn flag(&self) -> String {
        format!("--net=/proc/{}/ns/net", self.pid)
    }

    /// What arrives here from others while `during` happens.
    pub fn hears(&self, during: impl FnOnce()) -> Vec<String> {
        let (mut child, lines) = ready(talk(&self.flag(), &["listen", "eth0", &self.mac, "3"]), "listening");
        during();
        let heard = lines.lines().map(Result::unwrap).collect();
        child.wait().unwrap();
        heard
    }

    /// Sends a frame of a kind.
    pub fn sends(&self, kind: &str, words: &[&str]) {
        output(&mut talk(&self.flag(), &[&["send", "eth0", kind], words].concat()));
    }
}

/// Whether a process runs.
pub fn runs(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

const RECORD: &str = r#"{"format": 1, "kernel": {"name": "stub", "release": "6", "size": 0, "modules": [],
    "default": true, "created_at": "2026-01-01T00:00:00Z"}, "modules_end": 0,
    "agent": {"inode": 0, "size": 0, "modified_seconds": 0, "modified_nanoseconds": 0}}"#;
