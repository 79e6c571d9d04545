//! Why a kernel could not be imported, found or removed.

use std::io;
use std::path::PathBuf;

use super::elf::ElfError;
use super::image::ImageError;
use super::modinfo::ModinfoError;
use super::order::OrderError;

/// What went wrong with a kernel bundle, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No bundle by that name.
    #[error("there is no kernel '{0}': `hull kernel ls` shows those imported")]
    NotFound(String),
    /// Nothing imported, and the host's kernel cannot be taken.
    #[error(
        "no kernel is imported, and this host's own cannot be used: import one with `hull kernel import`, from a linux-image .deb or a vmlinuz with its modules"
    )]
    NoneUsable(#[source] Box<KernelError>),
    /// A microVM runs on it.
    #[error("kernel '{0}' is in use: remove the microVMs that run on it first")]
    InUse(String),
    /// A name that cannot be a folder's or a flag's.
    #[error(
        "'{0}' cannot be a kernel's name: use up to 100 letters, digits and . _ + ~ -, beginning with a letter or digit"
    )]
    BadName(String),
    /// The host's files are not there.
    #[error("this host has no readable kernel at {} (a container or a cloud host often has none): import one from a linux-image .deb", .0.display())]
    NoHostKernel(PathBuf, #[source] io::Error),
    /// An archive that is none.
    #[error("this is not a Debian package: give a linux-image .deb")]
    NotADeb(#[source] io::Error),
    /// A package without contents.
    #[error("the package holds no data.tar: its download was cut short, fetch it again")]
    NoData,
    /// A file cannot be read or unpacked.
    #[error("cannot read {what}: the file is damaged or its transfer was cut short")]
    Read {
        /// The file, inside the package or tree.
        what: String,
        /// What the reader said.
        #[source]
        source: io::Error,
    },
    /// A file is too large to be what its name says.
    #[error("{what} is larger than {mib} MiB: that is no file of a kernel package")]
    FileTooLarge {
        /// The file, inside the package or tree.
        what: String,
        /// The limit, in MiB.
        mib: usize,
    },
    /// Too many or too large modules.
    #[error(
        "there are more than 4096 modules or more than 1 GiB of them: import the modules of one kernel only"
    )]
    TooManyModules,
    /// Nothing to boot.
    #[error(
        "there is no vmlinuz in it: a meta package only refers to the real one, such as linux-image-6.1.0-40-cloud-amd64"
    )]
    NoKernel,
    /// More than one kernel.
    #[error("{0} is a second kernel: import one at a time")]
    TwoKernels(String),
    /// The kernel's file.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The program inside it.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// A module's file.
    #[error(
        "{what} is not a kernel module that can be loaded here: import the modules as the distribution ships them"
    )]
    Module {
        /// The file, inside the package or tree.
        what: String,
        /// What is wrong with it.
        #[source]
        source: ModinfoError,
    },
    /// The modules' order.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// Modules of another kernel.
    #[error(
        "module {module} was built for {found}, but the kernel is {release}: import the modules that belong to it"
    )]
    OtherRelease {
        /// The module.
        module: String,
        /// The release it was built for.
        found: String,
        /// The kernel's.
        release: String,
    },
    /// The kernel lacks what a microVM needs.
    #[error("kernel {release} cannot run microVMs, it lacks {}: take a distribution's stock or cloud kernel with its modules, or build these in", .missing.join(", "))]
    Unfit {
        /// The kernel.
        release: String,
        /// What it lacks.
        missing: Vec<String>,
    },
    /// The agent's program is not there.
    #[error("cannot read the guest agent at {}: is hull installed completely?", .0.display())]
    Agent(PathBuf, #[source] io::Error),
    /// The disk, on the way in.
    #[error("cannot keep the kernel's modules while importing: is the disk full?")]
    Spool(#[source] io::Error),
    /// The disk.
    #[error("cannot write kernel bundles in {}: is the disk full, or the folder someone else's?", .0.display())]
    Store(PathBuf, #[source] io::Error),
    /// A bundle that was damaged from outside.
    #[error("kernel '{0}' is damaged on disk: import it again")]
    Damaged(String, #[source] io::Error),
}
