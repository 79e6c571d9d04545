//! A network namespace of a test's own, so that no test touches the networks of the machine it runs on.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// It is there as long as its process, which ends when its standard input does: at the latest with this one.
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    /// One with nothing but a loopback.
    pub fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && echo up && exec cat"]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n", "no network namespace: these tests need root");
        Self { holder }
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    /// What `nsenter` takes to enter it.
    pub fn flag(&self) -> String {
        format!("--net={}", self.path().display())
    }

    /// A program in it, not started yet.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args([self.flag().as_str(), "--", program]).args(args);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _gone = self.holder.kill();
        let _gone = self.holder.wait();
    }
}
