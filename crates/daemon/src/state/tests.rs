//! What is written is there after a restart; leases are given once.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use hull_protocol::api::State as Life;

use super::*;

fn microvm(id: &str, name: &str) -> Microvm {
    Microvm {
        id: id.into(),
        name: name.into(),
        state: Life::Created,
        spec: Default::default(),
        image_digest: "sha256:0".into(),
        command: vec!["true".into()],
        created_at: "2026-01-01T00:00:00Z".into(),
        started_at: None,
        finished_at: None,
        exit: None,
        vmm_pid: None,
        guest_kernel: None,
        health: None,
        cards: Vec::new(),
        ports: Vec::new(),
        notices: Vec::new(),
    }
}

#[test]
fn what_is_written_is_there_after_a_restart_and_names_are_unique() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let first = State::open(&path).unwrap();
    first.insert(&mut microvm("1", "a"), &[]).unwrap();
    first.insert(&mut microvm("2", "b"), &[]).unwrap();
    assert!(
        matches!(first.insert(&mut microvm("3", "a"), &[]), Err(StateError::NameTaken(name)) if name == "a")
    );
    first.update(&Microvm { state: Life::Failed, ..microvm("2", "b") }).unwrap();
    first.remove("1").unwrap();
    drop(first);
    let again = State::open(&path).unwrap().microvms().unwrap();
    assert_eq!(again, [Microvm { state: Life::Failed, ..microvm("2", "b") }]);
}

#[test]
fn the_state_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    drop(State::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(State::open(&path), Err(StateError::Newer(99))));
}
