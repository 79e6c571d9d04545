//! Control groups of VMMs on the host: Linux's cgroup version 2, and of version 1 what it can.
//!
//! One group for each VMM, made before it and entered by it before all else. Owner: the run of a microVM; the limits
//! are written by its actor. Invariants: what a limit is worth is computed by [`settings`], which is pure; a host
//! without control groups runs microVMs without limits, and says so.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hull_protocol::life::{CPU_PERIOD, HostLimits};
use hull_protocol::units::Bytes;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The directory that holds every VMM's group.
const PARENT: &str = "hull";
/// The controllers that limit a VMM.
pub const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
const SHARES_DEFAULT: u32 = 1024;
/// How often, and how long apart, an emptied group is tried: the kernel may still be burying its last process.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(20);

/// The most memory a VMM may take beyond its guest's: its own, the kernel's tables for the guest's pages, the threads
/// of its processors, and room for what it reads and writes.
pub fn overhead(memory: Bytes, cpus: u8) -> Bytes {
    let tables = memory.get() / 64;
    Bytes(Bytes::mib(32).get().saturating_add(tables).saturating_add(Bytes::mib(u64::from(cpus)).get()))
}

/// What one VMM is limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The guest's memory.
    pub memory: Bytes,
    /// Its processors.
    pub cpus: u8,
    /// What it may write to files that are kept in memory: such a file system counts them as their writer's.
    pub files: Bytes,
    /// What the user asked for.
    pub asked: HostLimits,
}

impl Limits {
    /// The most memory its VMM can hold.
    pub fn memory_max(&self) -> Bytes {
        let own = self.memory.get().saturating_add(overhead(self.memory, self.cpus).get());
        Bytes(own.saturating_add(self.files.get()))
    }
}

/// Which version of control groups a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The files of a group and what is written to them: controller, file, value.
fn settings(version: Version, limits: &Limits) -> Vec<(&'static str, &'static str, String)> {
    let shares = limits.asked.cpu_shares.map_or(SHARES_DEFAULT, u32::from);
    let quota = limits.asked.cpu_quota.map(u64::from);
    let memory = limits.memory_max().get().to_string();
    // Its processors, its other threads, and the kernel's workers for it.
    let pids = (u32::from(limits.cpus) + 32).to_string();
    match version {
        Version::Two => vec![
            // The kernel's own mapping: 1,024 shares are the weight 100.
            ("cpu", "cpu.weight", (u64::from(shares) * 100 / 1024).clamp(1, 10_000).to_string()),
            (
                "cpu",
                "cpu.max",
                quota.map_or_else(|| format!("max {CPU_PERIOD}"), |quota| format!("{quota} {CPU_PERIOD}")),
            ),
            ("memory", "memory.max", memory),
            ("memory", "memory.oom.group", "1".into()),
            ("pids", "pids.max", pids),
        ],
        Version::One => vec![
            ("cpu", "cpu.shares", shares.to_string()),
            ("cpu", "cpu.cfs_period_us", CPU_PERIOD.to_string()),
            ("cpu", "cpu.cfs_quota_us", quota.map_or_else(|| "-1".into(), |quota| quota.to_string())),
            ("memory", "memory.limit_in_bytes", memory),
            ("pids", "pids.max", pids),
        ],
    }
}

/// Where a host's groups are.
#[derive(Clone, Debug)]
pub struct Groups {
    version: Version,
    /// Controllers and the directory in which their groups are made; all the same one in version 2.
    places: Vec<(&'static str, PathBuf)>,
    /// What is not there, in words.
    missing: Option<String>,
}

impl Groups {
    /// Those of this host, as far as this process may use them.
    pub fn of_host() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut groups = Self::find(&mounts, &own);
        if !groups.places.is_empty() && !rustix::process::geteuid().is_root() {
            groups.places.clear();
            groups.missing = Some("not there: the daemon does not run as root".into());
        }
        groups.prepare();
        groups
    }

    /// None at all.
    pub fn none(why: &str) -> Self {
        Self { version: Version::Two, places: Vec::new(), missing: Some(why.into()) }
    }

    /// From what the kernel says of its mounts and of this process's groups.
    fn find(mounts: &str, own: &str) -> Self {
        let mounts: Vec<[&str; 3]> = mounts
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ').skip(1);
                Some([words.next()?, words.next()?, words.next()?])
            })
            .collect();
        let place_one = |controller: &'static str| {
            let has = |options: &str| options.split(',').any(|option| option == controller);
            let [mount, ..] = mounts.iter().find(|[_, kind, options]| *kind == "cgroup" && has(options))?;
            // Below its own group, so that what limits this process limits its VMMs, too.
            let group = own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|named| named == controller).then_some(path)
            });
            let group = group.unwrap_or("/").trim_start_matches('/');
            Some((controller, Path::new(mount).join(group).join(PARENT)))
        };
        let one: Vec<_> = CONTROLLERS.into_iter().filter_map(place_one).collect();
        if !one.is_empty() {
            return Self { version: Version::One, places: one, missing: None };
        }
        match mounts.iter().find(|[_, kind, _]| *kind == "cgroup2") {
            Some([mount, ..]) => {
                let place = Path::new(mount).join(PARENT);
                let places = CONTROLLERS.into_iter().map(|controller| (controller, place.clone())).collect();
                Self { version: Version::Two, places, missing: None }
            }
            None => Self::none("not there: no cgroup file system is mounted"),
        }
    }

    /// Makes the parents, and lets go of controllers that cannot be had.
    fn prepare(&mut self) {
        let version = self.version;
        let mut missing = Vec::new();
        self.places.retain(|(controller, place)| {
            let made = fs::create_dir_all(place).and_then(|()| match version {
                Version::One => Ok(()),
                Version::Two => hand_down(controller, place),
            });
            if let Err(error) = &made {
                missing.push(format!("{controller} ({error})"));
            }
            made.is_ok()
        });
        if !missing.is_empty() {
            self.missing = Some(format!("without {}", missing.join(", ")));
        }
    }

    /// `v2`, `v1`, and what is missing of it.
    pub fn describe(&self) -> String {
        let version = match self.version {
            Version::One => "v1",
            Version::Two => "v2",
        };
        match &self.missing {
            Some(missing) if self.places.is_empty() => missing.clone(),
            Some(missing) => format!("{version}, {missing}"),
            None => version.into(),
        }
    }

    /// The group of this name, which may not be there.
    pub fn group(&self, name: &str) -> Group {
        Group {
            version: self.version,
            places: self.places.iter().map(|(controller, place)| (*controller, place.join(name))).collect(),
        }
    }
}

/// The process that has this number now, which may be given to another when it has ended.
pub fn open_process(number: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(number).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Lets the groups in `place` and itself have a controller.
fn hand_down(controller: &str, place: &Path) -> io::Result<()> {
    let own = place.join("cgroup.controllers");
    let has =
        || fs::read_to_string(&own).is_ok_and(|all| all.split_whitespace().any(|one| one == controller));
    let enable = |place: &Path| fs::write(place.join("cgroup.subtree_control"), format!("+{controller}"));
    if !has()
        && let Some(above) = place.parent()
    {
        enable(above)?;
    }
    enable(place)
}

/// One VMM's group.
#[derive(Clone, Debug)]
pub struct Group {
    version: Version,
    places: Vec<(&'static str, PathBuf)>,
}

impl Group {
    /// Makes it, with these limits.
    ///
    /// # Errors
    /// When a directory cannot be made or a limit is refused.
    pub fn create(&self, limits: &Limits) -> io::Result<()> {
        for (_, place) in &self.places {
            fs::create_dir_all(place)?;
        }
        self.limit(limits)
    }

    /// Sets other limits.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn limit(&self, limits: &Limits) -> io::Result<()> {
        for (controller, file, value) in settings(self.version, limits) {
            let Some(place) = self.place(controller) else { continue };
            fs::write(place.join(file), value)
                .map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}")))?;
        }
        Ok(())
    }

    /// What a process writes `0` to in order to be in it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn entries(&self) -> io::Result<Vec<File>> {
        let open = |place: &PathBuf| OpenOptions::new().write(true).open(place.join("cgroup.procs"));
        self.directories().into_iter().map(open).collect()
    }

    /// Its processes.
    pub fn processes(&self) -> Vec<u32> {
        let text = |place: &&PathBuf| fs::read_to_string(place.join("cgroup.procs")).ok();
        let text = self.directories().iter().find_map(text).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills all its processes.
    pub fn kill(&self) {
        for number in self.processes() {
            // Looked at after it was opened: the number is that of one in the group, or nobody's.
            if let Some(process) = open_process(number)
                && self.processes().contains(&number)
            {
                let _ended_meanwhile = pidfd_send_signal(process, Signal::KILL);
            }
        }
    }

    /// The most memory it can hold, where that is enforced.
    pub fn memory_max(&self) -> Option<Bytes> {
        let file = match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        fs::read_to_string(self.place("memory")?.join(file)).ok()?.trim().parse().ok().map(Bytes)
    }

    /// How long its quota has kept it from running.
    pub fn throttled(&self) -> Option<Duration> {
        let text = fs::read_to_string(self.place("cpu")?.join("cpu.stat")).ok()?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value?.trim().parse().ok()
        };
        field("throttled_usec")
            .map(Duration::from_micros)
            .or_else(|| field("throttled_time").map(Duration::from_nanos))
    }

    /// Removes it, once its processes have gone. Blocks for a moment where they have just done so.
    pub fn remove(&self) {
        for place in self.directories() {
            let mut tries = 0..REMOVE_TRIES;
            let left = loop {
                match fs::remove_dir(place) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries.next().is_some() => {
                        std::thread::sleep(REMOVE_PAUSE);
                    }
                    Err(error) if error.kind() != io::ErrorKind::NotFound => break Some(error),
                    _ => break None,
                }
            };
            if let Some(error) = left {
                tracing::warn!("the control group {} stays: {error}", place.display());
            }
        }
    }

    /// The directory of a controller's files.
    pub fn place(&self, controller: &str) -> Option<&Path> {
        self.places.iter().find(|(one, _)| *one == controller).map(|(_, place)| place.as_path())
    }

    /// Each once: in version 1, controllers may be mounted together.
    fn directories(&self) -> Vec<&PathBuf> {
        let mut all: Vec<&PathBuf> = self.places.iter().map(|(_, place)| place).collect();
        all.sort();
        all.dedup();
        all
    }
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
