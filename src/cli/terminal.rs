//! The user's terminal as a VM's console: raw while the VM runs, as it was before afterwards.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Ctrl-A: the next key is for hull.
const ESCAPE: u8 = 1;

/// The terminal on standard input, if there is one.
pub(crate) struct Terminal {
    before: Option<Termios>,
    keys: Option<File>,
}

impl Terminal {
    /// Remembers how the terminal is.
    pub(crate) fn new() -> Result<Self> {
        let stdin = io::stdin();
        let before = if stdin.is_terminal() {
            Some(tcgetattr(&stdin).context("reading the terminal's mode")?)
        } else {
            None
        };
        Ok(Self { before, keys: None })
    }

    /// What the VM reads instead of the terminal, so that hull sees the keys first. None without a terminal: the
    /// VM then reads standard input itself.
    pub(crate) fn input(&mut self) -> Result<Option<File>> {
        if self.before.is_none() {
            return Ok(None);
        }
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("making a pipe")?;
        self.keys = Some(File::from(write));
        Ok(Some(File::from(read)))
    }

    /// Makes the terminal raw and passes keys on until the process ends; Ctrl-A x kills the VM.
    pub(crate) fn attend(&mut self, vmm: u32) -> Result<()> {
        let (Some(before), Some(keys)) = (&self.before, self.keys.take()) else { return Ok(()) };
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw).context("making the terminal raw")?;
        let pid = i32::try_from(vmm).ok().and_then(Pid::from_raw).context("hull-vmm has no process id")?;
        // Ends with the process: it only ever waits for a key.
        std::thread::spawn(move || pass_keys(keys, pid));
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _terminal_has_gone = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}

fn pass_keys(mut keys: File, vmm: Pid) {
    let mut escaped = false;
    let mut bytes = [0; 256];
    while let Ok(length) = io::stdin().lock().read(&mut bytes) {
        let typed = bytes.get(..length).unwrap_or_default();
        if typed.is_empty() {
            return;
        }
        for key in typed {
            match (escaped, *key) {
                (true, b'x') => {
                    let _already_gone = kill_process(vmm, Signal::KILL);
                    return;
                }
                (false, ESCAPE) => {
                    escaped = true;
                    continue;
                }
                // Ctrl-A twice is one for the guest.
                _ => escaped = false,
            }
            if keys.write_all(&[*key]).is_err() {
                return;
            }
        }
    }
}
