//! Runs a command where KVM can boot an unmodified Linux: on this host if its KVM can, else in the lab, an
//! emulated machine that shares this host's root.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use crate::emulator::emulator;
use crate::fixtures::{Kernel, lab_kernel, make, pack_initramfs, put_modules};
use crate::shell::{check, need_packages, processors, repository, target};

/// What the lab's kernel loads before it can mount the host's root; the rules of networks need the last ones, which take
/// too long when each is asked for in the middle of a transaction.
const MODULES: [&str; 22] = [
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "virtio_console",
    "overlay",
    "loop",
    "kvm-amd",
    "tun",
    "erofs",
    "ext4",
    "bridge",
    "veth",
    "nft_ct",
    "nft_objref",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_fib_inet",
    "nft_reject_inet",
    "nft_limit",
    "nft_meta_bridge",
    "nft_reject_bridge",
];
/// What a kernel says of a processor that is stuck.
const LOCKED_UP: &[u8] = b"BUG: soft lockup";
/// How it fails when the emulator lost the lab, which says nothing of what ran in it.
const LOST: &str = "the emulated host stands still, or is gone";
/// The exit status of `cargo xtask lab` then.
pub const LOST_STATUS: u8 = 75;
/// No command in the lab runs longer.
const TIME_LIMIT: &str = "3600";
/// The emulated host's memory.
const MEMORY_MIB: usize = 8192;

/// What the lab is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// This host if its KVM boots Linux, else an emulated one.
    Any,
    /// An emulated one.
    Emulated,
    /// An emulated one with one processor whose clock counts instructions, one a nanosecond: what is measured
    /// there repeats, whatever else this machine does.
    Counted,
}

impl Host {
    /// The program. What is measured stays with the distribution's own: which instructions there are to count changes
    /// with the emulator, and with one processor the older one has no faults that were seen.
    fn emulator(self) -> Result<Vec<OsString>> {
        match self {
            Self::Any | Self::Emulated => emulator(),
            Self::Counted => need_packages(&["qemu-system-x86"]).map(|()| vec!["qemu-system-x86_64".into()]),
        }
    }

    /// How long it may say nothing of itself. It does so every five seconds (`resources/lab/init`) of its own clock, which
    /// goes slower than time where instructions are counted.
    fn silence(self) -> Duration {
        match self {
            Self::Any | Self::Emulated => Duration::from_secs(150),
            Self::Counted => Duration::from_secs(1200),
        }
    }

    /// What the emulator is told of the processor. There is one, and one thread for it: guests met faults that no processor
    /// raises, and hosts died, where two ran at once, under load every other minute. Without `erms` and `fsrm` kernels copy word by word: a string
    /// instruction would count as one, however long. Page tables of the host have four levels, as those of its
    /// guests: hosts with five died under load.
    fn processor(self) -> &'static [&'static str] {
        match self {
            Self::Any | Self::Emulated => {
                &["-accel", "tcg,thread=single", "-cpu", "max,+svm,-la57", "-smp", "1"]
            }
            Self::Counted => &[
                "-accel",
                "tcg,thread=single",
                "-cpu",
                "max,+svm,-erms,-fsrm",
                "-smp",
                "1",
                "-icount",
                "shift=0,sleep=off",
            ],
        }
    }
}

/// `cargo xtask lab [--emulate | --count] -- CMD`.
pub fn command(args: &[String]) -> ExitCode {
    let host = match args.first().map(String::as_str) {
        Some("--emulate") => Host::Emulated,
        Some("--count") => Host::Counted,
        _ => Host::Any,
    };
    let rest = args.get(usize::from(host != Host::Any)..).unwrap_or_default();
    let command: Vec<&str> = match rest.split_first() {
        Some((dashes, command)) if dashes == "--" && !command.is_empty() => {
            command.iter().map(String::as_str).collect()
        }
        _ => {
            eprintln!("usage: cargo xtask lab [--emulate | --count] -- CMD [ARG ...]");
            return ExitCode::from(2);
        }
    };
    match run(&command, host) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            if error.to_string() == LOST { ExitCode::from(LOST_STATUS) } else { ExitCode::FAILURE }
        }
    }
}

/// Whether this host's own KVM boots a stock kernel.
pub fn host_can_boot() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let hardware = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    hardware && fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

/// How many labs there can be at once: each keeps one processor busy, and may take its memory.
pub fn places() -> usize {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<usize> = total.and_then(|total| total.trim().trim_end_matches(" kB").parse().ok());
    processors().min(kib.unwrap_or(0) / (MEMORY_MIB << 10)).clamp(1, 4)
}

/// Runs a command and returns its exit status.
pub fn run(command: &[&str], host: Host) -> Result<i32> {
    if host == Host::Any && host_can_boot() {
        let (program, args) = command.split_first().context("no command")?;
        let status =
            Command::new(program).args(args).env("PATH", path()).current_dir(repository()).status()?;
        return Ok(status.code().unwrap_or(125));
    }
    let (kernel, initramfs) = prepare()?;
    let share = Share::new()?;
    fs::write(share.0.join("command"), script(command))?;
    fs::write(share.0.join("modules"), kernel.modules().display().to_string())?;
    let ended = emulate_host(host, &kernel.image(), &initramfs, &share);
    // Without a status the emulated host came to an end of its own: its kernel died.
    let status = fs::read_to_string(share.0.join("status"));
    if ended.is_err() || status.is_err() {
        let kept = target().join("fixtures/lab-console.log");
        fs::copy(share.console(), &kept)?;
        eprintln!("xtask: the lab ended early; its console is in {}", kept.display());
        return ended.and_then(|()| bail!("{LOST}"));
    }
    Ok(status?.trim().parse()?)
}

/// What every lab boots, made once: not by two at the same time.
pub fn prepare() -> Result<(Kernel, PathBuf)> {
    need_packages(&["busybox-static", "cpio"])?;
    let kernel = lab_kernel()?;
    let initramfs = target().join("fixtures/lab-initramfs");
    let source = fs::read_to_string(repository().join("resources/lab/init"))? + &MODULES.join(" ");
    make(&initramfs, &source, build_initramfs)?;
    Host::Any.emulator()?;
    Ok((kernel, initramfs))
}

fn emulate_host(host: Host, kernel: &Path, initramfs: &Path, share: &Share) -> Result<()> {
    let virtfs = |path: &Path, tag: &str, mode: &str| {
        format!("local,path={},mount_tag={tag},security_model=none,multidevs=remap{mode}", path.display())
    };
    let append = "console=ttyS0 panic=-1 quiet mitigations=off rdinit=/init";
    // Output goes through two ports of its own, so that standard output and error stay apart and live.
    watch(
        // It ends with whoever started it, and after a time in any case.
        Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "timeout", "--kill-after=10", TIME_LIMIT])
            .args(host.emulator()?)
            .args(host.processor())
            .args([
                "-M",
                "q35",
                "-m",
                &MEMORY_MIB.to_string(),
                "-display",
                "none",
                "-no-reboot",
                "-nodefaults",
                "-no-user-config",
            ])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", append])
            .args(["-serial", &format!("file:{}", share.console().display())])
            .args(["-virtfs", &virtfs(Path::new("/"), "host", ",readonly=on")])
            .args(["-virtfs", &virtfs(&share.0, "lab", "")])
            .args(["-device", "virtio-serial-pci", "-chardev", "file,id=out,path=/dev/stdout,append=on"])
            .args(["-chardev", "file,id=err,path=/dev/stderr,append=on"])
            .args([
                "-device",
                "virtserialport,chardev=out,nr=1",
                "-device",
                "virtserialport,chardev=err,nr=2",
            ])
            .stdin(Stdio::null()),
        share,
        host.silence(),
    )
}

/// Runs the emulator to its end, or until the emulated host says that one of its processors is stuck, or says nothing
/// for long: the emulator has lost an interrupt then, and nothing goes on.
fn watch(emulator: &mut Command, share: &Share, silence: Duration) -> Result<()> {
    let mut running = emulator.spawn().context("the emulator could not be started")?;
    let started = Instant::now();
    let silent = || {
        let last = fs::metadata(share.0.join("alive")).and_then(|file| file.modified());
        last.map_or(started.elapsed(), |at| SystemTime::now().duration_since(at).unwrap_or_default())
    };
    loop {
        if let Some(status) = running.try_wait()? {
            return if status.success() { Ok(()) } else { bail!("the emulator failed: {status}") };
        }
        let said = fs::read(share.console()).unwrap_or_default();
        if silent() > silence || said.windows(LOCKED_UP.len()).any(|text| text == LOCKED_UP) {
            // Ended as a whole: the emulator is a child of `timeout`, which passes the signal on.
            check(Command::new("kill").arg(running.id().to_string()))?;
            running.wait()?;
            bail!("{LOST}");
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// A directory that the lab can write to, removed with the value.
struct Share(PathBuf);

impl Share {
    fn new() -> Result<Self> {
        let place = target().join("fixtures").join(format!("lab-share-{}", std::process::id()));
        fs::create_dir_all(&place)?;
        Ok(Self(place))
    }

    /// What the emulated host's kernel says.
    fn console(&self) -> PathBuf {
        self.0.join("console")
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _left_for_the_next_clean = fs::remove_dir_all(&self.0);
    }
}

fn path() -> String {
    format!("{}:{}", target().join("lab").display(), std::env::var("PATH").unwrap_or_default())
}

fn script(command: &[&str]) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
    let mut script = String::new();
    let kept = ["HULL_FIXTURES", "CARGO_TARGET_DIR", "RUST_BACKTRACE"];
    for (name, value) in kept.iter().filter_map(|name| std::env::var(name).ok().map(|value| (name, value))) {
        script += &format!("export {name}={}\n", quote(&value));
    }
    script
        + &format!(
            "export HOME=/root PATH={} HULL_LAB=emulated\ncd {}\n{}\n",
            quote(&path()),
            quote(&repository().display().to_string()),
            words.join(" ")
        )
}

fn build_initramfs(half: &Path) -> Result<()> {
    let tree = half.with_extension("tree");
    let _old = fs::remove_dir_all(&tree);
    for dir in ["bin", "proc", "sys", "dev"] {
        fs::create_dir_all(tree.join(dir))?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
    fs::copy(repository().join("resources/lab/init"), tree.join("init"))?;
    check(Command::new("chmod").args(["755"]).arg(tree.join("init")))?;
    put_modules(&lab_kernel()?, &MODULES, &tree.join("modules"))?;
    pack_initramfs(&tree, half)?;
    fs::remove_dir_all(tree).map_err(Into::into)
}
