//! Names: what policies make of them, and whom they lead to.

use std::time::{Duration, Instant};

use super::world::{NEIGHBOUR, World, fetch, output, resolve, serve, serve_names};

/// How long the address of an answer is let through at least, and a daemon on a busy host may take to forget it.
const FORGOTTEN: Duration = Duration::from_secs(180);

#[test]
fn a_policy_follows_what_its_names_stand_for() {
    const NAME: &str = "www.outside.example";
    const MOVED: &str = "198.51.100.7";
    let world = World::new();
    let far = world.neighbour.flag();
    output(&mut world.neighbour.command("ip", &["addr", "add", "198.51.100.7/32", "dev", "far0"]));
    world.ip(&["route", "add", "198.51.100.0/24", "via", NEIGHBOUR.0]);
    let _servers = ["9000", "9001"].map(|port| serve(&far, "::", port, "1"));
    let answer = world.hull.dir.path().join("answer");
    std::fs::write(&answer, NEIGHBOUR.0).unwrap();
    let _names = serve_names(&far, NEIGHBOUR.0, &answer);
    world.ok(&["network", "create", "--egress-allow", &format!("{NAME}:9000"), "named"]);
    let guest = world.guest("one", &["--network", "named"]).flag();
    let gateway = world.inspect(&["network", "inspect", "named"])["gateway"].as_str().unwrap().to_owned();
    let reached = |address: &str, port: &str| fetch(&guest, address, port).is_some();
    assert!(!reached(NEIGHBOUR.0, "9000"), "before anybody has asked for the name");
    assert_eq!(resolve(&guest, &gateway, NAME).as_deref(), Some(NEIGHBOUR.0), "{}", world.hull.daemon_log());
    assert!(reached(NEIGHBOUR.0, "9000"), "the name's address");
    assert!(
        !reached(NEIGHBOUR.0, "9001") && !reached(MOVED, "9000"),
        "more than the name's address and port"
    );
    assert_eq!(
        resolve(&guest, &gateway, "other.outside.example"),
        None,
        "a name that the policy does not list"
    );
    // The name moves.
    std::fs::write(&answer, MOVED).unwrap();
    assert_eq!(resolve(&guest, &gateway, NAME).as_deref(), Some(MOVED));
    assert!(reached(MOVED, "9000"), "the name's new address");
    let start = Instant::now();
    while reached(NEIGHBOUR.0, "9000") {
        assert!(start.elapsed() < FORGOTTEN, "the name's old address is let through for good");
        std::thread::sleep(Duration::from_secs(2));
    }
    let refused = world.inspect(&["inspect", "one"])["cards"][0]["refused"]["packets"].as_u64().unwrap();
    assert!(refused >= 4, "{refused}");
}

#[test]
fn a_renamed_guest_is_found_by_its_new_name() {
    let world = World::new();
    let [one, two] = ["one", "two"].map(|name| world.guest(name, &[]));
    let gateway = world.inspect(&["network", "inspect", "default"])["gateway"].as_str().unwrap().to_owned();
    assert_eq!(resolve(&one.flag(), &gateway, "two"), Some(two.ip.clone()));
    world.ok(&["rename", "two", "second"]);
    assert_eq!(resolve(&one.flag(), &gateway, "second"), Some(two.ip));
    assert_eq!(resolve(&one.flag(), &gateway, "two"), None);
}
