//! Plain VMs on a daemon's networks: a real VMM, with a guest without an operating system whose address is 10.77.0.2.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::support::fixture;
use super::world::{World, runs};

const NET: &str = "network=plain,ip=10.77.0.2,mac=02:00:00:00:00:07";
/// How soon what has ended must be known to have.
const LIMIT: Duration = Duration::from_secs(60);

impl World {
    fn boot(&self, cmdline: &str) -> Command {
        let bare = fixture("bare/bare");
        let args = ["boot", "--memory", "32m", "--cmdline", cmdline, "--net", NET, "--kernel"];
        self.hull.command(&[&args[..], &[bare.to_str().unwrap()]].concat())
    }

    /// The addresses that plain VMs have.
    fn plain(&self) -> Vec<String> {
        let shown = self.inspect(&["network", "inspect", "plain"]);
        let cards = shown["plain"].as_array().cloned().unwrap_or_default();
        cards.iter().map(|card| card["ip"].as_str().unwrap().to_owned()).collect()
    }
}

/// A guest that waits, from when it has sent its frames on.
fn waiting(mut command: Command) -> Child {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.take_while(|line| !line.contains("FAIL")).any(|line| line.contains("ok net forged")));
    child
}

/// The process below this one that runs a program.
fn below(child: &Child, program: &str) -> String {
    let of = |parent: &str| {
        let path = format!("/proc/{parent}/task/{parent}/children");
        std::fs::read_to_string(path).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut found = vec![child.id().to_string()];
    while let Some(pid) = found.pop() {
        if std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() == program {
            return pid;
        }
        found.extend(of(&pid));
    }
    panic!("no {program}");
}

fn kill(pid: &str) {
    assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    while runs(pid) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_plain_vm_has_a_lease_while_it_runs() {
    let world = World::new();
    world.ok(&["network", "create", "--subnet", "10.77.0.0/24", "plain"]);
    // The guest asks its gateway for its card's address, and gets the answer.
    let ended = world.boot("do=drive end=off").output().unwrap();
    let (said, told) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success() && said.contains("ok net works"), "{said}{told}");
    assert!(
        told.contains("addresses 10.77.0.2/24 and ") && told.contains("gateway and name server 10.77.0.1"),
        "{told}"
    );
    assert!(world.plain().is_empty(), "the lease is not given back");
    // While it runs nobody else has its address, and the network stays; a daemon that dies takes nothing along.
    let mut child = waiting(world.boot("do=forge end=wait"));
    for _ in 0..2 {
        assert_eq!(world.plain(), ["10.77.0.2"]);
        let taken = world.boot("do=drive end=off").output().unwrap();
        let told = String::from_utf8_lossy(&taken.stderr);
        assert!(!taken.status.success() && told.contains("10.77.0.2 is in use"), "{told}");
        assert!(world.refused(&["network", "rm", "plain"]).contains("in use by 1 of 'hull boot'"));
        kill(&world.hull.daemon_pid());
    }
    assert!(world.ip(&["-br", "link"]).contains("hull-t"));
    // Nobody gives it back when everything is killed.
    let vmm = below(&child, "hull-vmm");
    kill(&below(&child, "hull"));
    kill(&vmm);
    child.wait().unwrap();
    let start = Instant::now();
    while !world.plain().is_empty() {
        assert!(start.elapsed() < LIMIT, "a lease is left");
        std::thread::sleep(Duration::from_millis(200));
    }
    world.ok(&["network", "rm", "plain"]);
    world.assert_nothing_left();
    let missing = world.boot("do=drive end=off").output().unwrap();
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no network 'plain'"));
}
