//! The plan's devices, opened: one match of the plan's words to those of each device.
//!
//! Owner: the main thread, before anything runs. Invariant: the order is the layout's: disks, sockets, networks, entropy.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use hull_protocol::control::{Dropped, NetStats, Traffic};
use hull_protocol::network::{self, NetPlan};
use hull_protocol::plan::{BootPlan, DiskPlan, VsockPlan};
use hull_virtio::block::{Block, BlockOptions};
use hull_virtio::bucket::{Limits, Rate};
use hull_virtio::device::Device;
use hull_virtio::net::backend::Tap;
use hull_virtio::net::counters::{Cause, Counters};
use hull_virtio::net::{Net, NetOptions, counters};
use hull_virtio::rng::Rng;
use hull_virtio::vsock::{RefuseAll, Vsock, VsockParts, answers};

use crate::inherit::Slots;
use crate::machine::{BuildError, host_refused};

/// A machine's devices.
pub struct Devices {
    /// All of them, in the order of the layout.
    pub all: Vec<Box<dyn Device>>,
    /// What each network card counts, in the plan's order.
    pub nets: Vec<Arc<Counters>>,
}

impl Devices {
    /// Opens what the plan names.
    ///
    /// # Errors
    /// When a descriptor is not what the device needs.
    pub fn open(plan: &BootPlan, slots: &mut Slots) -> Result<Self, BuildError> {
        let mut devices = Self { all: Vec::new(), nets: Vec::new() };
        for disk in &plan.disks {
            devices.all.push(Box::new(open_disk(disk, slots)?));
        }
        if let Some(vsock) = &plan.vsock {
            devices.all.push(Box::new(open_vsock(vsock, slots)?));
        }
        for net in &plan.nets {
            let net = open_net(net, slots)?;
            devices.nets.push(net.counters());
            devices.all.push(Box::new(net));
        }
        if plan.rng {
            devices.all.push(Box::new(Rng::new()));
        }
        Ok(devices)
    }
}

fn open_disk(disk: &DiskPlan, slots: &mut Slots) -> Result<Block, BuildError> {
    let limits = limits(disk.limit.bytes, disk.limit.requests);
    let options = BlockOptions { read_only: disk.read_only, id: disk.serial.clone(), limits };
    Ok(Block::open(slots.take(disk.file)?, &options)?)
}

fn open_vsock(vsock: &VsockPlan, slots: &mut Slots) -> Result<Vsock, BuildError> {
    let listener = UnixListener::from(OwnedFd::from(slots.take(vsock.listener)?));
    let (_, answers) = answers().map_err(host_refused("set up the socket device"))?;
    // Nobody takes connections that the guest starts yet: they are refused at once.
    let dialer = Box::new(RefuseAll);
    let parts = VsockParts { guest_cid: vsock.cid, listener: Some(listener), dialer, answers };
    Vsock::new(parts).map_err(host_refused("set up the socket device"))
}

fn open_net(net: &NetPlan, slots: &mut Slots) -> Result<Net, BuildError> {
    let tap = Tap::new(slots.take(net.tap)?.into())?;
    let options = NetOptions {
        mac: net.mac.0,
        mtu: net.mtu,
        guard: net.guard.clone(),
        receive: limits(net.receive.bytes, net.receive.packets),
        transmit: limits(net.transmit.bytes, net.transmit.packets),
    };
    Ok(Net::new(Box::new(tap), &options))
}

fn limits(bytes: Option<network::Rate>, units: Option<network::Rate>) -> Limits {
    let rate = |rate: network::Rate| Rate {
        per_second: rate.per_second,
        burst: rate.burst.unwrap_or(rate.per_second),
    };
    Limits { bytes: bytes.map(rate), units: units.map(rate) }
}

/// A card's counters in the words of the control socket.
pub fn stats(counters: &Counters) -> NetStats {
    NetStats { receive: traffic(&counters.receive), transmit: traffic(&counters.transmit) }
}

fn traffic(traffic: &counters::Traffic) -> Traffic {
    let dropped = Dropped {
        no_buffer: traffic.dropped(Cause::NoBuffer),
        filtered: traffic.dropped(Cause::Filtered),
        offload: traffic.dropped(Cause::Offload),
        malformed: traffic.dropped(Cause::Malformed),
        source_mac: traffic.dropped(Cause::SourceMac),
        source_address: traffic.dropped(Cause::SourceAddress),
        forbidden: traffic.dropped(Cause::Forbidden),
        host: traffic.dropped(Cause::Host),
    };
    Traffic { frames: traffic.frames(), bytes: traffic.bytes(), dropped }
}
