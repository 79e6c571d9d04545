//! A daemon of the test's own that starts stand-ins instead of VMMs, and its API without the client.
//!
//! With `HULL_REAL` in the environment it starts real VMMs with Linux guests, whose processes do what the stand-in's would:
//! so it is shown that the stand-in is honest.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// No request of these tests takes longer, of stand-ins.
const ANSWER_WAIT: Duration = Duration::from_secs(120);
/// What the container of a real microVM runs, with the stand-in's word and number.
const BEHAVIOUR: &str = "case $0 in
    exit) exit $1 ;;
    sleep) exec usleep ${1}000 ;;
    stubborn) trap '' INT TERM ;;
    *) trap 'exit 143' INT TERM ;;
    esac
    while :; do sleep 3600 & wait; done";

/// Whether microVMs are real ones.
pub fn real() -> bool {
    std::env::var_os("HULL_REAL").is_some()
}

/// How long something may take that takes so long of stand-ins: real guests boot.
pub fn patience(of_stand_ins: Duration) -> Duration {
    if real() { of_stand_ins * 10 } else { of_stand_ins }
}

/// A daemon with a kernel and an image.
pub struct Daemon {
    pub dir: tempfile::TempDir,
    flags: Vec<String>,
    /// What `hull` is started with, such as a program that enters a namespace.
    within: Vec<String>,
    child: Option<Child>,
    /// Clears up when this program has ended, however it did: a daemon for all tests is never dropped.
    after: Child,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }
}

impl Daemon {
    /// Starts one with these flags of `hull serve`.
    pub fn start(flags: &[&str]) -> Self {
        Self::start_within(&[], flags)
    }

    /// Starts one, and its clients, with a program and its arguments before it.
    pub fn start_within(within: &[&str], flags: &[&str]) -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), within, flags)
    }

    /// Starts one whose directories are in this place.
    pub fn start_in(place: &Path, flags: &[&str]) -> Self {
        Self::start_with(tempfile::tempdir_in(place).unwrap(), &[], flags)
    }

    /// Starts one with this directory, and its clients, with a program before them.
    pub fn start_with(dir: tempfile::TempDir, within: &[&str], flags: &[&str]) -> Self {
        let libexec = dir.path().join("libexec");
        fs::create_dir(&libexec).unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_hull")).parent().unwrap();
        let vmm = if real() { "hull-vmm" } else { "examples/stand-in" };
        fs::copy(built.join(vmm), libexec.join("hull-vmm")).unwrap();
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let after = after(&dir);
        let mut daemon = Self { dir, flags: owned(flags), within: owned(within), child: None, after };
        daemon.spawn();
        daemon.furnish();
        daemon
    }

    /// Starts the daemon; returns when it answers.
    pub fn spawn(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.hull(&["serve"]);
        command.args(&self.flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let since = Instant::now();
        while self.try_ask("GET", "/v1/system", None).is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "the daemon ended ({ended:?}): {}", self.log());
            assert!(
                since.elapsed() < patience(ANSWER_WAIT),
                "the daemon does not answer: {}\n{}",
                self.log(),
                self.threads()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where each of its threads is in the kernel: its name, what it waits in, its system call.
    fn threads(&self) -> String {
        let pid = self.child.as_ref().map_or(0, std::process::Child::id);
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let read = |task: &Path, name| fs::read_to_string(task.join(name)).unwrap_or_default();
        tasks
            .map(|task| ["comm", "wchan", "syscall"].map(|name| read(&task.path(), name)).join(" "))
            .collect()
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends it as a crash would, under the eyes of those who use it.
    pub fn kill_now(&self) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    /// Tells it to end, and waits until it has.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// `hull ARGS` with this daemon's directories.
    pub fn hull(&self, args: &[&str]) -> Command {
        let mut words = self.within.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_hull")]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args(args)
            .env("HULL_DATA_DIR", self.data())
            .env("HULL_RUN_DIR", self.dir.path().join("run"))
            .env("HULL_LIBEXEC", self.dir.path().join("libexec"))
            .stdin(Stdio::null());
        command
    }

    /// Runs `hull ARGS`, which must succeed; what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.hull(args).output().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "hull {args:?}: {said}\n{}", self.log());
        String::from_utf8(stdout).unwrap()
    }

    fn furnish(&self) {
        let fixtures = std::env::var_os("HULL_FIXTURES").expect("system tests are run by `cargo xtask test`");
        let deb = Path::new(&fixtures).join("linux-image-cloud-amd64/package.deb");
        self.ok(&["kernel", "import", "--deb", deb.to_str().unwrap()]);
        if real() {
            let image = Path::new(&fixtures).join("busybox.tar");
            self.ok(&["import", image.to_str().unwrap(), "tree"]);
            return;
        }
        let tree = self.dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), "content").unwrap();
        self.ok(&["import", tree.to_str().unwrap(), "tree"]);
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/hull.sock")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// What the daemon has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// One request, with more headers.
    pub fn request(&self, line: &str, headers: &[(&str, &str)], body: Option<&Value>) -> io::Result<Answer> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut head = format!(
            "{line} HTTP/1.1\r\nHost: hull\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        self.say(&format!("{head}\r\n{body}"))
    }

    /// Says just this; what is answered first.
    pub fn say(&self, words: &str) -> io::Result<Answer> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(patience(ANSWER_WAIT)))?;
        // It may be refused before it is read.
        let _refused = stream.write_all(words.as_bytes());
        let mut bytes = Vec::new();
        let _reset = stream.read_to_end(&mut bytes);
        let answer = String::from_utf8_lossy(&bytes);
        let (head, text) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        Ok(Answer { status: status.ok_or(io::ErrorKind::InvalidData)?, headers, text: text.to_owned() })
    }

    /// One request; its status and its JSON.
    pub fn try_ask(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, Value)> {
        let answer = self.request(&format!("{method} {path}"), &[], body)?;
        Ok((answer.status, answer.json()))
    }

    /// The same, of a daemon that must answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.try_ask(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.log()))
    }

    /// Makes a microVM whose process does this, and returns its id.
    pub fn create(&self, name: &str, command: &[&str], more: Value) -> String {
        let (status, made) = self.ask("POST", "/v1/microvms", Some(&spec(name, command, more)));
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    }

    /// Makes and starts one.
    pub fn run(&self, name: &str, command: &[&str], more: Value) -> String {
        let id = self.create(name, command, more);
        let (status, started) = self.ask("POST", &format!("/v1/microvms/{id}/start"), None);
        assert_eq!(status, 200, "{started}");
        id
    }

    /// Its record.
    pub fn record(&self, name: &str) -> Value {
        let (status, record) = self.ask("GET", &format!("/v1/microvms/{name}"), None);
        assert_eq!(status, 200, "{record}");
        record
    }

    /// Waits until its record is as it should be.
    pub fn until(&self, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            let record = self.record(name);
            if is(&record) {
                return record;
            }
            assert!(since.elapsed() < patience(ANSWER_WAIT), "it stays so: {record}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process ids of this daemon's VMMs.
    pub fn vmms(&self) -> BTreeSet<u64> {
        // One in its jail has another root: the path is told from the file system's.
        let program = Path::new(self.dir.path().file_name().unwrap()).join("libexec/hull-vmm");
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with(&program)))
            .collect()
    }
}

/// What to post for a microVM whose process does this.
pub fn spec(name: &str, command: &[&str], more: Value) -> Value {
    let acted = [&["sh", "-c", BEHAVIOUR][..], command].concat();
    let command = if real() { &acted } else { command };
    let container = json!({"image": "tree", "command": command, "disk_size": 16 << 20});
    let mut spec = json!({
        "name": name,
        "memory": 96 << 20,
        // The host's own networks are not for tests to change.
        "networking": {"networks": []},
        "container": container,
    });
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    spec
}

/// What ends all that belongs to a directory, daemons first, and removes that: once this program's end of its input is
/// closed.
fn after(dir: &tempfile::TempDir) -> Child {
    let script = "read _
        for found in $(grep -lsaz \"^HULL_DATA_DIR=$0/\" /proc/[0-9]*/environ
                       find /proc -maxdepth 2 -name exe -lname \"*${0##*/}/libexec/*\" 2>/dev/null); do
            process=${found#/proc/}; kill -9 ${process%/*}
        done
        rm -rf \"$0\"";
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", script]).arg(dir.path());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        for pid in self.vmms() {
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        // Nothing is left to it.
        self.after.kill().unwrap();
        self.after.wait().unwrap();
    }
}
