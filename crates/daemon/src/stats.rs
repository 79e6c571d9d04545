//! What a microVM uses of its host, read from `/proc`, its control group, and the counters of its taps.
//!
//! Blocks for a moment; called from threads that may. Invariant: numbers are of the VMM that the record names, or of
//! nobody: a process id may be another's by now.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use hull_protocol::api::{Card, Microvm, State};
use hull_protocol::life::{NetUse, Stats};
use hull_protocol::units::Bytes;

use crate::cgroup::{Group, Groups};
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

/// What every link of the host's has counted, by its name.
#[derive(Debug, Default)]
struct Links(HashMap<String, NetUse>);

impl Links {
    /// Those of the network namespace that this daemon is in: `/sys` may show another's. One read for all of them.
    fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/net/dev").unwrap_or_default())
    }

    /// A line for each link: its name, then 8 numbers of what it has received and 8 of what it has sent.
    fn parse(text: &str) -> Self {
        let link = |line: &str| {
            let (name, numbers) = line.split_once(':')?;
            let numbers: Vec<&str> = numbers.split_whitespace().collect();
            let number = |position: usize| numbers.get(position)?.parse::<u64>().ok();
            // What a tap has sent, its guest has received.
            let (sent, sent_packets) = (Bytes(number(0)?), number(1)?);
            let (received, received_packets) = (Bytes(number(8)?), number(9)?);
            let name = name.trim().to_owned();
            Some((name, NetUse { received, received_packets, sent, sent_packets }))
        };
        Self(text.lines().filter_map(link).collect())
    }

    /// What went over these cards; none where there are none.
    fn of(&self, cards: &[Card]) -> Option<NetUse> {
        cards.iter().filter_map(|card| self.0.get(&card.tap).copied()).reduce(|sum, card| NetUse {
            received: Bytes(sum.received.get().saturating_add(card.received.get())),
            received_packets: sum.received_packets.saturating_add(card.received_packets),
            sent: Bytes(sum.sent.get().saturating_add(card.sent.get())),
            sent_packets: sum.sent_packets.saturating_add(card.sent_packets),
        })
    }
}

/// Measures microVMs, those of them that run.
pub fn measure_all(records: &[Microvm], groups: &Groups) -> Vec<Stats> {
    let with_cards = records.iter().any(|record| !record.cards.is_empty());
    let links = if with_cards { Links::read() } else { Links::default() };
    records.iter().filter_map(|record| measure(record, &groups.group(&record.id), &links)).collect()
}

/// Measures a microVM that runs; none for one that does not.
fn measure(record: &Microvm, group: &Group, links: &Links) -> Option<Stats> {
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
        net: links.of(&record.cards),
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
    use hull_protocol::network::Mac;

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

    #[test]
    fn what_a_tap_sends_its_guest_receives() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
                    lo:       9       9    0    0    0     0          0         0        9       9    0    0    0     0       0          0\n\
                    hull-t1:18446744073709551615 2 0 0 0 0 0 0 300 4 0 0 0 0 0 0\n\
                    hull-t2: 5 6 0 0 0 0 0 0 70 8 0 0 0 0 0 0\n\
                    hull-t3: 5 6\n";
        let links = Links::parse(text);
        let card = |tap: &str| Card {
            network_id: "1".into(),
            network: "default".into(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            ip: [10, 1, 0, 2].into(),
            ip6: std::net::Ipv6Addr::LOCALHOST,
            tap: tap.into(),
            aliases: Vec::new(),
            refused: None,
            forged: None,
        };
        let cards = ["hull-t1", "hull-t2", "hull-t3", "hull-t4"].map(card);
        let sum =
            NetUse { received: Bytes(370), received_packets: 12, sent: Bytes(u64::MAX), sent_packets: 8 };
        assert_eq!(links.of(&cards), Some(sum));
        assert_eq!((links.of(&cards[2..]), links.of(&[])), (None, None));
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_judged_without_panic(line: String) {
            let _judged = parse(&line);
            let _judged = Links::parse(&line);
        }
    }
}
