#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use proptest::prelude::*;

use super::super::samples::{self, bzimage, gzip, xz};
use super::*;

#[test]
fn the_program_comes_out_of_every_packing() {
    let kernel = samples::vmlinux();
    let lz4 = {
        let block = lz4_flex::block::compress(&kernel);
        [&0x184C_2102_u32.to_le_bytes()[..], &(block.len() as u32).to_le_bytes(), &block].concat()
    };
    let size = Some(kernel.len());
    // A gzip stream ends in the size itself.
    for file in
        [bzimage(&gzip(&kernel), None), bzimage(&xz(&kernel), size), bzimage(&lz4, size), kernel.clone()]
    {
        assert!(vmlinux(file).unwrap() == kernel);
    }
    assert_eq!(release(&kernel).unwrap(), samples::RELEASE);
}

#[test]
fn what_is_no_kernel_is_called_by_its_name() {
    let kernel = samples::vmlinux();
    let said = |file: Vec<u8>| vmlinux(file).unwrap_err();
    assert!(matches!(said(Vec::new()), ImageError::NotAKernel));
    assert!(matches!(said(b"#!/bin/sh\n".repeat(1000)), ImageError::NotAKernel));
    let mut arm = vec![0; 4096];
    arm[0x38..0x3C].copy_from_slice(b"ARM\x64");
    assert!(matches!(said(arm), ImageError::OtherProcessor("arm64")));
    let whole = bzimage(&xz(&kernel), Some(kernel.len()));
    let with = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    assert!(matches!(said(with(0x206, &[7, 2])), ImageError::TooOld(0x0207)));
    assert!(matches!(said(with(0x24C, &[0xFF; 4])), ImageError::Damaged(_)));
    assert!(matches!(said(with(0x248, &[0xFF; 4])), ImageError::Damaged(_)));
    assert!(matches!(said(with(0x24C, &[0; 4])), ImageError::Damaged(_)));
    assert!(matches!(said(whole[..0x210].to_vec()), ImageError::Damaged(_)));
    assert!(matches!(said(bzimage(b"not packed in any known way", None)), ImageError::Packing));
    assert!(matches!(said(bzimage(b"\x89LZO and more", None)), ImageError::Packing));
    assert!(matches!(said(bzimage(&xz(&kernel), Some(kernel.len() + 1))), ImageError::Damaged(_)));
    let damaged = with(whole.len() - 200, &[0x55; 100]);
    assert!(matches!(said(damaged), ImageError::Unpack(_)));
}

#[test]
fn a_release_is_a_word_that_begins_with_a_digit() {
    assert_eq!(release(b"..Linux version 6.12.1-x (y)").unwrap(), "6.12.1-x");
    assert_eq!(release(b"Linux version 6.1").unwrap(), "6.1");
    for none in [&b"Linux version %s"[..], b"Linux version ", b"", b"Linux version 6\xFF"] {
        let found = release(none);
        assert!(found.is_err() || found.unwrap() == "6", "{none:?}");
    }
    let long = [b"Linux version ".as_slice(), &[b'6'; 65]].concat();
    assert!(matches!(release(&long), Err(ImageError::NoRelease)));
}

#[test]
fn a_carried_configuration_is_found() {
    let kernel = [b"IKCFG_S IKCFG_ST".as_slice(), &gzip(b"CONFIG_ACPI=y\n"), b"IKCFG_ED"].concat();
    assert_eq!(config(&kernel).as_deref(), Some("CONFIG_ACPI=y\n"));
    assert_eq!(config(&samples::vmlinux()), None);
    assert_eq!(config(b"IKCFG_ST\x1f\x8b damaged"), None);
}

proptest! {
    #[test]
    fn no_header_does_harm(fields: Vec<(u16, u8)>, tail in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut file = bzimage(&tail, None);
        for (at, byte) in fields {
            if let Some(place) = file.get_mut(usize::from(at) % 0x268) {
                *place = byte;
            }
        }
        let _ = vmlinux(file);
    }
}
