//! What cannot be: clear words, and nothing half-made.

use super::support::Said;
use super::world::World;

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let world = World::new();
    world.ip(&["route", "add", "10.20.0.0/16", "via", "192.0.2.2"]);
    world.ok(&["network", "create", "--subnet", "10.30.0.0/29", "--subnet6", "fd00:30::/64", "a"]);
    let names = || {
        world
            .ip(&["-br", "link"])
            .lines()
            .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
            .collect::<Vec<_>>()
    };
    let links = names();
    let rules = world.nft(&["list", "ruleset"]);
    for (args, words) in [
        (vec!["--subnet", "10.20.1.0/24", "b"], "overlaps 10.20.0.0/16, which is the host's route over up0"),
        (vec!["--subnet", "10.30.0.0/24", "b"], "which is the network a"),
        (vec!["--subnet6", "fd00:30::/48", "b"], "which is the network a"),
        (vec!["--subnet6", "2001:db8::/64", "b"], "the host's route over up0"),
        (vec!["--subnet", "10.40.0.1/24", "b"], "bits below its prefix"),
        (vec!["--subnet", "x", "b"], "not written like"),
        (vec!["--mtu", "1000", "b"], "MTU of 1000"),
        (vec!["a"], "there is a network a already"),
        (vec!["host-less"], "meaning of its own"),
        (vec!["b/c"], "no name of a network"),
        (vec!["--egress-deny", "192.0.2.0/40", "b"], "policy"),
    ] {
        let said = world.refused(&[&["network", "create"], args.as_slice()].concat());
        assert!(said.contains(words), "{args:?}: {said}");
    }
    let create =
        |flags: &[&str]| world.refused(&[&["create", "--kernel", "stub"], flags, &["image", "x"]].concat());
    for (flags, words) in [
        (["--network", "nowhere"].as_slice(), "no network 'nowhere'"),
        (&["--network", "a", "--ip", "10.30.0.1"], "no address that the network a gives out"),
        (&["--network", "a", "--ip6", "fd00:30::1:0:0:2"], "no address that the network a gives out"),
        (&["--network", "none", "-p", "80:80"], "way out"),
        (&["-p", "0:80"], "no port"),
        (&["-p", "80:80", "-p", "80:81"], "published twice"),
        (&["--network", "a", "--network", "a"], "twice"),
        (&["--dns-search", "a b"], "no name"),
    ] {
        let said = create(flags);
        assert!(said.contains(words), "{flags:?}: {said}");
    }
    for number in 0..5 {
        world.ok(&["create", "--network", "a", "--name", &format!("m{number}"), "image", "x"]);
    }
    assert!(create(&["--network", "a"]).contains("no free address left"));
    assert!(create(&["--network", "a", "--ip", "10.30.0.4"]).contains("10.30.0.4 is in use"));
    world.ok(&["rm", "m2"]);
    world.ok(&["create", "--network", "a", "--name", "again", "--ip", "10.30.0.4", "image", "x"]);
    // The default network came with the port that was published twice at the latest; all else is as it was.
    let now = world.ok(&["network", "ls", "-q"]);
    assert!(now.lines().all(|name| ["a", "default"].contains(&name)), "{now}");
    if now.lines().count() == 1 {
        assert_eq!(names(), links);
        assert!(world.nft(&["list", "ruleset"]) == rules, "rules were changed");
    }
}

#[test]
fn a_host_without_networks_says_what_it_lacks() {
    let world = World::new();
    let pid = world.hull.daemon_pid();
    assert!(std::process::Command::new("kill").arg(&pid).status().unwrap().success());
    while super::world::runs(&pid) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // A daemon that may not, and one whose host has no nft: each is started by its first client.
    let lacking = [
        ("setpriv --bounding-set=-net_admin", "run the daemon as root"),
        (
            "unshare --mount sh -c 'mount --bind /dev/null /usr/sbin/nft && exec \"$@\"' sh",
            "apt install nftables",
        ),
    ];
    for (number, (wrapper, words)) in lacking.iter().enumerate() {
        let script = format!("{wrapper} {} \"$@\"", env!("CARGO_BIN_EXE_hull"));
        let run = |args: &[&str]| {
            let args = [&["-c", script.as_str(), "sh"], args].concat();
            let mut command = world.hull.wrapped("sh", &args);
            Said::from(command.env("HULL_LIBEXEC", world.hull.dir.path().join("libexec")).output().unwrap())
        };
        let name = format!("m{number}");
        let said = run(&["run", "-d", "--kernel", "stub", "--name", &name, "image", "x"]);
        assert_eq!(said.status, 0, "{said:?}");
        assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
        assert!(said.stderr.contains("it runs without a network") && said.stderr.contains(words), "{said:?}");
        let said = run(&["create", "--network", "default", "image", "x"]);
        assert!(said.status != 0 && said.stderr.contains(words), "{said:?}");
        let said = run(&["create", "-p", "80", "image", "x"]);
        assert!(said.status != 0 && said.stderr.contains(words), "{said:?}");
        let said = run(&["network", "create", "a"]);
        assert!(said.status != 0 && said.stderr.contains(words), "{said:?}");
        assert_eq!(world.ok(&["network", "ls", "-q"]), "");
        world.ok(&["rm", "-f", &name]);
        let pid = world.hull.daemon_pid();
        assert!(std::process::Command::new("kill").arg(&pid).status().unwrap().success());
        while super::world::runs(&pid) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
