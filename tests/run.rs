//! Containers from end to end: real images on a stock kernel, each in a VM of its own.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

#[path = "support/registry.rs"]
mod registry;
#[path = "support/hull.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use registry::Registry;
use support::{Hull, Namespace, Said, fixture, furnished};

#[test]
fn a_command_prints_and_nothing_else_does() {
    let said = furnished().hull(&["run", "--rm", "busybox", "echo", "hello"]);
    assert_eq!((said.status, said.stdout.as_str(), said.stderr.as_str()), (0, "hello\n", ""), "{said:?}");
}

#[test]
fn the_exit_status_is_the_commands() {
    let run = |command: &[&str]| {
        let said = furnished().hull(&[&["run", "--rm", "busybox"], command].concat());
        (said.status, said.stderr)
    };
    assert_eq!(run(&["sh", "-c", "exit 7"]), (7, String::new()));
    // Process 1 cannot be killed from inside its namespace; its child can, and the shell says how.
    assert_eq!(run(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).0, 137);
    let (status, error) = run(&["no-such-program"]);
    assert!(status == 127 && error.contains("not found"), "{status} {error}");
    let (status, error) = run(&["/etc"]);
    assert!(status == 126 && error.contains("/etc"), "{status} {error}");
}

#[test]
fn standard_input_reaches_the_command_whole_and_both_ways() {
    let hull = furnished();
    let little = hull.fed(&["run", "--rm", "-i", "busybox", "cat"], b"x\n");
    let little = Said::from(little);
    assert_eq!((little.status, little.stdout.as_str()), (0, "x\n"), "{little:?}\n{}", hull.daemon_log());
    let mut state = 1_u64;
    let bytes: Vec<u8> = (0..50 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    let output = hull.fed(&["run", "--rm", "-i", "busybox", "cat"], &bytes);
    let (back, sent) = (output.stdout == bytes, bytes.len());
    let said = (output.status, output.stdout.len(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && back, "of {sent} bytes: {said:?}\n{}", hull.daemon_log());
}

#[test]
fn the_machine_is_as_it_was_asked_for() {
    let script = "nproc; sed -n 's/^MemTotal: *//p' /proc/meminfo; id; pwd; hostname; echo $A; \
                  sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1; uname -r; date +%s; touch /made";
    let said = furnished().hull(&[
        "run",
        "--rm",
        "--cpus",
        "4",
        "--memory",
        "512m",
        "--user",
        "web",
        "--workdir",
        "/tmp",
        "--hostname",
        "guest-1",
        "-e",
        "A=b c",
        "--read-only",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    let lines: Vec<&str> = said.stdout.lines().collect();
    let [cpus, memory, id, workdir, hostname, variable, model, kernel, clock] = lines.as_slice() else {
        panic!("{said:?}")
    };
    assert_eq!(*cpus, "4");
    let kib: u64 = memory.split(' ').next().unwrap().parse().unwrap();
    assert!((400 << 10..512 << 10).contains(&kib), "{memory}");
    assert_eq!(*id, "uid=33(web) gid=33(web) groups=4(logs),33(web)");
    assert_eq!((*workdir, *hostname, *variable), ("/tmp", "guest-1", "b c"));
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let host = cpuinfo.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap();
    assert_eq!(*model, host);
    assert!(kernel.contains("cloud"), "{kernel}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let clock: u64 = clock.parse().unwrap();
    assert!(clock <= now && now - clock < 120, "the guest's clock says {clock}, the host's {now}");
    assert!(said.stderr.contains("Read-only file system"), "{said:?}");
}

#[test]
fn a_secret_is_in_the_containers_memory_alone() {
    // A daemon of its own: where others have their run directory may be on a disk.
    let hull = Hull { dir: tempfile::tempdir_in("/dev/shm").unwrap(), namespace: Namespace::new() };
    hull.furnish();
    let file = hull.dir.path().join("db");
    std::fs::write(&file, "hunter2").unwrap();
    let (db, env) =
        (format!("id=db,src={}", file.display()), "id=key,env=PATH,target=/etc/key,mode=0400,uid=33");
    let script = "cat /run/secrets/db; echo; stat -c '%a %u' /etc/key; stat -f -c %T /run/secrets/db; \
                  (echo x >/run/secrets/db) 2>/dev/null || echo read-only; env | grep -c hunter2";
    let words = ["run", "--rm", "--secret", &db, "--secret", env, "busybox", "sh", "-c", script];
    let said = hull.hull(&words);
    assert_eq!(said.stdout, "hunter2\n400 33\ntmpfs\nread-only\n0\n", "{said:?}");
}

#[test]
fn a_container_in_the_background_is_listed_logged_stopped_and_removed() {
    let hull = furnished();
    let script = "trap 'echo stopping; exit 3' TERM; echo run >>/runs; echo ready $(wc -l </runs); \
                  while :; do sleep 1; done";
    let id = hull.ok(&["run", "-d", "--name", "worker", "busybox", "sh", "-c", script]);
    let id = id.trim();
    assert!(id.len() == 32, "{id}");
    assert!(hull.ok(&["ps"]).contains("worker"));
    let refused = hull.hull(&["rm", "worker"]);
    assert!(refused.status != 0 && refused.stderr.contains("stop it first"), "{refused:?}");
    let taken = hull.hull(&["create", "--name", "worker", "busybox", "true"]);
    assert!(taken.stderr.contains("worker is taken"), "{taken:?}");
    hull.ok(&["stop", "worker"]);
    let logs = hull.ok(&["logs", "worker"]);
    assert_eq!(logs, "ready 1\nstopping\n");
    assert_eq!(hull.ok(&["wait", id]).trim(), "3");
    let inspected: serde_json::Value = serde_json::from_str(&hull.ok(&["inspect", "worker"])).unwrap();
    assert!(inspected.to_string().contains("\"stopped\""), "{inspected}");
    // What it wrote is still there at its next start; killed, it has the status of its signal.
    hull.ok(&["start", "worker"]);
    let mut follow = hull.command(&["logs", "-f", "worker"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let seen: Vec<String> = lines.map_while(Result::ok).take_while(|line| line != "ready 2").collect();
    assert_eq!(seen, ["ready 1", "stopping"]);
    hull.ok(&["kill", "worker"]);
    assert_eq!(hull.ok(&["wait", "worker"]).trim(), "137");
    assert!(follow.wait().unwrap().success(), "following a log ends with the container");
    hull.ok(&["rm", "worker"]);
    assert!(!hull.ok(&["ps", "-a"]).contains("worker"));
}

#[test]
fn a_container_is_held_to_its_limits() {
    // Of eight megabytes one passes at once, and then one a second.
    let script = "start=$(date +%s); dd if=/dev/zero of=/file bs=1M count=8 conv=fsync 2>/dev/null; \
                  echo $(($(date +%s) - start)); (for i in $(seq 20); do sleep 100 & done; echo all) 2>&1";
    let flags = ["run", "--rm", "--disk-rate", "1mb", "--pids-limit", "10", "busybox", "sh", "-c", script];
    let said = furnished().hull(&flags);
    let (took, rest) = said.stdout.split_once('\n').unwrap();
    assert!(took.parse::<u64>().unwrap() >= 6, "{said:?}");
    assert!(rest.contains("can't fork") && !rest.contains("all"), "{said:?}");
    for (flags, words) in [(["--disk-iops", "0"], "stand still"), (["--pids-limit", "0"], "1 to 4194304")] {
        let said = furnished().hull(&[&["run", "--rm"], flags.as_slice(), &["busybox", "true"]].concat());
        assert!(said.status != 0 && said.stderr.contains(words), "{said:?}");
    }
}

#[test]
fn a_full_disk_is_the_containers_own_trouble() {
    let hull = furnished();
    let before = used(hull);
    let script = "dd if=/dev/zero of=/fill bs=1M 2>/tmp/said; grep -c 'No space left' /tmp/said; exit 5";
    let said = hull.hull(&["run", "--name", "filler", "--disk-size", "64m", "busybox", "sh", "-c", script]);
    assert_eq!(said.status, 5, "{said:?}");
    let grown = used(hull).saturating_sub(before);
    assert!(grown <= 72 << 20, "the host lost {grown} bytes");
    assert_eq!(hull.ok(&["run", "--rm", "busybox", "echo", "next"]), "next\n");
    hull.ok(&["rm", "filler"]);
}

/// Bytes in use below the daemon's data directory.
fn used(hull: &Hull) -> u64 {
    fn below(path: &std::path::Path) -> u64 {
        let Ok(metadata) = path.symlink_metadata() else { return 0 };
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        metadata.blocks() * 512 + entries.map(|entry| below(&entry.path())).sum::<u64>()
    }
    below(&hull.dir.path().join("data"))
}

#[test]
fn a_pulled_image_is_file_by_file_what_umoci_makes_of_it() {
    let hull = furnished();
    let registry = Registry::start(|program, args| hull.namespace.command(program, args));
    let reference = format!("127.0.0.1:{}/python:latest", registry.port);
    let refused = hull.hull(&["pull", &reference]);
    assert!(refused.status != 0, "plain HTTP was used without being asked for: {refused:?}");
    hull.ok(&["pull", "--plain-http", &reference]);
    assert!(hull.ok(&["images"]).contains("python"));
    // What `umoci unpack` makes of the same image has been listed by the same program.
    let lister = include_str!("support/list.py");
    let expected = std::fs::read_to_string(fixture("images/python.list")).unwrap();
    let guest = hull.hull(&["run", "--rm", "--memory", "1g", &reference, "-B", "-c", lister, "/"]);
    assert_eq!(guest.status, 0, "{}", guest.stderr);
    let differing: Vec<String> = difference(&expected, &guest.stdout);
    assert!(expected.lines().count() > 4000 && differing.is_empty(), "{}", differing.join("\n"));
}

/// Lines that only one of two texts has.
fn difference(left: &str, right: &str) -> Vec<String> {
    let set = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (left, right) = (set(left), set(right));
    let only =
        |mark: &str, a: &std::collections::BTreeSet<String>, b: &std::collections::BTreeSet<String>| {
            a.difference(b).take(20).map(|line| format!("{mark} {line}")).collect::<Vec<_>>()
        };
    [only("umoci", &left, &right), only("guest", &right, &left)].concat()
}

#[test]
fn bad_input_is_refused_in_words_and_leaves_nothing() {
    let hull = furnished();
    let junk = hull.dir.path().join("junk");
    std::fs::write(&junk, vec![9_u8; 100_000]).unwrap();
    let junk = junk.to_str().unwrap();
    for (args, words) in [
        (vec!["run", "--memory", "1m", "busybox", "true"], "at least"),
        (vec!["run", "--cpus", "10000", "busybox", "true"], "1 to 64"),
        (vec!["run", "--disk-size", "1", "busybox", "true"], "--disk-size"),
        (vec!["run", "--bogus", "busybox", "true"], "--bogus"),
        (vec!["run", "--workdir", "relative", "busybox", "true"], "not absolute"),
        (vec!["run", "--name", "no/slash", "busybox", "true"], "no/slash"),
        (vec!["run", "--kernel", "nothing", "busybox", "true"], "nothing"),
        (vec!["run", "--user", "nobody-here", "busybox", "true"], "nobody-here"),
        (vec!["inspect", "nothing"], "nothing"),
        (vec!["rmi", "nothing"], "nothing"),
        (vec!["kernel", "import", junk], "kernel"),
        (vec!["import", junk, "junk"], "not a good tar archive"),
        (vec!["pull", "UPPER/case"], "UPPER"),
        (vec!["pull", "--plain-http", "127.0.0.1:1/x"], "127.0.0.1:1"),
    ] {
        let said = hull.hull(&args);
        assert!(said.status != 0 && said.stderr.contains(words), "{args:?}: {said:?}");
        assert!(!said.stderr.contains("panicked"), "{said:?}");
    }
    let left = hull.ok(&["ps", "-a", "-q"]);
    for id in left.lines() {
        hull.ok(&["rm", id]);
    }
    assert!(left.lines().count() <= 2, "left behind: {left}");
}

#[test]
fn a_directory_is_imported_and_its_image_removed() {
    let hull = furnished();
    let tree = hull.dir.path().join("tree");
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", tree.join("bin/sh")).unwrap();
    hull.ok(&["import", tree.to_str().unwrap(), "tree"]);
    let id = hull.ok(&["create", "tree", "/bin/sh", "-c", "echo *"]);
    let refused = hull.hull(&["rmi", "tree"]);
    assert!(refused.status != 0 && refused.stderr.contains("in use"), "{refused:?}");
    assert_eq!(hull.ok(&["start", "--attach", id.trim()]), "bin dev etc proc sys\n");
    hull.ok(&["rm", id.trim()]);
    hull.ok(&["rmi", "tree"]);
    assert!(!hull.ok(&["images"]).contains("tree"));
}

#[test]
fn a_terminal_has_its_size_and_its_own_status() {
    let hull = furnished();
    let inside = "tty; stty size; test -t 0 && test -t 1 && echo terminal; exit 9";
    let run =
        format!("stty rows 33 cols 77; {} run --rm -it busybox sh -c '{inside}'", env!("CARGO_BIN_EXE_hull"));
    let mut command = hull.wrapped("script", &["--quiet", "--return", "--command", &run, "/dev/null"]);
    let said = support::Said::from(command.output().unwrap());
    // `script` tells the terminal when its own input ends, and the terminal shows it.
    let shown = said.stdout.replace("^@", "");
    let lines: Vec<&str> = shown.lines().map(str::trim).collect();
    assert_eq!(
        (said.status, lines.as_slice()),
        (9, ["/dev/pts/0", "33 77", "terminal"].as_slice()),
        "{said:?}"
    );
}

#[test]
fn a_killed_daemon_loses_nothing() {
    let hull = Hull::empty();
    hull.furnish();
    let script = "i=0; while :; do i=$((i + 1)); echo line $i; [ -e /stop ] && exit 4; sleep 1; done";
    let id = hull.ok(&["run", "-d", "--name", "steady", "busybox", "sh", "-c", script]);
    let short = hull.ok(&["run", "-d", "busybox", "sh", "-c", "sleep 15; echo done; exit 6"]);
    let pid = hull.daemon_pid();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    std::thread::sleep(std::time::Duration::from_secs(3));
    // The next command starts a daemon, and it finds both where they were.
    let listed = hull.ok(&["ps", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let states: Vec<_> = listed.as_array().unwrap().iter().map(|one| (&one["id"], &one["state"])).collect();
    // The newest comes first.
    assert_eq!(states, [(&short.trim().into(), &"running".into()), (&id.trim().into(), &"running".into())]);
    assert_ne!(hull.daemon_pid(), pid);
    assert_eq!(hull.ok(&["wait", short.trim()]).trim(), "6");
    assert!(hull.ok(&["logs", short.trim()]).ends_with("done\n"));
    let before = hull.ok(&["logs", "steady"]).lines().count();
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(hull.ok(&["logs", "steady"]).lines().count() > before, "its output is not read any more");
    hull.ok(&["stop", "--time", "1", "steady"]);
    assert_eq!(hull.ok(&["wait", "steady"]).trim(), "137");
    hull.ok(&["rm", id.trim(), short.trim()]);
}

#[test]
fn the_api_refuses_what_it_does_not_know() {
    let hull = furnished();
    for (request, status, words) in [
        ("POST /v1/microvms", "400", r#"{"container":{"image":"busybox"},"memroy":1}"#),
        ("POST /v1/microvms", "404", r#"{"container":{"image":"nothing-like-it","command":["x"]}}"#),
        ("POST /v1/microvms", "400", "not json"),
        ("GET /v1/nothing", "404", ""),
        ("PUT /v1/microvms", "405", ""),
        ("DELETE /v1/microvms/none?forse=true", "400", ""),
        ("POST /v1/microvms/none/start", "404", ""),
    ] {
        let answer = hull.request(request, words);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request} {words}: {answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
}

#[test]
fn a_host_that_cannot_is_told_so() {
    let hull = Hull::empty();
    let hull_program = env!("CARGO_BIN_EXE_hull");
    let programs = std::path::Path::new(hull_program).parent().unwrap().display();
    let kernel = fixture("guest/vmlinux").display().to_string();
    let boot = format!("{hull_program} boot --kernel {kernel}");
    // Each in a mount namespace of its own, so that nothing outside changes.
    let alone = |script: &str| {
        support::Said::from(hull.wrapped("unshare", &["--mount", "sh", "-c", script]).output().unwrap())
    };
    let missing = alone(&format!("mount -t tmpfs none /dev && {boot}"));
    assert!(missing.status == 125 && missing.stderr.contains("/dev/kvm cannot be opened"), "{missing:?}");
    // The build tree may be in a home that another user cannot enter.
    let forbidden = alone(&format!(
        "mount --bind {programs} /mnt; mount -t tmpfs none /dev; mknod -m 600 /dev/kvm c 10 232; \
         setpriv --reuid 12345 --clear-groups /mnt/hull boot --kernel /mnt/hull-agent"
    ));
    assert!(forbidden.status == 125 && forbidden.stderr.contains("Permission denied"), "{forbidden:?}");
    let data = hull.dir.path().join("data").display().to_string();
    let import = format!("{hull_program} import {} busybox", fixture("busybox.tar").display());
    let full = alone(&format!("mkdir -p {data}; mount -t tmpfs -o size=1m none {data}; {import}"));
    assert!(full.status != 0 && full.stderr.contains("make room"), "{full:?}");
}
