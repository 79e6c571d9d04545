#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
use proptest::prelude::*;

use super::*;
use crate::device::DeviceId;

fn registers() -> Registers {
    Registers::new(&DeviceInfo { id: DeviceId::Block, features: F_COMMON | 1 << 5, queue_sizes: &[256, 64] })
}

#[test]
fn a_driver_that_follows_the_rules_starts_the_device() {
    let mut registers = registers();
    assert_eq!(registers.set_status(1), Transition::None);
    assert_eq!(registers.set_status(3), Transition::None);
    registers.set_driver_features(1, 1);
    assert_eq!(registers.set_status(11), Transition::None);
    assert_eq!(registers.status(), 11);
    assert_eq!(registers.set_status(15), Transition::Start);
    assert_eq!(registers.driver_features(), F_VERSION_1);
    assert_eq!(registers.set_status(0), Transition::Stop);
}

#[test]
fn features_nobody_offered_and_legacy_drivers_are_refused() {
    for (select, bits) in [(1, u32::MAX), (0, 1 << 5)] {
        let mut registers = registers();
        registers.set_status(3);
        registers.set_driver_features(select, bits);
        registers.set_status(11);
        assert_eq!(registers.status() & STATUS_FEATURES_OK, 0);
        assert_eq!(registers.set_status(15), Transition::None);
        assert_eq!(registers.status() & STATUS_DRIVER_OK, 0);
    }
}

#[derive(Clone, Debug)]
enum Write {
    Status(u8),
    Features(u32, u32),
    Size(u32, u32),
    Ready(u32, bool),
    Address(u32, u8, bool, u32),
}

fn any_write() -> impl Strategy<Value = Write> {
    prop_oneof![
        prop_oneof![Just(0), Just(1), Just(3), Just(11), Just(15), any::<u8>()].prop_map(Write::Status),
        (0..3u32, prop_oneof![Just(1), Just(0), any::<u32>()])
            .prop_map(|(half, bits)| Write::Features(half, bits)),
        (0..4u32, any::<u32>()).prop_map(|(queue, size)| Write::Size(queue, size)),
        (0..4u32, any::<bool>()).prop_map(|(queue, ready)| Write::Ready(queue, ready)),
        (0..4u32, 0..3u8, any::<bool>(), any::<u32>())
            .prop_map(|(q, area, high, v)| Write::Address(q, area, high, v)),
    ]
}

proptest! {
    /// Whatever the driver writes: what is accepted stays within the offer, and neither features nor queues change
    /// while the device runs.
    #[test]
    fn queue_registers_rewritten_after_activation_change_nothing(writes in prop::collection::vec(any_write(), 0..200)) {
        let mut registers = registers();
        let mut frozen: Option<(u64, Vec<QueueConfig>)> = None;
        for write in writes {
            match write {
                Write::Status(value) => match registers.set_status(value) {
                    Transition::Stop => {
                        registers.reset();
                        frozen = None;
                    }
                    Transition::Start => {
                        prop_assert_eq!(registers.driver_features() & !(F_COMMON | 1 << 5), 0);
                        frozen = Some((registers.driver_features(), registers.queues().to_vec()));
                    }
                    Transition::None => {}
                },
                Write::Features(half, bits) => registers.set_driver_features(half, bits),
                Write::Size(queue, size) => registers.set_queue_size(queue, size),
                Write::Ready(queue, ready) => registers.set_queue_ready(queue, ready),
                Write::Address(queue, area, high, value) => {
                    let area = [Area::Descriptors, Area::Driver, Area::Device][usize::from(area)];
                    registers.set_queue_address(queue, area, if high { Half::High } else { Half::Low }, value);
                }
            }
            if let Some((features, queues)) = &frozen {
                prop_assert_eq!(registers.driver_features(), *features);
                prop_assert_eq!(registers.queues(), queues.as_slice());
            }
        }
    }
}
