//! `hull boot`: a plain VM, directly. A daemon is asked for cards on its networks, and for nothing else.

mod borrowed;
mod net;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Args;
use hull_daemon::launch::{self, Descriptors};
use hull_daemon::plan;
use hull_protocol::exit::ExitReason;
use hull_protocol::life::DiskLimit;
use hull_protocol::network::NETS_MAX;
use hull_protocol::plan::{
    BootPlan, ConsolePlan, CpuModel, DISKS_MAX, DiskPlan, EntryPlan, FIRST_USER, KernelPlan, Slot,
};
use hull_protocol::units::Bytes;

use self::borrowed::Borrowed;
use self::net::Net;
use super::keys::Terminal;
use crate::client::Host;

/// Boot a plain VM with its console on this terminal
#[derive(Debug, Args)]
#[command(after_help = "\
Ends when the guest powers off (status 0), resets, panics or is killed (Ctrl-A x on a terminal).

Example:
  hull boot --kernel vmlinux --initrd initrd.img --memory 256m \\
      --disk path=root.img,format=raw --cmdline 'console=ttyS0 root=/dev/vda'")]
pub(crate) struct Boot {
    /// Kernel: an ELF vmlinux or a bzImage
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0 panic=-1")]
    cmdline: String,
    /// How the kernel is entered: auto, linux64 or pvh
    #[arg(long, value_name = "ENTRY", default_value = "auto")]
    entry: EntryPlan,
    /// Disk: path=FILE,format=raw[,ro]; may be repeated
    #[arg(long = "disk", value_name = "SPEC")]
    disks: Vec<Disk>,
    /// Network card: network=NAME, a network of the daemon's, which leases the card its addresses while the VM runs, or
    /// tap=NAME[,mtu=BYTES], an existing tap; either with [,mac=MAC][,ip=ADDRESS...][,rx-rate=SIZE][,tx-rate=SIZE], rates in bytes a
    /// second; on a tap with ip, the guest may send from these addresses only; may be repeated
    #[arg(long = "net", value_name = "SPEC")]
    nets: Vec<Net>,
    /// Number of virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// Memory, such as 512m or 2g
    #[arg(long, short, value_name = "SIZE", default_value = "512m")]
    memory: Bytes,
    /// Processor model: host, x86-64-v2, x86-64-v3 or x86-64-v4
    #[arg(long, value_name = "MODEL", default_value = "host")]
    cpu: CpuModel,
}

/// A disk as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Disk {
    path: PathBuf,
    read_only: bool,
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut path, mut format, mut read_only) = (None, None, false);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("path", value)) => path = Some(PathBuf::from(value)),
                Some(("format", value)) => format = Some(value),
                None if part == "ro" => read_only = true,
                _ => return Err(format!("'{part}' is unknown: write path=FILE,format=raw[,ro]")),
            }
        }
        match format {
            Some("raw") => {}
            Some(other) => return Err(format!("format '{other}' is not supported: convert the disk to raw")),
            // Never guessed from the content, which the guest can write.
            None => return Err("the format must be stated: add format=raw".into()),
        }
        let path =
            path.filter(|path| !path.as_os_str().is_empty()).ok_or("the path is missing: add path=FILE")?;
        Ok(Self { path, read_only })
    }
}

impl Boot {
    /// Boots, waits for the end, and turns its reason into an exit status.
    pub(crate) fn run(self, host: &Host) -> Result<ExitCode> {
        let vmm = launch::vmm_path()?;
        // Given back at the end, whichever it is; by then nothing here has a tap open.
        let borrowed = Borrowed::of(&self.nets, host)?;
        let mut descriptors = Descriptors::default();
        let mut terminal = Terminal::default();
        let plan = self.plan(&mut descriptors, &borrowed, terminal.input()?)?;
        let mut child = launch::spawn(&vmm, &plan, descriptors)?;
        terminal.attend(child.id())?;
        let status = child.wait().context("waiting for hull-vmm")?;
        drop(terminal);
        let reason = match (status.code(), status.signal()) {
            (Some(0), _) => return Ok(ExitCode::SUCCESS),
            (Some(code), _) => ExitReason::from_status(code),
            (None, signal) => match signal.and_then(ExitReason::from_signal) {
                None => bail!("hull-vmm was ended from outside: {status}"),
                reason => reason,
            },
        };
        match reason {
            Some(reason) => {
                eprintln!("hull: {reason}");
                Ok(ExitCode::from(u8::try_from(reason.status()).unwrap_or(125)))
            }
            // The VMM has said on standard error why it did not start.
            None => Ok(ExitCode::from(125)),
        }
    }

    fn plan(
        &self,
        descriptors: &mut Descriptors,
        borrowed: &Borrowed,
        input: Option<File>,
    ) -> Result<BootPlan> {
        if self.disks.len() > DISKS_MAX {
            bail!("{} disks are too many: a microVM has at most {DISKS_MAX}", self.disks.len());
        }
        if self.nets.len() > NETS_MAX {
            bail!("{} network cards are too many: a microVM has at most {NETS_MAX}", self.nets.len());
        }
        let cpus = plan::cpus(self.cpus)?;
        let memory = plan::memory(self.memory, plan::host_memory())?;
        let kvm = descriptors.add(open_kvm()?);
        let kernel = KernelPlan {
            image: descriptors.add(open(&self.kernel, "kernel")?),
            initrd: self
                .initrd
                .as_deref()
                .map(|path| open(path, "initial RAM disk").map(|file| descriptors.add(file)))
                .transpose()?,
            cmdline: self.cmdline.clone(),
            entry: self.entry,
        };
        let disks = self
            .disks
            .iter()
            .enumerate()
            .map(|(index, disk)| {
                let file = open_disk(disk)?;
                Ok(DiskPlan {
                    file: descriptors.add(file),
                    read_only: disk.read_only,
                    serial: format!("disk{index}"),
                    limit: DiskLimit::default(),
                })
            })
            .collect::<Result<_>>()?;
        let nets = self.nets.iter().zip(borrowed.cards());
        let nets = nets.map(|(net, card)| net.plan(card, descriptors)).collect::<Result<_>>()?;
        let input = input.map(|file| descriptors.add(file)).or(Some(Slot(0)));
        let console = ConsolePlan { input, output: Some(Slot(1)), limit: None };
        let id = format!("boot-{}", std::process::id());
        Ok(BootPlan {
            id,
            kvm,
            memory,
            cpus,
            cpu: self.cpu,
            kernel,
            disks,
            vsock: None,
            nets,
            cgroups: Vec::new(),
            rng: true,
            console,
            control: None,
            first_user: Some(FIRST_USER),
            trace: None,
        })
    }
}

fn open(path: &Path, what: &str) -> Result<File> {
    let file = File::open(path).with_context(|| format!("the {what} {} cannot be opened", path.display()))?;
    if !file.metadata()?.is_file() {
        bail!("the {what} {} is not a file", path.display());
    }
    Ok(file)
}

fn open_disk(disk: &Disk) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(!disk.read_only)
        .open(&disk.path)
        .with_context(|| format!("the disk {} cannot be opened", disk.path.display()))?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        bail!("the disk {} is neither a file nor a block device", disk.path.display());
    }
    Ok(file)
}

fn open_kvm() -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .context("/dev/kvm cannot be opened ('hull doctor' says what to do)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_state_their_format() {
        let disk: Result<Disk, _> = "path=/tmp/x.img,format=raw,ro".parse();
        assert_eq!(disk, Ok(Disk { path: "/tmp/x.img".into(), read_only: true }));
        for (bad, hint) in [
            ("path=x", "add format=raw"),
            ("path=x,format=qcow2", "qcow2"),
            ("format=raw", "path"),
            ("path=,format=raw", "path"),
            ("path=x,format=raw,rw", "rw"),
            ("", "unknown"),
        ] {
            let error = bad.parse::<Disk>();
            assert!(error.is_err_and(|text| text.contains(hint)), "{bad}");
        }
    }
}
