//! Random operations on twenty microVMs while the daemon is killed at random moments, and their VMMs with it: after
//! each round nothing is lost and nothing is left behind. A stand-in takes the VMM's place, but with `HULL_REAL`.
//!
//! `HULL_KILL_ROUNDS` is how many rounds, `HULL_KILL_SEED` replays those of a run that failed: the seed is printed.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/daemon.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Daemon, patience, real, spec};

const MICROVMS: usize = 20;
const ROUNDS: u64 = 40;
/// The threads that send operations; each has some microVMs of its own, so that it knows what became of them.
const CLIENTS: usize = 5;
/// The longest a daemon lives in a round, in milliseconds; with real guests, too, some come as far as to run.
const LIFE: u64 = 250;
const REAL_LIFE: u64 = 20_000;
/// What ends a stand-in's guest as it would end if its agent died.
const AGENT_DIES: &str = "panic";

/// Numbers that a seed decides.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What a client knows of a microVM, after answers and requests that were not answered any more.
#[derive(Clone, Debug, Default)]
struct Known {
    id: Option<String>,
    /// It may be there or not: the daemon died before it answered.
    unsure: bool,
    /// The last answer said that it was stopped, and nobody has asked for a start since.
    stopped: bool,
    /// Its label, as the last answered change has it, and as one that was not answered may have.
    labels: BTreeSet<String>,
}

/// One operation; what is known afterwards.
fn operate(daemon: &Daemon, name: &str, mut known: Known, random: &mut Random) -> Known {
    let choice = random.below(17);
    let number = random.below(1000).to_string();
    let Some(id) = known.id.clone().filter(|_| !known.unsure) else { return make(daemon, name, random) };
    let path = |below: &str| format!("/v1/microvms/{id}{below}");
    let (line, body) = match choice {
        0..5 => (("POST", path("/start")), None),
        5..7 => (("POST", path("/stop?grace=0")), None),
        7 => (("POST", path("/kill")), None),
        8 => (("POST", path("/pause")), None),
        9 => (("POST", path("/unpause")), None),
        10..12 => (("POST", path("/restart?grace=0")), None),
        12..14 => (("PATCH", path("")), Some(json!({"labels": {"number": number}}))),
        14 => (("DELETE", path("?force=false")), None),
        15 => (("DELETE", path("?force=true")), None),
        _ => {
            kill_agent(daemon, &path("/exec"));
            return known;
        }
    };
    let before = known.clone();
    known.stopped &= !matches!(choice, 0..5 | 10..12);
    if body.is_some() {
        known.labels.insert(number.clone());
    }
    match daemon.try_ask(line.0, &line.1, body.as_ref()) {
        Err(_) => known.unsure = line.0 == "DELETE",
        Ok((204, _)) if line.0 == "DELETE" => known = Known::default(),
        Ok((200, _)) if body.is_some() => known.labels = [number].into(),
        Ok((200, _)) if (5..7).contains(&choice) => known.stopped = true,
        // Refused: nothing was done.
        Ok((409, _)) => known = before,
        Ok((status, answer)) => assert!(status < 300, "{line:?}: {status} {answer}\n{}", daemon.log()),
    }
    known
}

/// Has the guest's agent die, where it runs.
fn kill_agent(daemon: &Daemon, path: &str) {
    let made = daemon.try_ask("POST", path, Some(&json!({"command": [AGENT_DIES]})));
    let Ok((201, made)) = made else { return };
    let start = format!("/v1/exec/{}/start?detach=true", made["id"].as_str().unwrap());
    let _it_dies_while_it_answers = daemon.try_ask("POST", &start, None);
}

fn make(daemon: &Daemon, name: &str, random: &mut Random) -> Known {
    let command: &[&str] = match random.below(4) {
        0 => &["sleep", "50"],
        1 => &["exit", "3"],
        2 => &["stubborn"],
        _ => &["stay"],
    };
    let policy = ["no", "no", "on-failure:1", "unless-stopped"][random.below(4) as usize];
    let more = json!({"restart": policy, "labels": {"number": "0"}});
    let answer = daemon.try_ask("POST", "/v1/microvms", Some(&spec(name, command, more)));
    let labels = BTreeSet::from(["0".to_owned()]);
    match answer {
        Ok((201, made)) => {
            Known { id: made["id"].as_str().map(str::to_owned), unsure: false, stopped: true, labels }
        }
        // One that was not answered has it.
        Ok((409, answer)) => {
            assert_eq!(answer["type"], "/problems/name-taken");
            Known { unsure: true, ..Known::default() }
        }
        Ok((status, answer)) => panic!("{status} {answer}\n{}", daemon.log()),
        Err(_) => Known { unsure: true, ..Known::default() },
    }
}

fn name(number: usize) -> String {
    format!("vm-{number}")
}

/// One round: operations until the daemon is killed, and some of the VMMs.
fn round(daemon: &mut Daemon, all: &mut [Known], seed: u64) {
    let mut random = Random(seed | 1);
    let life = Duration::from_millis(random.below(if real() { REAL_LIFE } else { LIFE }));
    let began = Instant::now();
    thread::scope(|scope| {
        let shared = &*daemon;
        for (client, mine) in all.chunks_mut(MICROVMS / CLIENTS).enumerate() {
            let mut random = Random(random.below(u64::MAX) | 1);
            scope.spawn(move || {
                while began.elapsed() < life {
                    let at = random.below(mine.len() as u64) as usize;
                    let name = name(client * (MICROVMS / CLIENTS) + at);
                    mine[at] = operate(shared, &name, std::mem::take(&mut mine[at]), &mut random);
                }
            });
        }
        // Killed while the clients are still at it: they hear no more of what they asked for last.
        thread::sleep(life);
        shared.kill_now();
    });
    daemon.kill();
    if random.below(3) == 0 {
        for pid in daemon.vmms().into_iter().filter(|_| random.below(4) == 0) {
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            let _ended_meanwhile = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    daemon.spawn();
}

/// The records, once nothing is on its way any more.
fn settled(daemon: &Daemon) -> Vec<Value> {
    let since = Instant::now();
    loop {
        let (_, list) = daemon.ask("GET", "/v1/microvms", None);
        let list = list.as_array().unwrap().clone();
        // Those with a policy may go round for ever, and where guests boot slowly one of them is always about to start.
        let moving = |record: &Value| match record["state"].as_str().unwrap() {
            "starting" => record["spec"]["restart"] == "no",
            state => state == "stopping",
        };
        if !list.iter().any(moving) {
            return list;
        }
        assert!(
            since.elapsed() < patience(Duration::from_secs(90)),
            "it does not settle: {list:?}\n{}",
            daemon.log()
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// What must be true after every round; in words, what is not.
fn wrong(daemon: &Daemon, all: &[Known]) -> Vec<String> {
    let records = settled(daemon);
    let mut wrong = Vec::new();
    let text = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    for (number, known) in all.iter().enumerate() {
        let found = records.iter().find(|record| text(record, "name") == name(number));
        let found_id = found.map(|record| text(record, "id"));
        if !known.unsure && found_id != known.id {
            wrong.push(format!("{} is known as {known:?} and found as {found:?}", name(number)));
        }
        let Some(record) = found.filter(|_| !known.unsure && known.id.is_some()) else { continue };
        let label = record["spec"]["labels"]["number"].as_str().unwrap_or_default();
        if !known.labels.contains(label) {
            wrong.push(format!("the label of {record} is none of {:?}", known.labels));
        }
        let policy = text(&record["spec"], "restart");
        let rests = ["created", "stopped", "failed"].contains(&text(record, "state").as_str());
        if known.stopped && !rests {
            wrong.push(format!("it was stopped and was started by nobody: {record}"));
        }
        if policy == "no" && record["restarts"] != 0 {
            wrong.push(format!("it was restarted without a policy: {record}"));
        }
    }
    let ids: BTreeSet<String> = records.iter().map(|record| text(record, "id")).collect();
    let kept = names(&daemon.data().join("microvms"), 32);
    // One whose policy starts it may be anywhere between two runs: those are looked at for their directories only.
    if kept != ids {
        wrong.push(format!("directories {kept:?} of microVMs {ids:?}"));
    }
    wrong.extend(orphans(daemon, &records));
    wrong
}

/// Processes, sockets and control groups that no record explains.
fn orphans(daemon: &Daemon, records: &[Value]) -> Vec<String> {
    let alive: Vec<&Value> = records
        .iter()
        .filter(|record| ["running", "paused"].contains(&record["state"].as_str().unwrap()))
        .collect();
    let restless: BTreeSet<&str> = records
        .iter()
        .filter(|record| record["spec"]["restart"] != "no")
        .filter_map(|record| record["id"].as_str())
        .collect();
    let mut wrong = Vec::new();
    let pids: BTreeSet<u64> = alive.iter().filter_map(|record| record["vmm_pid"].as_u64()).collect();
    let running = daemon.vmms();
    // A policy may have started or ended one since the list was made.
    let lost = pids.difference(&running).count();
    let more = running.difference(&pids).count();
    if lost + more > restless.len() {
        wrong.push(format!("processes {running:?} of microVMs {pids:?}"));
    }
    let expected: BTreeSet<String> =
        alive.iter().map(|record| record["id"].as_str().unwrap()[..12].to_owned()).collect();
    let found = names(&daemon.dir.path().join("run"), 12);
    let unexplained =
        found.symmetric_difference(&expected).filter(|id| !restless.iter().any(|one| one.starts_with(*id)));
    wrong.extend(unexplained.map(|id| format!("sockets of {id} are there or missing")));
    let ids: BTreeSet<&str> = alive.iter().filter_map(|record| record["id"].as_str()).collect();
    let ours = |id: &str| records.iter().any(|record| record["id"] == id);
    for group in groups().iter().filter(|group| ours(group)) {
        if !ids.contains(group.as_str()) && !restless.contains(group.as_str()) {
            wrong.push(format!("a control group of {group} is left"));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    if mounts.contains(daemon.dir.path().to_str().unwrap()) {
        wrong.push("a mount is left".into());
    }
    wrong
}

/// Directories that are named by so many hexadecimal digits.
fn names(place: &Path, digits: usize) -> BTreeSet<String> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.len() == digits && name.bytes().all(|byte| byte.is_ascii_hexdigit())).collect()
}

/// Control groups of VMMs, whosever they are.
fn groups() -> BTreeSet<String> {
    fn below(place: &Path, depth: usize, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let path = entry.path();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name() == "hull" {
                found.extend(names(&path, 32));
            } else if depth > 0 {
                below(&path, depth - 1, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    below(Path::new("/sys/fs/cgroup"), 3, &mut found);
    found
}

#[test]
fn nothing_is_lost_and_nothing_is_left_behind() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("HULL_KILL_SEED").unwrap_or(now.as_millis() as u64);
    let rounds = number("HULL_KILL_ROUNDS").unwrap_or(ROUNDS);
    println!("HULL_KILL_SEED={seed} HULL_KILL_ROUNDS={rounds}");
    let mut daemon = Daemon::start(&["--cpu-overcommit", "1000", "--memory-overcommit", "1000"]);
    let mut all = vec![Known::default(); MICROVMS];
    let mut random = Random(seed | 1);
    for round_number in 0..rounds {
        round(&mut daemon, &mut all, random.below(u64::MAX));
        // What runs may end at any moment, also between two looks: what is wrong must stay so.
        let since = Instant::now();
        let mut found = wrong(&daemon, &all);
        while !found.is_empty() && since.elapsed() < patience(Duration::from_secs(5)) {
            thread::sleep(Duration::from_millis(50));
            found = wrong(&daemon, &all);
        }
        assert!(found.is_empty(), "seed {seed}, round {round_number}: {found:#?}\n{}", daemon.log());
        learn(&daemon, &mut all);
        if real() {
            println!("round {round_number} holds");
        }
    }
    // Everything can be removed, whatever it went through.
    for record in settled(&daemon) {
        let path = format!("/v1/microvms/{}?force=true", record["id"].as_str().unwrap());
        let (status, answer) = daemon.ask("DELETE", &path, None);
        assert_eq!(status, 204, "{answer}");
    }
    assert_eq!(daemon.vmms(), BTreeSet::new());
    assert_eq!(names(&daemon.data().join("microvms"), 32), BTreeSet::new());
}

/// What was not sure is looked up, so that the next round begins with knowledge.
fn learn(daemon: &Daemon, all: &mut [Known]) {
    let (_, records) = daemon.ask("GET", "/v1/microvms", None);
    for (number, known) in all.iter_mut().enumerate().filter(|(_, known)| known.unsure) {
        let record =
            records.as_array().unwrap().iter().find(|record| record["name"] == name(number).as_str());
        let id = record.and_then(|record| record["id"].as_str()).map(str::to_owned);
        let label = record.and_then(|record| record["spec"]["labels"]["number"].as_str());
        *known = Known { id, labels: label.map(str::to_owned).into_iter().collect(), ..Known::default() };
    }
}
