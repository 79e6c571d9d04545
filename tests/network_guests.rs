//! Networks from end to end: real guests, a real neighbour, real frames.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/frame.rs"]
mod frame;
#[path = "support/hull.rs"]
mod hull;
#[path = "support/world.rs"]
mod world;

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use frame::{FORGED, HONEST, hex};
use hull::Said;
use world::{FAR, FAR_MIB, FAR6, HOST, HOST6, METADATA, World, sha256};

/// How long a server that floods floods.
const FLOOD: Duration = Duration::from_secs(60);
/// What is carried with offloads off and over IPv6, in MiB: an emulated host is too slow for as much as with offloads on over
/// IPv4, but with `HULL_ALL_MIB`.
const LITTLE_MIB: usize = 10;
/// The largest datagram, which a card with offloads on is given whole.
const DATAGRAM_MAX: usize = 60_000;
/// How soon what was not flooded must flow after it.
const AT_ONCE: &str = "30";
/// How long a guest waits for what must not come, and for what must.
const SILENCE: &str = "5";
const PATIENCE: &str = "60";

/// What ethtool calls the offloads of a card.
const OFFLOADS: &str =
    "tx-checksum-ip-generic|tx-scatter-gather|tx-tcp-segmentation|tx-tcp6-segmentation|rx-gro-hw";

fn curl<'a>(command: &[&'a str]) -> Vec<&'a str> {
    [&["curl", "--silent", "--show-error", "--fail", "--max-time"], command].concat()
}

#[test]
fn a_published_web_server_is_reached_from_everywhere() {
    let world = World::get();
    let serve = "mkdir /www; dd if=/dev/urandom of=/www/big bs=1M count=10 2>/dev/null; \
                 sha256sum /www/big; echo hello >/www/small; httpd -p '[::]:80' -h /www";
    world.start("web", &["-p", "8080:80"], serve);
    let said = world.ok(&["logs", "web"]);
    let expected = said.split_whitespace().next().unwrap();
    assert!(world.ok(&["port", "web"]).contains("8080"), "{}", world.ok(&["port", "web"]));
    let fetched = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    // The host, by loopback and by its own address; the neighbour, in both families.
    for place in ["[::1]", HOST] {
        let url = format!("http://{place}:8080/small");
        assert_eq!(fetched(&mut world.on_host(&curl(&["60", &url]))), b"hello\n", "{place}");
    }
    let fetched_big = |command: &mut std::process::Command| {
        let big = fetched(command);
        assert_eq!((big.len(), sha256(&big).as_str()), (10 << 20, expected), "{command:?}");
    };
    fetched_big(&mut world.on_host(&curl(&["300", "http://127.0.0.1:8080/big"])));
    for place in [HOST.to_owned(), format!("[{HOST6}]")] {
        fetched_big(&mut world.on_far(&curl(&["300", &format!("http://{place}:8080/big")])));
    }
    // Other containers, by name and by the host's address.
    let script =
        format!("get='curl --silent --fail'; $get http://web/big | sha256sum; $get http://{HOST}:8080/small");
    let said = world.script(&[], &script);
    assert!(said.starts_with(expected) && said.contains("hello"), "{said}");
    is_served_well(world, "web", &format!("http://{HOST}:8080/small"));
    let taken = world.hull(&["run", "--rm", "-p", "8080:80", "tools", "true"]);
    assert!(taken.status != 0 && taken.stderr.contains("8080"), "{taken:?}");
    world.ok(&["rm", "-f", "web"]);
    let gone = world.on_host(&curl(&["5", "http://127.0.0.1:8080/small"])).output().unwrap();
    assert!(!gone.status.success());
}

/// Many ask for half a minute: there is no error, and frames flow at any time. A host that is busy with others may give an
/// emulated one no processor for some seconds; a queue that has stalled stays so.
fn is_served_well(world: &World, name: &str, url: &str) {
    let mut wrk = world.on_far(&["wrk", "-t", "1", "-c", "8", "-d", "30s", "--timeout", "10s", url]);
    let wrk = wrk.stdout(Stdio::piped()).spawn().unwrap();
    let counts: Vec<u64> = (0..6)
        .map(|part| {
            std::thread::sleep(Duration::from_secs(if part == 0 { 1 } else { 5 }));
            world.frames(name)
        })
        .collect();
    let said = wrk.wait_with_output().unwrap();
    let said = format!("{counts:?}\n{}", String::from_utf8_lossy(&said.stdout));
    println!("{said}");
    assert!(counts.windows(3).all(|count| count[2] > count[0]), "nothing flows for ten seconds: {said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    let served = said.lines().find_map(|line| line.trim().split_once(" requests in"));
    let served: u32 = served.unwrap_or_else(|| panic!("{said}")).0.parse().unwrap();
    assert!(served > 30, "{said}");
}

#[test]
fn guests_reach_the_outside_under_the_hosts_address() {
    let world = World::get();
    let content = world.serve_far();
    let all = std::env::var_os("HULL_ALL_MIB").is_some();
    for (offloads, far) in [("on", FAR), ("on", FAR6), ("off", FAR), ("off", FAR6)] {
        let mib = if all || (offloads, far) == ("on", FAR) { FAR_MIB } else { LITTLE_MIB };
        // As many datagrams as make these MiB, or some.
        let datagrams = if all { ((mib << 20) / DATAGRAM_MAX + 1, DATAGRAM_MAX) } else { (200, 1200) };
        carry_through(world, (offloads, far), &content[..mib << 20], datagrams);
    }
}

/// From the neighbour through a guest and back to it: so much each way at the same time over TCP, and so many datagrams of
/// a size, one after the other.
fn carry_through(
    world: &World,
    (offloads, far): (&str, &str),
    content: &[u8],
    (count, size): (usize, usize),
) {
    let since = Instant::now();
    let mib = content.len() >> 20;
    // A card has all of its offloads on from its start.
    let change = match offloads {
        "on" => "",
        _ => "ethtool -K eth0 tx off sg off tso off rx-gro-hw off >/dev/null;",
    };
    let host = if far.contains(':') { format!("[{far}]") } else { far.to_owned() };
    let script = format!(
        "{change} ethtool -k eth0 | grep -cE '^\\s*({OFFLOADS}): {offloads}\\b'
         wget -q -O - 'http://{host}/1' | sha256sum
         wget -q -O - 'http://{host}/{mib}' | nc {far} 80; net echo {far} 7 {count} {size}"
    );
    let said = world.script(&["--cap-add", "NET_ADMIN"], &script);
    let words: Vec<&str> = said.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let [changed, own, back, echoed] = words.as_slice() else { panic!("{said}") };
    let expected = ["5", &sha256(&content[..1 << 20]), &sha256(content)];
    assert_eq!([*changed, own, back], expected, "{said}");
    // A lost datagram is no failure, a changed one is.
    assert!(echoed.parse::<usize>().unwrap() >= count - count / 40, "{said}");
    println!(
        "offloads {offloads}, {far}: {mib} MiB each way and {echoed} datagrams in {:?}",
        since.elapsed()
    );
}

#[test]
fn after_a_flood_traffic_flows_at_once() {
    let world = World::get();
    let serve = "mkdir /www; echo hello >/www/small; httpd -p 80 -h /www";
    world.start("flooded", &["-p", "8081:80", "-p", "8081:9/udp"], serve);
    world.far(|| {
        let socket = UdpSocket::bind((FAR, 0)).unwrap();
        let (start, datagram) = (Instant::now(), [0x55; 1400]);
        while start.elapsed() < FLOOD {
            let _full = socket.send_to(&datagram, (HOST, 8081));
        }
    });
    std::thread::sleep(Duration::from_secs(5));
    let url = format!("http://{HOST}:8081/small");
    let output = world.on_far(&curl(&[AT_ONCE, &url])).output().unwrap();
    assert_eq!(output.stdout, b"hello\n", "{}", String::from_utf8_lossy(&output.stderr));
    world.ok(&["rm", "-f", "flooded"]);
}

/// Six bytes of an Ethernet address.
fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn what_a_guest_forges_reaches_nobody() {
    let world = World::get();
    world.ok(&["network", "create", "arena"]);
    world.start("victim", &["--network", "arena"], "net listen eth0 3000 >/seen &");
    world.start("villain", &["--network", "arena"], "");
    let four = |name| world.address(name, "ip").parse::<Ipv4Addr>().unwrap();
    let six = |name| world.address(name, "ip6").parse::<Ipv6Addr>().unwrap();
    let (own, victim) = (mac(&world.address("villain", "mac")), mac(&world.address("victim", "mac")));
    let gateway: Ipv4Addr = world.gateway("arena", "gateway").parse().unwrap();
    let gateway6: Ipv6Addr = world.gateway("arena", "gateway6").parse().unwrap();
    let (ip, theirs, ip6) = (four("villain"), four("victim"), six("villain"));
    let nobody = [0x02, 0xba, 0xd0, 0, 0, 1];
    let stolen = frame::udp4(own, theirs, theirs, (9, 9), FORGED);
    let forged = [
        frame::arp(own, own, gateway, theirs, FORGED),
        frame::arp(own, nobody, ip, theirs, FORGED),
        frame::arp(nobody, nobody, ip, theirs, FORGED),
        frame::udp4(nobody, ip, theirs, (9, 9), FORGED),
        frame::udp4(victim, ip, theirs, (9, 9), FORGED),
        stolen.clone(),
        frame::udp4(own, Ipv4Addr::new(192, 0, 2, 66), theirs, (9, 9), FORGED),
        frame::udp4(own, ip, Ipv4Addr::BROADCAST, (67, 68), FORGED),
        frame::neighbour(own, ip6, gateway6),
        frame::neighbour(own, ip6, six("victim")),
        frame::router(own, frame::link_local(own)),
        frame::router(own, ip6),
        frame::plain6(own, six("victim")),
        frame::tagged(&stolen),
    ];
    // The same way an honest one takes, before and after them: so what is not seen was stopped.
    let honest = frame::udp4(own, ip, theirs, (9, 9), HONEST);
    let frames: Vec<String> = std::iter::once(&honest)
        .chain(&forged)
        .chain(std::iter::once(&honest))
        .map(|frame| hex(frame))
        .collect();
    let sender = format!("net send eth0 {}", frames.join(" "));
    world.ok(&["rm", "-f", "villain"]);
    let (address, card) = (ip.to_string(), spelled(own));
    let flags = ["--network", "arena", "--ip", &address, "--ip6", &ip6.to_string(), "--mac", &card];
    assert_eq!(world.script(&flags, &sender), "sent\n");
    let seen = seen_by(world, "victim");
    let count = |mark: &[u8]| seen.matches(&hex(mark)).count();
    assert_eq!(count(HONEST), 2, "{seen}");
    assert_eq!(count(FORGED), 0, "{seen}");
    // Neither does the host believe any of it.
    let neighbours = world.on_host(&["ip", "neigh"]).output().unwrap();
    let neighbours = String::from_utf8_lossy(&neighbours.stdout).into_owned();
    assert!(!neighbours.contains("02:ba:d0:00:00:01"), "{neighbours}");
    let routes = world.on_host(&["ip", "-6", "route"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&routes.stdout).contains("2001:db8:bad"));
    world.ok(&["rm", "-f", "victim"]);
    world.ok(&["network", "rm", "arena"]);
}

fn spelled(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// What a listening container has seen.
fn seen_by(world: &World, name: &str) -> String {
    world.ok(&["kill", "--signal", "USR1", name]);
    std::thread::sleep(Duration::from_secs(3));
    world.ok(&["logs", name])
}

#[test]
fn networks_are_apart_and_metadata_is_out_of_reach() {
    let world = World::get();
    for name in ["one", "two"] {
        world.ok(&["network", "create", name]);
    }
    let serve = "mkdir /www; echo hello >/www/small; httpd -p '[::]:80' -h /www";
    world.start("one-web", &["--network", "one"], serve);
    world.start("two-web", &["--network", "two"], serve);
    let metadata: Vec<TcpListener> =
        METADATA.iter().map(|address| world.far(|| TcpListener::bind((*address, 8000)).unwrap())).collect();
    let within = |limit: &str, address: &str, port: u16| {
        let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        format!("timeout {limit} wget -q -O - http://{address}:{port}/small || echo no; ")
    };
    let reach = |address: &str, port: u16| within(SILENCE, address, port);
    let ping = |limit: &str, address: &str| {
        format!("ping -c 3 -w {limit} {address} | grep -q 'bytes from' && echo pong || echo silent; ")
    };
    let asked = |name: &str, limit: &str| {
        let addresses = ["ip", "ip6"].map(|kind| world.address(name, kind));
        addresses.map(|address| within(limit, &address, 80) + &ping(limit, &address)).concat()
    };
    let own = asked("one-web", PATIENCE);
    assert_eq!(world.script(&["--network", "one"], &own), "hello\npong\nhello\npong\n");
    let others = asked("two-web", SILENCE);
    assert_eq!(world.script(&["--network", "one"], &others), "no\nsilent\nno\nsilent\n");
    // Nor by name, and the host's own services neither.
    let service = world.near(|| TcpListener::bind("[::]:22").unwrap());
    let gateway = world.gateway("one", "gateway");
    let host =
        format!("{}{}nslookup two-web >/dev/null 2>&1 || echo no", reach(HOST, 22), reach(&gateway, 22));
    assert_eq!(world.script(&["--network", "one"], &host), "no\nno\nno\n");
    // The way to the metadata is there: the host's own connection is taken.
    for (listener, address) in metadata.iter().zip(METADATA) {
        assert!(world.near(|| TcpStream::connect((address, 8000))).is_ok(), "{address}");
        assert!(listener.accept().is_ok());
    }
    let blocked: String = METADATA.iter().map(|address| reach(address, 8000)).collect();
    assert_eq!(world.script(&[], &blocked), "no\nno\n");
    for listener in metadata.iter().chain([&service]) {
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "a guest came through to {listener:?}");
    }
    world.ok(&["rm", "-f", "one-web", "two-web"]);
    world.ok(&["network", "rm", "one", "two"]);
}

#[test]
fn names_lead_where_they_should() {
    let world = World::get();
    world.serve_names();
    world.ok(&["network", "create", "front"]);
    world.ok(&["network", "create", "back"]);
    let serve = "mkdir /www; echo $(hostname) >/www/name; httpd -p '[::]:80' -h /www";
    world.start("db", &["--network", "back", "--network-alias", "store", "--hostname", "data-1"], serve);
    let flags = ["--network", "front", "--network", "back", "--add-host", "fixed.example:192.0.2.9"];
    let script = "for name in db store data-1; do wget -q -O - http://$name/name; done
        nslookup www.outside.example | grep -o '203.0.113.2\\|2001:db8:1::2' | sort -u
        ping -c 1 fixed.example 2>&1 | head -n 1 | grep -o '192.0.2.9'
        nslookup nobody.outside.example >/dev/null 2>&1 || echo none
        ip -o -4 addr show | grep -c eth";
    let said = world.script(&flags, script);
    assert_eq!(said, "data-1\ndata-1\ndata-1\n2001:db8:1::2\n203.0.113.2\n192.0.2.9\nnone\n2\n");
    // Another network's names do not exist.
    let said = world.script(&["--network", "front"], "nslookup db >/dev/null 2>&1 || echo none");
    assert_eq!(said, "none\n");
    let resolvers = "grep nameserver /etc/resolv.conf; nslookup www.outside.example | grep -c 203.0.113.2";
    let said = world.script(&["--dns", FAR], resolvers);
    assert!(said.starts_with(&format!("nameserver {FAR}\n")), "{said}");
    assert_eq!(world.script(&["--network", "none"], "ip -o link | wc -l"), "1\n");
    let unknown = world.hull(&["run", "--rm", "--network", "nothing", "tools", "true"]);
    refused(&unknown, "nothing");
    world.ok(&["rm", "-f", "db"]);
    world.ok(&["network", "rm", "front", "back"]);
}

fn refused(said: &Said, words: &str) {
    assert!(said.status != 0 && said.stderr.contains(words), "{said:?}");
}
