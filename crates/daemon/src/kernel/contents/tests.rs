#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use proptest::prelude::*;

use super::super::samples;
use super::*;

fn role(path: &str) -> Option<Role> {
    Role::of(Path::new(path))
}

fn empty() -> Contents {
    Contents::new(tempfile::tempfile().unwrap())
}

#[test]
fn files_are_known_by_their_place_and_name() {
    for kernel in [
        "vmlinuz",
        "./boot/vmlinuz-6.1",
        "/boot/vmlinuz-6.1",
        "lib/modules/6.1/vmlinuz",
        "vmlinux",
        "bzImage",
    ] {
        assert_eq!(role(kernel), Some(Role::Kernel), "{kernel}");
    }
    for config in ["config", "./boot/config-6.1", "lib/modules/6.1/config"] {
        assert_eq!(role(config), Some(Role::Config), "{config}");
    }
    assert_eq!(role("./usr/lib/modules/6.1/modules.builtin"), Some(Role::Builtin));
    assert_eq!(role("modules.builtin.modinfo"), Some(Role::BuiltinInfo));
    let module = |name: &str| Some(Role::Module(name.to_owned()));
    assert_eq!(role("lib/modules/6.1/kernel/drivers/char/hw_random/virtio-rng.ko.xz"), module("virtio_rng"));
    assert_eq!(role("kernel/fs/erofs/erofs.ko.zst"), module("erofs"));
    assert_eq!(role("erofs.ko.gz"), module("erofs"));
    assert_eq!(role("lib/modules/6.1/kernel/drivers/net/virtio_net.ko"), module("virtio_net"));
    assert_eq!(role("lib/modules/6.1/kernel/net/core/failover.ko.xz"), module("failover"));
    assert_eq!(role("lib/modules/6.1/updates/dkms/own.ko"), module("own"));
    for none in [
        "",
        "/",
        "usr/share/doc/linux/config",
        "usr/lib/debug/vmlinux-6.1",
        "boot/System.map-6.1",
        "boot/vmlinuzfoo",
        "lib/modules/6.1/kernel/drivers/gpu/drm/drm.ko",
        "lib/modules/6.1/kernel/drivers/blocks/x.ko",
        "lib/modules/6.1/kernel/drivers/net/ethernet/intel/e1000/e1000.ko",
        "lib/modules/6.1/kernel/net/ipv6/netfilter/ip6_tables.ko",
        "lib/modules/6.1/modules.dep",
        "erofs.ko.lz4",
        "b d.ko",
    ] {
        assert_eq!(role(none), None, "{none}");
    }
}

#[test]
fn modules_come_back_unpacked() {
    let mut contents = empty();
    let (plain, packed) = (samples::module(&["depends=b"]), samples::module(&["alias=c"]));
    contents.take(Path::new("kernel/fs/a.ko"), &mut plain.as_slice()).unwrap();
    contents.take(Path::new("kernel/fs/b.ko.xz"), &mut samples::xz(&packed).as_slice()).unwrap();
    contents.take(Path::new("other/a.ko"), &mut packed.as_slice()).unwrap();
    assert_eq!(contents.module("a").unwrap(), plain, "the first one stays");
    assert_eq!(contents.module("b").unwrap(), packed);
    assert_eq!(contents.modules["a"].depends, ["b"]);
    assert!(contents.module("c").is_err());
    let damaged =
        contents.take(Path::new("kernel/fs/d.ko.gz"), &mut &samples::gzip(&plain)[..40]).unwrap_err();
    assert!(matches!(damaged, KernelError::Read { .. }));
    let text = contents.take(Path::new("kernel/fs/d.ko"), &mut b"text".as_slice()).unwrap_err();
    assert!(matches!(text, KernelError::Module { .. }));
}

#[test]
fn what_is_built_in_is_gathered() {
    let mut contents = empty();
    let list = b"kernel/fs/ext4/ext4.ko\nkernel/drivers/char/hw_random/virtio-rng.ko\nnonsense\n";
    contents.take(Path::new("modules.builtin"), &mut list.as_slice()).unwrap();
    let info = b"crc32c_generic.alias=crypto-crc32c\0crc32c_generic.license=GPL\0\xFF\0x\0";
    contents.take(Path::new("modules.builtin.modinfo"), &mut info.as_slice()).unwrap();
    let names: Vec<&str> = contents.builtin.iter().map(String::as_str).collect();
    assert_eq!(names, ["crc32c_generic", "crypto_crc32c", "ext4", "virtio_rng"]);
}

proptest! {
    #[test]
    fn every_path_has_a_role_or_none(path in "[a-z./-]{0,60}(vmlinuz|config|a.ko)?") {
        if let Some(Role::Module(name)) = Role::of(Path::new(&path)) {
            prop_assert!(!name.contains(['/', '.', '-']));
        }
    }

    #[test]
    fn no_list_of_builtins_does_harm(bytes: Vec<u8>) {
        let mut contents = empty();
        for list in ["modules.builtin", "modules.builtin.modinfo"] {
            contents.take(Path::new(list), &mut bytes.as_slice()).unwrap();
        }
    }
}
