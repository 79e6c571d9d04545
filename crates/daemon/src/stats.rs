//! What a microVM uses of its host, read from `/proc` and its control group.
//!
//! Blocks for a moment; called from threads that may. Invariant: numbers are of the VMM that the record names, or of
//! nobody: a process id may be another's by now.

use std::fs;
use std::time::Duration;

use hull_protocol::api::{Microvm, State};
use hull_protocol::life::Stats;
use hull_protocol::units::Bytes;

use crate::cgroup::Group;
use crate::clock::unix_ns;
use crate::plan;

/// The name of a VMM's process.
const COMMAND: &str = "hull-vmm";

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    /// In clock ticks; the guest's own is part of it.
    cpu: u64,
    guest: u64,
    threads: u32,
    /// In pages.
    resident: u64,
}

/// Measures a microVM that runs; none for one that does not.
pub fn measure(record: &Microvm, group: &Group) -> Option<Stats> {
    let alive = matches!(record.state, State::Starting | State::Running | State::Paused | State::Stopping);
    let pid = record.vmm_pid.filter(|_| alive)?;
    let process = parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    // Not to be had for everybody's processes.
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let (cpus, guest_memory) = plan::size(&record.spec);
    let nanoseconds = |ticks: u64| {
        let each = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        ticks.saturating_mul(each)
    };
    Some(Stats {
        id: record.id.clone(),
        name: record.name.clone(),
        time_unix_ns: unix_ns(),
        state: record.state,
        cpus,
        cpu_ns: nanoseconds(process.cpu),
        guest_cpu_ns: nanoseconds(process.guest),
        throttled_ns: group
            .throttled()
            .map(|time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
        memory: Bytes(process.resident.saturating_mul(rustix::param::page_size() as u64)),
        guest_memory,
        memory_limit: group.memory_max(),
        threads: process.threads,
        disk_read: Bytes(field(&io, "read_bytes")),
        disk_written: Bytes(field(&io, "write_bytes")),
    })
}

/// Reads the line of a VMM, proc(5).
fn parse(stat: &str) -> Option<Process> {
    // The name is in brackets and may hold anything, brackets too.
    let (head, rest) = stat.rsplit_once(") ")?;
    if head.split_once('(')?.1 != COMMAND {
        return None;
    }
    let words: Vec<&str> = rest.split_whitespace().collect();
    // The first word is the third field.
    let number = |position: usize| words.get(position.checked_sub(3)?)?.parse::<u64>().ok();
    Some(Process {
        cpu: number(14)?.saturating_add(number(15)?),
        guest: number(43)?,
        threads: u32::try_from(number(20)?).unwrap_or(u32::MAX),
        resident: number(24)?,
    })
}

fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vmms_line_is_read_and_anybody_elses_is_not() {
        let line = "7 (hull-vmm) S 1 7 7 0 -1 4194560 9 0 1 0 150 50 0 0 20 0 5 0 99 1000 77 0 1 1 0 0 0 0 0 0 0 0 0 \
                    0 17 1 0 0 0 30 0 0 0 0 0 0 0 0 0";
        let expected = Process { cpu: 200, guest: 30, threads: 5, resident: 77 };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(&line.replace("(hull-vmm)", "(x) (hull-vmm)")), None);
        assert_eq!(parse(&line.replace("(hull-vmm)", "(bash)")), None);
        assert_eq!(parse("7 (hull-vmm) S 1"), None);
        assert_eq!(field("rchar: 1\nread_bytes: 4096\nwrite_bytes: x\n", "read_bytes"), 4096);
        assert_eq!(field("write_bytes: x\n", "write_bytes"), 0);
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_judged_without_panic(line: String) {
            let _judged = parse(&line);
        }
    }
}
