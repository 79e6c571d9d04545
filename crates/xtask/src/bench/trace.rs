//! The kernel's tracing, as far as a boot is measured with it (Documentation/trace/ftrace.rst, events.rst and
//! histogram.rst).

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

const TRACING: &str = "/sys/kernel/debug/tracing";
const EXEC: &str = "syscalls/sys_enter_execve";
const CALL: &str = "raw_syscalls/sys_enter";
const ENTRY: &str = "kvm/kvm_entry";
const EXIT: &str = "kvm/kvm_exit";
const USER_EXIT: &str = "kvm/kvm_userspace_exit";
/// What marks the guest's first line in the trace.
const LINE: &str = "first line";

/// When things happened in one boot, in microseconds from the VMM's exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The first entry into the guest.
    pub first_entry: u64,
    /// The guest's first line.
    pub first_line: u64,
}

/// Prepares the tracing of times; it begins with [`start`].
pub fn prepare_times() -> Result<()> {
    reset()?;
    enable(EXEC, true)?;
    enable(ENTRY, true)?;
    // Only the first entry counts: the exit after it turns the event off, so that the others cost next to nothing.
    write(&format!("events/{EXIT}/trigger"), "disable_event:kvm:kvm_entry:1")
}

/// Prepares the count of exits to user space.
pub fn prepare_counts() -> Result<()> {
    reset()?;
    write(&format!("events/{USER_EXIT}/trigger"), "hist:keys=reason")
}

/// Begins.
pub fn start() -> Result<()> {
    write("tracing_on", "1")
}

/// The guest has said its first line.
pub fn mark_line() -> Result<()> {
    write("trace_marker", LINE)
}

/// Ends the tracing of times; returns what it saw.
pub fn times() -> Result<Times> {
    write("tracing_on", "0")?;
    times_in(&read("trace")?)
}

/// Exits to user space until now, by reason.
pub fn user_exits() -> Result<BTreeMap<String, u64>> {
    Ok(hits(&read(&format!("events/{USER_EXIT}/hist"))?))
}

/// Begins to count system calls, by thread, from zero.
pub fn count_calls() -> Result<()> {
    let trigger = format!("events/{CALL}/trigger");
    // There is none before the first time.
    let _none = write(&trigger, "!hist:keys=common_pid:size=4096");
    write(&trigger, "hist:keys=common_pid:size=4096")?;
    write("tracing_on", "1")
}

/// Ends it: the calls of each thread, by its number.
pub fn calls() -> Result<BTreeMap<String, u64>> {
    let calls = hits(&read(&format!("events/{CALL}/hist"))?);
    write(&format!("events/{CALL}/trigger"), "!hist:keys=common_pid:size=4096")?;
    Ok(calls)
}

fn times_in(trace: &str) -> Result<Times> {
    let first = |event: &str| {
        trace
            .lines()
            .find_map(|line| microseconds(line.split_once(&format!(": {event}"))?.0))
            .with_context(|| format!("the trace has no {event}:\n{trace}"))
    };
    let exec = first("sys_execve(")?;
    let since =
        |event| -> Result<u64> { first(event)?.checked_sub(exec).context("the trace goes back in time") };
    Ok(Times {
        first_entry: since("kvm_entry:")?,
        first_line: since(&format!("tracing_mark_write: {LINE}"))?,
    })
}

/// The time at the end of a line's head, `task-12 [000] ..... 34.567890`.
fn microseconds(head: &str) -> Option<u64> {
    let (seconds, fraction) = head.rsplit(' ').next()?.split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    (fraction.len() == 6).then_some(())?;
    Some(seconds * 1_000_000 + fraction.parse::<u64>().ok()?)
}

/// Reads the lines `{ reason: 2 } hitcount: 13` of a histogram.
fn hits(histogram: &str) -> BTreeMap<String, u64> {
    histogram
        .lines()
        .filter_map(|line| {
            let (key, count) = line.strip_prefix('{')?.split_once('}')?;
            let (_, key) = key.split_once(':')?;
            Some((key.trim().to_owned(), count.trim().strip_prefix("hitcount:")?.trim().parse().ok()?))
        })
        .collect()
}

fn reset() -> Result<()> {
    write("tracing_on", "0")?;
    write("trace_clock", "mono")?;
    for (event, trigger) in
        [(EXIT, "!disable_event:kvm:kvm_entry:1"), (USER_EXIT, "!hist:keys=reason"), (ENTRY, ""), (EXEC, "")]
    {
        enable(event, false)?;
        if !trigger.is_empty() {
            // There is none before the first boot.
            let _none = write(&format!("events/{event}/trigger"), trigger);
        }
    }
    write("trace", "")
}

fn enable(event: &str, on: bool) -> Result<()> {
    write(&format!("events/{event}/enable"), if on { "1" } else { "0" })
}

fn write(file: &str, text: &str) -> Result<()> {
    let path = Path::new(TRACING).join(file);
    let open = fs::OpenOptions::new().write(true).truncate(true).open(&path);
    open.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing '{text}' to {}", path.display()))
}

fn read(file: &str) -> Result<String> {
    let path = Path::new(TRACING).join(file);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_the_first_exec() {
        let trace = "\
            xtask-200     [000] .....    12.000100: sys_execve(filename: 7ffd, argv: 1, envp: 2)\n\
            hull-201      [000] .....    12.001000: sys_execve(filename: 7ffd, argv: 1, envp: 2)\n\
            vcpu0-203     [000] .....    12.010200: kvm_entry: vcpu 0, rip 0x1000000\n\
            xtask-200     [000] .....    13.500100: tracing_mark_write: first line\n";
        let expected = Times { first_entry: 10_100, first_line: 1_500_000 };
        assert!(times_in(trace).is_ok_and(|times| times == expected));
        assert!(times_in("").is_err());
    }

    #[test]
    fn histograms_are_read() {
        let histogram = "# event histogram\n\n{ reason:          2 } hitcount:        344\n\
                         { reason:          6 } hitcount:         12\n\nTotals:\n    Hits: 356\n";
        assert_eq!(hits(histogram), BTreeMap::from([("2".into(), 344), ("6".into(), 12)]));
    }
}
