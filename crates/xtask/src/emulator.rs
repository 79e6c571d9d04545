//! The emulator of the lab: QEMU, new enough.
//!
//! QEMU 7.2, Debian 12's, hands an emulated host's guests a flags register that no processor has, after an instruction
//! that it emulates with all processors stopped (`cmpxchg16b`). Kernel 6.12 dies of it in one boot of three, and hosts
//! stand still. QEMU 10.0 booted it 24 times of 24.

use std::ffi::OsString;
use std::fs;

use anyhow::{Context, Result};

use crate::fixtures::{backports, make, unpack};
use crate::shell::{need_packages, output, target};

/// The first version that is trusted.
const GOOD: u32 = 10;

/// The program, and where its firmware is if that is not the host's.
pub fn emulator() -> Result<Vec<OsString>> {
    // It brings the libraries that the newer one needs too.
    need_packages(&["qemu-system-x86"])?;
    if major(&output("qemu-system-x86_64", &["--version"])?)? >= GOOD {
        return Ok(vec!["qemu-system-x86_64".into()]);
    }
    let place = target().join("fixtures/emulator");
    make(&place, "1", |half| {
        let apt = backports()?;
        fs::create_dir_all(half)?;
        for package in ["qemu-system-x86", "qemu-system-data", "seabios"] {
            fs::remove_file(unpack(package, &apt, half)?)?;
        }
        Ok(())
    })?;
    let firmware = |name: &str| ["-L".into(), place.join("usr/share").join(name).into()];
    let program = place.join("usr/bin/qemu-system-x86_64").into();
    Ok([program].into_iter().chain(firmware("qemu")).chain(firmware("seabios")).collect())
}

fn major(said: &str) -> Result<u32> {
    let number = said.split_whitespace().nth(3).and_then(|version| version.split('.').next());
    number.and_then(|number| number.parse().ok()).with_context(|| format!("QEMU names no version: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let debians =
            "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022";
        assert_eq!(major(debians).ok(), Some(7));
        assert!(major("QEMU").is_err());
    }
}
