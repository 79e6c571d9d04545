#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
use hull_protocol::units;

use super::*;

fn layout() -> Layout {
    Layout::of(units::Bytes::mib(512), 18).unwrap()
}

/// Every table is where its parent says, has the length it says, and sums to zero.
#[test]
fn the_tables_are_found_from_the_root_and_sum_to_zero() {
    let image = image(&layout(), 64);
    let at = |address: u64| usize::try_from(address - layout::ACPI).unwrap();
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let u32_at = |offset: usize| u32::from_le_bytes(image[offset..offset + 4].try_into().unwrap()) as usize;
    let u64_at = |offset: usize| u64::from_le_bytes(image[offset..offset + 8].try_into().unwrap());
    assert_eq!(&image[..8], b"RSD PTR ");
    assert_eq!(sum(&image[..36]), 0);
    let xsdt = at(u64_at(24));
    let length = u32_at(xsdt + 4);
    let mut tables = vec![xsdt];
    tables.extend((36..length).step_by(8).map(|offset| at(u64_at(xsdt + offset))));
    let fadt = tables.iter().copied().find(|table| &image[*table..table + 4] == b"FACP").unwrap();
    tables.push(at(u64_at(fadt + 140)));
    let names: Vec<_> = tables.iter().map(|table| &image[*table..table + 4]).collect();
    assert_eq!(names, [b"XSDT", b"FACP", b"APIC", b"DSDT"]);
    for table in tables {
        assert_eq!(sum(&image[table..table + u32_at(table + 4)]), 0, "table at {table:#x}");
    }
    assert!(image.len() < 0x2_0000);
}

/// The standard's own compiler reads the tables back.
#[test]
fn the_reference_compiler_accepts_the_dsdt() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dsdt.aml"), bytes(&dsdt(&layout()))).unwrap();
    let run = |args: &[&str]| std::process::Command::new("iasl").args(args).current_dir(dir.path()).output();
    let disassembled = run(&["-d", "dsdt.aml"]).expect("iasl is missing: install acpica-tools");
    assert!(disassembled.status.success(), "{}", String::from_utf8_lossy(&disassembled.stderr));
    let compiled = run(&["-p", "again", "dsdt.dsl"]).unwrap();
    let said = String::from_utf8_lossy(&compiled.stdout).into_owned();
    assert!(said.contains("0 Errors"), "{said}");
    let text = std::fs::read_to_string(dir.path().join("dsdt.dsl")).unwrap();
    for expected in ["LNRO0005", "PNP0501", "QEMU0001", "ACPI0013", "PNP0C0C", "_S5"] {
        assert!(text.contains(expected), "{expected} is missing");
    }
}
