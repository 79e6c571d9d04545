//! The network card (virtio 1.2, section 5.1) over a tap of the host.
//!
//! Owned by the transport, then by the I/O loop. Frames go by vectored system calls between the tap and the guest's
//! buffers. Invariants: whatever the guest does, a call moves a bounded number of bytes; as long as there is work, an
//! event is pending (the descriptor, a kick of the driver, or the timer); and a card with a guard sends nothing
//! in another's name.

pub mod backend;
pub mod counters;
mod feature;
mod filter;
mod guard;
mod header;
mod packet;
mod receive;
#[cfg(test)]
mod samples;
mod transmit;
#[cfg(test)]
mod wire;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hull_tap::Offload;
use log::warn;

use crate::bucket::{Limiter, Limits};
use crate::device::{Context, Device, DeviceId, DeviceInfo, Interest, Ready, TIMER_TOKEN};
use crate::fault::Fault;
use crate::log_limit::LogLimit;
use crate::net::backend::Backend;
use crate::net::counters::Counters;
use crate::net::filter::{Asked, Filter};
use crate::net::guard::Guard;
use crate::net::receive::Receiver;
use crate::net::transmit::Transmitter;
use crate::registers::F_COMMON;

/// The queues: a pair for frames (further pairs would follow it), then the control queue.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;
const QUEUE_SIZES: &[u16] = &[256, 256, 64];

/// The tap.
const BACKEND_TOKEN: u32 = 0;
/// The length of a VLAN tag.
const VLAN_TAG: usize = 4;
/// How many commands one call obeys.
const TURN_COMMANDS: u32 = 16;
/// The time between two changes of what the tap is told.
const OFFLOAD_PAUSE: Duration = Duration::from_millis(100);
/// `VIRTIO_NET_S_LINK_UP` in the field `status` of the configuration space, and where that is.
const LINK_UP: u16 = 1;
const LINK: u64 = 6;

/// What a card is.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The largest packet in bytes, without the Ethernet header.
    pub mtu: u16,
    /// The addresses that the guest may send from; none: any, from any card.
    pub guard: Option<Vec<IpAddr>>,
    /// What the guest may receive.
    pub receive: Limits,
    /// What the guest may send.
    pub transmit: Limits,
}

/// What a queue waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The tap: something to read, or room to write.
    Descriptor,
    /// The driver's next buffer, for which it was asked to kick.
    Driver,
    /// Time.
    Time(Duration),
    /// That the other devices had their turn.
    Turn,
}

/// The network device.
pub struct Net {
    backend: Box<dyn Backend>,
    mac: [u8; 6],
    mtu: u16,
    features: u64,
    receiver: Receiver,
    transmitter: Transmitter,
    filter: Filter,
    counters: Arc<Counters>,
    /// The clock's zero.
    since: Instant,
    /// The features negotiated, with the offloads that the guest takes now.
    taken: u64,
    /// What each queue waits for.
    waits: [Wait; QUEUE_SIZES.len()],
    /// What the tap is watched for; none before the start, and after the tap has gone.
    interest: Option<Interest>,
    /// What the tap was told last, and when.
    told: Option<(Offload, Duration)>,
    log: LogLimit,
}

/// The same, with times as points in time.
#[derive(Clone, Copy, Debug, Default)]
struct Wait {
    descriptor: bool,
    due: Option<Duration>,
}

impl Net {
    /// A card on a tap.
    #[must_use]
    pub fn new(backend: Box<dyn Backend>, options: &NetOptions) -> Self {
        let guard = options.guard.as_ref().map(|addresses| Guard::new(options.mac, addresses));
        let own = guard.as_ref().map(|_| options.mac);
        Self {
            features: F_COMMON | feature::offered(backend.segments_udp()),
            backend,
            mac: options.mac,
            mtu: options.mtu,
            receiver: Receiver::new(Limiter::new(&options.receive), options.mtu),
            transmitter: Transmitter::new(Limiter::new(&options.transmit), guard),
            filter: Filter::new(own),
            counters: Arc::default(),
            since: Instant::now(),
            taken: 0,
            waits: [Wait::default(); QUEUE_SIZES.len()],
            interest: None,
            told: None,
            log: LogLimit::default(),
        }
    }

    /// What it counts, to be read from any thread.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    fn receive(&mut self, ctx: &mut Context<'_>) -> Result<(), Fault> {
        let now = self.since.elapsed();
        let Some(queue) = ctx.queues.get_mut(RECEIVE).filter(|_| self.interest.is_some()) else {
            return Ok(());
        };
        let next = self.receiver.turn(&mut receive::Lent {
            mem: ctx.mem,
            queue,
            backend: self.backend.as_mut(),
            traffic: &self.counters.receive,
            filter: &self.filter,
            features: self.taken,
            now,
        });
        self.after(ctx, RECEIVE, now, next)
    }

    fn transmit(&mut self, ctx: &mut Context<'_>) -> Result<(), Fault> {
        let now = self.since.elapsed();
        let Some(queue) = ctx.queues.get_mut(TRANSMIT) else { return Ok(()) };
        let next = self.transmitter.turn(&mut transmit::Lent {
            mem: ctx.mem,
            queue,
            backend: self.backend.as_mut(),
            traffic: &self.counters.transmit,
            features: ctx.features,
            now,
        });
        self.after(ctx, TRANSMIT, now, next)
    }

    fn control(&mut self, ctx: &mut Context<'_>) -> Result<(), Fault> {
        let now = self.since.elapsed();
        let next = self.obey(ctx).map(|next| match (next, self.offload(now)) {
            (Next::Driver, Some(wait)) => Next::Time(wait),
            (next, _) => next,
        });
        self.after(ctx, CONTROL, now, next)
    }

    /// Obeys a turn's worth of commands.
    fn obey(&mut self, ctx: &mut Context<'_>) -> Result<Next, Fault> {
        let Some(queue) = ctx.queues.get_mut(CONTROL) else { return Ok(Next::Driver) };
        for _ in 0..TURN_COMMANDS {
            let Some(chain) = queue.pop(ctx.mem)? else { return Ok(Next::Driver) };
            let (written, asked) = filter::obey(ctx.mem, &chain, ctx.features, &mut self.filter)?;
            if let Asked::Offload(wanted) = asked {
                self.taken = (ctx.features & !feature::GUEST_OFFLOADS) | wanted;
            }
            queue.push(ctx.mem, chain, written)?;
        }
        Ok(Next::Turn)
    }

    /// Tells the tap what the guest takes, or when to try again: a change takes the host's lock over all interfaces,
    /// which no guest shall hold at will. Until then, frames that need more than the guest takes are dropped.
    fn offload(&mut self, now: Duration) -> Option<Duration> {
        let wanted = feature::guest_offload(self.taken);
        if let Some((told, when)) = self.told {
            let wait = OFFLOAD_PAUSE.saturating_sub(now.saturating_sub(when));
            if told == wanted || !wait.is_zero() {
                return Some(wait).filter(|_| told != wanted);
            }
        }
        self.told = Some((wanted, now));
        if let Err(error) = self.backend.set_offload(wanted)
            && let Some(more) = self.log.allow()
        {
            warn!("the tap does not take the guest's offloads: {error} ({more} more)");
        }
        None
    }

    /// Interrupts the driver for what was done in a queue, and arranges for what is left.
    fn after(
        &mut self,
        ctx: &mut Context<'_>,
        index: usize,
        now: Duration,
        next: Result<Next, Fault>,
    ) -> Result<(), Fault> {
        if let Some(queue) = ctx.queues.get_mut(index)
            && queue.should_notify(ctx.mem)?
        {
            ctx.interrupt.queue(index);
        }
        let wait = match next? {
            Next::Descriptor => Wait { descriptor: true, due: None },
            Next::Driver => Wait::default(),
            Next::Time(wait) => Wait { descriptor: false, due: Some(now.saturating_add(wait)) },
            Next::Turn => Wait { descriptor: false, due: Some(now) },
        };
        if let Some(place) = self.waits.get_mut(index) {
            *place = wait;
        }
        self.arm(ctx, now);
        self.watch(ctx)
    }

    /// Sets the one timer to what is due first.
    fn arm(&self, ctx: &mut Context<'_>, now: Duration) {
        if let Some(due) = self.waits.iter().filter_map(|wait| wait.due).min() {
            ctx.watch.timer(due.saturating_sub(now));
        }
    }

    /// Watches the tap for just what is waited for: it is level-triggered, and must not ask for what cannot be done.
    fn watch(&mut self, ctx: &mut Context<'_>) -> Result<(), Fault> {
        let Some(current) = self.interest else { return Ok(()) };
        let [receive, transmit, _] = self.waits.map(|wait| wait.descriptor);
        let interest = match (receive, transmit) {
            (true, true) => Interest::Both,
            (true, false) => Interest::Read,
            (false, true) => Interest::Write,
            (false, false) => Interest::Hangup,
        };
        if interest != current {
            let descriptor = self.backend.descriptor();
            ctx.watch.modify(descriptor, BACKEND_TOKEN, interest).map_err(Fault::Host)?;
            self.interest = Some(interest);
        }
        Ok(())
    }

    /// The tap is gone: the link is down, nothing is received any more, and what is sent is dropped.
    fn unplug(&mut self, ctx: &mut Context<'_>) {
        if self.interest.take().is_some() {
            ctx.watch.remove(self.backend.descriptor());
            let [receive, ..] = &mut self.waits;
            *receive = Wait::default();
            ctx.interrupt.config_field(LINK, 0);
            warn!("a network card lost its tap: somebody removed it from the host");
        }
    }
}

impl Device for Net {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { id: DeviceId::Net, features: self.features, queue_sizes: QUEUE_SIZES }
    }

    /// `struct virtio_net_config`, section 5.1.4, as far as the offered features make it valid.
    fn config(&self) -> Vec<u8> {
        let mut config = self.mac.to_vec();
        config.extend_from_slice(&LINK_UP.to_le_bytes());
        // One pair of queues.
        config.extend_from_slice(&1_u16.to_le_bytes());
        config.extend_from_slice(&self.mtu.to_le_bytes());
        config
    }

    fn start(&mut self, ctx: &mut Context<'_>) -> Result<(), Fault> {
        self.taken = ctx.features;
        let descriptor = self.backend.descriptor();
        ctx.watch.add(descriptor, BACKEND_TOKEN, Interest::Hangup).map_err(Fault::Host)?;
        self.interest = Some(Interest::Hangup);
        self.control(ctx)?;
        self.receive(ctx)?;
        self.transmit(ctx)
    }

    fn on_queue(&mut self, ctx: &mut Context<'_>, index: usize) -> Result<(), Fault> {
        match index {
            RECEIVE => self.receive(ctx),
            TRANSMIT => self.transmit(ctx),
            CONTROL => self.control(ctx),
            _ => Ok(()),
        }
    }

    fn on_source(&mut self, ctx: &mut Context<'_>, token: u32, ready: Ready) -> Result<(), Fault> {
        match token {
            TIMER_TOKEN => {
                let now = self.since.elapsed();
                let [receive, transmit, control] =
                    self.waits.map(|wait| wait.due.is_some_and(|due| due <= now));
                if receive {
                    self.receive(ctx)?;
                }
                if transmit {
                    self.transmit(ctx)?;
                }
                if control {
                    self.control(ctx)?;
                }
                // A timer that came too early for all of them.
                self.arm(ctx, now);
                Ok(())
            }
            BACKEND_TOKEN if ready.hangup => {
                self.unplug(ctx);
                Ok(())
            }
            BACKEND_TOKEN => {
                if ready.readable {
                    self.receive(ctx)?;
                }
                if ready.writable { self.transmit(ctx) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn drain(&mut self, ctx: &mut Context<'_>) {
        if let Some(queue) = ctx.queues.get_mut(RECEIVE) {
            self.receiver.drain(queue);
        }
    }

    fn reset(&mut self) {
        self.receiver.reset();
        self.filter.reset();
        self.waits = [Wait::default(); QUEUE_SIZES.len()];
        (self.taken, self.interest) = (0, None);
        // The limits stay as used up as they are: a reset must not refill them.
    }
}

#[cfg(test)]
mod tests;
