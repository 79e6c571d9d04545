//! The entropy device (virtio 1.2, section 5.4): the host's `getrandom` straight into the guest's buffers.
//!
//! Owned as every device is, by the transport and then the I/O loop. Invariant: a request gets at most [`REQUEST_MAX`]
//! bytes and a guest at most [`RATE`] per second, so that no guest keeps the I/O thread busy with random numbers.

use std::time::{Duration, Instant};

use log::warn;

use crate::chain::Chain;
use crate::device::{Context, Device, DeviceId, DeviceInfo, Memory, Ready, TIMER_TOKEN};
use crate::fault::Fault;
use crate::iovec::IoVecs;
use crate::log_limit::LogLimit;
use crate::registers::F_COMMON;

/// The most bytes one request is given; the driver is told how many it got.
pub const REQUEST_MAX: u32 = 64 * 1024;
/// Bytes per second, and the most that can be saved up.
pub const RATE: u32 = 4 * 1024 * 1024;
/// How long a guest that used up its share waits.
const PAUSE: Duration = Duration::from_millis(20);

const QUEUE_SIZES: &[u16] = &[64];

/// The entropy device.
#[derive(Debug)]
pub struct Rng {
    /// Bytes the guest may still have, topped up by time.
    share: u32,
    topped_up: Instant,
    log: LogLimit,
}

impl Rng {
    /// An entropy device.
    #[must_use]
    pub fn new() -> Self {
        Self { share: RATE, topped_up: Instant::now(), log: LogLimit::default() }
    }

    fn top_up(&mut self) {
        let micros = self.topped_up.elapsed().as_micros();
        let earned = micros.saturating_mul(u128::from(RATE)) / 1_000_000;
        self.share = u32::try_from(earned).unwrap_or(RATE).saturating_add(self.share).min(RATE);
        self.topped_up = Instant::now();
    }

    fn serve(&mut self, ctx: &mut Context<'_>) -> Result<(), Fault> {
        let Some(queue) = ctx.queues.first_mut() else { return Ok(()) };
        self.top_up();
        let outcome = loop {
            if self.share == 0 {
                ctx.watch.timer(PAUSE);
                break Ok(());
            }
            match queue.pop(ctx.mem) {
                Ok(Some(chain)) => {
                    let count = self.fill(ctx.mem, &chain)?;
                    // An empty answer costs as well, or a guest could have any number of them.
                    self.share = self.share.saturating_sub(count.max(64));
                    queue.push(ctx.mem, chain, count)?;
                }
                Ok(None) => break Ok(()),
                Err(fault) => break Err(fault),
            }
        };
        if queue.should_notify(ctx.mem)? {
            ctx.interrupt.queue(0);
        }
        outcome
    }

    fn fill(&mut self, mem: &Memory, chain: &Chain) -> Result<u32, Fault> {
        let mut writer = chain.writer(mem);
        let count = writer.remaining().min(REQUEST_MAX).min(self.share);
        let mut vecs = IoVecs::with_capacity(4);
        writer.take(count)?.gather(&mut vecs)?;
        match vecs.fill_random() {
            Ok(filled) => Ok(u32::try_from(filled).unwrap_or(count).min(count)),
            Err(error) => {
                if let Some(more) = self.log.allow() {
                    warn!("the host has no random bytes for the guest: {error} ({more} more)");
                }
                Ok(0)
            }
        }
    }
}

impl Default for Rng {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for Rng {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { id: DeviceId::Rng, features: F_COMMON, queue_sizes: QUEUE_SIZES }
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn start(&mut self, ctx: &mut Context<'_>) -> Result<(), Fault> {
        self.serve(ctx)
    }

    fn on_queue(&mut self, ctx: &mut Context<'_>, index: usize) -> Result<(), Fault> {
        if index == 0 { self.serve(ctx) } else { Ok(()) }
    }

    fn on_source(&mut self, ctx: &mut Context<'_>, token: u32, _: Ready) -> Result<(), Fault> {
        if token == TIMER_TOKEN { self.serve(ctx) } else { Ok(()) }
    }

    fn drain(&mut self, _: &mut Context<'_>) {
        // Nothing is ever in flight between two calls.
    }

    fn reset(&mut self) {
        // The share stays: a reset must not refill it.
    }
}
