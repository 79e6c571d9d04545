//! A control group of the test's own that holds one VMM: guest memory and a bound on all else.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use hull_daemon::cgroup::{Group, Groups, Limits};
use hull_protocol::life::HostLimits;
use hull_protocol::units::Bytes;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A group whose processes hold no more than so much, wherever the kernel counts memory. It goes with the value.
pub struct MemoryGroup {
    group: Group,
    place: PathBuf,
}

impl MemoryGroup {
    /// A group for a guest with this memory, with so much beyond; none on a host that cannot limit memory.
    pub fn new(memory: Bytes, beyond: Bytes) -> Option<Self> {
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let group = Groups::of_host().group(&name);
        let place = group.place("memory")?.to_owned();
        let asked = HostLimits::default();
        group.create(&Limits { memory, cpus: 1, files: Bytes(0), asked }).unwrap();
        let group = Self { group, place };
        // Less than the daemon would give.
        fs::write(
            group.file(["memory.max", "memory.limit_in_bytes"]),
            (memory.get() + beyond.get()).to_string(),
        )
        .unwrap();
        Some(group)
    }

    /// Where a process writes its number to enter it.
    pub fn door(&self) -> PathBuf {
        self.place.join("cgroup.procs")
    }

    /// The same, open: of all controllers.
    pub fn entries(&self) -> Vec<File> {
        self.group.entries().unwrap()
    }

    /// The most it has held at a time.
    pub fn peak(&self) -> Bytes {
        let text = fs::read_to_string(self.file(["memory.peak", "memory.max_usage_in_bytes"])).unwrap();
        Bytes(text.trim().parse().unwrap())
    }

    /// How often a process of it was killed because nothing could be given back.
    pub fn killed(&self) -> u64 {
        let text = fs::read_to_string(self.file(["memory.events", "memory.oom_control"])).unwrap();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().parse().unwrap()
    }

    /// One of these: version 2 and version 1 have their own names for it.
    fn file(&self, names: [&str; 2]) -> PathBuf {
        names.map(|name| self.place.join(name)).into_iter().find(|file| file.exists()).unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        self.group.remove();
    }
}
