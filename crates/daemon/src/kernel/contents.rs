//! What an import found: the kernel, its configuration, and the modules a microVM might need.
//!
//! Files are told apart by their names, as distributions lay them out (`boot/vmlinuz-*`, `boot/config-*`,
//! `lib/modules/RELEASE/`) or as `hull kernel import` packs them. Owner: one import, on its blocking thread.
//! Invariant: memory holds one kernel and one module at a time; modules wait unpacked in a nameless file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::KernelError;
use super::bounded::read_whole;
use super::compression::unpacked;
use super::modinfo::{Modinfo, module_name};
use super::requirements::Config;

const KERNEL_MAX: usize = 512 << 20;
const TEXT_MAX: usize = 16 << 20;
const MODULE_MAX: usize = 64 << 20;
const MODULES_MAX: usize = 4096;
/// All modules that are looked at, unpacked.
const SPOOL_MAX: u64 = 1 << 30;

/// The parts of a kernel's module tree in which a microVM's drivers and what they depend on live. The rest,
/// nine tenths of it, is drivers for hardware that a microVM has not.
const SUBTREES: [&str; 12] = [
    "arch/x86",
    "block",
    "crypto",
    "drivers/block",
    "drivers/char",
    "drivers/crypto",
    "drivers/misc/pvpanic",
    "drivers/virtio",
    "fs",
    "lib",
    "mm",
    "net/vmw_vsock",
];

/// Single modules of subtrees that are otherwise full of drivers and protocols which no microVM wants.
const MODULES: [&str; 5] = [
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "net/core/failover.ko",
    "net/ipv6/ipv6.ko",
    "net/packet/af_packet.ko",
];

/// What a file in a package or tree is to an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Kernel,
    Config,
    /// `modules.builtin`: paths, one a line.
    Builtin,
    /// `modules.builtin.modinfo`: `module.key=value`, each ended by a zero byte.
    BuiltinInfo,
    Module(String),
}

impl Role {
    /// The role of the file at `path`, or none.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or("");
        let is =
            |stem: &str| name.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        // The folders of Debian, of Fedora (`lib/modules/RELEASE/vmlinuz`), and the top of a packed tar.
        let at_home = path.parent().is_none_or(|parent| {
            matches!(folder, "" | "." | "boot")
                || parent.parent().is_some_and(|above| above.ends_with("modules"))
        });
        match name {
            "modules.builtin" => Some(Self::Builtin),
            "modules.builtin.modinfo" => Some(Self::BuiltinInfo),
            _ if at_home && (is("vmlinuz") || is("vmlinux") || is("bzImage")) => Some(Self::Kernel),
            _ if at_home && is("config") => Some(Self::Config),
            _ => Self::of_module(path, name),
        }
    }

    fn of_module(path: &Path, name: &str) -> Option<Self> {
        let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|end| name.strip_suffix(end))?;
        let text = path.to_str()?;
        let inside = text.split_once("/kernel/").map(|(_, inside)| inside).or(text.strip_prefix("kernel/"));
        let needed = inside.is_none_or(|inside| {
            SUBTREES.iter().any(|tree| Path::new(inside).starts_with(tree))
                || MODULES.iter().any(|module| inside.starts_with(module))
        });
        module_name(stem).filter(|_| needed).map(Self::Module)
    }
}

/// Where a module's unpacked file waits.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    length: usize,
}

/// The files of one kernel, gathered in any order.
pub(super) struct Contents {
    kernel: Option<Vec<u8>>,
    /// The kernel's configuration, if it came along.
    pub(super) config: Option<Config>,
    /// Names and aliases of what is built in.
    pub(super) builtin: BTreeSet<String>,
    /// Each module's information, by its name.
    pub(super) modules: BTreeMap<String, Modinfo>,
    places: BTreeMap<String, Place>,
    spool: File,
    end: u64,
}

impl Contents {
    /// Nothing yet. `spool` is an empty file of which only this import knows.
    pub(super) fn new(spool: File) -> Self {
        Self {
            kernel: None,
            config: None,
            builtin: BTreeSet::new(),
            modules: BTreeMap::new(),
            places: BTreeMap::new(),
            spool,
            end: 0,
        }
    }

    /// The kernel's file.
    pub(super) fn take_kernel(&mut self) -> Result<Vec<u8>, KernelError> {
        self.kernel.take().ok_or(KernelError::NoKernel)
    }

    /// The unpacked file of a module.
    pub(super) fn module(&self, name: &str) -> io::Result<Vec<u8>> {
        let place = self.places.get(name).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; place.length];
        self.spool.read_exact_at(&mut bytes, place.at)?;
        Ok(bytes)
    }

    /// Takes in the file at `path`; `input` is read only when it has a role.
    pub(super) fn take(&mut self, path: &Path, input: &mut dyn Read) -> Result<(), KernelError> {
        let Some(role) = Role::of(path) else {
            return Ok(());
        };
        let name = path.display().to_string();
        let read = |source| KernelError::Read { what: name.clone(), source };
        let whole = |input: &mut dyn Read, limit: usize| {
            let bytes = read_whole(input, limit).map_err(read)?;
            bytes.ok_or_else(|| KernelError::FileTooLarge { what: name.clone(), mib: limit >> 20 })
        };
        match role {
            Role::Kernel if self.kernel.is_some() => return Err(KernelError::TwoKernels(name)),
            Role::Kernel => self.kernel = Some(whole(input, KERNEL_MAX)?),
            Role::Config => {
                self.config = Some(Config::parse(&String::from_utf8_lossy(&whole(input, TEXT_MAX)?)));
            }
            Role::Builtin => self.take_builtin(&String::from_utf8_lossy(&whole(input, TEXT_MAX)?)),
            Role::BuiltinInfo => self.take_builtin_info(&whole(input, TEXT_MAX)?),
            Role::Module(module) => {
                let bytes = read_whole(unpacked(input).map_err(read)?, MODULE_MAX).map_err(read)?;
                let bytes =
                    bytes.ok_or(KernelError::FileTooLarge { what: name.clone(), mib: MODULE_MAX >> 20 })?;
                self.take_module(module, &name, &bytes)?;
            }
        }
        Ok(())
    }

    fn take_builtin(&mut self, text: &str) {
        let stems =
            text.lines().filter_map(|line| Path::new(line.trim()).file_name()?.to_str()?.strip_suffix(".ko"));
        self.builtin.extend(stems.filter_map(module_name));
    }

    fn take_builtin_info(&mut self, bytes: &[u8]) {
        for text in bytes.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok()) {
            if let Some((module, "alias", alias)) = text
                .split_once('.')
                .and_then(|(module, rest)| rest.split_once('=').map(|(key, value)| (module, key, value)))
            {
                self.builtin.extend(module_name(module).into_iter().chain(module_name(alias)));
            }
        }
    }

    fn take_module(&mut self, module: String, name: &str, bytes: &[u8]) -> Result<(), KernelError> {
        let info =
            Modinfo::parse(bytes).map_err(|source| KernelError::Module { what: name.to_owned(), source })?;
        let end = self.end.saturating_add(bytes.len() as u64);
        if self.modules.len() >= MODULES_MAX || end > SPOOL_MAX {
            return Err(KernelError::TooManyModules);
        }
        if self.modules.contains_key(&module) {
            return Ok(());
        }
        self.spool.write_all_at(bytes, self.end).map_err(KernelError::Spool)?;
        self.places.insert(module.clone(), Place { at: self.end, length: bytes.len() });
        self.modules.insert(module, info);
        self.end = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
