//! The serial console: a 16550 at COM1, with a bounded buffer between the guest and the host's reader.
//!
//! Owner: the bus. Called on the vCPU threads and, for input, on the I/O thread. Invariants: a host that does not
//! read never stops the guest; what the host has not read is bounded, the oldest bytes going first.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hull_jail::seccomp::Role;
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};
use vmm_sys_util::eventfd::EventFd;

use crate::confine;

const COM1: u16 = 0x3f8;
/// The most output kept for a slow reader, in bytes.
const BUFFER_MAX: usize = 64 << 10;
/// How long the start of a line waits for its rest, so that a line is one write and not one for each byte.
const LINE_WAIT: Duration = Duration::from_millis(5);
/// So much is written without waiting for the end of its line.
const LINE_MAX: usize = 256;
/// How long the end of a VM waits for the reader to take what is left.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// The interrupt line of the serial port.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The serial port.
pub struct SerialPort(Mutex<Serial<Line, NoEvents, ConsoleWriter>>);

impl SerialPort {
    /// A port that raises `line` and prints to `console`.
    pub fn new(line: EventFd, console: &Console) -> Self {
        Self(Mutex::new(Serial::new(Line(line), ConsoleWriter(console.shared.clone()))))
    }

    /// A port's register, if it is one of this device.
    pub fn offset(&self, port: u16) -> Option<u8> {
        port.checked_sub(COM1).filter(|offset| *offset < 8).and_then(|offset| u8::try_from(offset).ok())
    }

    /// The guest reads a register.
    pub fn read(&self, offset: u8) -> u8 {
        self.lock().read(offset)
    }

    /// The guest writes a register.
    pub fn write(&self, offset: u8, value: u8) {
        // The console takes every byte; only the interrupt could fail, and then the guest polls.
        if let Err(error) = self.lock().write(offset, value) {
            log::debug!("serial port: {error:?}");
        }
    }

    /// Input from the host: as many bytes as the port's buffer takes.
    pub fn input(&self, bytes: &[u8]) -> usize {
        self.lock().enqueue_raw_bytes(bytes).unwrap_or(0)
    }

    /// How many bytes [`SerialPort::input`] takes now.
    pub fn room(&self) -> usize {
        self.lock().fifo_capacity()
    }

    fn lock(&self) -> MutexGuard<'_, Serial<Line, NoEvents, ConsoleWriter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Pending {
    bytes: VecDeque<u8>,
    dropped: u64,
    closed: bool,
    done: bool,
}

impl Pending {
    /// Whether nothing is gained by waiting for more: a line is complete, or long enough, or the last.
    fn whole(&self) -> bool {
        self.closed || self.bytes.len() >= LINE_MAX || self.bytes.back() == Some(&b'\n')
    }
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guest's end of the console's buffer.
struct ConsoleWriter(Arc<Shared>);

impl Write for ConsoleWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut pending = self.0.lock();
        let idle = pending.bytes.is_empty();
        let whole = pending.whole();
        for byte in data {
            if pending.bytes.len() == BUFFER_MAX {
                pending.bytes.pop_front();
                pending.dropped = pending.dropped.saturating_add(1);
            }
            pending.bytes.push_back(*byte);
        }
        if idle || (!whole && pending.whole()) {
            self.0.changed.notify_all();
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The host's end: one thread that writes what the guest prints.
pub struct Console {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Console {
    /// Starts to write to `output`; without one, what the guest prints is dropped. After `limit` bytes the rest
    /// is dropped too.
    ///
    /// # Errors
    /// When the host gives no thread.
    pub fn start(output: Option<File>, limit: Option<u64>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = thread::Builder::new().name("console".into()).stack_size(64 << 10).spawn(move || {
            confine::to(Role::Console);
            print(&theirs, output, limit.unwrap_or(u64::MAX));
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits, for a bounded time, until the reader has taken what is left.
    pub fn finish(&mut self) {
        let mut pending = self.shared.lock();
        pending.closed = true;
        self.shared.changed.notify_all();
        let (pending, _) = self
            .shared
            .changed
            .wait_timeout_while(pending, FLUSH_WAIT, |pending| !pending.done)
            .unwrap_or_else(PoisonError::into_inner);
        let done = pending.done;
        if pending.dropped > 0 {
            log::warn!("console: {} bytes were dropped because nobody read them in time", pending.dropped);
        }
        drop(pending);
        // A reader that is stuck keeps the thread; the process ends without it.
        if let (true, Some(thread)) = (done, self.thread.take()) {
            let _ended = thread.join();
        }
    }
}

fn print(shared: &Shared, mut output: Option<File>, limit: u64) {
    let mut left = limit;
    loop {
        let pending = shared.lock();
        let mut pending = shared
            .changed
            .wait_while(pending, |pending| pending.bytes.is_empty() && !pending.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if pending.bytes.is_empty() {
            pending.done = true;
            shared.changed.notify_all();
            return;
        }
        (pending, _) = shared
            .changed
            .wait_timeout_while(pending, LINE_WAIT, |pending| !pending.whole())
            .unwrap_or_else(PoisonError::into_inner);
        let mut chunk: Vec<u8> = pending.bytes.drain(..).collect();
        drop(pending);
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left = left.saturating_sub(chunk.len() as u64);
        // A reader that has gone is no reason to end the VM.
        if output.as_mut().is_some_and(|output| output.write_all(&chunk).is_err()) {
            output = None;
        }
    }
}

#[cfg(test)]
mod tests;
