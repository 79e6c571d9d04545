//! From what the user wrote and what the image says to what is started. Pure: nothing is opened or looked up here
//! but the host's size, which the caller passes in.

mod capabilities;
mod exec;
mod health;
mod mounts;
mod secrets;

use hull_image::ImageConfig;
use hull_protocol::agent::{ProcessSpec, Rlimit};
use hull_protocol::api::Microvm;
use hull_protocol::life::{DiskLimit, HostLimits, RestartPolicy};
use hull_protocol::plan::{CPUS_MAX, CpuModel, MEMORY_MIN};
use hull_protocol::spec::{ContainerSpec, MicrovmSpec};
use hull_protocol::units::{Bytes, DISK_MAX, DISK_MIN, MIB};

pub use self::exec::exec_process;
pub use self::health::HealthPlan;
pub use self::mounts::{MountPlan, WantedVolume};
pub use self::secrets::SecretPlan;

/// The smallest memory a container's guest is started with: below it, its kernel and modules leave nothing.
const CONTAINER_MEMORY_MIN: Bytes = Bytes::mib(96);
const MEMORY_DEFAULT: Bytes = Bytes::mib(512);
/// The size of a disk where nobody says another.
pub const DISK_DEFAULT: Bytes = Bytes::gib(10);
/// The most bytes of arguments and environment together; the kernel takes a little more.
const WORDS_MAX: usize = 1 << 20;
/// The most bytes of a host name, as Linux has it.
const HOSTNAME_MAX: usize = 64;

/// What a container's guest is told at its start. A reset goes through the keyboard controller, the one way that
/// every kernel has; what nobody could use is not looked for, ciphers are not tested at every boot, and the tracer
/// does not look for overridden functions, which takes a fifth of it (`docs/decisions/0014`).
pub const CMDLINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 reboot=k rdinit=/init random.trust_cpu=on pci=off \
     cryptomgr.notests initcall_blacklist=ftrace_check_for_weak_functions 8250.nr_uarts=1";

/// A microVM that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// Too few or too many processors.
    #[error("{0} CPUs are not possible: a microVM has 1 to {CPUS_MAX}")]
    Cpus(u32),
    /// Too little memory to boot.
    #[error("{0} of memory is not enough to boot Linux: give at least {1}, such as --memory 256m")]
    MemoryTooSmall(Bytes, Bytes),
    /// More memory than the host has.
    #[error("{0} of memory is more than this host has ({1})")]
    MemoryTooLarge(Bytes, Bytes),
    /// A disk that is too small or too large.
    #[error("a disk of {0} is not possible: give {DISK_MIN} to {DISK_MAX}, such as --disk-size 1g")]
    Disk(Bytes),
    /// There is nothing to run.
    #[error("no command: the image names none, so give one after the image")]
    NoCommand,
    /// Something the user wrote cannot be.
    #[error("{0}")]
    Invalid(String),
}

/// A container's microVM, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Number of processors.
    pub cpus: u8,
    /// Their model.
    pub cpu: CpuModel,
    /// Guest memory, whole MiB.
    pub memory: Bytes,
    /// Size of the writable disk.
    pub disk_size: Bytes,
    /// The host name.
    pub hostname: String,
    /// Whether the root is read-only.
    pub read_only: bool,
    /// The signal that asks the process to end.
    pub stop_signal: i32,
    /// What its host gives it.
    pub limits: HostLimits,
    /// What it sees besides its root.
    pub mounts: MountPlan,
    /// The process.
    pub process: ProcessSpec,
    /// How its health is checked.
    pub health: Option<HealthPlan>,
}

/// The number of processors, checked.
///
/// # Errors
/// When no microVM can have so many.
pub fn cpus(wanted: u32) -> Result<u8, PlanError> {
    u8::try_from(wanted).ok().filter(|cpus| (1..=CPUS_MAX).contains(cpus)).ok_or(PlanError::Cpus(wanted))
}

/// A plain VM's memory, rounded up to whole MiB.
///
/// # Errors
/// When it is too little to boot or more than the host has.
pub fn memory(wanted: Bytes, host: Bytes) -> Result<Bytes, PlanError> {
    memory_from(MEMORY_MIN, wanted, host)
}

fn memory_from(least: Bytes, wanted: Bytes, host: Bytes) -> Result<Bytes, PlanError> {
    if wanted < least {
        return Err(PlanError::MemoryTooSmall(wanted, least));
    }
    if wanted > host {
        return Err(PlanError::MemoryTooLarge(wanted, host));
    }
    Ok(Bytes(wanted.get().next_multiple_of(MIB)))
}

/// Processors and memory of a microVM that has been made.
pub fn size(spec: &MicrovmSpec) -> (u8, Bytes) {
    let cpus = spec.cpus.and_then(|cpus| u8::try_from(cpus).ok()).unwrap_or(1);
    (cpus, Bytes(spec.memory.unwrap_or(MEMORY_DEFAULT).get().next_multiple_of(MIB)))
}

/// The most that a container's writable layer grows to.
pub fn disk_size(spec: &ContainerSpec) -> Bytes {
    spec.disk_size.unwrap_or(DISK_DEFAULT)
}

/// The host's memory.
pub fn host_memory() -> Bytes {
    let info = rustix::system::sysinfo();
    Bytes(info.totalram.saturating_mul(u64::from(info.mem_unit)))
}

/// Resolves a container's microVM with this id.
///
/// # Errors
/// When the host cannot have it, or it has nothing to run.
pub fn resolve(
    id: &str,
    spec: &MicrovmSpec,
    image: &ImageConfig,
    host: Bytes,
) -> Result<Resolved, PlanError> {
    if spec.auto_remove && spec.restart != RestartPolicy::No {
        return Err(PlanError::Invalid(format!(
            "a restart policy ({}) starts what 'auto_remove' removes: ask for one of them",
            spec.restart
        )));
    }
    check_disk_limit(&spec.limits.disk.unwrap_or_default())?;
    let disk_size = disk_size(&spec.container);
    if disk_size < DISK_MIN || disk_size > DISK_MAX {
        return Err(PlanError::Disk(disk_size));
    }
    let hostname = match &spec.container.hostname {
        Some(name) => name.clone(),
        None => id.get(..12).unwrap_or(id).to_owned(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if hostname.is_empty() || hostname.len() > HOSTNAME_MAX || !hostname.chars().all(plain) {
        return Err(PlanError::Invalid(format!(
            "'{hostname}' is no host name: use up to {HOSTNAME_MAX} letters, digits, '-' and '.'"
        )));
    }
    Ok(Resolved {
        cpus: cpus(spec.cpus.unwrap_or(1))?,
        cpu: spec.cpu,
        memory: memory_from(CONTAINER_MEMORY_MIN, spec.memory.unwrap_or(MEMORY_DEFAULT), host)?,
        disk_size,
        hostname,
        read_only: spec.container.read_only,
        stop_signal: stop_signal(&image.stop_signal)?,
        limits: spec.limits,
        mounts: mounts::mounts(&spec.container.mounts, &spec.container.secrets)?,
        process: process(spec, image)?,
        health: health::health(spec.container.health.as_ref(), image.health.as_ref())?,
    })
}

fn check_disk_limit(limit: &DiskLimit) -> Result<(), PlanError> {
    let mut rates = [limit.bytes, limit.requests].into_iter().flatten();
    if rates.any(|rate| rate.is_zero()) {
        let why = "a disk with a limit of zero would stand still: give 1 or more, or leave the limit out";
        return Err(PlanError::Invalid(why.into()));
    }
    Ok(())
}

/// Resolves one that has been made, on a host that may have changed since, whose image may have gone: it can be
/// listed, stopped and removed in any case.
///
/// # Errors
/// When its record is none that this version makes.
pub fn resolve_without_image(record: &Microvm) -> Result<Resolved, PlanError> {
    let mut spec = record.spec.clone();
    spec.container.entrypoint = Some(Vec::new());
    spec.container.command.clone_from(&record.command);
    resolve(&record.id, &spec, &ImageConfig::default(), Bytes(u64::MAX))
}

fn process(spec: &MicrovmSpec, image: &ImageConfig) -> Result<ProcessSpec, PlanError> {
    let container = &spec.container;
    // As Docker has it: a new entrypoint drops the image's command.
    let (mut args, rest) = match &container.entrypoint {
        Some(entrypoint) => (entrypoint.clone(), container.command.clone()),
        None if container.command.is_empty() => (image.entrypoint.clone(), image.cmd.clone()),
        None => (image.entrypoint.clone(), container.command.clone()),
    };
    args.extend(rest);
    if args.is_empty() {
        return Err(PlanError::NoCommand);
    }
    let env = merge_env(&image.env, &container.env)?;
    check_words(&args, &env)?;
    let or_image = |own: &Option<String>, image: &str| own.clone().unwrap_or_else(|| image.to_owned());
    let workdir = or_image(&container.workdir, &image.workdir);
    if !workdir.is_empty() && !workdir.starts_with('/') {
        return Err(PlanError::Invalid(format!("the working directory '{workdir}' is not absolute")));
    }
    Ok(ProcessSpec {
        id: "main".into(),
        args,
        env,
        workdir: if workdir.is_empty() { "/".into() } else { workdir },
        user: or_image(&container.user, &image.user),
        terminal: container.terminal,
        stdin: container.stdin,
        capabilities: capabilities::kept(&container.cap_add, &container.cap_drop)?,
        rlimits: vec![Rlimit { name: "nofile".into(), soft: 1024, hard: 524_288 }],
        no_new_privileges: false,
    })
}

/// What the kernel would not take.
fn check_words(args: &[String], env: &[String]) -> Result<(), PlanError> {
    let words = args.iter().chain(env);
    if words.clone().map(String::len).sum::<usize>() > WORDS_MAX {
        return Err(PlanError::Invalid(format!(
            "arguments and environment have more than {WORDS_MAX} bytes"
        )));
    }
    if words.clone().any(|word| word.contains('\0')) {
        return Err(PlanError::Invalid("an argument or environment variable has a NUL byte in it".into()));
    }
    Ok(())
}

/// The image's environment with the user's over it; each name once.
fn merge_env(image: &[String], user: &[String]) -> Result<Vec<String>, PlanError> {
    let mut merged: Vec<String> = Vec::new();
    for entry in image.iter().chain(user) {
        let Some((name, _)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(PlanError::Invalid(format!(
                "'{entry}' is no environment variable: write NAME=value"
            )));
        };
        match merged.iter_mut().find(|known| known.split_once('=').is_some_and(|(other, _)| other == name)) {
            Some(known) => known.clone_from(entry),
            None => merged.push(entry.clone()),
        }
    }
    Ok(merged)
}

/// The number of a signal given by name, with or without `SIG`, or by number; SIGTERM when empty.
///
/// # Errors
/// When nothing is known by that name.
pub fn stop_signal(name: &str) -> Result<i32, PlanError> {
    const NAMES: [(&str, i32); 15] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ABRT", 6),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("WINCH", 28),
    ];
    if name.is_empty() {
        return Ok(15);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = short.strip_prefix("RTMIN+").and_then(|offset| offset.parse::<i32>().ok()) {
        return if (0..=30).contains(&offset) { Ok(34 + offset) } else { Err(unknown_signal(name)) };
    }
    let known = NAMES.iter().find(|(known, _)| *known == short).map(|(_, number)| *number);
    let number = known.or_else(|| short.parse().ok().filter(|number| (1..=64).contains(number)));
    number.ok_or_else(|| unknown_signal(name))
}

fn unknown_signal(name: &str) -> PlanError {
    PlanError::Invalid(format!("unknown signal '{name}': write it as TERM, SIGTERM or 15"))
}

#[cfg(test)]
mod tests;
