//! Who a process is and what it may.

use hull_protocol::agent::{ProcessSpec, Rlimit};

use crate::host::{Agent, process, shell};

/// Docker's default set as the kernel writes it.
const DEFAULT_SET: &str = "00000000a80425fb";
const NONE: &str = "0000000000000000";

fn as_user(user: &str, script: &str) -> ProcessSpec {
    ProcessSpec { user: user.into(), ..shell(script) }
}

fn sets(spec: ProcessSpec, name: &str) -> Vec<String> {
    let status = Agent::new(name).run(spec).stdout;
    let of = |set: &str| status.lines().find_map(|line| line.strip_prefix(set)).unwrap().trim().to_owned();
    ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:"].map(of).to_vec()
}

#[test]
fn users_and_groups_are_the_images() {
    // The kernel keeps the others sorted.
    let script = "id -u; id -g; id -G; echo $HOME";
    for (name, user, expected) in [
        ("user-root", "", "0\n0\n0\n/root\n"),
        ("user-name", "web", "33\n34\n34 4 26\n/home/web\n"),
        ("user-number", "33", "33\n34\n34 4 26\n/home/web\n"),
        ("user-group", "web:tape", "33\n26\n26\n/home/web\n"),
        ("user-numbers", "1000:1001", "1000\n1001\n1001\n/\n"),
        ("user-unknown", "1000", "1000\n0\n0\n/\n"),
    ] {
        assert_eq!(Agent::new(name).run(as_user(user, script)).stdout, expected, "{user}");
    }
}

#[test]
fn root_has_the_capabilities_that_were_given() {
    let spec = process(&["cat", "/proc/self/status"]);
    assert_eq!(sets(spec.clone(), "caps-default"), [NONE, DEFAULT_SET, DEFAULT_SET, DEFAULT_SET, NONE, "0"]);
    let few = ProcessSpec { capabilities: vec!["CHOWN".into(), "NET_ADMIN".into()], ..spec.clone() };
    let set = "0000000000001001";
    assert_eq!(sets(few, "caps-few"), [NONE, set, set, set, NONE, "0"]);
    let none = ProcessSpec { capabilities: Vec::new(), no_new_privileges: true, ..spec };
    assert_eq!(sets(none, "caps-none"), [NONE, NONE, NONE, NONE, NONE, "1"]);
}

#[test]
fn another_user_has_none_but_could_gain_the_given() {
    let spec = ProcessSpec { user: "web".into(), ..process(&["cat", "/proc/self/status"]) };
    assert_eq!(sets(spec, "caps-user"), [NONE, NONE, NONE, DEFAULT_SET, NONE, "0"]);
}

#[test]
fn root_without_a_capability_cannot_do_its_work() {
    let mut spec = shell("touch /tmp/a; chown 33 /tmp/a || echo refused");
    spec.capabilities.retain(|name| name != "CHOWN");
    assert_eq!(Agent::new("caps-chown").run(spec).stdout, "refused\n");
    let outcome = Agent::new("caps-mount").run(shell("mount -t tmpfs none /tmp || echo refused"));
    assert_eq!(outcome.stdout, "refused\n");
}

#[test]
fn limits_are_set() {
    let mut spec = shell("ulimit -S -n; ulimit -H -n; ulimit -S -c");
    for (name, soft, hard) in [("nofile", 200, 300), ("core", 0, 0)] {
        spec.rlimits.push(Rlimit { name: name.into(), soft, hard });
    }
    assert_eq!(Agent::new("limits").run(spec).stdout, "200\n300\n0\n");
    let mut spec = shell("true");
    spec.rlimits.push(Rlimit { name: "nofile".into(), soft: 300, hard: 200 });
    let error = Agent::new("limits-turned").refusal(spec);
    assert!(error.message.contains("nofile"), "{error}");
}
