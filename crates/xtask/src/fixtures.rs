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

/// What the guests under test boot: `guest/vmlinux`, `guest/bzImage` and `guest/initramfs` with busybox, the
/// modules of virtio disks and the panic device, and the test's own first process.
pub fn guest() -> Result<PathBuf> {
    need_packages(&["busybox-static"])?;
    let place = target().join("fixtures/guest");
    make(&place, |half| {
        let kernel = kernel("linux-image-cloud-amd64")?;
        let tree = half.join("tree");
        for dir in ["bin", "proc", "sys", "dev"] {
            fs::create_dir_all(tree.join(dir))?;
        }
        fs::copy(kernel.image(), half.join("bzImage"))?;
        fs::copy(kernel.root.join("vmlinux"), half.join("vmlinux"))?;
        fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
        put_modules(
            &kernel,
            &["virtio_mmio", "virtio_blk", "virtio_rng", "pvpanic-mmio"],
            &tree.join("modules"),
        )?;
        let init = tree.join("init");
        fs::copy(repository().join("tests/guests/init"), &init)?;
        check(Command::new("chmod").arg("755").arg(&init))?;
        pack_initramfs(&tree, &half.join("initramfs"))?;
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

fn kernel(package: &str) -> Result<Kernel> {
    need_packages(&["kmod", "xz-utils", "lz4", "zstd"])?;
    let root = target().join("fixtures").join(package);
    make(&root, |half| {
        let newest = output("apt-cache", &["depends", package])?;
        let image = newest
            .lines()
            .find_map(|line| {
                line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-"))
            })
            .with_context(|| format!("{package} names no kernel: run apt-get update"))?
            .to_owned();
        fs::create_dir_all(half)?;
        // apt refuses to download as its own user into a directory of root's; that is a warning only.
        check(Command::new("apt-get").args(["download", "-q", &image]).current_dir(half))?;
        let deb = fs::read_dir(half)?.next().context("apt-get downloaded nothing")??.path();
        check(Command::new("dpkg").arg("-x").arg(&deb).arg(half))?;
        let release = release(half)?;
        check(Command::new("depmod").arg("-b").arg(half).arg(&release))?;
        vmlinux(half, &release)?;
        fs::remove_file(deb).map_err(Into::into)
    })?;
    Ok(Kernel { release: release(&root)?, root })
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

/// Makes a directory or file by `build` unless it is there.
pub fn make(place: &Path, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if place.exists() {
        return Ok(());
    }
    let half = place.with_extension("half");
    if half.is_dir() {
        fs::remove_dir_all(&half)?;
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    build(&half).with_context(|| format!("making {}", place.display()))?;
    fs::rename(half, place).map_err(Into::into)
}
