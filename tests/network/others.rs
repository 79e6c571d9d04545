//! Others on the same host: another daemon, and a firewall that lets nothing through.

use super::support::Said;
use super::world::{NEIGHBOUR, World, fetch, output, serve};

#[test]
fn a_second_daemon_leaves_the_firsts_networks_alone() {
    let world = World::new();
    let guest = world.guest("one", &[]);
    let _server = serve(&world.neighbour.flag(), "::", "9000", "1");
    let there = || (world.ip(&["-br", "link"]), world.nft(&["-s", "list", "ruleset"]));
    let (links, rules) = there();
    let dir = tempfile::tempdir().unwrap();
    let second = |args: &[&str]| {
        let mut command = world.command(args);
        command.env("HULL_DATA_DIR", dir.path().join("data")).env("HULL_RUN_DIR", dir.path().join("run"));
        Said::from(command.output().unwrap())
    };
    for network in ["mine", "default"] {
        let said = second(&["network", "create", network]);
        assert!(
            said.status != 0 && said.stderr.contains("another hull daemon has this host's networks"),
            "{said:?}"
        );
    }
    assert_eq!(second(&["network", "ls", "-q"]).stdout, "");
    let system: serde_json::Value =
        serde_json::from_str(&second(&["system", "info", "--format", "json"]).stdout).unwrap();
    output(std::process::Command::new("kill").arg(system["pid"].to_string()));
    assert!(fetch(&guest.flag(), NEIGHBOUR.0, "9000").is_some());
    let (links_now, rules_now) = there();
    assert_eq!(links_now, links);
    assert!(rules_now == rules, "{rules}\n{rules_now}");
}

#[test]
fn a_firewall_that_drops_guests_is_named_with_its_remedy() {
    let world = World::new();
    world.nft(&["table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; \
                 chain DOCKER-USER { }; }"]);
    world.nft(&["insert rule ip filter FORWARD jump DOCKER-USER"]);
    let guest = world.guest("one", &[]);
    let _server = serve(&world.neighbour.flag(), "::", "9000", "1");
    assert_eq!(fetch(&guest.flag(), NEIGHBOUR.0, "9000"), None);
    assert!(fetch(&guest.flag(), NEIGHBOUR.1, "9000").is_some());
    let notices = || world.inspect(&["network", "inspect", "default"])["notices"][0].clone();
    let notice = notices();
    let notice = notice.as_str().unwrap();
    assert!(notice.contains("the chain FORWARD of ip filter"), "{notice}");
    assert!(world.hull.daemon_log().contains("which is not Hull's"), "{}", world.hull.daemon_log());
    // What is said to do does it.
    let (_, remedy) = notice.split_once("with: ").unwrap();
    output(&mut world.hull.namespace.command("sh", &["-euc", remedy]));
    assert!(fetch(&guest.flag(), NEIGHBOUR.0, "9000").is_some(), "{remedy}");
    assert!(notices().is_null());
}
