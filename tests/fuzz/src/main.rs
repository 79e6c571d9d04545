//! The fuzzer: libFuzzer around the target that the environment names.
//!
//! `HULL_FUZZ_TARGET` names it; without a known name, all names are printed and nothing is run. `HULL_FUZZ_SEEDS` is a
//! directory to which its seeds are written first.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use hull_fuzz::Target;

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

fn choose() {
    let Some(target) = std::env::var("HULL_FUZZ_TARGET").ok().and_then(|name| Target::find(&name)) else {
        Target::all().iter().for_each(|target| println!("{}", target.name));
        std::process::exit(0);
    };
    if let Some(place) = std::env::var_os("HULL_FUZZ_SEEDS") {
        for (number, seed) in target.seeds().iter().enumerate() {
            let file = Path::new(&place).join(format!("seed-{number:03}"));
            std::fs::write(file, seed).expect("a directory for the seeds");
        }
    }
    CHOSEN.get_or_init(|| target);
}

libfuzzer_sys::fuzz_target!(init: choose(), |data: &[u8]| {
    if let Some(target) = CHOSEN.get() {
        target.run(data);
    }
});
