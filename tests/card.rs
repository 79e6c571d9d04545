//! The network card on a real tap, driven by the bare guest: frames both ways, forged ones, floods, limits. In a
//! network namespace of each test's own; runs on whatever KVM is there.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/tap.rs"]
mod tap;
#[path = "support/vmm.rs"]
mod vmm;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hull_protocol::control::{Command as Ask, Dropped, NetStats};
use hull_protocol::network::{Rate, RateLimit};
use tap::{GUEST, MAC, Network, TAP};
use vmm::{Vmm, bare};

/// The Ethernet type of a frame from the guest's card.
fn kind_from_guest(frame: &[u8]) -> Option<[u8; 2]> {
    (frame.len() >= 14 && frame[6..12] == MAC.0).then(|| [frame[12], frame[13]])
}

#[test]
fn nothing_forged_reaches_the_network_and_all_of_it_is_counted() {
    let network = Network::new();
    let (frames, socket) = (network.listen(), network.udp(7777));
    let vmm = Vmm::on_network("do=forge end=wait", network.tap(), |tap| Network::card(tap, true));
    let mut honest = [0; 16];
    let (length, from) = socket.recv_from(&mut honest).unwrap();
    assert_eq!((&honest[..length], from.to_string()), (&b"hullhull"[..], format!("{GUEST}:7")));
    vmm.await_text("ok net forged\n");
    let mut peer = vmm.control();
    let stats = peer.ask_net(0).unwrap();
    let dropped =
        Dropped { source_address: 3, source_mac: 2, forbidden: 5, malformed: 1, ..Dropped::default() };
    assert_eq!((stats.transmit.dropped, stats.transmit.frames), (dropped, 1));
    assert!(peer.ask_net(1).is_err_and(|error| error.contains("no network card 1")));
    // On the wire there is the one honest frame of the guest's.
    let heard: Vec<_> = std::iter::from_fn(|| frames.next()).collect();
    let from_guest: Vec<_> = heard.iter().filter_map(|frame| kind_from_guest(frame)).collect();
    assert_eq!(from_guest, [[8, 0]], "{heard:02x?}");
    let strange = heard.iter().find(|frame| frame.len() >= 12 && frame[6..12] == [2, 0, 0, 0, 0, 0x99]);
    assert!(strange.is_none(), "{strange:02x?}");
    peer.ask(Ask::Kill).unwrap();
    vmm.wait().assert_sound("forged frames");
}

#[test]
fn a_flood_from_the_guest_arrives_whole() {
    let network = Network::new();
    let socket = network.udp(7777);
    let vmm = Vmm::on_network("do=send end=off", network.tap(), |tap| Network::card(tap, true));
    let mut packet = [0; 16];
    for _ in 0..1000 {
        assert_eq!(socket.recv(&mut packet).unwrap(), 8);
    }
    let ended = vmm.wait();
    assert_eq!(ended.status, 0, "{}{}", ended.console, ended.log);
    assert!(ended.console.contains("ok net flooded"), "{}", ended.console);
}

#[test]
fn after_a_flood_to_the_guest_and_silence_traffic_flows_at_once() {
    let network = Network::new();
    let socket = network.udp(7777);
    let vmm = Vmm::on_network("do=receive end=off", network.tap(), |tap| Network::card(tap, true));
    vmm.await_text("LISTENING");
    let start = Instant::now();
    let mut sent = 0_u64;
    while start.elapsed() < Duration::from_secs(3) {
        // Far more than a guest takes that is emulated instruction by instruction.
        let _the_queue_is_full = socket.send_to(&[1; 900], (GUEST, 9));
        sent += 1;
    }
    // What the host still holds for the guest is taken, then there is silence.
    let mut peer = vmm.control();
    let mut before = peer.ask_net(0).unwrap().receive.frames;
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = peer.ask_net(0).unwrap().receive.frames;
        if now == std::mem::replace(&mut before, now) {
            break;
        }
    }
    assert!(before > 0 && before < sent, "{before} of {sent} were received");
    socket.send_to(b"END", (GUEST, 9)).unwrap();
    let start = Instant::now();
    vmm.await_text("ok net received");
    assert!(start.elapsed() < Duration::from_secs(2), "after {:?}", start.elapsed());
    assert_eq!(vmm.wait().status, 0);
}

#[test]
fn a_limit_holds() {
    let network = Network::new();
    let socket = network.udp(7777);
    let start = Instant::now();
    let packets = Some(Rate { per_second: 250, burst: Some(20) });
    let vmm = Vmm::on_network("do=send end=off", network.tap(), |tap| {
        let transmit = RateLimit { bytes: None, packets };
        hull_protocol::network::NetPlan { transmit, ..Network::card(tap, true) }
    });
    let mut packet = [0; 16];
    socket.recv(&mut packet).unwrap();
    let first = start.elapsed();
    for _ in 1..1000 {
        socket.recv(&mut packet).unwrap();
    }
    // 980 packets beyond the burst, at 250 a second; the guest may be held up by more than its limit where the host is busy.
    let taken = start.elapsed() - first;
    assert!((3.72..12.0).contains(&taken.as_secs_f64()), "{taken:?}");
    assert_eq!(vmm.wait().status, 0);
}

/// How far a card's traffic is off its limit over ten seconds on the host's clock: 1 is as limited.
fn pace(vmm: &Vmm, limit: u64, count: impl Fn(&NetStats) -> u64) -> f64 {
    let mut peer = vmm.control();
    let mut stats = || count(&peer.ask_net(0).unwrap());
    // Its burst has been spent by then.
    while stats() < 2 * limit {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (start, before) = (Instant::now(), stats());
    std::thread::sleep(Duration::from_secs(10));
    let passed = (stats() - before) as f64;
    passed / start.elapsed().as_secs_f64() / limit as f64
}

#[test]
fn limits_hold_within_a_twentieth_over_ten_seconds() {
    const BYTES: u64 = 60_000;
    const FRAMES: u64 = 60;
    let limit = |per_second| Some(Rate { per_second, burst: Some(per_second / 2) });
    // Never more. On a busy host a VMM may get no processor for longer than its burst lasts: so one of three counts.
    let holds = |measure: &dyn Fn() -> f64| {
        let measured: Vec<f64> = (0..3)
            .map(|_| measure())
            .scan(false, |good, pace| (!std::mem::replace(good, pace >= 0.95)).then_some(pace))
            .collect();
        assert!(measured.iter().all(|pace| *pace <= 1.05), "{measured:?}");
        assert!(measured.iter().any(|pace| *pace >= 0.95), "{measured:?}");
    };
    holds(&|| {
        let network = Network::new();
        let socket = network.udp(7777);
        let vmm = Vmm::on_network("do=receive end=off", network.tap(), |tap| {
            let receive = RateLimit { bytes: limit(BYTES), packets: None };
            hull_protocol::network::NetPlan { receive, ..Network::card(tap, true) }
        });
        vmm.await_text("LISTENING");
        let measured = std::sync::atomic::AtomicBool::new(false);
        let measured = &measured;
        std::thread::scope(|scope| {
            let sender = &socket;
            scope.spawn(move || {
                while !measured.load(std::sync::atomic::Ordering::Relaxed) {
                    let _the_queue_is_full = sender.send_to(&[1; 900], (GUEST, 9));
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            let pace = pace(&vmm, BYTES, |stats| stats.receive.bytes);
            measured.store(true, std::sync::atomic::Ordering::Relaxed);
            pace
        })
    });
    holds(&|| {
        let network = Network::new();
        let vmm = Vmm::on_network("do=send end=off", network.tap(), |tap| {
            let transmit = RateLimit { bytes: None, packets: limit(FRAMES) };
            hull_protocol::network::NetPlan { transmit, ..Network::card(tap, true) }
        });
        pace(&vmm, FRAMES, |stats| stats.transmit.frames)
    });
}

#[test]
fn a_plain_vm_is_on_a_tap_of_the_users_own() {
    let network = Network::new();
    let boot = |spec: &str| {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "60", env!("CARGO_BIN_EXE_hull"), "boot", "--memory", "32m"]);
        command.args(["--cmdline", "do=drive end=off", "--net", spec, "--kernel"]).arg(bare("bare"));
        let output = network.within(|| command.stdin(Stdio::null()).output().unwrap());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (status, console, errors) = boot(&format!("tap={TAP},mac={MAC},ip={GUEST},tx-rate=1m"));
    assert_eq!(status, Some(0), "{console}{errors}");
    assert!(console.contains("ok net works\n"), "{console}");
    for (spec, hint) in [("tap=tap9", "ip tuntap add tap9"), ("tap=lo", "'lo' cannot be opened")] {
        let (status, _, errors) = boot(spec);
        assert!(status != Some(0) && errors.contains(hint), "{spec}: {errors}");
    }
    let held = network.tap();
    let (status, _, errors) = boot(&format!("tap={TAP}"));
    assert!(status != Some(0) && errors.contains("in use"), "{errors}");
    drop(held);
}
