//! What the system tests share: booting a guest and reading what it says.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

mod lost;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the guest's kernel and initial RAM disk are.
pub fn fixture(name: &str) -> PathBuf {
    let fixtures = std::env::var_os("HULL_FIXTURES").expect("system tests are run by `cargo xtask test`");
    Path::new(&fixtures).join("guest").join(name)
}

/// What became of a guest.
pub struct Outcome {
    /// Exit status of `hull boot`.
    pub status: i32,
    /// The console.
    pub console: String,
    /// Standard error of `hull boot`.
    pub errors: String,
}

impl Outcome {
    /// What the guest said after a word at the start of a line.
    pub fn said(&self, word: &str) -> Option<&str> {
        let prefix = format!("{word} ");
        self.console.lines().find_map(|line| line.trim().strip_prefix(&prefix))
    }
}

/// Boots a guest to its end. `cmdline` is added to what every test needs; the guest never runs longer than three minutes.
pub fn boot(kernel: &str, cmdline: &str, flags: &[&str], input: &str) -> Outcome {
    let outcome = boot_once(kernel, cmdline, flags, input);
    let crashed = outcome.console.contains("Kernel panic") && !cmdline.contains("do=panic");
    let outcome = if (outcome.status == 124 || crashed) && lost::forgive(&outcome.console) {
        boot_once(kernel, cmdline, flags, input)
    } else {
        outcome
    };
    assert!(!outcome.console.contains("FAILED"), "{}", outcome.console);
    outcome
}

fn boot_once(kernel: &str, cmdline: &str, flags: &[&str], input: &str) -> Outcome {
    let mut child = Command::new("timeout")
        .args(["--kill-after=5", "180", env!("CARGO_BIN_EXE_hull"), "boot", "--kernel"])
        .arg(fixture(kernel))
        .arg("--initrd")
        .arg(fixture("initramfs"))
        .args(["--cmdline", &format!("console=ttyS0 quiet panic=-1 {cmdline}")])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (mut console, mut chunk, mut said) = (Vec::new(), [0; 4096], false);
    loop {
        let length = stdout.read(&mut chunk).unwrap();
        if length == 0 {
            break;
        }
        console.extend(&chunk[..length]);
        // A guest's serial driver throws away what was typed before it looked.
        if !said && String::from_utf8_lossy(&console).contains("LISTENING") {
            stdin.write_all(input.as_bytes()).unwrap();
            said = true;
        }
    }
    let output = child.wait_with_output().unwrap();
    Outcome {
        status: output.status.code().unwrap_or(-1),
        console: String::from_utf8_lossy(&console).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
