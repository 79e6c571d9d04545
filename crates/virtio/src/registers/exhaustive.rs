//! Every state that a driver can bring the registers into with a small set of writes, and every write in each of them:
//! not a sample, all of it.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::collections::{HashSet, VecDeque};

use super::*;
use crate::device::DeviceId;
use crate::needs_reset::STATUS_NEEDS_RESET;

/// What a driver may do: enough to set a queue up well and wrongly, to agree and not, to start, to fail, to reset.
#[derive(Clone, Copy, Debug)]
enum Write {
    Status(u8),
    Features(u32, u32),
    Size(u32),
    Address(Area, u32),
    Ready(bool),
    /// The device faults.
    Fault,
}

const WRITES: [Write; 18] = [
    Write::Status(0),
    Write::Status(STATUS_ACKNOWLEDGE),
    Write::Status(STATUS_DRIVER),
    Write::Status(STATUS_ACKNOWLEDGE | STATUS_DRIVER),
    Write::Status(STATUS_FEATURES_OK),
    Write::Status(STATUS_DRIVER_OK),
    Write::Status(STATUS_FAILED),
    Write::Status(0xff),
    Write::Features(0, 0x20),
    Write::Features(0, 0x40),
    Write::Features(1, 1),
    Write::Size(8),
    Write::Size(3),
    Write::Address(Area::Descriptors, 0x1000),
    Write::Address(Area::Driver, 0x1001),
    Write::Ready(true),
    Write::Ready(false),
    Write::Fault,
];

const OFFERED: u64 = F_COMMON | 0x20;

/// The registers after some writes. Two rings are in place already, so that the third decides.
fn replay(path: &[Write]) -> (Registers, Transition) {
    let info = DeviceInfo { id: DeviceId::Rng, features: OFFERED, queue_sizes: &[8] };
    let mut registers = Registers::new(&info);
    let last = path.iter().fold(Transition::None, |_, write| apply(&mut registers, *write));
    (registers, last)
}

fn apply(registers: &mut Registers, write: Write) -> Transition {
    match write {
        Write::Status(value) => {
            let transition = registers.set_status(value);
            if transition == Transition::Stop {
                registers.reset();
            }
            return transition;
        }
        Write::Features(select, bits) => registers.set_driver_features(select, bits),
        Write::Size(size) => registers.set_queue_size(0, size),
        Write::Address(area, value) => {
            registers.set_queue_address(0, area, Half::Low, value);
            registers.set_queue_address(0, Area::Device, Half::Low, 0x3000);
            if area == Area::Descriptors {
                registers.set_queue_address(0, Area::Driver, Half::Low, 0x2000);
            }
        }
        Write::Ready(ready) => registers.set_queue_ready(0, ready),
        Write::Fault => registers.needs_reset().set(),
    }
    Transition::None
}

/// What may not happen between two states.
fn check(before: &Registers, write: Write, (after, transition): &(Registers, Transition)) {
    let has = |registers: &Registers, bit: u8| registers.status() & bit != 0;
    let queue = *after.queue(0).unwrap();
    if queue.ready {
        assert!(queue.well_formed() && queue.size == 8 && queue.desc_table == 0x1000, "{queue:?}");
    }
    if matches!(write, Write::Status(0)) {
        assert_eq!((after.status(), after.driver_features(), queue), (0, 0, QueueConfig::new(8)));
        assert_eq!(*transition == Transition::Stop, has(before, STATUS_DRIVER_OK));
        return;
    }
    assert_eq!(before.status() & !after.status(), 0, "a bit went without a reset");
    if has(before, STATUS_FEATURES_OK) {
        assert_eq!(
            before.driver_features(),
            after.driver_features(),
            "features changed when they were final"
        );
    }
    if has(after, STATUS_FEATURES_OK) {
        let features = after.driver_features();
        assert!(features & !OFFERED == 0 && features & F_VERSION_1 != 0, "{features:#x}");
    } else {
        assert_eq!(queue, QueueConfig::new(8), "a queue was configured before features were agreed");
    }
    if has(before, STATUS_DRIVER_OK) {
        assert_eq!(before.queue(0), after.queue(0), "a queue changed while the device ran");
    }
    let started = has(after, STATUS_DRIVER_OK) && !has(before, STATUS_DRIVER_OK);
    assert_eq!(*transition == Transition::Start, started, "the device starts with DRIVER_OK, once");
    if started {
        assert!(has(after, STATUS_FEATURES_OK) && !has(after, STATUS_FAILED | STATUS_NEEDS_RESET));
    }
}

#[test]
fn every_write_in_every_state_keeps_the_rules() {
    let mut seen = HashSet::from([format!("{:?}", replay(&[]).0)]);
    let mut open = VecDeque::from([Vec::new()]);
    let mut transitions = 0;
    while let Some(path) = open.pop_front() {
        for write in WRITES {
            let (before, _) = replay(&path);
            let longer: Vec<_> = path.iter().copied().chain([write]).collect();
            let after = replay(&longer);
            check(&before, write, &after);
            transitions += 1;
            if seen.insert(format!("{:?}", after.0)) {
                open.push_back(longer);
            }
        }
    }
    // All of them were found, and there are more than a handful.
    assert!(seen.len() > 100 && transitions == seen.len() * WRITES.len(), "{} states", seen.len());
}
