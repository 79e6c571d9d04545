//! The jail of a VMM: what is taken from the process before it looks at anything that others can influence.
//!
//! Owner: `hull-vmm`'s main thread, which is alone then. Every thread adds its own wall, [`crate::seccomp`].
//! Invariant: nothing here is undone later; what the VMM needs it holds as open descriptors.

use std::fmt;
use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, geteuid, getpid, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{
    CapabilitySet, Gid, Uid, capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::capabilities::CapabilityError;
use crate::{capabilities as caps, execute, landlock, namespaces, root};

/// Why a VMM cannot be jailed; it must not go on.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A step that every kernel can take failed.
    #[error("the VMM's jail cannot be closed: {step}")]
    Refused {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Capabilities could not be dropped.
    #[error("the VMM's jail cannot be closed")]
    Capabilities(#[from] CapabilityError),
}

fn refused(step: &'static str) -> impl Fn(rustix::io::Errno) -> JailError {
    move |source| JailError::Refused { step, source: source.into() }
}

/// A layer of the jail that this host does not give.
#[derive(Debug)]
pub struct Missing {
    layer: &'static str,
    cause: String,
}

impl Missing {
    fn new(layer: &'static str, cause: impl fmt::Display) -> Self {
        Self { layer, cause: cause.to_string() }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the VM runs without {}: {}", self.layer, self.cause)
    }
}

/// What one VMM is left with.
#[derive(Clone, Copy, Debug)]
pub struct VmmJail {
    /// Started as root, the VMM becomes the user and group of this number plus its process id on the host: no two
    /// processes have the same. None: it stays who it is.
    pub first_user: Option<u32>,
    /// The highest descriptor it was handed; those above are closed.
    pub last_descriptor: u32,
    /// How many descriptors it may open itself.
    pub descriptors: u32,
    /// How many threads it may have.
    pub threads: u32,
}

impl VmmJail {
    /// Enters the jail; returns what this host cannot give. The caller is single-threaded.
    ///
    /// # Errors
    /// When a layer that every host has cannot be had.
    pub fn enter(&self) -> Result<Vec<Missing>, JailError> {
        let mut missing = Vec::new();
        execute::close_descriptors_from(self.last_descriptor.saturating_add(1))
            .map_err(|source| JailError::Refused { step: "closing descriptors", source })?;
        // Read before the namespaces: in a user namespace of its own, nobody has a number, and an empty root no /proc.
        let root = geteuid().is_root();
        let process = process_on_host();
        if let Err(error) = isolate(root) {
            missing.push(Missing::new("namespaces and an empty root", error));
        }
        if holds(CapabilitySet::SETPCAP)? {
            caps::bound(CapabilitySet::empty())?;
        }
        let first = self.first_user.filter(|_| root);
        let own_user = match first.map(|first| become_user(first, process)).transpose() {
            Ok(user) => user.is_some(),
            Err(error) => {
                missing.push(Missing::new("a user of its own", error));
                false
            }
        };
        caps::restrict(CapabilitySet::empty())?;
        self.limit(own_user)?;
        // After the change of user, which sets it anew.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused("hiding its memory"))?;
        set_no_new_privs(true).map_err(refused("refusing new privileges"))?;
        match landlock::deny_all() {
            Ok(true) => {}
            Ok(false) => missing.push(Missing::new("Landlock", "this kernel has none, or has it turned off")),
            Err(error) => missing.push(Missing::new("Landlock", error)),
        }
        Ok(missing)
    }

    fn limit(&self, own_user: bool) -> Result<(), JailError> {
        let set = |resource, value: u64| {
            // Never more than was inherited: only a privileged process could, and it is none any more.
            let value = getrlimit(resource).maximum.map_or(value, |inherited| value.min(inherited));
            setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
                .map_err(refused("limiting its resources"))
        };
        let descriptors = self.last_descriptor.saturating_add(1).saturating_add(self.descriptors);
        set(Resource::Nofile, descriptors.into())?;
        for none in [Resource::Core, Resource::Memlock, Resource::Msgqueue, Resource::Rtprio] {
            set(none, 0)?;
        }
        // Counted by user: another user's processes must not count for it.
        if own_user {
            set(Resource::Nproc, self.threads.into())?;
        }
        Ok(())
    }
}

fn holds(capability: CapabilitySet) -> Result<bool, JailError> {
    let sets = capabilities(None).map_err(refused("reading its capabilities"))?;
    Ok(sets.effective.contains(capability))
}

/// Namespaces of its own, and an empty root in them.
fn isolate(as_root: bool) -> rustix::io::Result<()> {
    namespaces::new_for_vmm(!as_root)?;
    root::make_private()?;
    root::enter_empty()
}

/// This process's id where /proc was mounted: alone in a PID namespace, every VMM is process 1. None when neither tells.
fn process_on_host() -> Option<u32> {
    let shown = std::fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse().ok());
    shown.or_else(|| u32::try_from(getpid().as_raw_pid()).ok()).filter(|process| *process > 1)
}

/// Becomes the user and group that nobody else is.
fn become_user(first: u32, process: Option<u32>) -> rustix::io::Result<()> {
    let number = process.and_then(|process| first.checked_add(process)).ok_or(rustix::io::Errno::SRCH)?;
    let (user, group) = (Uid::from_raw(number), Gid::from_raw(number));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)
}
