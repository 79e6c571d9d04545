//! Layers over layers: whiteouts, replacements, links, and a model to compare random ones with.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use super::*;

fn read(temp: &tempfile::TempDir, path: &str) -> Option<String> {
    fs::read_to_string(temp.path().join("tree").join(path)).ok()
}

#[test]
fn whiteouts_hide_only_what_is_below() {
    let below = Archive::default()
        .dir("d")
        .file("d/a", "a")
        .file("d/b", "b")
        .file("x", "x")
        .dir("o")
        .file("o/1", "1")
        .end();
    let above = Archive::default()
        .file("d/.wh.a", "")
        .file("d/.wh.absent", "")
        .file("nowhere/.wh.a", "")
        .file("o/2", "2")
        .file("o/.wh..wh..opq", "")
        .file("x", "new")
        .file(".wh.x", "")
        .file(".wh..wh.plnk", "")
        .end();
    let temp = round_trip(&[below, above]);
    assert_eq!(read(&temp, "d/a"), None);
    assert_eq!(read(&temp, "d/b").as_deref(), Some("b"));
    assert_eq!(read(&temp, "o/1"), None);
    assert_eq!(read(&temp, "o/2").as_deref(), Some("2"));
    assert_eq!(read(&temp, "x").as_deref(), Some("new"));
    assert!(!temp.path().join("tree/nowhere").exists());
    assert_eq!(fs::read_dir(temp.path().join("tree")).unwrap().count(), 3);
}

#[test]
fn an_image_may_end_with_any_inode() {
    // Where the last inode ends a block, and with it the image, is one of these.
    for (files, width) in (1..=60).flat_map(|files| (3..10).map(move |width| (files, width))) {
        let named = |archive: Archive, file: usize| archive.file(&format!("{file:0width$}"), "");
        let temp = tempfile::tempdir().unwrap();
        let image = temp.path().join("image");
        let layer = (0..files).fold(Archive::default(), named).end();
        flatten_to(&[layer], &image, &Limits::default()).unwrap();
        let checked = Command::new("fsck.erofs").arg(&image).output().unwrap();
        assert!(checked.status.success(), "{files} files, {width}: {checked:?}");
    }
}

#[test]
fn kinds_replace_each_other_and_links_cross_layers() {
    let one = Archive::default().dir("t").file("t/in", "in").file("f", "file").file("keep", "kept").end();
    let two = Archive::default()
        .file("t", "now a file")
        .dir("f")
        .file("f/in", "in")
        .hard_link("again", "keep")
        .end();
    let three = Archive::default().dir("t").file("keep", "changed").hard_link("third", "/again").end();
    let temp = round_trip(&[one, two, three]);
    assert!(temp.path().join("tree/t").is_dir());
    assert_eq!(read(&temp, "t/in"), None);
    assert_eq!(read(&temp, "f/in").as_deref(), Some("in"));
    assert_eq!(read(&temp, "keep").as_deref(), Some("changed"));
    assert_eq!(read(&temp, "again").as_deref(), Some("kept"));
    assert_eq!(read(&temp, "third").as_deref(), Some("kept"));
}

#[test]
fn links_in_parents_stay_inside_the_tree() {
    let layer = Archive::default()
        .dir("etc")
        .symlink("abs", "/etc")
        .symlink("up", "../../../../etc")
        .symlink("new", "made/here")
        .file("abs/one", "1")
        .file("up/two", "2")
        .file("new/three", "3")
        .file("missing/parents/four", "4")
        .end();
    let temp = round_trip(&[layer]);
    for (path, content) in
        [("etc/one", "1"), ("etc/two", "2"), ("made/here/three", "3"), ("missing/parents/four", "4")]
    {
        assert_eq!(read(&temp, path).as_deref(), Some(content), "{path}");
    }
}

#[test]
fn members_and_frames_may_be_many() {
    let layer = Archive::default().file("a", &"1".repeat(3000)).file("b", "2").end();
    let (first, second) = layer.split_at(700);
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let members = [gzip(first), gzip(second)].concat();
    let skippable =
        [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &zstd::encode_all(first, 1).unwrap()]
            .concat();
    let frames = [skippable, zstd::encode_all(second, 1).unwrap()].concat();
    for layer in [members, frames] {
        assert_eq!(read(&round_trip(&[layer]), "b").as_deref(), Some("2"));
    }
}

/// What a random layer does.
#[derive(Clone, Debug)]
enum Action {
    File(String, usize, u8),
    Dir(String),
    Remove(String),
    Opaque(String),
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["[abc]", Just("long-".repeat(30))], 1..4)
        .prop_map(|parts| parts.join("/"))
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (path(), prop_oneof![0..5000_usize, 100_000..400_000_usize], any::<u8>()).prop_map(|(p, n, b)| Action::File(p, n, b)),
        2 => path().prop_map(Action::Dir),
        1 => path().prop_map(Action::Remove),
        1 => path().prop_map(Action::Opaque),
    ]
}

/// Files by path; a directory has no content.
type Model = BTreeMap<String, Option<Vec<u8>>>;

fn content(length: usize, byte: u8) -> Vec<u8> {
    // Zeros in between make some of the larger ones files with holes.
    let zero = |at| byte.is_multiple_of(3) && (70_000..300_000).contains(&at);
    (0..length).map(|at| if zero(at) { 0 } else { byte ^ (at / 7) as u8 }).collect()
}

fn is_under(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// Applies a layer to the model; returns the layer as tar. What would be refused is left out of both.
fn apply(model: &mut Model, actions: &[Action]) -> Vec<u8> {
    let mut archive = Archive::default();
    let mut added = Model::new();
    let mut hidden: Vec<String> = Vec::new();
    for action in actions {
        let (Action::File(path, ..) | Action::Dir(path) | Action::Remove(path) | Action::Opaque(path)) =
            action;
        let parents: Vec<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
        let there = |p: &str| {
            added.get(p).or_else(|| model.get(p).filter(|_| !hidden.iter().any(|h| h == p || is_under(p, h))))
        };
        if parents.iter().any(|p| there(p).is_some_and(Option::is_some)) {
            continue;
        }
        match action {
            Action::File(path, length, byte) => {
                let bytes = content(*length, *byte);
                archive = archive.pax("path", path.as_bytes()).raw(b'0', b"short", b"", &bytes);
                added.retain(|p, _| !is_under(p, path));
                hidden.push(path.clone());
                added.extend(parents.iter().map(|p| ((*p).to_owned(), None)));
                added.insert(path.clone(), Some(bytes));
            }
            Action::Dir(path) => {
                archive = archive.pax("path", path.as_bytes()).raw(b'5', b"short", b"", b"");
                if there(path).is_some_and(Option::is_some) {
                    hidden.push(path.clone());
                }
                added.extend(parents.iter().map(|p| ((*p).to_owned(), None)));
                added.insert(path.clone(), None);
            }
            Action::Remove(path) | Action::Opaque(path) => {
                let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
                let marker = match action {
                    Action::Remove(_) => format!("{parent}/.wh.{name}"),
                    _ => format!("{path}/.wh..wh..opq"),
                };
                if matches!(action, Action::Opaque(_)) && !there(path).is_some_and(Option::is_none) {
                    continue;
                }
                archive = archive.pax("path", marker.as_bytes()).raw(b'0', b"short", b"", b"");
                let opaque = matches!(action, Action::Opaque(_));
                model.retain(|p, _| !(is_under(p, path) || (!opaque && p == path)));
            }
        }
        model.retain(|p, _| !hidden.iter().any(|h| h == p || is_under(p, h)));
        hidden.clear();
    }
    model.extend(added);
    archive.end()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_layers_come_out_as_the_model_says(layers in proptest::collection::vec(proptest::collection::vec(action(), 0..14), 1..4)) {
        let mut model = Model::new();
        let layers: Vec<Vec<u8>> = layers.iter().map(|actions| apply(&mut model, actions)).collect();
        let temp = round_trip(&layers);
        let root = temp.path().join("tree");
        let found = shell(&format!("cd {}; find . -mindepth 1 -printf '%P\\n' | LC_ALL=C sort", root.display()));
        let mut expected: Vec<&str> = model.keys().map(String::as_str).collect();
        expected.sort_unstable();
        prop_assert_eq!(found.lines().collect::<Vec<_>>(), expected);
        for (path, content) in &model {
            match content {
                Some(content) => prop_assert!(fs::read(root.join(path)).unwrap() == *content, "{}", path),
                None => prop_assert!(root.join(path).is_dir()),
            }
        }
    }
}
