//! Layers that are broken or mean harm are refused, early and with a reason.

use std::io::Write;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn entry_error(layer: Vec<u8>) -> String {
    match refusal(&[layer], &Limits::default()) {
        LayerError::Entry { path, why } => format!("{path}: {why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn paths_that_leave_the_tree_are_refused() {
    for path in ["/etc/passwd", "../x", "a/../../x", "a/..", ".."] {
        let error = entry_error(Archive::default().file(path, "x").end());
        assert!(error.contains(path) && (error.contains("'..'") || error.contains("absolute")), "{error}");
    }
    assert!(entry_error(Archive::default().file("../.wh.x", "").end()).contains("'..'"));
    assert!(entry_error(Archive::default().pax("path", b"../../x").file("x", "").end()).contains("'..'"));
    assert!(entry_error(Archive::default().file("a", "").hard_link("b", "../a").end()).contains("'..'"));
    assert!(entry_error(Archive::default().hard_link("b", "absent").end()).contains("no file"));
    assert!(entry_error(Archive::default().dir("d").hard_link("b", "d").end()).contains("no file"));
    assert!(entry_error(Archive::default().file("a", "").file("a/b", "").end()).contains("not a directory"));
    assert!(
        entry_error(Archive::default().symlink("a", "b").symlink("b", "a").file("a/x", "").end())
            .contains("links")
    );
    assert!(entry_error(Archive::default().file(".wh...", "").end()).contains("whiteout"));
    assert!(entry_error(Archive::default().pax("path", &[b'x'; 300]).file("x", "").end()).contains("255"));
    assert!(entry_error(Archive::default().raw(b'Z', b"x", b"", b"").end()).contains("unknown entry type"));
}

#[test]
fn bombs_are_refused_quickly() {
    let begun = Instant::now();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(10 << 30);
    header.set_path("zeros").unwrap();
    header.set_cksum();
    gzip.write_all(header.as_bytes()).unwrap();
    let chunk = vec![0; 1 << 20];
    for _ in 0..512 {
        gzip.write_all(&chunk).unwrap();
    }
    let bomb = gzip.finish().unwrap();
    let made = begun.elapsed();
    let error = refusal(&[bomb], &Limits::default());
    assert!(matches!(error, LayerError::Limit { name: "max_expansion_ratio", .. }), "{error:?}");
    assert!(begun.elapsed() - made < Duration::from_secs(10));

    let zstd = zstd::encode_all(std::io::repeat(0).take(1 << 30), 1).unwrap();
    let error = refusal(&[zstd], &Limits { max_layer_bytes: 1 << 20, ..Limits::default() });
    assert!(matches!(error, LayerError::Malformed { .. } | LayerError::Limit { .. }), "{error:?}");

    let mut many = Archive::default();
    for n in 0..2000 {
        many = many.file(&format!("f{n}"), "");
    }
    let error = refusal(&[many.end()], &Limits { max_entries: 1000, ..Limits::default() });
    assert!(matches!(error, LayerError::Limit { name: "max_entries", .. }), "{error:?}");

    let large = Archive::default().file("large", &"x".repeat(100_000)).end();
    let error =
        refusal(std::slice::from_ref(&large), &Limits { max_image_bytes: 50_000, ..Limits::default() });
    assert!(matches!(error, LayerError::Limit { name: "max_image_bytes", .. }), "{error:?}");
    let error = refusal(&[large], &Limits { max_file_bytes: 50_000, ..Limits::default() });
    assert!(matches!(error, LayerError::Limit { name: "max_file_bytes", .. }), "{error:?}");

    let names =
        (0..100).fold(Archive::default(), |archive, n| archive.file(&format!("{n}{}", "x".repeat(90)), ""));
    let error = refusal(&[names.end()], &Limits { max_metadata_bytes: 5000, ..Limits::default() });
    assert!(matches!(error, LayerError::Limit { name: "max_metadata_bytes", .. }), "{error:?}");
}

#[test]
fn broken_archives_are_refused() {
    let good = Archive::default().file("a", &"x".repeat(2000)).end();
    let cut = good[..1000].to_vec();
    assert!(matches!(refusal(&[cut], &Limits::default()), LayerError::Read(_)));
    let mut header = good.clone();
    header[0] ^= 1;
    assert!(matches!(refusal(&[header], &Limits::default()), LayerError::Malformed { .. }));
    let mut huge = Header::new_ustar();
    huge.set_size(2 << 20);
    huge.set_entry_type(EntryType::XHeader);
    huge.set_cksum();
    let huge = [huge.as_bytes().to_vec(), vec![b'1'; 4 << 20]].concat();
    assert!(
        matches!(refusal(&[huge], &Limits::default()), LayerError::Malformed { what, .. } if what.contains("1 MiB"))
    );
    for record in
        [&b"5 a=b\n"[..], b"99 path=x\n", b"7 patha", b"x", b"8 size=x\n", b"9999999999999999999999 a=b\n"]
    {
        let layer = Archive::default().raw(b'x', b"pax", b"", record).file("a", "").end();
        assert!(matches!(refusal(&[layer], &Limits::default()), LayerError::Malformed { .. }), "{record:?}");
    }
    let orphan = Archive::default().pax("path", b"x").end();
    assert!(matches!(refusal(&[orphan], &Limits::default()), LayerError::Malformed { .. }));
    let gzip = support_gzip(&good);
    assert!(matches!(refusal(&[gzip[..gzip.len() / 2].to_vec()], &Limits::default()), LayerError::Read(_)));
    for map in
        ["2\n0\n10\n5\n10\n", "1\n0\n999999\n", "1\n99999999999999999999\n1\n", "99999999\n", "x\n", ""]
    {
        let layer = Archive::default()
            .pax("GNU.sparse.major", b"1")
            .pax("GNU.sparse.minor", b"0")
            .pax("GNU.sparse.realsize", b"100")
            .file("sparse", &format!("{map:\0<512}{}", "x".repeat(20)))
            .end();
        assert!(matches!(refusal(&[layer], &Limits::default()), LayerError::Entry { .. }), "{map:?}");
    }
}

fn support_gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn attributes_that_steer_overlayfs_are_dropped() {
    let temp = tempfile::tempdir().unwrap();
    let layer = Archive::default()
        .pax("SCHILY.xattr.trusted.overlay.redirect", b"/etc")
        .pax("SCHILY.xattr.user.kept", b"a\nb\0c")
        .file("file", "x")
        .end();
    let image = temp.path().join("image");
    flatten_to(&[layer], &image, &Limits::default()).unwrap();
    let bytes = std::fs::read(&image).unwrap();
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(!has(b"redirect"));
    assert!(has(b"kepta\nb\0c"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12), resum in any::<bool>()) {
        let mut layer = Archive::default()
            .dir("d")
            .pax("SCHILY.xattr.user.a", b"value")
            .file("d/file", &"content".repeat(400))
            .pax("GNU.sparse.major", b"1")
            .pax("GNU.sparse.minor", b"0")
            .pax("GNU.sparse.realsize", b"100000")
            .file("sparse", &format!("{:\0<512}{}", "1\n5000\n20\n", "x".repeat(20)))
            .hard_link("h", "d/file")
            .symlink("s", "d")
            .file("s/.wh.file", "")
            .end();
        for (at, byte) in &flips {
            let at = at.index(layer.len());
            layer[at] = *byte;
        }
        if resum {
            for block in layer.chunks_exact_mut(512) {
                if &block[257..262] == b"ustar" {
                    let mut header = Header::new_old();
                    header.as_mut_bytes().copy_from_slice(block);
                    header.set_cksum();
                    block.copy_from_slice(header.as_bytes());
                }
            }
        }
        let temp = tempfile::tempdir().unwrap();
        let image = temp.path().join("image");
        if flatten_to(&[layer], &image, &Limits::default()).is_ok() {
            shell(&format!("fsck.erofs {} >/dev/null", image.display()));
        }
    }
}
