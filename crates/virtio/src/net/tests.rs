#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::counters::Cause;
use super::samples::*;
use super::wire::{Bench, INBOX, OUTBOX, options};
use super::*;
use crate::bucket::Rate;
use crate::registers::F_EVENT_IDX;
use crate::testing::REGION;

const ALL: u64 = !F_EVENT_IDX;
/// What a driver that knows no offloads agrees to.
const PLAIN: u64 = feature::MRG_RXBUF;

fn guarded() -> NetOptions {
    NetOptions { guard: Some(vec![V4.into(), V6.into()]), ..options() }
}

fn frame(length: usize) -> Vec<u8> {
    let mut frame = v4(V4, 17, &udp(5000, 53, &[]));
    frame.extend((frame.len()..length).map(|at| at as u8));
    frame
}

#[test]
fn it_says_what_it_is() {
    let bench = Bench::new(&options(), ALL);
    let info = bench.net.info();
    assert_eq!((info.id, info.queue_sizes.len()), (DeviceId::Net, 3));
    let config = bench.net.config();
    assert_eq!(config[..6], MAC);
    assert_eq!(config[6..], [1, 0, 1, 0, 0xdc, 5]);
}

#[test]
fn a_frame_goes_out_as_it_is_from_wherever_it_lies() {
    let mut bench = Bench::new(&guarded(), ALL);
    let sent = frame(1400);
    bench.guest_sends(&[0; 12], &sent);
    assert_eq!(bench.guest.used(TRANSMIT), Some(0));
    assert_eq!(bench.host_hears().unwrap(), [&[0; 12][..], &sent].concat());
    // In pieces, one of them across two regions of memory.
    let large = frame(9000);
    let whole = [&[0; 12][..], &large].concat();
    let (first, rest) = whole.split_at(300);
    bench.guest.write(OUTBOX, first);
    bench.guest.write(REGION - 4000, rest);
    let rest = u32::try_from(rest.len()).unwrap();
    bench.guest.offer(
        TRANSMIT,
        &[
            (OUTBOX, 5, false),
            (OUTBOX + 5, 7, false),
            (OUTBOX + 12, 288, false),
            (REGION - 4000, rest, false),
        ],
    );
    bench.guest.notify(&mut bench.net, TRANSMIT).unwrap();
    assert_eq!(bench.host_hears().unwrap(), whole);
    let counters = bench.net.counters();
    assert_eq!((counters.transmit.frames(), counters.transmit.bytes()), (2, 10_400));
}

#[test]
fn a_frame_comes_in_over_as_many_buffers_as_it_needs() {
    for features in [PLAIN, ALL] {
        let mut bench = Bench::new(&options(), features);
        let received = frame(1400);
        assert!(bench.host_sends(&received));
        // The first buffer is two descriptors, one shorter than the header.
        bench.guest.offer(RECEIVE, &[(INBOX, 5, true), (INBOX + 5, 495, true)]);
        for at in 1..60 {
            bench.guest.offer(RECEIVE, &[(INBOX + at * 500, 500, true)]);
        }
        bench.guest.notify(&mut bench.net, RECEIVE).unwrap();
        bench.settle();
        // With large segments it could have been longer than all of these: more was waited for.
        bench.pass_time();
        let used = [0; 3].map(|_: i32| bench.guest.used(RECEIVE).unwrap());
        assert_eq!(used, [500, 500, 412]);
        assert!(bench.guest.used(RECEIVE).is_none());
        let got = bench.guest.read(INBOX, 1412);
        assert_eq!(got[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]);
        assert_eq!(got[12..], received);
        let traffic = &bench.net.counters().receive;
        assert_eq!((traffic.frames(), traffic.bytes()), (1, 1400));
    }
}

#[test]
fn without_merging_a_frame_is_in_one_buffer() {
    let mut bench = Bench::new(&options(), 0);
    for at in 0..3 {
        bench.guest.offer(RECEIVE, &[(INBOX + at * 2000, 1000, true)]);
    }
    bench.guest.notify(&mut bench.net, RECEIVE).unwrap();
    for length in [900, 1400, 988] {
        assert!(bench.host_sends(&frame(length)));
    }
    bench.settle();
    assert_eq!([bench.guest.used(RECEIVE), bench.guest.used(RECEIVE)], [Some(912), Some(1000)]);
    assert_eq!(bench.guest.read(INBOX + 10, 2), [1, 0]);
    assert_eq!(bench.net.counters().receive.dropped(Cause::NoBuffer), 1);
}

#[test]
fn what_is_longer_than_all_that_is_offered_is_lost_and_the_next_is_not() {
    let mut bench = Bench::new(&NetOptions { mtu: 9000, ..options() }, PLAIN);
    bench.guest.offer(RECEIVE, &[(INBOX, 2000, true)]);
    bench.guest.offer(RECEIVE, &[(INBOX + 2000, 2000, true)]);
    bench.guest.notify(&mut bench.net, RECEIVE).unwrap();
    assert!(bench.host_sends(&frame(5000)));
    assert!(bench.host_sends(&frame(3000)));
    bench.settle();
    // It is given time to offer more.
    assert!(bench.guest.used(RECEIVE).is_none());
    bench.pass_time();
    assert_eq!([bench.guest.used(RECEIVE), bench.guest.used(RECEIVE)], [Some(2000), Some(1012)]);
    let counters = bench.net.counters();
    assert_eq!((counters.receive.dropped(Cause::NoBuffer), counters.receive.frames()), (1, 1));
}

#[test]
fn after_a_flood_and_silence_traffic_flows_at_once() {
    let mut bench = Bench::new(&options(), PLAIN);
    let mut lost = 0_u32;
    let mut got = 0_u32;
    for round in 0..400_u64 {
        // A sender that is faster than the guest.
        for _ in 0..20 {
            lost += u32::from(!bench.host_sends(&frame(600)));
        }
        for at in 0..4 {
            bench.guest.offer(RECEIVE, &[(INBOX + (round % 16) * 8000 + at * 2000, 2000, true)]);
        }
        bench.guest.notify(&mut bench.net, RECEIVE).unwrap();
        bench.settle();
        got += u32::try_from(std::iter::from_fn(|| bench.guest.used(RECEIVE)).count()).unwrap();
    }
    assert!(lost > 1000 && got > 1500, "{lost} lost, {got} received");
    // All that waits is taken, then nothing happens for a while.
    while bench.guest.watch.watched.values().any(|(_, interest)| !interest.reads()) {
        bench.guest.offer(RECEIVE, &[(INBOX, 2000, true)]);
        bench.guest.notify(&mut bench.net, RECEIVE).unwrap();
        bench.settle();
        while bench.guest.used(RECEIVE).is_some() {}
    }
    assert!(bench.host_sends(&frame(777)));
    bench.settle();
    assert_eq!(bench.guest.used(RECEIVE), Some(777 + 12));
}

#[test]
fn a_host_without_room_holds_the_guest_up_and_loses_nothing() {
    let mut bench = Bench::new(&options(), ALL);
    let mut sent = 0_u32;
    for _ in 0..60 {
        bench.guest.write(OUTBOX, &[&[0; 12][..], &frame(30_000)].concat());
        bench.guest.offer(TRANSMIT, &[(OUTBOX, 30_012, false)]);
        sent += 1;
    }
    bench.guest.notify(&mut bench.net, TRANSMIT).unwrap();
    bench.settle();
    assert!(bench.guest.watch.watched.values().any(|(_, interest)| interest.writes()), "it does not wait");
    let mut heard = 0;
    while bench.host_hears().is_some() {
        heard += 1;
        bench.settle();
    }
    assert_eq!((heard, bench.net.counters().transmit.frames()), (sent, sent.into()));
    assert!(bench.guest.watch.watched.values().all(|(_, interest)| !interest.writes()), "it still waits");
}

#[test]
fn what_is_no_frame_is_used_and_counted() {
    let mut bench = Bench::new(&options(), ALL);
    let lengths = [1, 11, 12, 25, 12 + 65_535 + 19, 0x6_0000];
    for length in lengths {
        bench.guest.offer(TRANSMIT, &[(INBOX, length, false)]);
    }
    bench.guest.offer(TRANSMIT, &[(INBOX, 0, false)]);
    bench.guest.offer(TRANSMIT, &[(INBOX, 100, true)]);
    bench.guest.notify(&mut bench.net, TRANSMIT).unwrap();
    assert_eq!(std::iter::from_fn(|| bench.guest.used(TRANSMIT)).count(), 8);
    assert!(bench.host_hears().is_none());
    assert_eq!(bench.net.counters().transmit.dropped(Cause::Malformed), 8);
}

#[test]
fn a_forged_frame_is_not_sent_and_its_cause_is_counted() {
    let mut bench = Bench::new(&guarded(), ALL);
    let mut forged = frame(100);
    forged[6..12].copy_from_slice(&OTHER_MAC);
    bench.guest_sends(&[0; 12], &forged);
    bench.guest_sends(&[0; 12], &v4(OTHER_V4, 17, &udp(1, 2, b"")));
    bench.guest_sends(&[0; 12], &v6(LOCAL, 58, &discovery(134, None, None)));
    assert!(bench.host_hears().is_none());
    let counters = bench.net.counters();
    for cause in [Cause::SourceMac, Cause::SourceAddress, Cause::Forbidden] {
        assert_eq!(counters.transmit.dropped(cause), 1, "{cause:?}");
    }
    // Without a guard, all of it is the user's own affair.
    let mut bench = Bench::new(&options(), ALL);
    bench.guest_sends(&[0; 12], &forged);
    assert_eq!(bench.host_hears().unwrap()[12..], forged);
}

#[test]
fn what_was_checked_is_what_is_sent() {
    let mut bench = Bench::disturbed(&guarded(), ALL, |guest| {
        let mem = guest.mem.clone();
        Box::new(move || mem.write_slice(&[0xee; 400], GuestAddress(OUTBOX)).unwrap())
    });
    let sent = frame(600);
    bench.guest_sends(&[0; 12], &sent);
    let heard = bench.host_hears().unwrap();
    // The guest changed all of it after the check: nothing that was looked at has changed.
    assert_eq!(heard[12..12 + 256], sent[..256]);
    assert_eq!(heard[12 + 256..400], [0xee; 132]);
    assert_eq!(heard[400..], sent[388..]);
}

#[test]
fn the_tap_is_told_what_the_guest_takes() {
    let bench = Bench::new(&options(), 0);
    assert_eq!(*bench.offloads.lock().unwrap(), [Offload::NONE]);
    let mut bench = Bench::new(&options(), ALL);
    let all = Offload::CHECKSUM.and(Offload::TSO4).and(Offload::TSO6).and(Offload::ECN).and(Offload::USO);
    assert_eq!(*bench.offloads.lock().unwrap(), [all]);
    // A large segment reaches a guest that takes it, and is dropped when it has changed its mind.
    let large = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
    for at in 0..40 {
        bench.guest.offer(RECEIVE, &[(INBOX + at * 2000, 2000, true)]);
    }
    bench.guest.notify(&mut bench.net, RECEIVE).unwrap();
    assert!(bench.host_sends_behind(&large, &v4(V4, 6, &tcp(&[0; 20_000]))));
    bench.settle();
    assert_eq!(bench.guest.read(INBOX, 12), [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 11, 0]);
    assert_eq!(bench.command(&[&[5, 0][..], &feature::GUEST_CSUM.to_le_bytes()].concat()), 0);
    assert!(bench.host_sends_behind(&large, &v4(V4, 6, &tcp(&[0; 20_000]))));
    bench.pass_time();
    assert_eq!(bench.net.counters().receive.dropped(Cause::Offload), 1);
    // The tap is told after a while: not as often as a guest likes.
    for taken in [0, feature::GUEST_CSUM, 0, feature::GUEST_CSUM] {
        assert_eq!(bench.command(&[&[5, 0][..], &taken.to_le_bytes()].concat()), 0);
    }
    bench.pass_time();
    assert_eq!(*bench.offloads.lock().unwrap(), [all, Offload::CHECKSUM]);
}

#[test]
fn commands_are_answered_and_the_filter_is_as_told() {
    let mut bench = Bench::new(&guarded(), ALL);
    let group = [0x33, 0x33, 0, 0, 0, 0xfb];
    let takes = |bench: &Bench, to| bench.net.filter.takes(to);
    assert!(takes(&bench, OTHER_MAC), "before the driver has said anything");
    assert_eq!([bench.command(&[0, 0, 0]), bench.command(&[0, 1, 0])], [0, 0]);
    assert!(
        !takes(&bench, OTHER_MAC) && !takes(&bench, group) && takes(&bench, MAC) && takes(&bench, [0xff; 6])
    );
    let table = [&[1, 0, 0, 0, 0, 0, 1, 0, 0, 0][..], &group].concat();
    assert_eq!(bench.command(&table), 0);
    assert!(takes(&bench, group) && !takes(&bench, [0x33, 0x33, 0, 0, 0, 0xfc]));
    // More groups than are kept: all of them.
    let many = [&[1, 0, 0, 0, 0, 0, 100, 0, 0, 0][..], &[0x33; 600]].concat();
    assert_eq!(bench.command(&many), 0);
    assert!(takes(&bench, [0x33, 0x33, 0, 0, 0, 0xfc]) && !takes(&bench, OTHER_MAC));
    assert_eq!(bench.command(&table), 0);
    for (what, command) in [
        ("an address of its own", &[&[1, 1][..], &OTHER_MAC].concat()[..]),
        ("a class nobody knows", &[77, 0, 1]),
        ("a switch nobody knows", &[0, 9, 1]),
        ("no switch", &[0, 0]),
        ("neither on nor off", &[0, 0, 7]),
        ("a table that ends early", &table[..12]),
        ("a table without end", &[1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
        ("half a set of offloads", &[5, 0, 1]),
        ("an offload that is none", &[5, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ] {
        assert_eq!(bench.command(command), 1, "{what}");
    }
    assert!(takes(&bench, group) && !takes(&bench, OTHER_MAC), "a wrong command changed something");
    for at in 0..40 {
        bench.guest.offer(RECEIVE, &[(INBOX + at * 2000, 2000, true)]);
    }
    bench.guest.notify(&mut bench.net, RECEIVE).unwrap();
    assert!(bench.host_sends(&frame(100)));
    bench.settle();
    assert_eq!(bench.net.counters().receive.dropped(Cause::Filtered), 1);
    // A chain without room for an answer, or without a command.
    bench.guest.offer(CONTROL, &[(OUTBOX, 3, false)]);
    assert!(matches!(bench.guest.notify(&mut bench.net, CONTROL), Err(Fault::Short { .. })));
}

#[test]
fn a_limit_holds_the_guest_up_and_then_lets_it_go_on() {
    let rate = Rate { per_second: 200, burst: 10 };
    let limits = Limits { units: Some(rate), bytes: None };
    let mut bench = Bench::new(&NetOptions { transmit: limits, receive: limits, ..options() }, PLAIN);
    for at in 0..30_u64 {
        assert!(bench.host_sends(&frame(60)));
        bench.guest.offer(RECEIVE, &[(INBOX + at * 2000, 2000, true)]);
        bench.guest.write(OUTBOX, &[&[0; 12][..], &frame(60)].concat());
        bench.guest.offer(TRANSMIT, &[(OUTBOX, 72, false)]);
    }
    let start = Instant::now();
    for queue in [RECEIVE, TRANSMIT] {
        bench.guest.notify(&mut bench.net, queue).unwrap();
    }
    bench.settle();
    let counters = bench.net.counters();
    let passed = || [counters.receive.frames(), counters.transmit.frames()];
    assert!(passed().iter().all(|passed| (10..15).contains(passed)), "{:?}", passed());
    assert!(bench.guest.watch.watched.values().all(|(_, interest)| *interest == Interest::Hangup));
    while passed() != [30, 30] {
        assert!(bench.guest.watch.timer.is_some(), "nothing is awaited after {:?}", passed());
        bench.pass_time();
    }
    assert!(start.elapsed() >= Duration::from_millis(95), "{:?}", start.elapsed());
}

#[test]
fn a_pause_gives_all_buffers_back_and_a_reset_forgets_the_guest() {
    let mut bench = Bench::new(&options(), ALL);
    for at in 0..50 {
        bench.guest.offer(RECEIVE, &[(INBOX + at * 2000, 2000, true)]);
    }
    bench.guest.notify(&mut bench.net, RECEIVE).unwrap();
    assert!(bench.guest.queues[RECEIVE].in_flight() > 30);
    bench.net.drain(&mut bench.guest.context());
    bench.net.drain(&mut bench.guest.context());
    assert_eq!(bench.guest.queues[RECEIVE].in_flight(), 0);
    assert!(bench.host_sends(&frame(100)));
    bench.guest.notify(&mut bench.net, RECEIVE).unwrap();
    bench.settle();
    assert_eq!(bench.guest.used_entry(RECEIVE), Some((0, 112)));
    assert_eq!(bench.command(&[0, 0, 0]), 0);
    bench.net.drain(&mut bench.guest.context());
    bench.guest.watch.watched.clear();
    bench.net.reset();
    assert!(bench.net.filter.takes(OTHER_MAC));
    bench.net.start(&mut bench.guest.context()).unwrap();
    assert!(bench.host_sends(&frame(100)));
    bench.settle();
    assert_eq!(bench.guest.used_entry(RECEIVE), Some((1, 112)));
}

#[test]
fn a_tap_that_goes_costs_the_frames_and_nothing_else() {
    let mut bench = Bench::new(&options(), ALL);
    bench.guest.offer(RECEIVE, &[(INBOX, 2000, true)]);
    bench.guest.notify(&mut bench.net, RECEIVE).unwrap();
    let (other, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
    drop(std::mem::replace(&mut bench.host, other.into()));
    bench
        .net
        .on_source(&mut bench.guest.context(), BACKEND_TOKEN, Ready { hangup: true, ..Ready::default() })
        .unwrap();
    assert!(bench.guest.watch.watched.is_empty());
    assert_eq!(
        bench.guest.interrupts.1.load(std::sync::atomic::Ordering::Relaxed),
        1,
        "the guest is not told"
    );
    bench.guest_sends(&[0; 12], &frame(100));
    assert_eq!(bench.guest.used(TRANSMIT), Some(0));
    assert_eq!(bench.net.counters().transmit.dropped(Cause::Host), 1);
    bench.guest.notify(&mut bench.net, RECEIVE).unwrap();
    bench.pass_time();
    assert!(bench.guest.watch.timer.is_none(), "something is awaited that never comes");
}

#[test]
fn buffers_that_cannot_be_used_are_a_fault() {
    for buffers in [&[(INBOX, 11, true)][..], &[(INBOX, 2000, false)], &[(4 * REGION, 2000, true)]] {
        let mut bench = Bench::new(&options(), ALL);
        bench.guest.offer(RECEIVE, buffers);
        assert!(bench.guest.notify(&mut bench.net, RECEIVE).is_err());
    }
}

/// One step of a guest and a host that do as they like.
#[derive(Clone, Debug)]
enum Step {
    HostSends(usize),
    GuestOffers(u32),
    GuestSends(u32),
    HostHears,
    Command(Vec<u8>),
    Pause,
    Time,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (14..3000_usize).prop_map(Step::HostSends),
        3 => (12..2500_u32).prop_map(Step::GuestOffers),
        2 => (1..3000_u32).prop_map(Step::GuestSends),
        1 => Just(Step::HostHears),
        1 => prop::collection::vec(any::<u8>(), 2..40).prop_map(Step::Command),
        1 => Just(Step::Pause),
        1 => Just(Step::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn work_left_always_has_an_event_pending(
        steps in prop::collection::vec(any_step(), 1..80),
        features in prop::sample::select(vec![0, PLAIN, ALL]),
    ) {
        let mut bench = Bench::new(&options(), features);
        let (mut offered, mut sent) = (0, 0);
        for step in steps {
            match step {
                Step::HostSends(length) => drop(bench.host_sends(&frame(length))),
                Step::GuestOffers(length) if offered < 60 => {
                    bench.guest.offer(RECEIVE, &[(INBOX + offered * 2500, length, true)]);
                    offered += 1;
                    bench.guest.notify(&mut bench.net, RECEIVE).unwrap();
                }
                Step::GuestSends(length) if sent < 60 => {
                    bench.guest.offer(TRANSMIT, &[(OUTBOX, length, false)]);
                    sent += 1;
                    bench.guest.notify(&mut bench.net, TRANSMIT).unwrap();
                }
                Step::GuestOffers(_) | Step::GuestSends(_) => {}
                Step::HostHears => drop(bench.host_hears()),
                Step::Command(bytes) => drop(bench.command(&bytes)),
                Step::Pause => {
                    bench.net.drain(&mut bench.guest.context());
                    for queue in [RECEIVE, TRANSMIT, CONTROL] {
                        bench.guest.notify(&mut bench.net, queue).unwrap();
                    }
                }
                Step::Time => bench.pass_time(),
            }
            bench.settle();
        }
        // In the end the host hears all, and time passes.
        while bench.host_hears().is_some() {
            bench.settle();
        }
        for _ in 0..5 {
            bench.pass_time();
        }
        // All that was sent is used; and either the driver's buffers are all used, or no frame waits for one.
        let counters = bench.net.counters();
        let dropped = |traffic: &counters::Traffic| -> u64 {
            [Cause::NoBuffer, Cause::Filtered, Cause::Offload, Cause::Malformed, Cause::Host]
                .map(|cause| traffic.dropped(cause)).iter().sum()
        };
        prop_assert_eq!(counters.transmit.frames() + dropped(&counters.transmit), sent);
        let left = rustix::io::ioctl_fionread(bench.net.backend.descriptor()).unwrap();
        let used = std::iter::from_fn(|| bench.guest.used(RECEIVE)).count() as u64;
        prop_assert!(left == 0 || used == offered, "{left} bytes wait, {used} of {offered} buffers are used");
    }
}
