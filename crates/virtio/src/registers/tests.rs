#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
use proptest::prelude::*;

use super::*;
use crate::device::{COMMON_FEATURES, DeviceId};

fn registers() -> Registers {
    Registers::new(DeviceInfo {
        id: DeviceId::Block,
        features: COMMON_FEATURES | 1 << 5,
        queue_sizes: &[256, 64],
    })
}

fn negotiate(registers: &mut Registers) {
    assert_eq!(registers.write_status(1), Transition::None);
    assert_eq!(registers.write_status(3), Transition::None);
    registers.driver_features_select = 1;
    registers.accept_features(1);
    assert_eq!(registers.write_status(11), Transition::None);
    assert_eq!(registers.status(), 11);
}

#[test]
fn a_driver_that_follows_the_rules_starts_the_device() {
    let mut registers = registers();
    negotiate(&mut registers);
    assert_eq!(registers.write_status(15), Transition::Start);
    let (features, queues) = registers.started();
    assert_eq!(features, 1 << VIRTIO_F_VERSION_1);
    assert_eq!(queues.len(), 2);
    assert_eq!(registers.write_status(0), Transition::Reset);
    assert_eq!(registers.status(), 0);
}

#[test]
fn features_nobody_offered_are_refused_and_nothing_starts() {
    let mut registers = registers();
    registers.write_status(3);
    registers.driver_features_select = 1;
    registers.accept_features(0xffff_ffff);
    registers.write_status(11);
    assert_eq!(registers.status(), 3);
    assert_eq!(registers.write_status(15), Transition::None);
    assert_eq!(registers.status() & VIRTIO_CONFIG_S_DRIVER_OK, 0);
}

#[test]
fn a_legacy_driver_is_refused() {
    let mut registers = registers();
    registers.write_status(3);
    registers.accept_features(1 << 5);
    registers.write_status(11);
    assert_eq!(registers.status(), 3);
}

#[derive(Clone, Debug)]
enum Write {
    Status(u32),
    Select(u32),
    FeaturesSelect(u32),
    Features(u32),
    Size(u32),
    Ready(bool),
    Address(u8, bool, u32),
}

fn any_write() -> impl Strategy<Value = Write> {
    prop_oneof![
        prop_oneof![Just(0), Just(1), Just(3), Just(11), Just(15), any::<u32>()].prop_map(Write::Status),
        (0..4u32).prop_map(Write::Select),
        (0..3u32).prop_map(Write::FeaturesSelect),
        prop_oneof![Just(1), Just(0), any::<u32>()].prop_map(Write::Features),
        any::<u32>().prop_map(Write::Size),
        any::<bool>().prop_map(Write::Ready),
        (0..3u8, any::<bool>(), any::<u32>())
            .prop_map(|(part, high, value)| Write::Address(part, high, value)),
    ]
}

proptest! {
    /// Whatever the driver writes: features stay within the offer once accepted, and neither they nor the
    /// queues change after DRIVER_OK until a reset.
    #[test]
    fn what_is_frozen_stays_frozen(writes in prop::collection::vec(any_write(), 0..200)) {
        let mut registers = registers();
        let mut frozen: Option<(u64, Vec<virtio_queue::QueueState>)> = None;
        for write in writes {
            match write {
                Write::Status(value) => match registers.write_status(value) {
                    Transition::Reset => frozen = None,
                    Transition::Start => {
                        prop_assert_eq!(registers.accepted & !registers.info.features, 0);
                        let states = registers.rings.iter().map(virtio_queue::Queue::state).collect();
                        frozen = Some((registers.accepted, states));
                    }
                    Transition::None if value == 0 => frozen = None,
                    Transition::None => {}
                },
                Write::Select(queue) => registers.queue_select = queue,
                Write::FeaturesSelect(half) => registers.driver_features_select = half,
                Write::Features(bits) => registers.accept_features(bits),
                Write::Size(size) => registers.set_queue_size(size),
                Write::Ready(ready) => registers.set_queue_ready(ready),
                Write::Address(part, high, value) => {
                    let part = [Part::Descriptors, Part::Available, Part::Used][usize::from(part)];
                    registers.set_queue_address(part, if high { Half::High(value) } else { Half::Low(value) });
                }
            }
            if let Some((features, states)) = &frozen {
                prop_assert_eq!(registers.accepted, *features);
                let now: Vec<_> = registers.rings.iter().map(virtio_queue::Queue::state).collect();
                prop_assert_eq!(&now, states);
            }
        }
    }
}
