#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use proptest::prelude::*;

use super::super::samples;
use super::*;

#[test]
fn a_configuration_is_read() {
    let config = Config::parse(
        "# CONFIG_A is not set\nCONFIG_B=y\n CONFIG_C=m\r\nCONFIG_D=\"y\"\nCONFIG_E=7\nF=y\n=y\n",
    );
    assert_eq!(config.get("CONFIG_B"), Some(Setting::BuiltIn));
    assert_eq!(config.get("CONFIG_C"), Some(Setting::Module));
    for off in ["CONFIG_A", "CONFIG_D", "CONFIG_E", "F", ""] {
        assert_eq!(config.get(off), None, "{off}");
    }
}

#[test]
fn what_is_missing_is_named_by_its_option() {
    let config = Config::parse(&samples::config());
    let none = BTreeSet::new();
    assert_eq!(missing(Some(&config), &none, |_| true), [""; 0]);
    let found =
        missing(Some(&config), &none, |module| module != "erofs" && module != "ext4" && module != "overlay");
    assert_eq!(found, ["the file of module erofs (CONFIG_EROFS_FS=m)", "CONFIG_OVERLAY_FS (module overlay)"]);
    let builtin = ["erofs", "overlay"].map(str::to_owned).into();
    assert_eq!(missing(Some(&config), &builtin, |module| module.starts_with('v')), [""; 0]);
    let config = Config::parse(&samples::config().replace("CONFIG_PID_NS=y", "CONFIG_PID_NS=m"));
    assert_eq!(missing(Some(&config), &none, |_| true), ["CONFIG_PID_NS=y"]);
    // With no configuration only the modules tell.
    assert_eq!(missing(None, &none, |module| module != "ext4"), ["CONFIG_EXT4_FS (module ext4)"]);
    // What is only welcome is never missed.
    assert_eq!(missing(None, &none, |module| module != "virtio_rng" && module != "pvpanic_mmio"), [""; 0]);
}

proptest! {
    #[test]
    fn every_text_is_read(text: String) {
        let _ = Config::parse(&text);
    }
}
