#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::*;

fn limits(shares: Option<u32>, quota: Option<u64>) -> Limits {
    let asked = HostLimits {
        cpu_shares: shares.map(|shares| shares.try_into().unwrap()),
        cpu_quota: quota.map(|quota| quota.try_into().unwrap()),
        ..HostLimits::default()
    };
    Limits { memory: Bytes::mib(512), cpus: 2, files: Bytes(0), asked }
}

fn lines(version: Version, limits: &Limits) -> Vec<String> {
    settings(version, limits).into_iter().map(|(_, file, value)| format!("{file}={value}")).collect()
}

#[test]
fn limits_are_what_the_kernel_is_told() {
    let memory = Bytes::mib(512 + 32 + 8 + 2).get();
    assert_eq!(
        lines(Version::Two, &limits(None, None)),
        [
            "cpu.weight=100".to_owned(),
            "cpu.max=max 100000".into(),
            format!("memory.max={memory}"),
            "memory.oom.group=1".into(),
            "pids.max=34".into()
        ]
    );
    let set = lines(Version::Two, &limits(Some(262_144), Some(50_000)));
    assert!(set.contains(&"cpu.weight=10000".into()) && set.contains(&"cpu.max=50000 100000".into()));
    assert!(lines(Version::Two, &limits(Some(2), None)).contains(&"cpu.weight=1".into()));
    let one = lines(Version::One, &limits(Some(512), None));
    assert_eq!(one[..3], ["cpu.shares=512", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=-1"]);
    assert_eq!(one[3], format!("memory.limit_in_bytes={memory}"));
}

#[test]
fn a_hosts_groups_are_found() {
    let one = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
               cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
               cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
               cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
    let groups = Groups::find(one, "5:memory:/machine/a\n3:cpu,cpuacct:/\n0::/\n");
    assert_eq!(groups.version, Version::One);
    let places: Vec<String> = groups.places.iter().map(|(_, place)| place.display().to_string()).collect();
    assert_eq!(places, ["/sys/fs/cgroup/cpu,cpuacct/hull", "/sys/fs/cgroup/memory/machine/a/hull"]);
    let two = Groups::find("cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n", "0::/system.slice/x\n");
    assert_eq!(two.version, Version::Two);
    assert!(two.places.iter().all(|(_, place)| place == Path::new("/sys/fs/cgroup/hull")));
    assert_eq!(two.group("ab").directories(), [Path::new("/sys/fs/cgroup/hull/ab")]);
    assert!(Groups::find("proc /proc proc rw 0 0\n", "").describe().contains("no cgroup"));
}

#[test]
fn a_group_of_this_host_limits_and_goes() {
    let groups = Groups::of_host();
    let group = groups.group(&format!("test-{}", std::process::id()));
    group.create(&limits(Some(512), Some(20_000))).unwrap();
    assert_eq!(group.entries().unwrap().len(), group.directories().len());
    assert_eq!(group.processes(), Vec::<u32>::new());
    if group.place("memory").is_some() {
        assert_eq!(group.memory_max(), Some(limits(None, None).memory_max()));
    }
    if group.place("cpu").is_some() {
        assert_eq!(group.throttled(), Some(Duration::ZERO));
    }
    group.limit(&limits(None, None)).unwrap();
    group.remove();
    assert!(group.directories().iter().all(|place| !place.exists()));
    // Once more is no failure.
    group.remove();
}

#[test]
fn a_group_is_killed_whole() {
    let group = Groups::of_host().group(&format!("killed-{}", std::process::id()));
    group.create(&limits(None, None)).unwrap();
    let sleep = || Command::new("sleep").arg("100").spawn().unwrap();
    let (mut inside, mut outside) = (sleep(), sleep());
    for mut entry in group.entries().unwrap() {
        write!(entry, "{}", inside.id()).unwrap();
    }
    if group.directories().is_empty() {
        inside.kill().unwrap();
    } else {
        assert_eq!(group.processes(), [inside.id()]);
    }
    group.kill();
    assert_eq!(inside.wait().unwrap().signal(), Some(9));
    assert!(outside.try_wait().unwrap().is_none());
    outside.kill().unwrap();
    outside.wait().unwrap();
    group.remove();
    assert!(group.directories().iter().all(|place| !place.exists()));
}
