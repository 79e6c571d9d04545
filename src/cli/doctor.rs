//! `hull doctor`: what this host can run, what costs time, what weakens it, and what to do about each.

mod hardening;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;
use hull_daemon::cgroup::CONTROLLERS;
use hull_daemon::paths::{self, Paths};
use hull_protocol::units::Bytes;
use serde::Serialize;

use super::list::{self, Format};

/// Below this, the first images soon fill the disk.
const SPACE_MIN: Bytes = Bytes::gib(2);

/// Say what this host can run, and what to change
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Look at what its operator has to see to for guests to stay apart; status 1 when something is open
    #[arg(long)]
    hardening: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Good,
    /// Works, at a cost.
    Slow,
    /// Works, with a wall less.
    Weak,
    /// Does not work until it is changed.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

impl Finding {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, found: found.into(), remedy: None }
    }

    fn not(name: &'static str, verdict: Verdict, found: impl Into<String>, remedy: &'static str) -> Self {
        Self { name, verdict, found: found.into(), remedy: Some(remedy) }
    }
}

impl Doctor {
    /// Prints the findings; status 1 when something keeps microVMs from running, or guests from staying apart where that
    /// was asked.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let findings = if self.hardening { hardening::judge(Path::new("/")) } else { abilities() };
        match self.format {
            Format::Json => list::print_json(&findings)?,
            Format::Table => list::print(&findings.iter().map(line).collect::<String>())?,
        };
        let worst = if self.hardening { Verdict::Weak } else { Verdict::Bad };
        let bad = findings.iter().any(|finding| finding.verdict == worst);
        Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// What microVMs need and what makes them fast.
fn abilities() -> Vec<Finding> {
    vec![
        device(),
        virtualization(),
        cgroups(),
        huge_page_mitigation(),
        host_kernel(),
        program("hull-vmm"),
        program("hull-agent"),
        jail(),
        mke2fs(),
        disk_space(),
    ]
}

fn line(finding: &Finding) -> String {
    let mark = match finding.verdict {
        Verdict::Good => "ok  ",
        Verdict::Slow => "slow",
        Verdict::Weak => "weak",
        Verdict::Bad => "BAD ",
    };
    let mut text = format!("{mark}  {:<18}{}\n", finding.name, finding.found);
    if let Some(remedy) = finding.remedy {
        text.push_str(&format!("      {:<18}-> {remedy}\n", ""));
    }
    text
}

fn device() -> Finding {
    let name = "/dev/kvm";
    match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Finding::good(name, "can be opened"),
        Err(error) if error.kind() == ErrorKind::NotFound => Finding::not(
            name,
            Verdict::Bad,
            "is missing",
            "turn on virtualization (VT-x or SVM) in the firmware, then: modprobe kvm_intel or kvm_amd",
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Finding::not(name, Verdict::Bad, "is not yours to open", "adduser $USER kvm, then log in again")
        }
        Err(error) => {
            Finding::not(name, Verdict::Bad, format!("cannot be opened: {error}"), "check the kernel's log")
        }
    }
}

/// What stands behind KVM decides whether a stock kernel boots.
fn virtualization() -> Finding {
    let name = "virtualization";
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags: Vec<&str> = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    if flags.contains(&"vmx") {
        Finding::good(name, "Intel VT-x: stock kernels boot")
    } else if flags.contains(&"svm") {
        Finding::good(name, "AMD SVM: stock kernels boot")
    } else if Path::new("/sys/module/kvm_pvm").exists() {
        Finding::not(
            name,
            Verdict::Bad,
            "pagetable-based KVM (kvm_pvm): stock kernels do not boot on it",
            "use a host with VT-x or SVM, or with nested virtualization",
        )
    } else {
        Finding::not(
            name,
            Verdict::Bad,
            "the processor offers neither VT-x nor SVM",
            "turn it on in the firmware; on a cloud host choose a type with nested virtualization, or bare metal",
        )
    }
}

fn cgroups() -> Finding {
    let name = "cgroups";
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let version_one = mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup"));
    let unified = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2") && !version_one);
    match unified {
        Some(line) if !lacking(line).is_empty() => Finding::not(
            name,
            Verdict::Weak,
            format!("version 2, without {}: VMMs run without these limits", lacking(line).join(", ")),
            "boot without cgroup_disable=, and hand the controllers down to where the daemon runs",
        ),
        Some(line) if line.contains("favordynmods") => Finding::good(name, "version 2, favordynmods"),
        Some(_) => Finding::not(
            name,
            Verdict::Slow,
            "version 2, without favordynmods: making a VM may take 20 to 40 ms longer",
            "mount -o remount,favordynmods /sys/fs/cgroup",
        ),
        None => Finding::not(
            name,
            Verdict::Slow,
            "version 1: processors, memory and processes are limited, I/O is not",
            "boot with systemd.unified_cgroup_hierarchy=1",
        ),
    }
}

/// The controllers that limit VMMs and are not where this cgroup file system is mounted.
fn lacking(mount: &str) -> Vec<&'static str> {
    let place = Path::new(mount.split(' ').nth(1).unwrap_or_default());
    let there = fs::read_to_string(place.join("cgroup.controllers")).unwrap_or_default();
    let there: Vec<&str> = there.split_whitespace().collect();
    CONTROLLERS.into_iter().filter(|one| !there.contains(one)).collect()
}

fn huge_page_mitigation() -> Finding {
    let name = "kvm.nx_huge_pages";
    match fs::read_to_string("/sys/module/kvm/parameters/nx_huge_pages").as_deref().map(str::trim) {
        Ok("Y" | "1" | "force") => Finding::not(
            name,
            Verdict::Slow,
            "on: the first VM of a process waits for a worker thread",
            "if the processor is not affected by iTLB multihit: kvm.nx_huge_pages=never",
        ),
        Ok(value) => Finding::good(name, value.to_owned()),
        Err(_) => Finding::good(name, "does not apply"),
    }
}

fn program(name: &'static str) -> Finding {
    match paths::program(name) {
        Ok(path) => Finding::good(name, path.display().to_string()),
        Err(place) => Finding::not(
            name,
            Verdict::Bad,
            format!("is not at {}", place.display()),
            "install hull, hull-vmm and hull-agent in one directory, or set HULL_LIBEXEC to where they are",
        ),
    }
}

/// What every VMM is locked into: found out by locking one in.
fn jail() -> Finding {
    let name = "jail";
    let remedy =
        "a kernel with namespaces and, since 5.13, Landlock (lsm=landlock,...); as root where possible";
    let asked = paths::program("hull-vmm")
        .map_err(|place| format!("{} is missing", place.display()))
        .and_then(|vmm| Command::new(vmm).arg("--probe-jail").output().map_err(|error| error.to_string()));
    match asked {
        Ok(output) if !output.status.success() => {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Finding::not(name, Verdict::Bad, why, "a kernel with CONFIG_SECCOMP_FILTER, 5.9 or newer")
        }
        Ok(output) if output.stdout.is_empty() => Finding::good(name, "every layer is there"),
        Ok(output) => {
            let missing = String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ");
            Finding::not(name, Verdict::Weak, missing, remedy)
        }
        Err(error) => Finding::not(name, Verdict::Bad, error, "install hull-vmm beside hull"),
    }
}

/// Makes the writable disks.
fn mke2fs() -> Finding {
    let name = "mke2fs";
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Not in every user's PATH.
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    match places.map(|place| place.join(name)).find(|place| place.is_file()) {
        Some(found) => Finding::good(name, found.display().to_string()),
        None => Finding::not(name, Verdict::Bad, "is missing", "apt install e2fsprogs"),
    }
}

/// What is booted where no kernel has been imported.
fn host_kernel() -> Finding {
    let name = "host kernel";
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let places = [format!("/boot/vmlinuz-{release}"), format!("/lib/modules/{release}/vmlinuz")];
    let Some(place) = places.iter().find(|place| Path::new(place).exists()) else {
        return Finding::not(
            name,
            Verdict::Slow,
            format!("{release} is not in /boot"),
            "import a kernel: hull kernel import --deb FILE",
        );
    };
    match fs::File::open(place) {
        Ok(_) => Finding::good(name, place.clone()),
        Err(_) => Finding::not(
            name,
            Verdict::Slow,
            format!("{place} is not yours to read"),
            "as root: hull kernel import, or chmod a+r that file; or import a .deb with hull kernel import --deb",
        ),
    }
}

fn disk_space() -> Finding {
    let name = "disk space";
    let data = Paths::of_user().data;
    let existing = data.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/"));
    let Ok(found) = rustix::fs::statvfs(existing) else {
        return Finding::good(name, format!("unknown for {}", data.display()));
    };
    let free = Bytes(found.f_bavail.saturating_mul(found.f_frsize));
    let text = format!("{free} free for {}", data.display());
    if free < SPACE_MIN {
        let remedy = "make room, or set HULL_DATA_DIR to a directory with more of it";
        Finding::not(name, Verdict::Slow, text, remedy)
    } else {
        Finding::good(name, text)
    }
}
