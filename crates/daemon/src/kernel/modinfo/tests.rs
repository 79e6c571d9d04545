#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use proptest::prelude::*;

use super::super::samples;
use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn what_a_module_says_is_read() {
    let file = samples::module(&[
        "alias=cpu:type:x86,ven*fam*mod*:feature:*0094*",
        "alias=crypto-crc32c",
        "alias=pci:v00001AF4d*",
        "softdep=pre: crc32c a-b post: after",
        "softdep=pre: third",
        "depends=jbd2,mb-cache",
        "vermagic=6.1.0-7-test SMP preempt",
        "license=GPL",
    ]);
    let expected = Modinfo {
        depends: names(&["jbd2", "mb_cache"]),
        before: names(&["crc32c", "a_b", "third"]),
        after: names(&["after"]),
        aliases: names(&["crypto_crc32c"]),
        needs_feature: true,
        release: Some("6.1.0-7-test".to_owned()),
    };
    assert_eq!(Modinfo::parse(&file).unwrap(), expected);
    assert_eq!(Modinfo::parse(&samples::module(&["depends="])).unwrap(), Modinfo::default());
}

#[test]
fn what_is_no_module_is_refused() {
    assert!(matches!(Modinfo::parse(b"text"), Err(ModinfoError::Elf(_))));
    assert!(matches!(Modinfo::parse(&samples::vmlinux()), Err(ModinfoError::OtherProcessor)));
    let mut file = samples::module(&["depends="]);
    let at = file.windows(8).position(|bytes| bytes == b".modinfo").unwrap();
    file[at] = b'x';
    assert!(matches!(Modinfo::parse(&file), Err(ModinfoError::Missing)));
    assert_eq!(module_name("../../x"), None);
    assert_eq!(module_name(""), None);
    assert_eq!(module_name(&"x".repeat(65)), None);
}

proptest! {
    #[test]
    fn no_bytes_do_harm(changes: Vec<(u16, u8)>, length in 0..400_usize) {
        let mut file = samples::module(&["depends=a,b", "alias=c"]);
        for (at, byte) in changes {
            let at = usize::from(at) % file.len();
            file[at] = byte;
        }
        file.truncate(length);
        let _ = Modinfo::parse(&file);
    }

    #[test]
    fn only_names_are_kept(texts in prop::collection::vec("(depends|softdep|alias)=[ -~]{0,40}", 0..6)) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let info = Modinfo::parse(&samples::module(&texts)).unwrap();
        for name in [info.depends, info.before, info.after, info.aliases].concat() {
            prop_assert_eq!(module_name(&name), Some(name));
        }
    }
}
