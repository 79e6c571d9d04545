//! The register machine by itself, against the rules of sections 2.1 to 2.4 and 3.1.

use hull_virtio::device::{DeviceId, DeviceInfo};
use hull_virtio::registers::{
    Area, F_COMMON, F_VERSION_1, Half, QueueConfig, Registers, STATUS_DRIVER_OK, STATUS_FEATURES_OK,
    Transition,
};

use crate::input::{Input, Script};

const SIZES: &[u16] = &[256, 64];

/// What must stay as it is.
#[derive(Default)]
struct Frozen {
    features: Option<u64>,
    queues: Option<Vec<QueueConfig>>,
}

/// Any order of any writes.
pub(crate) fn registers(data: &[u8]) {
    let info = DeviceInfo { id: DeviceId::Net, features: F_COMMON | 0x21, queue_sizes: SIZES };
    let mut registers = Registers::new(&info);
    let mut frozen = Frozen::default();
    let mut input = Input(data);
    while input.more() {
        step(&mut registers, &mut input, &mut frozen);
        check(&registers, &mut frozen, info.features);
    }
}

fn step(registers: &mut Registers, input: &mut Input<'_>, frozen: &mut Frozen) {
    let (what, queue, value) = (input.u8() % 7, u32::from(input.u8() % 3), input.u32());
    match what {
        0 => match registers.set_status(value.to_le_bytes()[0]) {
            Transition::Stop => {
                registers.reset();
                *frozen = Frozen::default();
            }
            Transition::Start => assert!(registers.status() & STATUS_DRIVER_OK != 0),
            Transition::None if value.to_le_bytes()[0] == 0 => *frozen = Frozen::default(),
            Transition::None => {}
        },
        1 => registers.set_driver_features(queue, value),
        2 => registers.set_queue_size(queue, value & 0x1ff),
        3 => registers.set_queue_ready(queue, value & 1 != 0),
        4 => registers.needs_reset().set(),
        5 => {
            let offered: u64 =
                (0..4).map(|half| u64::from(registers.device_features(half)) << (32 * (half % 2))).sum();
            assert_eq!(offered, F_COMMON | 0x21);
        }
        _ => {
            let area = input.pick(&[Area::Descriptors, Area::Driver, Area::Device]);
            registers.set_queue_address(queue, area, input.pick(&[Half::Low, Half::High]), value);
        }
    }
}

fn check(registers: &Registers, frozen: &mut Frozen, offered: u64) {
    let status = registers.status();
    if status & STATUS_FEATURES_OK != 0 {
        let features = registers.driver_features();
        assert_eq!(features & !offered, 0, "features that were never offered");
        assert!(features & F_VERSION_1 != 0, "a legacy driver");
        assert_eq!(*frozen.features.get_or_insert(features), features, "features changed after FEATURES_OK");
    }
    if status & STATUS_DRIVER_OK != 0 {
        assert!(status & STATUS_FEATURES_OK != 0, "it runs without agreed features");
        let queues = registers.queues().to_vec();
        assert_eq!(*frozen.queues.get_or_insert(queues.clone()), queues, "a queue changed after DRIVER_OK");
    }
    for (queue, max) in registers.queues().iter().zip(SIZES) {
        assert_eq!(queue.max_size, *max);
        if queue.ready {
            assert!(queue.size.is_power_of_two() && queue.size <= *max);
            assert!(queue.desc_table % 16 == 0 && queue.avail_ring % 2 == 0 && queue.used_ring % 4 == 0);
            let ends = [(queue.desc_table, 16), (queue.avail_ring, 2), (queue.used_ring, 8)]
                .map(|(at, each)| at.checked_add(each * u64::from(queue.size)));
            assert!(ends.iter().all(Option::is_some), "a ring that wraps around");
        }
    }
}

/// A driver that does it right, and writes on after it.
pub(crate) fn registers_seeds() -> Vec<Vec<u8>> {
    let write = |script: Script, what: u8, queue: u8, value: u32| script.u8(what).u8(queue).u32(value);
    let mut script = Script::default();
    for status in [1, 3] {
        script = write(script, 0, 0, status);
    }
    script = write(script, 1, 1, 1);
    script = write(script, 0, 0, 11);
    script = write(script, 2, 0, 64);
    for area in 0..3 {
        script = write(script, 6, 0, 0x1000 * (u32::from(area) + 1)).u8(area).u8(0);
    }
    script = write(script, 3, 0, 1);
    let ready = script.clone();
    script = write(script, 0, 0, 15);
    script = write(script, 6, 0, 0xf000_0000).u8(0).u8(1);
    script = write(script, 3, 0, 0);
    let started = script.clone();
    vec![ready.0, started.0, write(script, 0, 0, 0).0]
}
