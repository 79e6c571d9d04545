//! The host's networks, with guests that are stood in for: every bridge, address, rule and port is the daemon's own, in
//! a network namespace of the test's. Needs root, and /dev/kvm to open; no guest runs on it.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/hull.rs"]
mod support;
#[path = "support/realm.rs"]
mod world;

#[path = "network/crash.rs"]
mod crash;
#[path = "network/isolation.rs"]
mod isolation;
#[path = "network/names.rs"]
mod names;
#[path = "network/others.rs"]
mod others;
#[path = "network/plain.rs"]
mod plain;
#[path = "network/wishes.rs"]
mod wishes;

use world::{HOST, NEIGHBOUR, World, datagrams, echo, fetch, output, serve};

#[test]
fn guests_reach_the_outside_under_the_hosts_address() {
    let world = World::new();
    let guest = world.guest("one", &[]);
    let neighbour = world.neighbour.flag();
    let before = "5000000";
    for (host, far) in [(HOST.0, NEIGHBOUR.0), (HOST.1, NEIGHBOUR.1)] {
        let _server = serve(&neighbour, far, "9000", before);
        let [seen, length, sum] = fetch(&guest.flag(), far, "9000").unwrap();
        assert_eq!((seen.as_str(), length.as_str()), (host, before), "the guest was seen as itself");
        let [_, _, own] = fetch(&neighbour, far, "9000").unwrap();
        assert_eq!(sum, own, "{far}: what arrived is not what was sent");
        assert!(datagrams(&guest.flag(), far, "9000", "104857600"), "{far}: datagrams came back as others");
    }
    // And nobody outside reaches a guest by its own address, even with a route to it.
    output(&mut world.neighbour.command("ip", &["route", "add", "10.144.0.0/16", "via", HOST.0]));
    let _server = serve(&guest.flag(), "0.0.0.0", "80", "1");
    assert_eq!(fetch(&neighbour, &guest.ip, "80"), None);
    // The host itself does.
    assert!(fetch(&world.hull.namespace.flag(), &guest.ip, "80").is_some());
    world.ok(&["rm", "-f", "one"]);
    world.ok(&["network", "rm", "default"]);
    world.assert_nothing_left();
    let parameter =
        output(&mut world.hull.namespace.command("cat", &["/proc/sys/net/ipv4/conf/up0/forwarding"]));
    assert_eq!(parameter, "0\n", "forwarding is still on");
}

#[test]
fn what_a_guest_receives_and_sends_is_counted() {
    let world = World::new();
    let guest = world.guest("one", &[]);
    world.guest("alone", &["--network", "none"]);
    let neighbour = world.neighbour.flag();
    let _server = serve(&neighbour, NEIGHBOUR.0, "9000", "5000000");
    let measured = || {
        let shown = world.ok(&["stats", "--no-stream", "--format", "json"]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let of =
            |name: &str| shown.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
        assert!(of("alone").get("net").is_none(), "{shown}");
        let net = of("one")["net"].clone();
        ["received", "received_packets", "sent", "sent_packets"].map(|field| net[field].as_u64().unwrap())
    };
    let before = measured();
    assert!(fetch(&guest.flag(), NEIGHBOUR.0, "9000").is_some());
    let after = measured();
    let [received, received_packets, sent, sent_packets] = [0, 1, 2, 3].map(|at| after[at] - before[at]);
    // What came in is most of it, with a header on each frame; what went out is acknowledgements.
    assert!((5_000_000..6_000_000).contains(&received) && sent < 1_000_000, "{before:?} {after:?}");
    assert!(received_packets > 10 && (1..=received / 54).contains(&sent_packets), "{before:?} {after:?}");
    let table = world.ok(&["stats", "--no-stream"]);
    assert!(table.contains("NET I/O") && table.contains("MiB / "), "{table}");
}

#[test]
fn published_ports_lead_to_guests_from_everywhere() {
    let world = World::new();
    let web = world.guest(
        "web",
        &[
            ["-p", "8080:80"],
            ["-p", "127.0.0.1:8081:80"],
            ["-p", "80/udp"],
            ["-p", "192.0.2.1:8082:80"],
            ["-p", "9000-9001:80-81"],
        ]
        .concat(),
    );
    let other = world.guest("other", &[]);
    let _server = serve(&web.flag(), "::", "80", "100000");
    let (host, neighbour) = (world.hull.namespace.flag(), world.neighbour.flag());
    for (from, whom) in [(&neighbour, "the neighbour"), (&host, "the host"), (&other.flag(), "another guest")]
    {
        for address in [HOST.0, HOST.1] {
            let got = fetch(from, address, "8080");
            assert!(got.is_some_and(|[_, length, _]| length == "100000"), "{whom} at {address}");
        }
        assert!(fetch(from, HOST.0, "8082").is_some(), "{whom} at the one address");
    }
    for loopback in ["127.0.0.1", "::1"] {
        assert!(fetch(&host, loopback, "8080").is_some(), "{loopback}");
    }
    assert!(fetch(&host, "127.0.0.1", "8081").is_some());
    assert_eq!(fetch(&neighbour, HOST.0, "8081"), None, "a port of the loopback is open to all");
    assert!(fetch(&neighbour, HOST.0, "9000").is_some(), "the first of a range");
    // The sender's address is the guest's to see, but for the loopback's.
    assert!(fetch(&neighbour, HOST.0, "8080").unwrap()[0].ends_with(NEIGHBOUR.0));
    let ports = world.ok(&["port", "web"]);
    assert!(ports.contains("80/tcp -> *:8080\n") && ports.contains("80/tcp -> 127.0.0.1:8081\n"), "{ports}");
    assert!(ports.contains("81/tcp -> *:9001\n"), "{ports}");
    let udp = world.ok(&["port", "web", "80/udp"]);
    let udp = udp.trim().strip_prefix("*:").unwrap();
    for (from, address) in [
        (&neighbour, HOST.0),
        (&neighbour, HOST.1),
        (&host, "127.0.0.1"),
        (&host, "::1"),
        (&other.flag(), HOST.0),
    ] {
        assert!(echo(from, address, udp), "{address}, port {udp}");
    }
    // Who wants a port that is taken hears it before anything starts, and gets it when it is free.
    let taken =
        world.hull(&["run", "-d", "--kernel", "stub", "--name", "late", "-p", "8080:80", "image", "x"]);
    assert!(taken.status == 125 && taken.stderr.contains("8080/tcp of the host is taken"), "{taken:?}");
    world.ok(&["rm", "-f", "web", "late"]);
    assert_eq!(fetch(&neighbour, HOST.0, "8080"), None);
    world.guest("late", &["-p", "8080:80"]);
}

#[test]
fn a_guest_is_told_its_networks() {
    let world = World::new();
    world.ok(&[
        "network",
        "create",
        "--subnet",
        "10.20.0.0/24",
        "--subnet6",
        "fd00:20::/64",
        "--mtu",
        "1400",
        "a",
    ]);
    world.ok(&["network", "create", "--internal", "b"]);
    let flags = ["--network", "b", "--network", "name=a,ip=10.20.0.77,ip6=fd00:20::77,mac=02:00:00:00:00:77"];
    let more = ["--dns-search", "example.org", "--add-host", "db:192.0.2.9", "--hostname", "web"];
    let guest = world.guest("one", &[&flags[..], &more].concat());
    let told = std::fs::read_to_string(format!("/tmp/hull-guest-{}.json", guest.pid)).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let eth1 = &told["interfaces"][1];
    assert_eq!(eth1["mac"], "02:00:00:00:00:77");
    assert_eq!((eth1["mtu"].as_u64(), &eth1["gateways"][0]), (Some(1400), &"10.20.0.1".into()), "{told}");
    assert_eq!(told["interfaces"][0]["gateways"], serde_json::json!([]), "an inner network is a way out");
    assert_eq!(told["resolv_conf"][1], "search example.org");
    assert_eq!(told["hosts"].as_array().unwrap().last().unwrap(), &serde_json::json!(["192.0.2.9", "db"]));
    let shown = world.inspect(&["network", "inspect", "a"]);
    assert_eq!(
        (&shown["members"][0]["name"], &shown["members"][0]["card"]["ip"]),
        (&"one".into(), &"10.20.0.77".into())
    );
    assert!(world.refused(&["network", "rm", "a"]).contains("in use by one"));
}
