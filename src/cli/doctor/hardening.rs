//! `hull doctor --hardening`: the operator's part of the walls (`docs/threat-model.md`), read from the host's own files.
//!
//! Pure but for reading files below a root, so that tests can judge hosts that they made up. A file that is missing
//! means what its kernel means by that, and what cannot be known is never called good.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Finding, Verdict};

/// What was read of a host.
struct Host<'a>(&'a Path);

impl Host<'_> {
    /// The content of a file, without the last newline.
    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.0.join(path)).ok().map(|text| text.trim().to_owned())
    }

    fn is(&self, path: &str, values: &[&str]) -> bool {
        self.read(path).is_some_and(|value| values.contains(&value.as_str()))
    }
}

fn weak(name: &'static str, found: impl Into<String>, remedy: &'static str) -> Finding {
    Finding::not(name, Verdict::Weak, found, remedy)
}

/// Judges the host whose root directory this is.
pub(super) fn judge(root: &Path) -> Vec<Finding> {
    let host = Host(root);
    vec![
        threads(&host),
        vulnerabilities(&host),
        microcode(&host),
        command_line(&host),
        same_pages(&host),
        swap(&host),
        core_dumps(&host),
        device(&host),
        nested(&host),
        huge_pages(&host),
        cache_flush(&host),
        cgroups(&host),
        landlock(&host),
        bpf(&host),
        page_faults(&host),
        user_namespaces(&host),
    ]
}

/// Two threads of a core share caches, buffers and predictors, whoever runs on them.
fn threads(host: &Host<'_>) -> Finding {
    let name = "SMT";
    match host.read("sys/devices/system/cpu/smt/active").as_deref() {
        Some("0") => Finding::good(name, "off"),
        Some("1") => weak(
            name,
            "on: guests of different tenants may run on two threads of one core",
            "echo off > /sys/devices/system/cpu/smt/control, and boot with nosmt; or give each tenant cores of its own",
        ),
        _ => weak(name, "the kernel does not say", "look at the firmware's settings: threads of a core off"),
    }
}

/// What the kernel says of each weakness of the processor.
fn vulnerabilities(host: &Host<'_>) -> Finding {
    let name = "CPU weaknesses";
    let remedy = "update the kernel and the microcode, and boot without mitigations=off";
    let place = host.0.join("sys/devices/system/cpu/vulnerabilities");
    let mut known: Vec<(String, String)> = fs::read_dir(place)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let text = fs::read_to_string(entry.path()).ok()?;
            Some((entry.file_name().into_string().ok()?, text.trim().to_owned()))
        })
        .collect();
    known.sort();
    if known.is_empty() {
        return weak(name, "the kernel does not say", remedy);
    }
    let open: Vec<String> = known
        .iter()
        // What a mitigation leaves open with SMT is said there once. KVM's own begin with its name.
        .filter(|(_, text)| {
            let text = text.strip_prefix("KVM: ").unwrap_or(text);
            !(text.starts_with("Not affected") || text.starts_with("Mitigation"))
        })
        .map(|(weakness, text)| format!("{weakness} ({text})"))
        .collect();
    if open.is_empty() {
        return Finding::good(name, format!("all {} mitigated or absent", known.len()));
    }
    weak(name, open.join("; "), remedy)
}

/// The processor's own program. Whether it is the newest, its maker alone knows.
fn microcode(host: &Host<'_>) -> Finding {
    let name = "microcode";
    let lacking = fs::read_dir(host.0.join("sys/devices/system/cpu/vulnerabilities"))
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .any(|text| text.to_ascii_lowercase().contains("no microcode"));
    let remedy = "install intel-microcode or amd64-microcode (or new firmware), and restart the host";
    if lacking {
        return weak(name, "too old for a mitigation of the kernel's", remedy);
    }
    let hypervisor = host.read("proc/cpuinfo").is_some_and(|text| {
        text.lines()
            .any(|line| line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "hypervisor"))
    });
    match host.read("sys/devices/system/cpu/cpu0/microcode/version") {
        Some(version) => Finding::good(name, format!("{version}, enough for the kernel's mitigations")),
        None if hypervisor => Finding::good(name, "is the business of the host below this one"),
        None => weak(name, "the kernel does not say which", remedy),
    }
}

fn command_line(host: &Host<'_>) -> Finding {
    let name = "kernel options";
    let text = host.read("proc/cmdline").unwrap_or_default();
    let off = [
        "mitigations=off",
        "nopti",
        "nospectre_v2",
        "spectre_v2=off",
        "mds=off",
        "l1tf=off",
        "kvm-intel.ept=0",
    ];
    let found: Vec<&str> = text.split_whitespace().filter(|word| off.contains(word)).collect();
    if found.is_empty() {
        return Finding::good(name, "no mitigation is switched off");
    }
    weak(name, found.join(" "), "boot without these")
}

/// Merging equal pages tells one guest what another has in memory, by timing.
fn same_pages(host: &Host<'_>) -> Finding {
    let name = "KSM";
    match host.read("sys/kernel/mm/ksm/run").as_deref() {
        None | Some("0" | "2") => Finding::good(name, "off"),
        Some(_) => weak(
            name,
            "on: a guest can find out by timing what is in another's memory",
            "echo 2 > /sys/kernel/mm/ksm/run, and switch ksmtuned off",
        ),
    }
}

/// What is swapped out stays on the disk when the guest has long gone.
fn swap(host: &Host<'_>) -> Finding {
    let name = "swap";
    let Some(text) = host.read("proc/swaps") else {
        return weak(name, "the kernel does not say", "look at swapon --show");
    };
    let open: Vec<&str> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        // Compressed memory is memory. What device mapper made may be encrypted, which is not to be seen from here.
        .filter(|device| !device.starts_with("/dev/zram"))
        .collect();
    if open.is_empty() {
        return Finding::good(name, "none on a disk");
    }
    weak(
        name,
        format!("{}: guests' memory may stay on the disk", open.join(", ")),
        "swapoff -a, or swap to a device that is encrypted with a key of each boot",
    )
}

/// A VMM makes no core dumps; one of the daemon's holds its users' secrets.
fn core_dumps(host: &Host<'_>) -> Finding {
    let name = "core dumps";
    let remedy = "sysctl -w kernel.core_pattern='|/bin/false', or a handler that keeps them from other users";
    match host.read("proc/sys/kernel/core_pattern").as_deref() {
        Some("" | "|/bin/false" | "|/bin/true") => Finding::good(name, "none"),
        Some(handler) if handler.starts_with('|') => {
            Finding::good(name, format!("go to {}", handler.trim_start_matches('|')))
        }
        Some(pattern) if pattern.starts_with('/') => weak(name, format!("are written to {pattern}"), remedy),
        Some(_) => Finding::good(name, "go to the directory of the process"),
        None => weak(name, "the kernel does not say", remedy),
    }
}

/// Whoever may open it, may make VMs outside of any jail.
fn device(host: &Host<'_>) -> Finding {
    let name = "/dev/kvm";
    match fs::metadata(host.0.join("dev/kvm")) {
        Ok(found) if found.permissions().mode() & 0o006 != 0 => weak(
            name,
            "any user of the host may open it, and attack KVM outside of every jail",
            "chmod 660 /dev/kvm, with a group kvm; in udev: KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\"",
        ),
        Ok(_) => Finding::good(name, "is not open to everybody"),
        Err(_) => Finding::good(name, "is missing"),
    }
}

/// Nested virtualization is the part of KVM that was broken most often; Hull's guests are not offered it.
fn nested(host: &Host<'_>) -> Finding {
    let name = "nested KVM";
    let on = ["kvm_intel", "kvm_amd"]
        .iter()
        .any(|module| host.is(&format!("sys/module/{module}/parameters/nested"), &["1", "Y"]));
    if !on {
        return Finding::good(name, "off");
    }
    weak(
        name,
        "on: guests that see VT-x or SVM can use much more of KVM's code",
        "unless guests need it: options kvm_intel nested=0 (or kvm_amd) in /etc/modprobe.d",
    )
}

fn huge_pages(host: &Host<'_>) -> Finding {
    let name = "iTLB multihit";
    let weakness = host.read("sys/devices/system/cpu/vulnerabilities/itlb_multihit");
    let affected = weakness.is_some_and(|text| !text.starts_with("Not affected"));
    if affected && host.is("sys/module/kvm/parameters/nx_huge_pages", &["N", "0", "off", "never"]) {
        return weak(
            name,
            "the processor is affected and kvm.nx_huge_pages is off: a guest can stop the host",
            "options kvm nx_huge_pages=auto in /etc/modprobe.d",
        );
    }
    Finding::good(name, if affected { "mitigated" } else { "does not apply" })
}

/// L1TF: what of others is in the first cache when a guest is entered.
fn cache_flush(host: &Host<'_>) -> Finding {
    let name = "L1D flush";
    let weakness = host.read("sys/devices/system/cpu/vulnerabilities/l1tf");
    let affected = weakness.is_some_and(|text| !text.starts_with("Not affected"));
    if affected && host.is("sys/module/kvm_intel/parameters/vmentry_l1d_flush", &["never"]) {
        return weak(
            name,
            "the processor has L1TF and KVM does not flush: a guest may read the host's memory",
            "echo always > /sys/module/kvm_intel/parameters/vmentry_l1d_flush",
        );
    }
    Finding::good(name, if affected { "on" } else { "does not apply" })
}

fn cgroups(host: &Host<'_>) -> Finding {
    let name = "cgroups";
    let there = host.read("sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let there: Vec<&str> = there.split_whitespace().collect();
    let lacking: Vec<_> =
        super::CONTROLLERS.into_iter().filter(|controller| !there.contains(controller)).collect();
    if lacking.is_empty() {
        return Finding::good(name, "version 2 with every controller");
    }
    weak(
        name,
        format!(
            "no version 2 with {}: a VMM that was taken over can use more than its share",
            lacking.join(", ")
        ),
        "boot with systemd.unified_cgroup_hierarchy=1, and without cgroup_disable=",
    )
}

fn landlock(host: &Host<'_>) -> Finding {
    let name = "Landlock";
    match host.read("sys/kernel/security/lsm") {
        Some(modules) if modules.split(',').any(|module| module == "landlock") => Finding::good(name, "on"),
        Some(modules) => weak(
            name,
            format!("is not among the kernel's security modules ({modules})"),
            "boot with lsm=landlock,... (Linux 5.13 or newer)",
        ),
        None => weak(
            name,
            "the kernel does not say: securityfs is not mounted",
            "mount -t securityfs none /sys/kernel/security, and ask again; 'hull doctor' tries it out",
        ),
    }
}

fn bpf(host: &Host<'_>) -> Finding {
    let name = "BPF";
    match host.read("proc/sys/kernel/unprivileged_bpf_disabled").as_deref() {
        Some("0") => weak(
            name,
            "every user may load programs into the kernel",
            "sysctl -w kernel.unprivileged_bpf_disabled=1",
        ),
        Some(_) => Finding::good(name, "for privileged users only"),
        None => Finding::good(name, "is not there"),
    }
}

fn page_faults(host: &Host<'_>) -> Finding {
    let name = "userfaultfd";
    match host.read("proc/sys/vm/unprivileged_userfaultfd").as_deref() {
        Some("1") => weak(
            name,
            "every user may hold the kernel up in a page fault, which makes its races easy to win",
            "sysctl -w vm.unprivileged_userfaultfd=0",
        ),
        Some(_) => Finding::good(name, "for privileged users, or faults of user code only"),
        None => Finding::good(name, "is not there"),
    }
}

/// What other users of the host can reach of the kernel; a VMM's own list of calls lets it make none.
fn user_namespaces(host: &Host<'_>) -> Finding {
    let name = "user namespaces";
    let off = host.is("proc/sys/kernel/unprivileged_userns_clone", &["0"])
        || host.is("proc/sys/user/max_user_namespaces", &["0"])
        || host.is("proc/sys/kernel/apparmor_restrict_unprivileged_userns", &["1"]);
    if off {
        return Finding::good(name, "for privileged users only");
    }
    weak(
        name,
        "every user of the host can make them, and reach parts of the kernel meant for root",
        "unless users need them: sysctl -w user.max_user_namespaces=0 (daemons that run rootless need them)",
    )
}

#[cfg(test)]
mod tests;
