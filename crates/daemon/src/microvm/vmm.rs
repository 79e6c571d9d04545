//! One `hull-vmm` process: what it needs, its start, and its end.

mod adopt;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hull_protocol::agent::{COPIES_SERIAL, DATA_SERIAL, IMAGE_SERIAL, volume_serial};
use hull_protocol::api::Microvm as Record;
use hull_protocol::exit::ExitReason;
use hull_protocol::network::NetPlan;
use hull_protocol::plan::{
    BootPlan, ConsolePlan, DiskPlan, EntryPlan, FIRST_USER, JAIL_NOTICE, KernelPlan, Slot, VsockPlan,
};
use hull_protocol::units::Bytes;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::net::unix::pipe::Receiver;
use tokio::process::Child;

pub(super) use self::adopt::lost;
use super::console::{self, CONSOLE_MAX};
use super::control::{self, Control};
use crate::cgroup::{Group, Limits};
use crate::disk;
use crate::fleet::Host;
use crate::launch::{self, Descriptors, LaunchError};
use crate::network::{Attached, NetworkError, guest};
use crate::plan::{CMDLINE, Resolved};
use crate::space;
use crate::volumes::VolumeError;

/// The guest's context id: each VM has a vsock device of its own, so all can have the same.
const GUEST_CID: u32 = 3;
/// How much of a log's end is shown in an error, in bytes.
const TAIL: usize = 600;

/// Why a microVM could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// KVM cannot be used.
    #[error("/dev/kvm cannot be opened ('hull doctor' says what to do)")]
    Kvm(#[source] io::Error),
    /// The kernel bundle is not there.
    #[error(transparent)]
    Kernel(#[from] crate::kernel::KernelError),
    /// The image is not there any more.
    #[error(transparent)]
    Image(#[from] hull_image::StoreError),
    /// The disk could not be made.
    #[error(transparent)]
    Disk(#[from] disk::DiskError),
    /// A volume is not there, or somebody else has it.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// What it is to see of the host's files could not be copied.
    #[error(transparent)]
    Copies(#[from] hull_image::CopiesError),
    /// The process could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Its networks could not be had.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A file or socket of the microVM could not be made.
    #[error("{0} could not be made")]
    Io(PathBuf, #[source] io::Error),
}

/// What a VMM is made of, besides its image and kernel.
pub(super) struct Parts<'a> {
    pub(super) record: &'a Record,
    pub(super) resolved: &'a Resolved,
    pub(super) attached: Attached,
}

impl Parts<'_> {
    /// Its cards, whose taps it is handed.
    fn nets(self, descriptors: &mut Descriptors) -> Vec<NetPlan> {
        let taps = self.attached.taps.into_iter().map(|tap| descriptors.add(tap));
        let cards = taps.zip(&self.record.cards).zip(&self.attached.networks);
        let networking = &self.record.spec.networking;
        cards.map(|((tap, card), network)| guest::plan(card, network, tap, networking)).collect()
    }
}

/// A running VMM.
pub(super) struct Vmm {
    life: Life,
    files: Files,
    /// None when it ended before it could be connected to.
    control: Option<Control>,
}

/// How its end is seen.
enum Life {
    /// It is this process's own, started then.
    Child(Child, Instant),
    /// An earlier daemon started it, with this process id, if it lived to write that down.
    Adopted(Option<(u32, Receiver)>),
}

/// Where one microVM's files are.
#[derive(Clone, Debug)]
pub(super) struct Files {
    data: PathBuf,
    run: PathBuf,
}

impl Files {
    pub(super) fn new(host: &Host, id: &str) -> Self {
        Self { data: host.paths.microvm(id), run: host.paths.sockets(id) }
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    pub(super) fn vsock(&self) -> PathBuf {
        self.run.join("vsock.sock")
    }

    fn control(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    pub(super) fn console(&self) -> PathBuf {
        console::path(&self.data)
    }

    fn vmm_log(&self) -> PathBuf {
        self.data.join("vmm.log")
    }

    fn disk(&self) -> PathBuf {
        self.data.join("disk.ext4")
    }

    /// Makes the directory that stays.
    pub(super) fn create(&self) -> io::Result<()> {
        disk::private_directory(&self.data)
    }

    /// Removes the sockets.
    pub(super) fn forget_sockets(&self) {
        let _were_not_there = fs::remove_dir_all(&self.run);
    }

    /// Removes everything.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.forget_sockets();
        match fs::remove_dir_all(&self.data) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What the VMM and the guest's kernel said last, for an error.
    pub(super) fn last_words(&self) -> String {
        let [vmm, console] = [self.vmm_log(), self.console()].map(|path| console::last_words(&path, TAIL));
        // What the jail goes without is no reason for an end.
        let notice = format!("hull-vmm: {JAIL_NOTICE}");
        let said = vmm.lines().map(untraced).filter(|line| !line.starts_with(&notice));
        let vmm = said.collect::<Vec<_>>().join("\n");
        if vmm.is_empty() { console } else { vmm }
    }
}

impl Vmm {
    /// Opens what the plan needs and starts the process. Blocks for some milliseconds, and for longer when a disk
    /// of this size is made for the first time.
    pub(super) fn start(
        host: &Host,
        id: &str,
        image: &str,
        kernel: Option<&str>,
        parts: Parts<'_>,
    ) -> Result<Self, StartError> {
        let resolved = parts.resolved;
        let files = Files::new(host, id);
        let made = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| StartError::Io(path, error)
        };
        files.forget_sockets();
        disk::private_directory(&files.run).map_err(made(&files.run))?;
        // An earlier daemon may have ended between a microVM's record and its directory.
        files.create().map_err(made(files.data()))?;
        let group = host.groups.group(id);
        let mut descriptors = Descriptors::default();
        let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(StartError::Kvm)?;
        let kvm = descriptors.add(kvm);
        let bundle = host.kernels.open(kernel)?;
        let kernel = KernelPlan {
            image: descriptors.add(bundle.kernel),
            initrd: Some(descriptors.add(bundle.initrd)),
            cmdline: CMDLINE.into(),
            entry: EntryPlan::Auto,
        };
        let record = host.images.resolve(image)?;
        let image = host.images.open_block_image(&record)?;
        let data = open_disk(host, &files, resolved.disk_size)?;
        let limit = resolved.limits.disk.unwrap_or_default();
        let mut disks = vec![
            DiskPlan { file: descriptors.add(image), read_only: true, serial: IMAGE_SERIAL.into(), limit },
            DiskPlan { file: descriptors.add(data), read_only: false, serial: DATA_SERIAL.into(), limit },
        ];
        let volumes = host.volumes.open(&parts.record.volumes)?;
        for (place, (file, volume)) in volumes.into_iter().zip(&parts.record.volumes).enumerate() {
            let (file, serial) = (descriptors.add(file), volume_serial(place));
            disks.push(DiskPlan { file, read_only: volume.read_only, serial, limit });
        }
        if !resolved.mounts.copies.is_empty() {
            let copies = hull_image::copies_image(&resolved.mounts.copies, files.data())?;
            let file = descriptors.add(copies);
            disks.push(DiskPlan { file, read_only: true, serial: COPIES_SERIAL.into(), limit });
        }
        let (limits, trace) = (limits(host, parts.record, resolved), parts.record.trace);
        let nets = parts.nets(&mut descriptors);
        let vsock = UnixListener::bind(files.vsock()).map_err(made(&files.vsock()))?;
        let control = control::listen(&files.control()).map_err(made(&files.control()))?;
        let console = console::create(&files.console()).map_err(made(&files.console()))?;
        let log = File::create(files.vmm_log()).map_err(made(&files.vmm_log()))?;
        let plan = BootPlan {
            id: id.to_owned(),
            kvm,
            memory: resolved.memory,
            cpus: resolved.cpus,
            cpu: resolved.cpu,
            kernel,
            disks,
            vsock: Some(VsockPlan { cid: GUEST_CID, listener: descriptors.add(vsock) }),
            nets,
            cgroups: group_slots(&group, &limits, &mut descriptors),
            rng: true,
            console: ConsolePlan {
                input: None,
                output: Some(descriptors.add(console)),
                limit: Some(CONSOLE_MAX),
            },
            control: Some(descriptors.add(control)),
            first_user: Some(FIRST_USER),
            trace,
        };
        let started = Instant::now();
        let child = launch::spawn_apart(&host.vmm, &plan, descriptors, log)?;
        let control = Control::connect(&files.control()).ok();
        Ok(Self { life: Life::Child(child, started), files, control })
    }

    /// Its control socket.
    pub(super) fn control(&self) -> Option<Control> {
        self.control.clone()
    }

    /// Has it be paused or not, as its record says: the daemon that was told to change that may have died in between.
    pub(super) async fn agree(&self, paused: bool) {
        let command = if paused { control::PAUSE } else { control::RESUME };
        if let (Life::Adopted(_), Some(control)) = (&self.life, &self.control)
            && let Err(error) = control.ask(command).await
        {
            tracing::warn!("the VMM of {} does not obey: {error}", self.files.run.display());
        }
    }

    /// The place of a volume's disk among all its disks.
    pub(super) fn disk_of(record: &Record, volume: &str) -> Option<u8> {
        // After the image's and its own.
        let place = record.volumes.iter().position(|own| own.id == volume)?.checked_add(2)?;
        u8::try_from(place).ok()
    }

    /// Its process id, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        match &self.life {
            Life::Child(child, _) => child.id(),
            Life::Adopted(process) => process.as_ref().map(|(pid, _)| *pid),
        }
    }

    /// When its process was started, if by this daemon.
    pub(super) fn started(&self) -> Option<Instant> {
        match &self.life {
            Life::Child(_, started) => Some(*started),
            Life::Adopted(_) => None,
        }
    }

    /// Where its files are.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Waits for its end; the reason, if the VMM has given one.
    pub(super) async fn ended(&mut self) -> Option<ExitReason> {
        match &mut self.life {
            Life::Child(child, _) => {
                let status = child.wait().await.ok()?;
                let by_signal = || status.signal().and_then(ExitReason::from_signal);
                status.code().map_or_else(by_signal, ExitReason::from_status)
            }
            Life::Adopted(process) => {
                let reason = match &self.control {
                    Some(control) => control.ended().await,
                    None => None,
                };
                // It has ended, or hung up: its process tells.
                if let Some((_, process)) = process {
                    let _ended = process.readable().await;
                }
                reason
            }
        }
    }

    /// Ends it: asked first, so that its disks are flushed, then without asking.
    pub(super) async fn kill(&mut self) {
        const ASKED: std::time::Duration = std::time::Duration::from_secs(5);
        let asked = self.control.as_ref().is_some_and(|control| control.kill().is_ok());
        if asked && tokio::time::timeout(ASKED, self.ended()).await.is_ok() {
            return;
        }
        match &mut self.life {
            Life::Child(child, _) => drop(child.kill().await),
            Life::Adopted(Some((_, process))) => {
                let _ended_meanwhile = pidfd_send_signal(&*process, Signal::KILL);
                self.ended().await;
            }
            Life::Adopted(None) => tracing::error!("the VMM of {} does not end", self.files.run.display()),
        }
    }
}

/// A line of a VMM's log, without the trace that it is in.
fn untraced(line: &str) -> String {
    let traced = line.strip_prefix("hull-vmm[").and_then(|rest| rest.split_once("]: "));
    traced.map_or_else(|| line.to_owned(), |(_, said)| format!("hull-vmm: {said}"))
}

/// What a VMM is limited to on this host.
pub(super) fn limits(host: &Host, record: &Record, resolved: &Resolved) -> Limits {
    let Resolved { memory, cpus, disk_size, limits, .. } = *resolved;
    let volumes = || host.volumes.writable_size(&record.volumes);
    let files = match space::in_memory(&host.paths.data) {
        true => Bytes(disk_size.get().saturating_add(volumes().get())),
        false => Bytes(0),
    };
    Limits { memory, cpus, files, asked: limits }
}

/// The VMM's control group, made, as slots of its plan. A host that has none runs it without limits.
fn group_slots(group: &Group, limits: &Limits, descriptors: &mut Descriptors) -> Vec<Slot> {
    match group.create(limits).and_then(|()| group.entries()) {
        Ok(entries) => entries.into_iter().map(|entry| descriptors.add(entry)).collect(),
        Err(error) => {
            tracing::warn!("a microVM runs without limits: its control group cannot be made: {error}");
            group.remove();
            Vec::new()
        }
    }
}

fn open_disk(host: &Host, files: &Files, size: Bytes) -> Result<File, StartError> {
    let path = files.disk();
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(disk) => Ok(disk),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(disk::create(&host.paths.data.join("templates"), &path, size)?)
        }
        Err(error) => Err(StartError::Io(path, error)),
    }
}
