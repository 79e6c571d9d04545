//! Starts `hull-vmm` with a plan and the descriptors it names, and nothing else.
//!
//! Owner: whoever starts a microVM. Invariant: the slots in a plan are the descriptors the VMM inherits, by
//! number; every other descriptor of this process is closed in it.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use hull_jail::namespaces::{self, Pids};
use hull_protocol::plan::{BootPlan, PLAN_SLOT, Slot};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// Why a VMM could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program is not there.
    #[error("hull-vmm is not beside hull ({0}): install both in one directory")]
    NoProgram(PathBuf),
    /// The plan could not be handed over.
    #[error("the boot plan could not be handed over")]
    Plan(#[source] io::Error),
    /// The process could not be started.
    #[error("hull-vmm could not be started")]
    Spawn(#[source] io::Error),
}

/// The descriptors a plan names, numbered as they are added.
#[derive(Debug, Default)]
pub struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    /// Adds a descriptor; returns the slot that names it in the plan.
    pub fn add(&mut self, descriptor: impl Into<OwnedFd>) -> Slot {
        self.0.push(descriptor.into());
        let above_plan = i32::try_from(self.0.len()).unwrap_or(i32::MAX);
        Slot(PLAN_SLOT.0.saturating_add(above_plan))
    }
}

/// The VMM program that belongs to this one.
///
/// # Errors
/// When it is not there.
pub fn vmm_path() -> Result<PathBuf, LaunchError> {
    crate::paths::program("hull-vmm").map_err(LaunchError::NoProgram)
}

/// Starts a VMM as a child of this process, with this process's standard streams.
///
/// # Errors
/// When it cannot be started.
pub fn spawn(vmm: &Path, plan: &BootPlan, descriptors: Descriptors) -> Result<Child, LaunchError> {
    command(vmm, plan, descriptors)?.spawn().map_err(LaunchError::Spawn)
}

/// Starts a VMM that no signal to this process's group reaches and that outlives it, with its words in `log`, alone in
/// a PID namespace. Needs the runtime, which watches it.
///
/// # Errors
/// When it cannot be started.
pub fn spawn_apart(
    vmm: &Path,
    plan: &BootPlan,
    descriptors: Descriptors,
    log: File,
) -> Result<tokio::process::Child, LaunchError> {
    let mut command = command(vmm, plan, descriptors)?;
    command.process_group(0).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let runtime = tokio::runtime::Handle::current();
    let child = namespaces::start_in(Pids::New, |entered| {
        // Where the daemon has no right to it, other layers keep the VMM from other processes.
        if let Err(error) = entered {
            tracing::debug!("a VMM is started without a PID namespace of its own: {error}");
        }
        let _watched = runtime.enter();
        tokio::process::Command::from(command).spawn()
    });
    child.map_err(LaunchError::Spawn)
}

fn command(vmm: &Path, plan: &BootPlan, descriptors: Descriptors) -> Result<Command, LaunchError> {
    let mut mappings =
        vec![FdMapping { parent_fd: seal(plan).map_err(LaunchError::Plan)?, child_fd: PLAN_SLOT.0 }];
    let slots = (PLAN_SLOT.0..).skip(1);
    mappings.extend(
        descriptors.0.into_iter().zip(slots).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }),
    );
    let mut command = Command::new(vmm);
    command.env_clear();
    command.fd_mappings(mappings).map_err(|error| LaunchError::Spawn(io::Error::other(error.to_string())))?;
    Ok(command)
}

/// The plan in memory that nobody can change any more.
fn seal(plan: &BootPlan) -> io::Result<OwnedFd> {
    let memory = memfd_create("boot-plan", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(&serde_json::to_vec(plan)?)?;
    file.rewind()?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}
