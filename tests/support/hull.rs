//! The `hull` command with a daemon of the test's own, images and a kernel in it.
#![allow(dead_code, reason = "each test program uses its part")]

#[path = "lost.rs"]
pub mod lost;
#[path = "namespace.rs"]
mod namespace;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

pub use namespace::Namespace;

/// The limit for one command, in seconds: an emulated host boots a guest in some ten, and carries a hundred megabytes through it
/// in some hundreds.
const LIMIT: &str = "900";

/// A file among the fixtures.
pub fn fixture(name: &str) -> PathBuf {
    let fixtures = std::env::var_os("HULL_FIXTURES").expect("system tests are run by `cargo xtask test`");
    Path::new(&fixtures).join(name)
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Directories of a daemon, and the network namespace that it and its guests are in.
pub struct Hull {
    pub dir: tempfile::TempDir,
    pub namespace: Namespace,
}

impl Hull {
    /// A daemon that has nothing; it is started by the first command.
    pub fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), namespace: Namespace::new() }
    }

    /// Another program, in the environment that makes `hull` use this daemon.
    pub fn wrapped(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.namespace.command("timeout", &["--kill-after=5", LIMIT, program]);
        command.args(args);
        command
            .env("HULL_DATA_DIR", self.dir.path().join("data"))
            .env("HULL_RUN_DIR", self.dir.path().join("run"));
        command.stdin(Stdio::null());
        command
    }

    /// `hull ARGS`, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        self.wrapped(env!("CARGO_BIN_EXE_hull"), args)
    }

    /// One request to the API, as plain HTTP; the whole answer.
    pub fn request(&self, line: &str, body: &str) -> String {
        self.ok(&["ps"]);
        let mut stream = UnixStream::connect(self.dir.path().join("run/hull.sock")).unwrap();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: hull\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The daemon's process id.
    pub fn daemon_pid(&self) -> String {
        let answer = self.request("GET /v1/system", "");
        let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        body["pid"].to_string()
    }

    /// Runs `hull ARGS`.
    pub fn hull(&self, args: &[&str]) -> Said {
        loop {
            let said = Said::from(self.command(args).output().unwrap());
            if !self.lost(args, said.status, &said.stderr) {
                return said;
            }
        }
    }

    /// Whether this was a guest that the emulated host lost, so that it may be run again.
    pub fn lost(&self, args: &[&str], status: i32, stderr: &str) -> bool {
        let crashes = ["kernel panicked", "asked for a reset", "triple fault", "did not answer"];
        let crashed = status == 125 && crashes.iter().any(|crash| stderr.contains(crash));
        let lost = args.first() == Some(&"run") && (status == 124 || crashed) && lost::forgive(stderr);
        if let (true, Some(at)) = (lost, args.iter().position(|arg| *arg == "--name")) {
            self.command(&["rm", "-f", args[at + 1]]).output().unwrap();
        }
        lost
    }

    /// Runs `hull ARGS`, which must succeed; what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let said = self.hull(args);
        assert_eq!(said.status, 0, "hull {args:?}: {said:?}\n{}", self.daemon_log());
        said.stdout
    }

    /// Runs `hull ARGS` with this on its standard input.
    pub fn fed(&self, args: &[&str], input: &[u8]) -> Output {
        loop {
            let output = self.fed_once(args, input);
            let stderr = String::from_utf8_lossy(&output.stderr);
            if !self.lost(args, output.status.code().unwrap_or(-1), &stderr) {
                return output;
            }
        }
    }

    fn fed_once(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        let _it_need_not_read_all = writer.join().unwrap();
        output
    }

    /// What the daemon said, for a failed test.
    pub fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("data/daemon.log")).unwrap_or_default()
    }

    /// Imports the kernel and the busybox image.
    pub fn furnish(&self) {
        let deb = fixture("linux-image-cloud-amd64/package.deb");
        self.ok(&["kernel", "import", "--deb", deb.to_str().unwrap()]);
        let busybox = fixture("busybox.tar");
        self.ok(&["import", busybox.to_str().unwrap(), "busybox"]);
    }
}

/// One daemon with a kernel and the busybox image, for all tests of a program.
pub fn furnished() -> &'static Hull {
    static HULL: OnceLock<Hull> = OnceLock::new();
    HULL.get_or_init(|| {
        let hull = Hull::empty();
        hull.furnish();
        hull
    })
}
