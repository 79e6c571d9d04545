//! What a container sees of the guest around it.

use std::path::PathBuf;

use hull_protocol::agent::{Mount, MountSource};

use crate::host::{Agent, Options, shell};

#[test]
fn it_is_the_first_process_of_its_namespace() {
    let script = "echo $$; cat /proc/1/comm; set -- /proc/[0-9]*; echo $#; hostname";
    let outcome = Agent::new("first").run(shell(script));
    // The third is the shell alone.
    assert_eq!(outcome.stdout, "1\nsh\n1\nfirst\n");
}

#[test]
fn the_guests_own_files_are_out_of_sight() {
    let outcome =
        Agent::new("sight").run(shell("cut -d ' ' -f 5 /proc/self/mountinfo | sort -u; cd /..; ls"));
    let mut lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines.first(), Some(&"/"));
    lines.retain(|line| {
        line.starts_with('/') && !["/proc", "/sys", "/dev"].iter().any(|own| line.starts_with(own))
    });
    assert_eq!(lines, ["/"]);
    assert!(!outcome.stdout.contains("usr/bin/hull"), "{}", outcome.stdout);
}

#[test]
fn devices_are_those_of_every_container() {
    let script = "cd /dev; echo *; stat -c '%n %a %t:%T' null zero full random urandom tty;
        for l in fd stdin stdout stderr ptmx; do readlink $l; done; echo x > null; head -c 2 zero | wc -c; stat -c '%a' shm pts/ptmx";
    let outcome = Agent::new("devices").run(shell(script));
    let expected = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero\n\
        null 666 1:3\nzero 666 1:5\nfull 666 1:7\nrandom 666 1:8\nurandom 666 1:9\ntty 666 5:0\n\
        /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n2\n1777\n666\n";
    let without_queues = expected.replace("mqueue ", "");
    assert!([expected, &without_queues].contains(&outcome.stdout.as_str()), "{outcome:?}");
}

#[test]
fn the_kernels_own_are_masked_or_read_only() {
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list; do [ ! -e $f ] || cat $f | wc -c; done | sort -u
        ls /sys/firmware | wc -l
        for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/mm/ksm/run /sys/power/state; do
            [ ! -e $f ] || (echo h > $f) 2>&1 | grep -q 'Read-only' || echo $f can be written
        done
        grep -E ' /proc/sys | /sys ' /proc/self/mountinfo | cut -d ' ' -f 6 | tr , '\\n' | grep -cE 'ro|nosuid|nodev|noexec'";
    let outcome = Agent::new("masked").run(shell(script));
    assert_eq!(outcome.stdout, "0\n0\n8\n", "{}", outcome.stderr);
}

#[test]
fn a_read_only_root_is_just_that() {
    let options = Options { read_only: true, ..Options::default() };
    let script = "for f in /x /tmp/x /etc/hosts; do (echo x > $f) 2>/dev/null || echo $f; done; echo y > /dev/shm/x && cat /dev/shm/x";
    let outcome = Agent::with("read-only", options, |_| {}).run(shell(script));
    assert_eq!(outcome.stdout, "/x\n/tmp/x\n/etc/hosts\ny\n", "{}", outcome.stderr);
}

#[test]
fn memory_is_mounted_where_it_is_wanted_and_has_its_limits() {
    let tmpfs = |target: &str, size, mode, exec| Mount {
        target: target.into(),
        source: MountSource::Tmpfs { size, mode, exec },
    };
    let mounts = vec![
        tmpfs("/scratch", Some(64 << 10), 0o1750, false),
        // The image's link leads to a place inside, and nowhere else.
        tmpfs("/led/astray", None, 0o755, true),
        tmpfs("/dev/shm", Some(1 << 20), 0o1777, false),
    ];
    let options = Options { read_only: true, mounts, ..Options::default() };
    let script = "stat -c %a /scratch; dd if=/dev/zero of=/scratch/x bs=1k count=100; wc -c </scratch/x
        cp /bin/busybox /led/astray/echo && /led/astray/echo run; ls /var; df -k /dev/shm | tail -n 1 | awk '{print $2}'
        grep -c ' /scratch .*nosuid,nodev,noexec' /proc/self/mountinfo; rmdir /scratch; (>/x) 2>/dev/null || echo read-only";
    let link = |root: &std::path::Path| std::os::unix::fs::symlink("../../../var", root.join("led")).unwrap();
    let outcome = Agent::with("memory", options, link).run(shell(script));
    assert_eq!(outcome.stdout, "1750\n65536\nrun\nastray\n1024\n1\nread-only\n", "{}", outcome.stderr);
    assert!(outcome.stderr.contains("No space left"), "{}", outcome.stderr);
}

#[test]
fn a_root_that_may_be_written_is_written() {
    let agent = Agent::new("written");
    assert_eq!(agent.run(shell("echo x > /new; cat /new")).stdout, "x\n");
    assert_eq!(std::fs::read(agent.root().join("new")).unwrap(), b"x\n");
}

#[test]
fn it_has_a_control_group_of_its_own() {
    let place = tempfile::tempdir().unwrap();
    let options = Options { cgroups: place.path().join("hull-agent-tests"), ..Options::default() };
    let cgroups: PathBuf = options.cgroups.clone();
    let agent = Agent::with("groups", options, |_| {
        // Seen by this test alone; the groups themselves are the machine's, and go at the end.
        rustix::mount::mount("cgroup2", place.path(), "cgroup2", rustix::mount::MountFlags::empty(), None)
            .unwrap();
        std::fs::create_dir_all(&cgroups).unwrap();
    });
    let script = "cat /proc/self/cgroup | grep ^0:; cat /sys/fs/cgroup/cgroup.procs | head -n 1; mkdir /sys/fs/cgroup/x || echo read-only";
    let outcome = agent.run(shell(script));
    assert_eq!(outcome.stdout, "0::/\n1\nread-only\n", "{}", outcome.stderr);
    std::fs::remove_dir(cgroups.join("container")).unwrap();
    std::fs::remove_dir(cgroups).unwrap();
}
