//! What the lab and the tests need beyond the repository, made once and kept in the target directory.
//!
//! Each fixture is built beside its place and renamed into it, so an interrupted run leaves nothing half-made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{check, need_packages, output, repository, target};

/// A distribution's kernel, unpacked.
pub struct Kernel {
    /// Its release, such as `6.1.0-40-amd64`.
    pub release: String,
    /// The package's files.
    pub root: PathBuf,
}

impl Kernel {
    /// The package itself.
    pub fn package(&self) -> PathBuf {
        self.root.join("package.deb")
    }

    /// The compressed kernel.
    pub fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// Its modules.
    pub fn modules(&self) -> PathBuf {
        self.root.join(format!("lib/modules/{}", self.release))
    }
}

/// The kernel of the lab itself: it has KVM and 9p.
pub fn lab_kernel() -> Result<Kernel> {
    kernel("linux-image-amd64")
}

/// The kernel of the guests under test: every driver a module.
pub fn guest_kernel() -> Result<Kernel> {
    kernel("linux-image-cloud-amd64")
}

/// What a guest under test loads: its devices, the panic device, the power button and the way to hear of it.
const GUEST_MODULES: [&str; 7] =
    ["virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng", "pvpanic-mmio", "button", "evdev"];

/// What the guests under test boot: `guest/vmlinux`, `guest/bzImage` and `guest/initramfs` with busybox,
/// modules, and the test's own first process.
pub fn guest() -> Result<PathBuf> {
    need_packages(&["busybox-static"])?;
    let place = target().join("fixtures/guest");
    let source = repository().join("tests/guests/init");
    let recipe = format!("{GUEST_MODULES:?}\n{}", fs::read_to_string(&source)?);
    make(&place, &recipe, |half| {
        let kernel = guest_kernel()?;
        let tree = half.join("tree");
        for dir in ["bin", "proc", "sys", "dev"] {
            fs::create_dir_all(tree.join(dir))?;
        }
        fs::copy(kernel.image(), half.join("bzImage"))?;
        fs::copy(kernel.root.join("vmlinux"), half.join("vmlinux"))?;
        fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
        put_modules(&kernel, &GUEST_MODULES, &tree.join("modules"))?;
        let init = tree.join("init");
        fs::copy(&source, &init)?;
        check(Command::new("chmod").arg("755").arg(&init))?;
        pack_initramfs(&tree, &half.join("initramfs"))?;
        fs::remove_dir_all(tree).map_err(Into::into)
    })?;
    Ok(place)
}

/// What is common to all ways into the guest without an operating system.
const BARE_PARTS: [&str; 10] = [
    "main.c",
    "platform.c",
    "virtio.c",
    "devices.c",
    "socket.c",
    "net.c",
    "registers.c",
    "rings.c",
    "requests.c",
    "siege.c",
];

/// The guest without an operating system: `bare`, which has both the 64-bit and the PVH entry, and `bare-pvh`, whose
/// only entry is PVH; and `hostile`, an initial RAM disk whose first process is that guest, with Linux below it. Built anew
/// each time: it takes less than checking whether it must be.
pub fn bare() -> Result<PathBuf> {
    need_packages(&["gcc", "binutils"])?;
    let place = target().join("fixtures/bare");
    fs::create_dir_all(&place)?;
    for (name, entry) in [("bare", "start64"), ("bare-pvh", "start32")] {
        build_bare(&["-T", "bare.ld", &format!("-Wl,-e,{entry}"), "entry.S"], &place.join(name))?;
    }
    let tree = place.join("tree");
    fs::create_dir_all(&tree)?;
    build_bare(&["-DUNDER_LINUX", "-T", "linux.ld", "-Wl,-e,start_linux", "linux.c"], &tree.join("init"))?;
    let half = place.join("hostile.half");
    pack_initramfs(&tree, &half)?;
    fs::rename(half, place.join("hostile"))?;
    fs::remove_dir_all(tree)?;
    Ok(place)
}

fn build_bare(own: &[&str], place: &Path) -> Result<()> {
    let half = place.with_extension("half");
    check(
        Command::new("gcc")
            .args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib"])
            .args(["-static", "-no-pie", "-fno-pic", "-fcf-protection=none", "-fno-stack-protector"])
            .args(["-mgeneral-regs-only", "-mno-red-zone", "-Wl,--build-id=none,--no-warn-rwx-segments"])
            .arg("-o")
            .arg(&half)
            .args(own)
            .args(BARE_PARTS)
            .current_dir(repository().join("tests/guests/bare")),
    )?;
    fs::rename(half, place).map_err(Into::into)
}

/// `net`, the program that tests have guests run on their networks.
pub fn net() -> Result<PathBuf> {
    need_packages(&["gcc", "libc6-dev"])?;
    let place = target().join("fixtures/net");
    let source = repository().join("tests/guests/net.c");
    make(&place, &fs::read_to_string(&source)?, |half| {
        let flags = ["-std=gnu11", "-Os", "-Wall", "-Wextra", "-Werror", "-static", "-o"];
        check(Command::new("gcc").args(flags).arg(half).arg(&source))
    })?;
    Ok(place)
}

/// The Python programs that tests of the API run, in an environment of their own. They are modules of `bin/python`: programs
/// beside it know where the environment was made, not where it is.
pub fn python() -> Result<PathBuf> {
    need_packages(&["iproute2", "nftables", "python3-venv"])?;
    let place = target().join("fixtures/python");
    let source = repository().join("tests/api/requirements.txt");
    make(&place, &fs::read_to_string(&source)?, |half| {
        check(Command::new("python3").args(["-m", "venv"]).arg(half))?;
        let mut pip = Command::new(half.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"]);
        check(pip.arg(&source))
    })?;
    Ok(place)
}

/// The initial RAM disk of guests whose boot is measured: busybox, and a first process that says one line.
pub fn first_line() -> Result<PathBuf> {
    need_packages(&["busybox-static"])?;
    let place = target().join("fixtures/first-line");
    let source = repository().join("resources/lab/first-line");
    make(&place, &fs::read_to_string(&source)?, |half| {
        let tree = half.with_extension("tree");
        fs::create_dir_all(tree.join("bin"))?;
        fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
        let init = tree.join("init");
        fs::copy(&source, &init)?;
        check(Command::new("chmod").arg("755").arg(&init))?;
        pack_initramfs(&tree, half)?;
        fs::remove_dir_all(tree).map_err(Into::into)
    })?;
    Ok(place)
}

/// Copies modules with all they depend on, and a list `order` of their names in load order.
pub fn put_modules(kernel: &Kernel, wanted: &[&str], place: &Path) -> Result<()> {
    fs::create_dir_all(place)?;
    let mut order = String::new();
    for (number, path) in module_closure(kernel, wanted)?.iter().enumerate() {
        let name = path.file_name().context("a module without a name")?.to_string_lossy();
        let name = format!("{number:03}-{name}");
        fs::copy(path, place.join(&name))?;
        order += &format!("{name}\n");
    }
    fs::write(place.join("order"), order).map_err(Into::into)
}

/// The same of the backports: a newer kernel, for the tests of `hull kernel import`.
pub fn newer_kernel() -> Result<Kernel> {
    let there = target().join("fixtures/linux-image-cloud-amd64-backports").exists();
    kernel_from("linux-image-cloud-amd64", "-backports", &if there { Vec::new() } else { backports()? })
}

fn kernel(package: &str) -> Result<Kernel> {
    kernel_from(package, "", &[])
}

fn kernel_from(package: &str, suffix: &str, apt: &[String]) -> Result<Kernel> {
    need_packages(&["kmod", "xz-utils", "lz4", "zstd"])?;
    let root = target().join("fixtures").join(format!("{package}{suffix}"));
    make(&root, package, |half| {
        let options: Vec<&str> = apt.iter().map(String::as_str).collect();
        let newest = output("apt-cache", &[&options, ["depends", package].as_slice()].concat())?;
        let image = newest
            .lines()
            .find_map(|line| {
                line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-"))
            })
            .with_context(|| format!("{package} names no kernel: run apt-get update"))?
            .to_owned();
        fs::create_dir_all(half)?;
        let deb = unpack(&image, apt, half)?;
        let release = release(half)?;
        check(Command::new("depmod").arg("-b").arg(half).arg(&release))?;
        vmlinux(half, &release)?;
        // What `hull kernel import --deb` is given.
        fs::rename(deb, half.join("package.deb")).map_err(Into::into)
    })?;
    Ok(Kernel { release: release(&root)?, root })
}

/// Downloads a package and unpacks it beside its file, which is returned; nothing is installed.
pub fn unpack(package: &str, apt: &[String], place: &Path) -> Result<PathBuf> {
    // apt refuses to download as its own user into a directory of root's; that is a warning only.
    let mut download = Command::new("apt-get");
    download.args(apt).args(["download", "-q", package]).current_dir(place);
    // Standard output is for what was asked for.
    check(download.stdout(std::process::Stdio::null()))?;
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
    };
    let deb = fs::read_dir(place)?.filter_map(|entry| Some(entry.ok()?.path())).find(is_it);
    let deb = deb.context("apt-get downloaded nothing")?;
    check(Command::new("dpkg").arg("-x").arg(&deb).arg(place))?;
    Ok(deb)
}

/// Options that make apt use the backports of this distribution, from the mirror it uses already, and nothing of the
/// host's own lists.
pub fn backports() -> Result<Vec<String>> {
    let place = target().join("fixtures/backports");
    make(&place, "1", |half| {
        let format = "$(SITE) $(RELEASE)";
        let listed = output("apt-get", &["indextargets", "--format", format, "Created-By: Packages"])?;
        let own = fs::read_to_string("/etc/os-release")?;
        let suite =
            own.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).context("not a Debian")?;
        let site = listed.lines().find_map(|line| line.strip_suffix(&format!(" {suite}")));
        let site = site.with_context(|| format!("apt has no source for {suite}"))?;
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(half.join(directory))?;
        }
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let source = format!("deb [signed-by={keyring}] {site} {suite}-backports main\n");
        fs::write(half.join("sources.list"), source).map_err(Into::into)
    })?;
    let options = [
        ("Dir::Etc::SourceList", place.join("sources.list")),
        ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
        ("Dir::State::Lists", place.join("lists")),
        ("Dir::Cache", place.join("cache")),
    ];
    let options: Vec<String> =
        options.iter().map(|(name, value)| format!("-o{name}={}", value.display())).collect();
    check(Command::new("apt-get").args(&options).args(["update", "-q"]).stdout(std::process::Stdio::null()))?;
    Ok(options)
}

fn release(root: &Path) -> Result<String> {
    let entry =
        fs::read_dir(root.join("lib/modules"))?.next().context("the kernel package has no modules")??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// Unpacks the ELF kernel from the bzImage: the boot protocol says where its payload is.
fn vmlinux(root: &Path, release: &str) -> Result<()> {
    let image = fs::read(root.join(format!("boot/vmlinuz-{release}")))?;
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("the kernel image is too short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    let sectors = image.get(0x1f1).copied().unwrap_or(4);
    let start = (usize::from(sectors) + 1) * 512 + word(0x248)?;
    // The payload's last four bytes are its unpacked size, not part of the stream.
    let end = start + word(0x24c)? - 4;
    let payload = image.get(start..end).context("the kernel image is too short")?;
    let unpack = match payload {
        [0xfd, b'7', b'z', ..] => "xz -dc --single-stream",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4 -dc",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd -dc",
        start => bail!("the kernel is compressed in an unknown way: {:x?}", start.get(..4)),
    };
    fs::write(root.join("payload"), payload)?;
    check(Command::new("sh").args(["-c", &format!("{unpack} <payload >vmlinux")]).current_dir(root))?;
    fs::remove_file(root.join("payload")).map_err(Into::into)
}

/// An initial RAM disk from a directory.
pub fn pack_initramfs(from: &Path, to: &Path) -> Result<()> {
    need_packages(&["cpio"])?;
    check(
        Command::new("sh")
            .args(["-c", "find . | cpio -o -H newc --quiet > \"$0\""])
            .arg(to)
            .current_dir(from),
    )
}

/// Modules with all they depend on, in load order, as paths.
fn module_closure(kernel: &Kernel, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let mut order: Vec<PathBuf> = Vec::new();
    let root = kernel.root.display().to_string();
    for module in wanted {
        let listed = output("modprobe", &["-d", &root, "-S", &kernel.release, "--show-depends", module])?;
        for line in listed.lines() {
            if let Some(path) = line.strip_prefix("insmod ") {
                let path = PathBuf::from(path.trim());
                if !order.contains(&path) {
                    order.push(path);
                }
            }
        }
    }
    Ok(order)
}

/// Makes a directory or file by `build` unless it is there, made from the same `source`.
pub fn make(place: &Path, source: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let key = place.with_extension("source");
    if place.exists() && fs::read_to_string(&key).is_ok_and(|made_from| made_from == source) {
        return Ok(());
    }
    let half = place.with_extension("half");
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    for old in [place, &half] {
        if old.is_dir() {
            fs::remove_dir_all(old)?;
        } else if old.exists() {
            fs::remove_file(old)?;
        }
    }
    build(&half).with_context(|| format!("making {}", place.display()))?;
    fs::rename(half, place)?;
    fs::write(key, source).map_err(Into::into)
}
