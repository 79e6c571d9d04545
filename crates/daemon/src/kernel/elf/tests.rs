#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::io::Read;

use proptest::prelude::*;

use super::super::samples;
use super::*;

fn written(program: &Program<'_>) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    program.write(file.as_file()).unwrap();
    let mut bytes = Vec::new();
    file.reopen().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn segments_keep_their_bytes_and_come_to_suit_their_addresses() {
    let kernel = samples::vmlinux();
    let bytes = written(&Program::parse(&kernel).unwrap());
    assert_eq!(bytes.len() as u64 % PAGE, 0);
    let header = elf::FileHeader64::<LE>::parse(bytes.as_slice()).unwrap();
    assert_eq!(header.e_entry(LE), 0x0100_0000);
    let headers = header.program_headers(LE, bytes.as_slice()).unwrap();
    let original = elf::FileHeader64::<LE>::parse(kernel.as_slice()).unwrap();
    let originals = original.program_headers(LE, kernel.as_slice()).unwrap();
    assert_eq!(headers.len(), originals.len());
    for (new, old) in headers.iter().zip(originals) {
        assert_eq!(new.data(LE, bytes.as_slice()).unwrap(), old.data(LE, kernel.as_slice()).unwrap());
        assert_eq!((new.p_paddr(LE), new.p_memsz(LE)), (old.p_paddr(LE), old.p_memsz(LE)));
        if new.p_type(LE) == elf::PT_LOAD {
            assert_eq!(new.p_offset(LE) % PAGE, new.p_paddr(LE) % PAGE);
        }
    }
    // The note went where the segment that holds it went.
    assert_eq!(headers[2].p_offset(LE) - headers[0].p_offset(LE), 0x10);
    // What is laid out already stays as it is.
    assert_eq!(written(&Program::parse(&bytes).unwrap()), bytes);
}

#[test]
fn impossible_programs_are_refused() {
    let parse = |machine, segments: &[[u64; 5]]| {
        Program::parse(&samples::program(machine, segments, &[0; 0x1_1000])).map(|_| ()).unwrap_err()
    };
    let good = [1, 0x1000, 0x0100_0000, 0x1000, 0x1000];
    assert!(matches!(parse(183, &[good]), ElfError::OtherProcessor));
    assert!(matches!(parse(62, &[]), ElfError::Segments(_)));
    assert!(matches!(parse(62, &[good, good]), ElfError::Segments("they overlap")));
    assert!(matches!(
        parse(62, &[[1, 0x1000, 0x0100_0000, 0x1000_0000, 0x1000_0000]]),
        ElfError::Segments(_)
    ));
    assert!(matches!(parse(62, &[[1, 0x1000, 0x0100_0000, 0x1000, 0xFFF]]), ElfError::Segments(_)));
    assert!(matches!(parse(62, &[[1, 0x1000, u64::MAX, 0x1000, 0x1000]]), ElfError::Segments(_)));
    assert!(matches!(parse(62, &[[1, u64::MAX, 0x0100_0000, 0x1000, 0x1000]]), ElfError::Segments(_)));
    assert!(matches!(parse(62, &[good, [4, 0, 0, 0x1_0001, 0]]), ElfError::Segments(_)));
    assert!(matches!(Program::parse(b"\x7fELF").map(|_| ()), Err(ElfError::Headers(_))));
    let module = samples::module(&["depends="]);
    assert!(matches!(Program::parse(&module).map(|_| ()), Err(ElfError::OtherProcessor)));
}

proptest! {
    #[test]
    fn offsets_are_congruent_and_never_go_back(end in 0..1_u64 << 40, address: u64, shift in 12..22_u32) {
        let align = 1_u64 << shift;
        let at = congruent(end, address, align);
        prop_assert!(at >= end && at - end < align);
        prop_assert_eq!(at % align, address % align);
    }

    #[test]
    fn no_headers_do_harm(
        segments in prop::collection::vec(prop::array::uniform5(0..0x4000_u64), 0..6),
        changes: Vec<(u16, u8)>,
    ) {
        let mut file = samples::program(62, &segments, &[7; 0x2000]);
        for (at, byte) in changes {
            file[usize::from(at) % 0x1000] = byte;
        }
        if let Ok(program) = Program::parse(&file) {
            // Gaps are below one alignment for each segment.
            prop_assert!(program.len() < file.len() as u64 + (SEGMENTS_MAX as u64 + 1) * HUGE_PAGE);
            let suits = |segment: &Segment| {
                segment.to % PAGE == segment.address % PAGE && segment.to + segment.file_size <= program.len()
            };
            prop_assert!(program.segments.iter().filter(|segment| segment.is_load()).all(suits));
        }
    }
}
