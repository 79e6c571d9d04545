#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
use proptest::prelude::*;

use super::*;
use crate::block::{Block, BlockOptions};
use crate::rng::Rng;
use crate::window::Windows;

fn window() -> Window {
    Windows::new(1).window(0)
}

fn transport() -> MmioTransport {
    MmioTransport::new(Box::new(Rng::new()), window())
}

fn read(transport: &mut MmioTransport, offset: u64) -> u32 {
    let mut word = [0; 4];
    transport.read(offset, &mut word);
    u32::from_le_bytes(word)
}

fn write(transport: &mut MmioTransport, offset: u64, value: u32) -> Action {
    transport.write(offset, &value.to_le_bytes())
}

fn start(transport: &mut MmioTransport) -> Box<Started> {
    for (offset, value) in [(0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)] {
        assert!(matches!(write(transport, offset, value), Action::None));
    }
    match write(transport, 0x70, 15) {
        Action::Start(started) => started,
        _ => panic!("the device did not start"),
    }
}

#[test]
fn a_driver_finds_the_device() {
    let mut transport = transport();
    assert_eq!(read(&mut transport, 0), 0x7472_6976);
    assert_eq!(read(&mut transport, 4), 2);
    assert_eq!(read(&mut transport, 8), 4);
    assert_eq!(read(&mut transport, 0x34), 64);
    let _ = write(&mut transport, 0x30, 1);
    assert_eq!(read(&mut transport, 0x34), 0);
}

#[test]
fn a_reset_brings_the_device_back_and_it_starts_again() {
    let mut transport = transport();
    let started = start(&mut transport);
    assert!(matches!(write(&mut transport, 0x70, 0), Action::Stop));
    transport.stopped(started.device);
    assert_eq!(read(&mut transport, 0x70), 0);
    start(&mut transport);
}

#[test]
fn a_broken_device_says_so_until_it_is_reset() {
    let mut transport = transport();
    let started = start(&mut transport);
    transport.broken().set();
    assert_eq!(read(&mut transport, 0x70), 15 | 64);
    let _ = write(&mut transport, 0x70, 0);
    transport.stopped(started.device);
    assert_eq!(read(&mut transport, 0x70), 0);
}

#[test]
fn a_change_is_pending_until_acknowledged_and_used_buffers_until_a_reset() {
    let mut transport = transport();
    transport.window.raise_queue();
    transport.window.raise_config();
    assert_eq!(read(&mut transport, 0x60), 3);
    let _ = write(&mut transport, 0x64, 1);
    assert_eq!(read(&mut transport, 0x60), 3);
    let _ = write(&mut transport, 0x64, 3);
    assert_eq!(read(&mut transport, 0x60), 1);
    let _ = write(&mut transport, 0x70, 0);
    assert_eq!(read(&mut transport, 0x60), 0);
}

#[test]
fn a_new_capacity_is_seen_by_the_driver_wherever_the_device_is() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let disk = Block::open(file, &BlockOptions::default()).unwrap();
    let mut transport = MmioTransport::new(Box::new(disk), window());
    let seen = |transport: &mut MmioTransport| (read(transport, 0xfc), read(transport, 0x100));
    assert_eq!(seen(&mut transport), (0, 2048));
    assert!(transport.grow(2 << 20, || unreachable!("it is not started")));
    assert_eq!(seen(&mut transport), (1, 4096));
    let mut started = start(&mut transport);
    assert!(transport.grow(3 << 20, || started.device.grow(3 << 20)));
    assert_eq!(seen(&mut transport), (2, 6144));
    assert!(!transport.grow(1 << 20, || started.device.grow(1 << 20)));
    assert_eq!(seen(&mut transport), (2, 6144));
    // One that cannot grow does not.
    let mut entropy = self::transport();
    assert!(!entropy.grow(1 << 30, || None));
    assert_eq!(read(&mut entropy, 0xfc), 0);
}

proptest! {
    #[test]
    fn any_access_is_survived(accesses in prop::collection::vec((0..0x1100u64, any::<bool>(), prop::collection::vec(any::<u8>(), 0..9)), 0..100)) {
        let mut transport = transport();
        let mut held = None;
        for (offset, is_write, mut data) in accesses {
            if !is_write {
                transport.read(offset, &mut data);
                continue;
            }
            match transport.write(offset, &data) {
                Action::Start(started) => held = Some(started.device),
                Action::Stop => transport.stopped(held.take().unwrap()),
                Action::None | Action::Notify(_) => {}
            }
        }
    }
}
