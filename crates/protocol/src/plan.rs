//! `BootPlan`: everything `hull-vmm` needs to build one microVM, fully resolved.
//!
//! Made once by a pure function from a [`crate::spec::MicrovmSpec`], handed over as sealed JSON in the
//! descriptor [`PLAN_SLOT`]. It holds no path: what the VMM may touch it inherits as open descriptors, and
//! the plan names them by [`Slot`].

use serde::{Deserialize, Serialize};

use crate::life::DiskLimit;
use crate::network::NetPlan;
use crate::trace::TraceId;
use crate::units::Bytes;

/// An inherited descriptor, by the number it has in the VMM process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub i32);

/// The first descriptor after the standard streams: the plan itself, a read-only memfd holding JSON.
pub const PLAN_SLOT: Slot = Slot(3);

/// The largest plan that is read, in bytes.
pub const PLAN_MAX: u64 = 1 << 20;

/// The most virtual CPUs one microVM can have.
pub const CPUS_MAX: u8 = 64;

/// The smallest memory a Linux guest is started with.
pub const MEMORY_MIN: Bytes = Bytes::mib(32);

/// The most control groups a VMM is put into: one for each controller of a version 1 host.
pub const CGROUPS_MAX: usize = 8;

/// The most block devices one microVM can have.
pub const DISKS_MAX: usize = 16;

/// The first of the users and groups that VMMs run as when root starts them: one of their own each, this number plus
/// the VMM's process id. No system gives these numbers to anybody else.
pub const FIRST_USER: u32 = 0x7000_0000;

/// How a line of a VMM's log begins that says what its jail goes without.
pub const JAIL_NOTICE: &str = "jail: ";

/// One microVM, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootPlan {
    /// The microVM's id, for log lines and thread names.
    pub id: String,
    /// `/dev/kvm`, opened read-write.
    pub kvm: Slot,
    /// Guest memory: a multiple of 1 MiB.
    pub memory: Bytes,
    /// Number of virtual CPUs, 1 to [`CPUS_MAX`].
    pub cpus: u8,
    /// What the guest's processors look like.
    pub cpu: CpuModel,
    /// What is booted.
    pub kernel: KernelPlan,
    /// Block devices, in the order the guest sees them.
    pub disks: Vec<DiskPlan>,
    /// The vsock device, if any.
    pub vsock: Option<VsockPlan>,
    /// Network devices, in the order the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<NetPlan>,
    /// `cgroup.procs` of each control group that the VMM enters before all else, opened for writing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<Slot>,
    /// Whether the guest has a virtio entropy device.
    pub rng: bool,
    /// Where the serial console goes.
    pub console: ConsolePlan,
    /// A listening `SOCK_SEQPACKET` socket on which [`crate::control`] is spoken.
    pub control: Option<Slot>,
    /// Started as root, the VMM becomes the user and group of this number plus its process id ([`FIRST_USER`]). None:
    /// it stays who it is.
    #[serde(default)]
    pub first_user: Option<u32>,
    /// The trace of the request that had it started, for log lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceId>,
}

/// What the guest's processors look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum CpuModel {
    /// The host's processor, with everything that KVM can give a guest.
    #[default]
    #[serde(rename = "host")]
    Host,
    /// The x86-64-v2 baseline (SSE4.2, POPCNT, CMPXCHG16B).
    #[serde(rename = "x86-64-v2")]
    V2,
    /// The x86-64-v3 baseline (AVX2, BMI, FMA).
    #[serde(rename = "x86-64-v3")]
    V3,
    /// The x86-64-v4 baseline (AVX-512 F, BW, CD, DQ, VL).
    #[serde(rename = "x86-64-v4")]
    V4,
}

impl CpuModel {
    /// Every model with the name users type.
    pub const NAMES: [(&str, Self); 4] =
        [("host", Self::Host), ("x86-64-v2", Self::V2), ("x86-64-v3", Self::V3), ("x86-64-v4", Self::V4)];

    /// The name users type.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, model)| *model == self).map_or("host", |(name, _)| name)
    }
}

impl std::str::FromStr for CpuModel {
    type Err = UnknownCpuModel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, model)| *model)
            .ok_or_else(|| UnknownCpuModel(text.to_owned()))
    }
}

/// A CPU model nobody knows.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown CPU model '{0}': use host, x86-64-v2, x86-64-v3 or x86-64-v4")]
pub struct UnknownCpuModel(String);

/// The kernel and what it is told. The file's format (ELF or bzImage) is proved by its header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelPlan {
    /// The kernel file, opened for reading.
    pub image: Slot,
    /// The initial RAM disk, opened for reading.
    pub initrd: Option<Slot>,
    /// The kernel command line, without a trailing NUL.
    pub cmdline: String,
    /// How it is entered.
    #[serde(default)]
    pub entry: EntryPlan,
}

/// Which of a kernel's entries is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryPlan {
    /// The 64-bit entry if the kernel has one, else PVH.
    #[default]
    Auto,
    /// The 64-bit entry of the Linux boot protocol.
    Linux64,
    /// The 32-bit entry that the kernel names in a note.
    Pvh,
}

impl EntryPlan {
    /// Every choice with the name users type.
    pub const NAMES: [(&str, Self); 3] =
        [("auto", Self::Auto), ("linux64", Self::Linux64), ("pvh", Self::Pvh)];
}

impl std::str::FromStr for EntryPlan {
    type Err = UnknownEntry;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::NAMES.iter().find(|(name, _)| *name == text);
        named.map(|(_, entry)| *entry).ok_or_else(|| UnknownEntry(text.to_owned()))
    }
}

/// A kernel entry nobody knows.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown kernel entry '{0}': use auto, linux64 or pvh")]
pub struct UnknownEntry(String);

/// One virtio block device over a raw file or a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskPlan {
    /// The raw file or block device; opened read-only when `read_only`.
    pub file: Slot,
    /// Whether the guest may only read. Enforced by the device and by the descriptor.
    pub read_only: bool,
    /// What the guest reads as the device's id: at most 20 bytes of ASCII.
    pub serial: String,
    /// How much the guest may ask of it in a time.
    #[serde(default)]
    pub limit: DiskLimit,
}

/// The virtio vsock device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockPlan {
    /// The guest's context id, 3 or more.
    pub cid: u32,
    /// A listening unix stream socket: who connects writes `CONNECT <port>\n` and, once the guest has
    /// accepted, reads `OK <port>\n`; from then on the stream is the guest's.
    pub listener: Slot,
}

/// Where the serial console goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsolePlan {
    /// What the guest reads: a terminal, pipe or socket. None: nothing ever arrives.
    pub input: Option<Slot>,
    /// What the guest's output is written to. None: it is dropped.
    pub output: Option<Slot>,
    /// After so many bytes, output is dropped. None: no limit (a terminal, a pipe).
    pub limit: Option<Bytes>,
}
