//! Small kernels, modules and packages made up for the tests of this module.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::io::Write;

/// The release of [`vmlinux`].
pub(super) const RELEASE: &str = "6.1.0-7-test";

/// An ELF file of `kind` for `machine`: program headers of (type, offset, address, file size, memory size)
/// behind the header, then `body` from offset 0x1000 on.
pub(super) fn program(machine: u16, segments: &[[u64; 5]], body: &[u8]) -> Vec<u8> {
    let mut file = elf_header(2, machine, segments.len() as u16, 0, 0);
    for [kind, offset, address, file_size, memory_size] in segments {
        file.extend((*kind as u32).to_le_bytes());
        file.extend(5_u32.to_le_bytes());
        for word in [
            *offset,
            0xFFFF_FFFF_8000_0000_u64.wrapping_add(*address),
            *address,
            *file_size,
            *memory_size,
            0x1000,
        ] {
            file.extend(word.to_le_bytes());
        }
    }
    file.resize(0x1000, 0);
    file.extend(body);
    file
}

fn elf_header(kind: u16, machine: u16, segments: u16, sections_at: u64, sections: u16) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(kind.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for word in [0x0100_0000_u64, 64, sections_at] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64, 56, segments, 64, sections, sections.saturating_sub(1)] {
        file.extend(half.to_le_bytes());
    }
    file
}

/// A kernel of one page of program and one of data, at an offset that does not suit its address.
pub(super) fn vmlinux() -> Vec<u8> {
    let mut body = format!("Linux version %s (format)\0Linux version {RELEASE} (someone@somewhere) #1 SMP\0");
    body.extend(std::iter::repeat_n('x', 0x2000 - body.len()));
    program(
        62,
        &[
            [1, 0x1000, 0x0100_0000, 0x1000, 0x1000],
            [1, 0x2000, 0x0120_0800, 0x800, 0x4000],
            [4, 0x1010, 0x0100_0010, 0x20, 0x20],
        ],
        body.as_bytes(),
    )
}

/// A bzImage around a compressed payload; the unpacked size is put behind it when `size` is given.
pub(super) fn bzimage(packed: &[u8], size: Option<usize>) -> Vec<u8> {
    let mut payload = packed.to_vec();
    payload.extend(size.iter().flat_map(|size| (*size as u32).to_le_bytes()));
    let mut file = vec![0; 3 * 512 + 0x40];
    file[0x1F1] = 2;
    file[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020F_u16.to_le_bytes());
    file[0x248..0x24C].copy_from_slice(&0x40_u32.to_le_bytes());
    file[0x24C..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    file
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A module with these `key=value` texts.
pub(super) fn module(texts: &[&str]) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let info = texts.join("\0") + "\0";
    let sections_at = 64 + info.len() + names.len();
    let mut file = elf_header(1, 62, 0, sections_at as u64, 3);
    file.extend(info.as_bytes());
    file.extend(names);
    for (name, kind, offset, size) in
        [(0, 0, 0, 0), (1, 1, 64, info.len()), (10, 3, 64 + info.len(), names.len())]
    {
        file.extend(u32::to_le_bytes(name));
        file.extend(u32::to_le_bytes(kind));
        for word in [0, 0, offset as u64, size as u64, 0, 1, 0] {
            file.extend(u64::to_le_bytes(word));
        }
    }
    file
}

/// The modules a microVM wants, with a few dependencies: path inside the module tree, and file.
pub(super) fn modules() -> Vec<(String, Vec<u8>)> {
    let vermagic = format!("vermagic={RELEASE} SMP mod_unload");
    [
        ("drivers/virtio/virtio_mmio.ko", "depends=virtio"),
        ("drivers/virtio/virtio.ko", "depends="),
        ("net/vmw_vsock/vmw_vsock_virtio_transport.ko", "depends=virtio,vsock"),
        ("net/vmw_vsock/vsock.ko", "depends="),
        ("drivers/block/virtio_blk.ko", "depends=virtio"),
        ("fs/erofs/erofs.ko", "softdep=pre: crypto-crc32c"),
        ("crypto/crc32c-generic.ko", "alias=crypto-crc32c"),
        ("fs/overlayfs/overlay.ko", "depends="),
        ("sound/core/snd.ko", "depends=soundcore"),
    ]
    .map(|(path, text)| (path.to_owned(), module(&[text, &vermagic])))
    .into()
}

/// A configuration that will do, with ext4 built in.
pub(super) fn config() -> String {
    let built_in = [
        "64BIT",
        "ACPI",
        "BINFMT_ELF",
        "BLK_DEV_INITRD",
        "CGROUPS",
        "DEVTMPFS",
        "EXT4_FS",
        "IPC_NS",
        "KVM_GUEST",
        "NAMESPACES",
        "NET_NS",
        "PID_NS",
        "PROC_FS",
        "SECCOMP_FILTER",
        "SYSFS",
        "TMPFS",
        "UTS_NS",
    ];
    let lines = built_in.map(|option| format!("CONFIG_{option}=y\n")).concat();
    format!("# a comment\n{lines}CONFIG_EROFS_FS=m\n# CONFIG_BTRFS_FS is not set\n")
}

/// The files of a whole kernel, under the paths a distribution gives them.
pub(super) fn files() -> Vec<(String, Vec<u8>)> {
    let kernel = vmlinux();
    let mut files = vec![
        (format!("./boot/config-{RELEASE}"), config().into_bytes()),
        (format!("./boot/vmlinuz-{RELEASE}"), bzimage(&xz(&kernel), Some(kernel.len()))),
        (format!("./lib/modules/{RELEASE}/modules.builtin"), b"kernel/fs/ext4/ext4.ko\n".to_vec()),
        ("./usr/share/doc/linux/config.gz".to_owned(), b"nothing".to_vec()),
    ];
    files.extend(
        modules().into_iter().map(|(path, file)| (format!("./lib/modules/{RELEASE}/kernel/{path}"), file)),
    );
    files
}

/// A tar of `files`.
pub(super) fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A Debian package of `files`.
pub(super) fn deb(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = ar::Builder::new(Vec::new());
    for (name, bytes) in
        [("debian-binary", b"2.0\n".to_vec()), ("control.tar.xz", xz(b"")), ("data.tar.xz", xz(&tar(files)))]
    {
        builder.append(&ar::Header::new(name.into(), bytes.len() as u64), bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}
