//! Control groups, version 2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One group, by its directory.
#[derive(Clone, Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a group under `parent` and hands it every controller the parent has.
    ///
    /// # Errors
    /// When the directory cannot be made. A controller that cannot be handed down is left out.
    pub fn create(parent: &Path, name: &str) -> io::Result<Self> {
        let available = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
        for controller in available.split_whitespace() {
            // One at a time: a controller that is busy elsewhere must not keep the others away.
            let _without_it = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let directory = parent.join(name);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self(directory)),
        }
    }

    /// A group that is already there.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Moves the calling process into it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.procs"), "0")
    }

    /// Lets it have at most so many processes and threads.
    ///
    /// # Errors
    /// When the kernel cannot, or has no such controller here.
    pub fn limit_processes(&self, most: u32) -> io::Result<()> {
        fs::write(self.0.join("pids.max"), most.to_string())
    }

    /// How many of its processes the kernel has killed for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        let events = fs::read_to_string(self.0.join("memory.events")).unwrap_or_default();
        let value = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_without_events_counts_none() {
        assert_eq!(Cgroup::at("/nonexistent").oom_kills(), 0);
    }
}
