//! A daemon that is killed: what runs goes on, what is wanted is made again, what is stale goes, what is others' stays.

use std::collections::HashSet;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::world::{HOST, NEIGHBOUR, World, fetch, runs, serve};

const FOREIGN: &str = "table inet other { set s { type ipv4_addr; elements = { 192.0.2.99 }; }; \
                       chain c { type filter hook forward priority 10; ip saddr @s counter drop; }; }";

fn kill(pid: &str) {
    assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    while runs(pid) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_killed_daemon_takes_nothing_along_and_leaves_nothing_behind() {
    let world = World::new();
    world.nft(&[FOREIGN]);
    world.ip(&["link", "add", "br-other", "type", "bridge"]);
    let others = || {
        (world.nft(&["-s", "list", "table", "inet", "other"]), world.ip(&["-br", "link", "show", "br-other"]))
    };
    let foreign = others();
    world.ok(&["network", "create", "gone"]);
    let guest = world.guest("web", &["-p", "8080:80"]);
    let _server = serve(&guest.flag(), "::", "80", "10");
    let _outside = serve(&world.neighbour.flag(), "::", "9000", "10");
    let neighbour = world.neighbour.flag();
    assert!(fetch(&neighbour, HOST.0, "8080").is_some());
    kill(&world.hull.daemon_pid());
    // Without a daemon all goes on, but for the proxy of the loopback.
    assert!(fetch(&neighbour, HOST.0, "8080").is_some());
    assert!(fetch(&guest.flag(), NEIGHBOUR.0, "9000").is_some());
    // While none is there, somebody breaks what there is of it.
    world.ip(&["link", "add", "hull-stale", "type", "bridge"]);
    world.ip(&["link", "add", "hull-tfff", "type", "bridge"]);
    world.nft(&["flush", "chain", "inet", "hull", "forward"]);
    world.nft(&["delete", "table", "bridge", "hull"]);
    let bridge = world.ip(&["-br", "link", "show", "type", "bridge"]);
    let bridge = bridge.lines().find(|line| {
        line.starts_with("hull-") && !line.contains("hull-stale") && !line.contains("hull-tfff")
    });
    world.ip(&["link", "del", bridge.unwrap().split_whitespace().next().unwrap()]);
    world.ok(&["ps"]);
    assert!(fetch(&neighbour, HOST.0, "8080").is_some(), "{}", world.hull.daemon_log());
    assert!(fetch(&world.hull.namespace.flag(), "127.0.0.1", "8080").is_some());
    assert!(fetch(&guest.flag(), NEIGHBOUR.1, "9000").is_some());
    let links = world.ip(&["-br", "link"]);
    assert!(!links.contains("hull-stale") && !links.contains("hull-tfff"), "{links}");
    let again = world.find("web");
    assert_eq!((again.ip, again.tap, again.pid), (guest.ip.clone(), guest.tap.clone(), guest.pid.clone()));
    let rules = world.nft(&["list", "chain", "inet", "hull", "forward"]);
    assert!(rules.contains("goto from_guest"), "{rules}");
    assert_eq!(others(), foreign, "others' things were touched");
    world.ok(&["rm", "-f", "web"]);
    world.ok(&["network", "rm", "default", "gone"]);
    world.assert_nothing_left();
    assert_eq!(others(), foreign, "others' things were touched");
}

/// Numbers that repeat with their seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// One request that may be cut off; the answer's status, where one was heard.
fn request(world: &World, method: &str, path: &str, body: &str) -> Option<u16> {
    use std::io::{Read, Write};
    let socket = world.hull.dir.path().join("run/hull.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: hull\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = String::new();
    let _cut_off =
        stream.write_all(text.as_bytes()).and_then(|()| stream.read_to_string(&mut answer).map(drop));
    answer.split(' ').nth(1)?.parse().ok()
}

/// What is done to a daemon that may be killed at any moment, until it is done.
struct Siege<'a> {
    world: &'a World,
    random: Random,
    kills: u32,
    next: Instant,
    until: Instant,
}

impl Siege<'_> {
    /// Kills the daemon a moment from now, in the middle of a request; some hundred milliseconds later again.
    fn may_kill(&mut self) {
        if self.kills == 25 || Instant::now() < self.next {
            return;
        }
        let pid = self.world.hull.daemon_pid();
        let delay = Duration::from_millis(self.random.below(30));
        std::thread::spawn(move || {
            std::thread::sleep(delay);
            let _it_may_have_gone = Command::new("kill").args(["-9", &pid]).status();
        });
        self.kills += 1;
        self.next = Instant::now() + Duration::from_millis(200 + self.random.below(600));
    }

    fn persist(&mut self, method: &str, path: &str, body: &str) {
        self.may_kill();
        let world = self.world;
        while request(world, method, path, body).is_none_or(|status| status / 100 != 2) {
            assert!(Instant::now() < self.until, "{method} {path} was not done: {}", world.hull.daemon_log());
            // It may have been done by a daemon that did not live to say so.
            let shown = match serde_json::from_str::<serde_json::Value>(body) {
                Ok(spec) => format!("{path}/{}", spec["name"].as_str().unwrap()),
                Err(_) => path.to_owned(),
            };
            world.ok(&["ps", "-q"]);
            if request(world, "GET", &shown, "") == Some(if method == "POST" { 200 } else { 404 }) {
                break;
            }
        }
    }
}

#[test]
fn two_hundred_networks_and_two_thousand_leases_survive_a_daemon_that_is_killed_at_random() {
    let seed = std::env::var("HULL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed =
        seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into());
    println!("HULL_SEED={seed}");
    let world = World::new();
    world.nft(&[FOREIGN]);
    let foreign = world.nft(&["-s", "list", "table", "inet", "other"]);
    world.ok(&["ps"]);
    let (next, until) = (Instant::now(), Instant::now() + Duration::from_secs(400));
    let mut siege = Siege { world: &world, random: Random(seed), kills: 0, next, until };
    for number in 0..200 {
        siege.persist("POST", "/v1/networks", &format!(r#"{{"name": "n{number}"}}"#));
    }
    for number in 0..2000 {
        let network = format!(r#"{{"networks": [{{"network": "n{}"}}]}}"#, number % 200);
        let container = r#"{"image": "image", "command": ["x"]}"#;
        let body = format!(r#"{{"name": "m{number}", "networking": {network}, "container": {container}}}"#);
        siege.persist("POST", "/v1/microvms", &body);
    }
    let shown: serde_json::Value =
        serde_json::from_str(&world.ok(&["ps", "-a", "--format", "json"])).unwrap();
    let card = |microvm: &serde_json::Value, field: &str| microvm["cards"][0][field].to_string();
    let leases = shown.as_array().unwrap().iter().map(|one| (card(one, "network"), card(one, "ip")));
    let leases: Vec<(String, String)> = leases.collect();
    assert_eq!(leases.len(), 2000);
    assert_eq!(leases.iter().collect::<HashSet<_>>().len(), 2000, "an address was given twice");
    let bridges = world.ip(&["-br", "link", "show", "type", "bridge"]);
    assert_eq!(bridges.lines().filter(|line| line.starts_with("hull-")).count(), 200);
    for number in 0..2000 {
        siege.persist("DELETE", &format!("/v1/microvms/m{number}"), "");
    }
    for number in 0..200 {
        siege.persist("DELETE", &format!("/v1/networks/n{number}"), "");
    }
    world.ok(&["ps"]);
    assert_eq!(world.ok(&["network", "ls", "-q"]), "");
    println!("{} daemons were killed", siege.kills);
    world.assert_nothing_left();
    assert_eq!(world.nft(&["-s", "list", "table", "inet", "other"]), foreign, "others' rules were touched");
}
