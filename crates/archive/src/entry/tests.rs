#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use super::*;

/// One record: header and content, filled up.
fn record(kind: u8, name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o640);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(9);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn pax(key: &str, value: &str) -> Vec<u8> {
    let body = format!(" {key}={value}\n");
    let length =
        (1..9).map(|digits| body.len() + digits).find(|all| all.to_string().len() + body.len() == *all);
    record(b'x', "pax", format!("{}{body}", length.unwrap()).as_bytes())
}

fn first(bytes: &[u8]) -> Result<Option<Entry>, ArchiveError> {
    Entries::new(bytes).next_entry()
}

#[test]
fn entries_come_one_by_one_and_what_is_not_read_is_skipped() {
    let bytes = [record(b'0', "a", b"content"), record(b'5', "d/", b""), record(b'0', "b", b"x")].concat();
    let mut entries = Entries::new(bytes.as_slice());
    let one = entries.next_entry().unwrap().unwrap();
    assert_eq!((one.path.as_slice(), one.kind, one.size), (&b"a"[..], Kind::File, 7));
    assert_eq!((one.mode, one.uid, one.gid, one.mtime), (0o640, 7, 8, 9));
    let mut start = [0; 3];
    entries.content().read_exact(&mut start).unwrap();
    assert_eq!(&start, b"con");
    assert_eq!(entries.next_entry().unwrap().unwrap().kind, Kind::Directory);
    let last = entries.next_entry().unwrap().unwrap();
    let mut content = Vec::new();
    entries.content().read_to_end(&mut content).unwrap();
    assert_eq!((last.path.as_slice(), content.as_slice()), (&b"b"[..], &b"x"[..]));
    assert_eq!(entries.next_entry().unwrap(), None);
}

#[test]
fn names_and_sizes_may_come_before_their_entry() {
    let long = "n".repeat(300);
    for described in [record(b'L', "l", format!("{long}\0").as_bytes()), pax("path", &long)] {
        let entry = first(&[described, record(b'0', "short", b"")].concat()).unwrap().unwrap();
        assert_eq!(entry.path, long.as_bytes());
    }
    let bytes = [pax("linkpath", "there"), pax("mtime", "12.5"), record(b'2', "link", b"")].concat();
    let entry = first(&bytes).unwrap().unwrap();
    assert_eq!((entry.kind, entry.target.as_slice(), entry.mtime), (Kind::Symlink, &b"there"[..], 12));
    let entry = first(&[pax("size", "99999999999"), record(b'0', "big", b"")].concat()).unwrap().unwrap();
    assert_eq!(entry.size, 99_999_999_999);
}

#[test]
fn what_is_too_long_or_no_archive_is_refused_before_it_is_read() {
    let mut huge = Header::new_gnu();
    huge.set_entry_type(tar::EntryType::GNULongName);
    huge.set_size(1 << 40);
    huge.set_cksum();
    let mut sum = record(b'0', "a", b"");
    sum[0] ^= 1;
    let describing = record(b'L', "l", b"x\0").repeat(DESCRIBING_MAX + 1);
    for (bytes, words) in [
        (huge.as_bytes().to_vec(), "over the limit"),
        (sum, "checksum"),
        (describing, "too many headers"),
        (b"no archive at all".repeat(40), "checksum"),
        (record(b'S', "sparse", b""), "sparse"),
        ([pax("GNU.sparse.major", "1"), record(b'0', "a", b"")].concat(), "sparse"),
        (record(b'Z', "odd", b""), "unknown kind"),
    ] {
        let error = first(&bytes).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(matches!(first(&record(b'0', "a", b"")[..100]), Err(ArchiveError::Stream(_))));
    let cut = record(b'0', "a", b"0123")[..BLOCK + 2].to_vec();
    let mut entries = Entries::new(cut.as_slice());
    entries.next_entry().unwrap();
    assert!(entries.content().read_to_end(&mut Vec::new()).is_err());
    let mut entries = Entries::new(cut.as_slice());
    entries.next_entry().unwrap();
    assert!(entries.next_entry().is_err());
}

proptest::proptest! {
    #[test]
    fn any_bytes_come_to_an_end(
        at in 0_usize..3 * BLOCK,
        noise in proptest::collection::vec(0_u8..=255, 0..64),
        fix in proptest::bool::ANY,
    ) {
        let mut bytes = [pax("path", "a"), record(b'0', "a", b"content"), record(b'1', "b", b"")].concat();
        bytes.iter_mut().skip(at).zip(noise).for_each(|(byte, noise)| *byte = noise);
        if fix {
            // Past the checksum, too.
            for start in (0..bytes.len()).step_by(BLOCK) {
                let mut header = Header::from_byte_slice(&bytes[start..start + BLOCK]).clone();
                header.set_cksum();
                bytes[start..start + BLOCK].copy_from_slice(header.as_bytes());
            }
        }
        let mut entries = Entries::new(bytes.as_slice());
        for _ in 0..bytes.len() {
            match entries.next_entry() {
                Ok(Some(entry)) => proptest::prop_assert!(entry.path.len() <= PATH_MAX),
                Ok(None) | Err(_) => return Ok(()),
            }
        }
        proptest::prop_assert!(false, "it does not end");
    }
}
