//! What a guest kernel must have to run a container, and what it tells about itself in `.config`.
//!
//! Kconfig's output format: `CONFIG_NAME=y`, `=m`, or a comment. Pure; the importer's blocking thread.
//! Invariant: a bundle that is kept has all of these, as far as the import could tell.

use std::collections::{BTreeMap, BTreeSet};

/// A driver or file system that may be built in or a module.
pub(super) struct Wanted {
    /// The module's name.
    pub(super) module: &'static str,
    /// The option that builds it.
    pub(super) option: &'static str,
    /// Whether nothing works without it.
    pub(super) required: bool,
}

const fn required(module: &'static str, option: &'static str) -> Wanted {
    Wanted { module, option, required: true }
}

const fn welcome(module: &'static str, option: &'static str) -> Wanted {
    Wanted { module, option, required: false }
}

/// In the order they are loaded: the way to the daemon first, so that it opens soonest.
pub(super) const WANTED: [Wanted; 11] = [
    required("virtio_mmio", "CONFIG_VIRTIO_MMIO"),
    required("vmw_vsock_virtio_transport", "CONFIG_VIRTIO_VSOCKETS"),
    required("virtio_blk", "CONFIG_VIRTIO_BLK"),
    required("erofs", "CONFIG_EROFS_FS"),
    required("ext4", "CONFIG_EXT4_FS"),
    required("overlay", "CONFIG_OVERLAY_FS"),
    welcome("virtio_net", "CONFIG_VIRTIO_NET"),
    welcome("ipv6", "CONFIG_IPV6"),
    welcome("af_packet", "CONFIG_PACKET"),
    welcome("virtio_rng", "CONFIG_HW_RANDOM_VIRTIO"),
    welcome("pvpanic_mmio", "CONFIG_PVPANIC_MMIO"),
];

/// What cannot be a module: boot, the agent's file systems, containers.
const BUILT_IN: [&str; 16] = [
    "CONFIG_64BIT",
    "CONFIG_ACPI",
    "CONFIG_BINFMT_ELF",
    "CONFIG_BLK_DEV_INITRD",
    "CONFIG_CGROUPS",
    "CONFIG_DEVTMPFS",
    "CONFIG_IPC_NS",
    "CONFIG_KVM_GUEST",
    "CONFIG_NAMESPACES",
    "CONFIG_NET_NS",
    "CONFIG_PID_NS",
    "CONFIG_PROC_FS",
    "CONFIG_SECCOMP_FILTER",
    "CONFIG_SYSFS",
    "CONFIG_TMPFS",
    "CONFIG_UTS_NS",
];

/// How an option is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    BuiltIn,
    Module,
}

/// A kernel's configuration: what is not in it is off.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Config(BTreeMap<String, Setting>);

impl Config {
    /// Reads a `.config`. Lines of other kinds are passed over.
    pub(super) fn parse(text: &str) -> Self {
        let set = text.lines().filter_map(|line| {
            let (option, value) = line.trim().split_once('=')?;
            let setting = match value {
                "y" => Setting::BuiltIn,
                "m" => Setting::Module,
                _ => return None,
            };
            option.starts_with("CONFIG_").then(|| (option.to_owned(), setting))
        });
        Self(set.collect())
    }

    pub(super) fn get(&self, option: &str) -> Option<Setting> {
        self.0.get(option).copied()
    }
}

/// What is missing from a kernel, each as one phrase; empty when it will do. `has_file` tells which modules
/// came with it, `builtin` names what its `modules.builtin` lists.
pub(super) fn missing(
    config: Option<&Config>,
    builtin: &BTreeSet<String>,
    has_file: impl Fn(&str) -> bool,
) -> Vec<String> {
    let setting = |option| config.and_then(|config| config.get(option));
    let off = BUILT_IN.iter().filter(|option| config.is_some() && setting(option) != Some(Setting::BuiltIn));
    let mut missing: Vec<String> = off.map(|option| format!("{option}=y")).collect();
    for wanted in WANTED.iter().filter(|wanted| wanted.required) {
        if has_file(wanted.module) || builtin.contains(wanted.module) {
            continue;
        }
        match setting(wanted.option) {
            Some(Setting::BuiltIn) => {}
            Some(Setting::Module) => {
                missing.push(format!("the file of module {} ({}=m)", wanted.module, wanted.option));
            }
            None => missing.push(format!("{} (module {})", wanted.option, wanted.module)),
        }
    }
    missing
}

#[cfg(test)]
mod tests;
