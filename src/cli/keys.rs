//! Keys typed at `hull boot`: the VM's, but for Ctrl-A x, which ends it.
//!
//! Owner: one `hull boot`; keys are passed on by a thread that ends with the program. Invariant: the guest reads
//! what was typed, byte by byte, without what was for hull.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::terminal::Raw;

/// Ctrl-A: the next key is for hull.
const ESCAPE: u8 = 1;

/// The terminal on standard input, if there is one.
#[derive(Default)]
pub(crate) struct Terminal {
    _raw: Option<Raw>,
    keys: Option<File>,
}

impl Terminal {
    /// What the VM reads instead of the terminal, so that hull sees the keys first. None without a terminal: the
    /// VM then reads standard input itself.
    pub(crate) fn input(&mut self) -> Result<Option<File>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("making a pipe")?;
        self.keys = Some(File::from(write));
        Ok(Some(File::from(read)))
    }

    /// Makes the terminal raw and passes keys on until the process ends; Ctrl-A x kills the VM.
    pub(crate) fn attend(&mut self, vmm: u32) -> Result<()> {
        let Some(keys) = self.keys.take() else { return Ok(()) };
        self._raw = Raw::enter()?;
        let pid = i32::try_from(vmm).ok().and_then(Pid::from_raw).context("hull-vmm has no process id")?;
        // Ends with the program: it only ever waits for a key.
        std::thread::spawn(move || pass_keys(keys, pid));
        Ok(())
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
