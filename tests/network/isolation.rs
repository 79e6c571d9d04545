//! What guests may not: other networks, the host, forged frames, and what a policy refuses.

use super::world::{Guest, HOST, NEIGHBOUR, World, echo, fetch, ping, serve, talk};

fn refused(world: &World, name: &str, what: &str) -> u64 {
    world.inspect(&["inspect", name])["cards"][0][what]["packets"].as_u64().unwrap()
}

#[test]
fn nothing_passes_between_networks_or_to_the_host() {
    let world = World::new();
    world.ok(&["network", "create", "a"]);
    world.ok(&["network", "create", "b"]);
    world.ok(&["network", "create", "--internal", "inner"]);
    let [one, two] = ["one", "two"].map(|name| world.guest(name, &["--network", "a"]));
    let other = world.guest("other", &["--network", "b"]);
    let inner = world.guest("inner", &["--network", "inner"]);
    let _servers = [&one, &other].map(|guest| serve(&guest.flag(), "::", "80", "1"));
    assert!(fetch(&two.flag(), &one.ip, "80").is_some() && fetch(&two.flag(), &one.ip6, "80").is_some());
    assert!(ping(&two.flag(), &one.ip) && ping(&two.flag(), &one.ip6));
    for address in [&other.ip, &other.ip6] {
        assert_eq!(fetch(&one.flag(), address, "80"), None, "from network to network");
        assert!(!ping(&one.flag(), address), "an echo from network to network");
        assert_eq!(fetch(&inner.flag(), address, "80"), None, "out of an inner network");
    }
    let _host = serve(&world.hull.namespace.flag(), "::", "22", "1");
    let gateway = world.inspect(&["network", "inspect", "a"])["gateway"].as_str().unwrap().to_owned();
    let foreign = world.inspect(&["network", "inspect", "b"])["gateway"].as_str().unwrap().to_owned();
    for address in [HOST.0, HOST.1, &gateway, &foreign] {
        assert_eq!(fetch(&one.flag(), address, "22"), None, "the host's own service at {address}");
    }
    // Names are asked of the bridge, of one's own network's alone.
    let name = |guest: &Guest, server: &str, name: &str| {
        let said = talk(&guest.flag(), &["resolve", server, name]).output().unwrap();
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(name(&one, &gateway, "two"), two.ip);
    assert_eq!(name(&other, &foreign, "other"), other.ip);
    assert_ne!(name(&other, &foreign, "two"), two.ip, "a name of another network's");
    for server in [foreign.as_str(), HOST.0, HOST.1] {
        assert_eq!(name(&one, server, "two"), "", "{server} answered");
    }
    let _outside = serve(&world.neighbour.flag(), "::", "9000", "1");
    assert!(fetch(&one.flag(), NEIGHBOUR.0, "9000").is_some());
    assert_eq!(fetch(&inner.flag(), NEIGHBOUR.0, "9000"), None);
    assert!(refused(&world, "one", "refused") >= 5);
    let counted = world.inspect(&["network", "inspect", "a"])["refused"]["packets"].as_u64().unwrap();
    assert!(counted >= 5, "{counted}");
}

#[test]
fn a_policy_lets_through_what_it_says_and_the_clouds_secrets_stay_theirs() {
    let world = World::new();
    let far = world.neighbour.flag();
    for address in ["169.254.169.254/32", "198.51.100.7/32"] {
        super::output(&mut world.neighbour.command("ip", &["addr", "add", address, "dev", "far0"]));
    }
    for route in ["169.254.169.254/32", "198.51.100.0/24"] {
        world.ip(&["route", "add", route, "via", NEIGHBOUR.0]);
    }
    let _servers = ["9000", "9001"].map(|port| serve(&far, "::", port, "1"));
    world.ok(&[
        "network",
        "create",
        "--egress-allow",
        "192.0.2.0/24:9000",
        "--egress-allow",
        "[2001:db8::/32]:9000/tcp",
        "closed",
    ]);
    let closed = world.guest("closed", &["--network", "closed"]);
    let own = world.guest("own", &["--network", "closed", "--egress-deny", "198.51.100.7"]);
    let open = world.guest("open", &[]);
    assert!(
        fetch(&closed.flag(), NEIGHBOUR.0, "9000").is_some()
            && fetch(&closed.flag(), NEIGHBOUR.1, "9000").is_some()
    );
    assert!(echo(&closed.flag(), NEIGHBOUR.0, "9000") && !echo(&closed.flag(), NEIGHBOUR.1, "9000"));
    for (address, port) in [(NEIGHBOUR.0, "9001"), (NEIGHBOUR.1, "9001"), ("198.51.100.7", "9000")] {
        assert_eq!(fetch(&closed.flag(), address, port), None, "{address} {port}");
    }
    assert!(refused(&world, "closed", "refused") >= 4);
    // A policy of its own stands instead of its network's.
    assert!(fetch(&own.flag(), NEIGHBOUR.0, "9001").is_some());
    assert_eq!(fetch(&own.flag(), "198.51.100.7", "9001"), None);
    assert_eq!(refused(&world, "own", "refused"), 1);
    assert!(fetch(&open.flag(), "198.51.100.7", "9001").is_some());
    assert_eq!(fetch(&open.flag(), "169.254.169.254", "9000"), None, "metadata");
    assert_eq!(refused(&world, "open", "refused"), 1);
}

#[test]
fn forged_frames_reach_nobody() {
    let world = World::new();
    let [evil, victim] = ["evil", "victim"].map(|name| world.guest(name, &[]));
    let network = world.inspect(&["network", "inspect", "default"]);
    let [gateway, gateway6] =
        ["gateway", "gateway6"].map(|field| network[field].as_str().unwrap().to_owned());
    let (mac, ip, ip6) = (evil.mac.as_str(), evil.ip.as_str(), evil.ip6.as_str());
    // What is its own goes through: else nothing here would mean anything.
    let own = victim.hears(|| {
        evil.sends("arp", &[mac, mac, ip]);
        evil.sends("ipv4", &[mac, ip, "255.255.255.255", "5000", "5000", "mine"]);
        evil.sends("advert", &[mac, ip6, ip6]);
    });
    let kinds = |heard: &[String]| {
        let mut kinds: Vec<String> =
            heard.iter().filter_map(|line| line.split(' ').nth(1).map(str::to_owned)).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    assert_eq!(kinds(&own), ["0800", "0806", "86dd"], "{own:?}");
    let before = refused(&world, "evil", "forged");
    let forged = victim.hears(|| {
        evil.sends("arp", &[mac, mac, &gateway]);
        evil.sends("arp", &[mac, mac, &victim.ip]);
        evil.sends("arp", &[mac, &victim.mac, ip]);
        evil.sends("arp", &["02:00:00:00:00:99", "02:00:00:00:00:99", ip]);
        evil.sends("ipv4", &[mac, &gateway, "255.255.255.255", "5000", "5000", "forged"]);
        evil.sends("ipv4", &["02:00:00:00:00:99", ip, "255.255.255.255", "5000", "5000", "forged"]);
        evil.sends("ipv4", &[mac, ip, "255.255.255.255", "67", "68", "dhcp"]);
        evil.sends("advert", &[mac, ip6, &gateway6]);
        evil.sends("advert", &[mac, &gateway6, &gateway6]);
        evil.sends("router", &[mac, ip6]);
        evil.sends("vlan", &[mac, mac, ip]);
    });
    let of_evil: Vec<&String> =
        forged.iter().filter(|line| line.starts_with(mac) || line.starts_with("02:00:00:00:00:99")).collect();
    assert!(of_evil.is_empty(), "{of_evil:?}");
    assert_eq!(refused(&world, "evil", "forged") - before, 33);
    // Its own traffic has not been in the way of it.
    let _server = serve(&victim.flag(), "::", "80", "1");
    assert!(
        fetch(&evil.flag(), &victim.ip, "80").is_some() && fetch(&evil.flag(), &victim.ip6, "80").is_some()
    );
}
