#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use super::*;

/// A host made of files.
struct Made(tempfile::TempDir);

impl Made {
    fn new(files: &[(&str, &str)]) -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(path, text)| made.put(path, text));
        made
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    }

    /// The names of what is not good.
    fn weak(&self) -> Vec<&'static str> {
        let findings = judge(self.0.path());
        assert!(findings.iter().all(|finding| !finding.found.is_empty()));
        findings
            .iter()
            .filter(|finding| finding.verdict != Verdict::Good)
            .map(|finding| finding.name)
            .collect()
    }
}

const CPU: &str = "sys/devices/system/cpu";

/// A host with nothing to complain of.
fn hardened() -> Made {
    let weaknesses = ["l1tf", "mds", "itlb_multihit"].map(|name| format!("{CPU}/vulnerabilities/{name}"));
    let made = Made::new(&[
        ("sys/devices/system/cpu/smt/active", "0"),
        ("sys/devices/system/cpu/cpu0/microcode/version", "0x2b000639"),
        ("proc/cmdline", "root=/dev/sda1 ro nosmt"),
        ("proc/cpuinfo", "flags\t\t: fpu vmx"),
        ("sys/kernel/mm/ksm/run", "0"),
        ("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 1 0 100"),
        ("proc/sys/kernel/core_pattern", "|/usr/lib/systemd/systemd-coredump %P"),
        ("dev/kvm", ""),
        ("sys/module/kvm_intel/parameters/nested", "N"),
        ("sys/module/kvm_intel/parameters/vmentry_l1d_flush", "cond"),
        ("sys/module/kvm/parameters/nx_huge_pages", "Y"),
        ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids"),
        ("sys/kernel/security/lsm", "capability,landlock,yama"),
        ("proc/sys/kernel/unprivileged_bpf_disabled", "2"),
        ("proc/sys/vm/unprivileged_userfaultfd", "0"),
        ("proc/sys/user/max_user_namespaces", "0"),
    ]);
    made.put(&weaknesses[0], "Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT disabled");
    made.put(&weaknesses[1], "Mitigation: Clear CPU buffers; SMT disabled");
    made.put(&weaknesses[2], "KVM: Mitigation: Split huge pages");
    made
}

#[test]
fn a_hardened_host_has_nothing_to_do() {
    let made = hardened();
    // KVM says itself, in its own words, that this one is mitigated.
    assert_eq!(made.weak(), Vec::<&str>::new());
}

#[test]
fn each_hole_is_found_and_no_other() {
    for (path, text, name) in [
        ("sys/devices/system/cpu/smt/active", "1", "SMT"),
        ("sys/devices/system/cpu/vulnerabilities/mds", "Vulnerable", "CPU weaknesses"),
        (
            "sys/devices/system/cpu/vulnerabilities/retbleed",
            "Vulnerable: untrained return thunk",
            "CPU weaknesses",
        ),
        ("sys/devices/system/cpu/vulnerabilities/srso", "Mitigation: Safe RET, no microcode", "microcode"),
        ("proc/cmdline", "quiet mitigations=off", "kernel options"),
        ("sys/kernel/mm/ksm/run", "1", "KSM"),
        ("proc/swaps", "Filename Type\n/dev/sda2 partition", "swap"),
        ("proc/sys/kernel/core_pattern", "/var/cores/%p", "core dumps"),
        ("sys/module/kvm_amd/parameters/nested", "1", "nested KVM"),
        ("sys/module/kvm/parameters/nx_huge_pages", "never", "iTLB multihit"),
        ("sys/module/kvm_intel/parameters/vmentry_l1d_flush", "never", "L1D flush"),
        ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu", "cgroups"),
        ("sys/kernel/security/lsm", "capability,yama", "Landlock"),
        ("proc/sys/kernel/unprivileged_bpf_disabled", "0", "BPF"),
        ("proc/sys/vm/unprivileged_userfaultfd", "1", "userfaultfd"),
        ("proc/sys/user/max_user_namespaces", "15000", "user namespaces"),
    ] {
        let made = hardened();
        made.put(path, text);
        assert_eq!(made.weak(), [name], "{path}: {text}");
    }
    let made = hardened();
    fs::set_permissions(made.0.path().join("dev/kvm"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(made.weak(), ["/dev/kvm"]);
}

#[test]
fn what_cannot_be_known_is_not_called_good() {
    let weak = Made::new(&[]).weak();
    for name in ["SMT", "CPU weaknesses", "microcode", "swap", "core dumps", "cgroups", "Landlock"] {
        assert!(weak.contains(&name), "{name} of an unknown host");
    }
    // In a virtual machine the microcode is another's.
    let made = hardened();
    fs::remove_file(made.0.path().join("sys/devices/system/cpu/cpu0/microcode/version")).unwrap();
    assert_eq!(made.weak(), ["microcode"]);
    made.put("proc/cpuinfo", "flags : fpu svm hypervisor");
    assert_eq!(made.weak(), Vec::<&str>::new());
}
