//! The processes of a container, proc(5).
//!
//! Invariant: what the container's processes say of themselves is cut to a bound; one that ends while it is looked at
//! is left out.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use hull_protocol::exec::ContainerProcess;
use hull_protocol::transfer::{COMMAND_MAX, PROCESSES_MAX};
use rustix::process::Pid;

use crate::signal::namespace;
use crate::user;

/// The unit of times in proc(5) on x86, in milliseconds.
const TICK_MS: u64 = 10;
/// The most that is read of a file of a process's, in bytes.
const FILE_MAX: u64 = 16 << 10;

/// The processes in the PID namespace of `first`, by their ids; `passwd` names users.
pub(crate) fn list(first: Pid, passwd: &str) -> Vec<ContainerProcess> {
    let Some(container) = namespace(first) else { return Vec::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    let inside = pids.filter(|pid| namespace(*pid).as_ref() == Some(&container));
    let mut ids = HashMap::new();
    let mut all: Vec<(u32, ContainerProcess)> = Vec::new();
    for pid in inside.take(PROCESSES_MAX) {
        if let Some((outside, parent, process)) = look(pid, passwd) {
            ids.insert(outside, process.pid);
            all.push((parent, process));
        }
    }
    let mut processes: Vec<ContainerProcess> = all
        .into_iter()
        .map(|(parent, process)| ContainerProcess { ppid: ids.get(&parent).copied().unwrap_or(0), ..process })
        .collect();
    processes.sort_by_key(|process| process.pid);
    processes
}

/// One process, with its and its parent's ids outside the container.
fn look(pid: Pid, passwd: &str) -> Option<(u32, u32, ContainerProcess)> {
    let outside = u32::try_from(pid.as_raw_nonzero().get()).ok()?;
    let place = Path::new("/proc").join(outside.to_string());
    let read = |name: &str| {
        let mut bytes = Vec::new();
        File::open(place.join(name)).ok()?.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    let status = read("status")?;
    let status = String::from_utf8_lossy(&status);
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    // The effective user, and the id in the innermost namespace.
    let uid: u32 = field("Uid")?.split_whitespace().nth(1)?.parse().ok()?;
    let pid = field("NSpid")?.split_whitespace().last()?.parse().ok()?;
    let parent = field("PPid")?.trim().parse().ok()?;
    let resident_kib: u64 =
        field("VmRSS").and_then(|size| size.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    let stat = read("stat")?;
    let stat = String::from_utf8_lossy(&stat);
    // The name, in parentheses, may hold anything: what counts is after the last one.
    let (head, tail) = stat.rsplit_once(')')?;
    let numbers: Vec<u64> = tail.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    let number = |nth: usize| numbers.get(nth.checked_sub(3)?).copied();
    let name = head.split_once('(')?.1;
    let words = read("cmdline").unwrap_or_default();
    Some((
        outside,
        parent,
        ContainerProcess {
            pid,
            ppid: 0,
            user: user::name_of(uid, passwd),
            cpu_ms: number(14)?.saturating_add(number(15)?).saturating_mul(TICK_MS),
            started_ms: number(22)?.saturating_mul(TICK_MS),
            resident: resident_kib.saturating_mul(1024),
            command: command(&words, name),
        },
    ))
}

/// A command line, its words joined by spaces.
fn command(words: &[u8], name: &str) -> String {
    let line = String::from_utf8_lossy(words);
    let line = line.trim_end_matches('\0').replace('\0', " ");
    let line = if line.is_empty() { format!("[{name}]") } else { line };
    let mut cut = line.len().min(COMMAND_MAX);
    while !line.is_char_boundary(cut) {
        cut = cut.saturating_sub(1);
    }
    line.get(..cut).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_joined_and_cut_between_characters() {
        assert_eq!(command(b"sh\0-c\0echo a\0", "sh"), "sh -c echo a");
        assert_eq!(command(b"", "kworker"), "[kworker]");
        let long = command("\u{e4}".repeat(COMMAND_MAX).as_bytes(), "x");
        assert!(long.len() <= COMMAND_MAX && long.chars().all(|c| c == '\u{e4}'));
    }

    #[test]
    fn this_process_is_among_those_of_its_namespace() {
        let own = rustix::process::getpid();
        let all = list(own, "root:x:0:0::/:/bin/sh\n");
        let id = u32::try_from(own.as_raw_nonzero().get()).unwrap_or(0);
        assert!(all.iter().any(|process| process.pid == id), "{all:?}");
    }
}
