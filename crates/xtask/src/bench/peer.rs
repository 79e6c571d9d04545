//! The VMMs that are measured, and how each is told to boot the same guest.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The firmware of QEMU's microVM.
const QBOOT: &str = "/usr/share/qemu/qboot.rom";

/// The guest that all of them boot.
pub struct Guest {
    /// An ELF kernel.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: PathBuf,
}

impl Guest {
    /// What its kernel is told, as a container's is: to look for one serial port and for no PCI, not to test its
    /// ciphers against known answers, which takes longer than all the rest, and not to name every function for its
    /// tracer (`docs/decisions/0014`).
    pub const CMDLINE: &str = "console=ttyS0 quiet panic=-1 reboot=k 8250.nr_uarts=1 pci=off cryptomgr.notests \
         initcall_blacklist=ftrace_check_for_weak_functions";
    /// Its memory.
    pub const MIB: u64 = 256;
}

/// A program that boots guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What the table calls it.
    pub name: String,
    /// The program.
    pub path: PathBuf,
}

impl Peer {
    /// Reads `NAME=PATH`.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, path) = text.split_once('=').context("a peer is written NAME=PATH")?;
        let path = fs::canonicalize(path).with_context(|| format!("{path} is not there"))?;
        Ok(Self { name: name.to_owned(), path })
    }

    /// The kernel it is given, in the measurement's root: its own copy.
    pub fn kernel(&self, guest: &Guest) -> PathBuf {
        guest.kernel.with_file_name(format!("vmlinux-{}", self.name))
    }

    /// The files it needs besides its program and libraries.
    pub fn needs(&self) -> Vec<PathBuf> {
        match self.path.file_name().map(|name| name.to_string_lossy()).as_deref() {
            Some("hull") => vec![self.path.with_file_name("hull-vmm")],
            Some(name) if name.starts_with("qemu-system") => vec![QBOOT.into()],
            _ => Vec::new(),
        }
    }

    /// The command that boots the guest with its console on standard output.
    pub fn boot(&self, guest: &Guest) -> Result<Command> {
        let mut command = Command::new(&self.path);
        let mib = Guest::MIB.to_string();
        let kernel = self.kernel(guest);
        match self.path.file_name().map(|name| name.to_string_lossy()).as_deref() {
            Some("hull") => {
                command.args(["boot", "--memory", &format!("{mib}m"), "--cmdline", Guest::CMDLINE]);
                command.arg("--kernel").arg(&kernel).arg("--initrd").arg(&guest.initrd);
            }
            Some(name) if name.starts_with("qemu-system") => qemu(&mut command, &kernel, guest, &mib),
            Some(name) if name.starts_with("firecracker") => {
                command.arg("--no-api").arg("--config-file").arg(firecracker(
                    &kernel,
                    &guest.initrd,
                    Guest::CMDLINE,
                    &[],
                )?);
            }
            Some(name) if name.starts_with("cloud-hypervisor") => {
                command.args(["--cpus", "boot=1", "--memory", &format!("size={mib}M")]);
                command.args(["--serial", "tty", "--console", "off", "--cmdline", Guest::CMDLINE]);
                command.arg("--kernel").arg(&kernel).arg("--initramfs").arg(&guest.initrd);
            }
            _ => bail!("nobody knows how {} boots a guest", self.path.display()),
        }
        Ok(command)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.path.display())
    }
}

/// QEMU's microVM without all that a guest like this one does not need.
fn qemu(command: &mut Command, kernel: &Path, guest: &Guest, mib: &str) {
    command.args(["-M", "microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial=on"]);
    command.args(["-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", mib, "-bios", QBOOT]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]);
    command.args(["-append", Guest::CMDLINE]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(&guest.initrd);
}

/// Firecracker's configuration, with network cards as tap and MAC address.
pub fn firecracker(kernel: &Path, initrd: &Path, cmdline: &str, cards: &[(&str, &str)]) -> Result<PathBuf> {
    let card = |(tap, mac): &(&str, &str)| serde_json::json!({ "iface_id": tap, "host_dev_name": tap, "guest_mac": mac });
    let config = serde_json::json!({
        "boot-source": { "kernel_image_path": kernel, "initrd_path": initrd, "boot_args": cmdline },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": Guest::MIB },
        "drives": [],
        "network-interfaces": cards.iter().map(card).collect::<Vec<_>>(),
    });
    let place = Path::new("/tmp/firecracker.json");
    fs::write(place, config.to_string())?;
    Ok(place.to_owned())
}
