//! What is written is there after a restart; leases are given once.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use hull_protocol::api::State as Life;

use super::*;

pub(crate) fn microvm(id: &str, name: &str) -> Microvm {
    Microvm {
        id: id.into(),
        name: name.into(),
        tenant: "default".into(),
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
        volumes: Vec::new(),
        notices: Vec::new(),
        revision: 1,
        restarts: 0,
        stop_requested: false,
        trace: None,
    }
}

#[test]
fn what_is_written_is_there_after_a_restart_and_names_are_unique() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let first = State::open(&path).unwrap();
    first.insert(&mut microvm("1", "a"), &[], None).unwrap();
    first.insert(&mut microvm("2", "b"), &[], None).unwrap();
    assert!(
        matches!(first.insert(&mut microvm("3", "a"), &[], None), Err(StateError::NameTaken(name)) if name == "a")
    );
    assert!(matches!(first.update(&microvm("2", "a")), Err(StateError::NameTaken(_))));
    first.update(&Microvm { state: Life::Failed, ..microvm("2", "b") }).unwrap();
    first.remove("1").unwrap();
    drop(first);
    let again = State::open(&path).unwrap().microvms().unwrap();
    assert_eq!(again, [Microvm { state: Life::Failed, ..microvm("2", "b") }]);
}

#[test]
fn a_key_makes_one_microvm() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(&dir.path().join("state.db")).unwrap();
    let key = Key { key: "k".into(), request: "r".into() };
    // A name that is taken does not use the key up.
    state.insert(&mut microvm("1", "a"), &[], None).unwrap();
    assert!(matches!(state.insert(&mut microvm("2", "a"), &[], Some(&key)), Err(StateError::NameTaken(_))));
    state.insert(&mut microvm("2", "b"), &[], Some(&key)).unwrap();
    let again = state.insert(&mut microvm("3", "c"), &[], Some(&key));
    assert!(matches!(again, Err(StateError::KeyUsed { made, same: true }) if made == "2"));
    let other = Key { request: "s".into(), ..key };
    let again = state.insert(&mut microvm("3", "c"), &[], Some(&other));
    assert!(matches!(again, Err(StateError::KeyUsed { same: false, .. })));
    assert_eq!(state.microvms().unwrap().len(), 2);
}

#[test]
fn the_state_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    drop(State::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(State::open(&path), Err(StateError::Newer(99))));
}

#[test]
fn names_and_keys_are_each_tenants_own() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(&dir.path().join("state.db")).unwrap();
    let key = Key { key: "k".into(), request: "r".into() };
    let of = |id: &str, tenant: &str| Microvm { tenant: tenant.into(), ..microvm(id, "web") };
    assert!(
        matches!(state.insert(&mut of("1", "acme"), &[], None), Err(StateError::NoTenant(name)) if name == "acme")
    );
    let acme = r#"{"name":"acme"}"#;
    state.write_tenant(&serde_json::from_str(acme).unwrap()).unwrap();
    state.insert(&mut of("1", "default"), &[], Some(&key)).unwrap();
    assert_eq!(state.made_with("acme", &key).unwrap(), None);
    state.insert(&mut of("2", "acme"), &[], Some(&key)).unwrap();
    assert_eq!(state.made_with("acme", &key).unwrap(), Some(("2".into(), true)));
    assert_eq!(state.made_with("default", &key).unwrap(), Some(("1".into(), true)));
    assert_eq!(state.remove_tenant("acme").unwrap(), Err((1, 0, 0)));
    state.remove("2").unwrap();
    assert_eq!(state.remove_tenant("acme").unwrap(), Ok(()));
    assert_eq!(state.made_with("acme", &key).unwrap(), None);
}

#[test]
fn what_an_earlier_version_wrote_belongs_to_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let before = Connection::open(&path).unwrap();
    for step in MIGRATIONS.iter().take(3) {
        before.execute_batch(step).unwrap();
    }
    let mut record = serde_json::to_value(microvm("1", "a")).unwrap();
    record.as_object_mut().unwrap().remove("tenant");
    before.execute("INSERT INTO microvms VALUES ('1', 'a', ?1)", params![record.to_string()]).unwrap();
    before
        .execute_batch(
            "INSERT INTO networks (id, tenant, name, record) VALUES ('n', 'default', 'net', '{}'); \
             INSERT INTO leases (microvm, network, mac, ip, ip6) VALUES ('1', 'n', 'm', 'i', 'j'); \
             INSERT INTO keys VALUES ('k', 'r', '1', 1); PRAGMA user_version = 3",
        )
        .unwrap();
    drop(before);
    let state = State::open(&path).unwrap();
    assert_eq!(state.microvms().unwrap(), [microvm("1", "a")]);
    let key = Key { key: "k".into(), request: "r".into() };
    assert_eq!(state.made_with("default", &key).unwrap(), Some(("1".into(), true)));
    let count = |query: &str| state.lock().query_row(query, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM leases"), 1);
    assert_eq!(count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
    // A lease still goes with its microVM.
    state.remove("1").unwrap();
    assert_eq!(count("SELECT count(*) FROM leases"), 0);
}

#[test]
fn leases_of_an_older_version_stay_and_their_numbers_are_never_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let old = Connection::open(&path).unwrap();
    let network = r#"{"id":"n","name":"net","tenant":"default","subnet":"10.1.0.0/24","gateway":"10.1.0.1",
        "subnet6":"fd00::/64","gateway6":"fd00::1","bridge":"hull-bn","mtu":1500,"internal":false,"egress":{},
        "created_at":""}"#;
    let lease = |number, host| {
        let addresses = format!("'02:00:00:00:00:0{host}', '10.1.0.{host}', 'fd00::{host}'");
        format!("INSERT INTO leases VALUES ({number}, 'm', 'n', {addresses})")
    };
    let steps = [
        MIGRATIONS[..3].join("; "),
        "INSERT INTO microvms VALUES ('m', 'a', '{}')".into(),
        format!(
            "INSERT INTO networks (id, tenant, name, record) VALUES ('n', 'default', 'net', '{network}')"
        ),
        lease(7, 2),
        lease(9, 3),
        "DELETE FROM leases WHERE number = 9; PRAGMA user_version = 3".into(),
    ];
    old.execute_batch(&steps.join("; ")).unwrap();
    drop(old);
    let state = State::open(&path).unwrap();
    let mac = "02:00:00:00:00:04".parse().unwrap();
    let wish = Wish { network: "n".into(), mac, ip: None, ip6: None, aliases: Vec::new() };
    let same = Wish { ip: Some([10, 1, 0, 2].into()), ..wish.clone() };
    assert!(matches!(state.lend(&same), Err(StateError::Lease(said)) if said.contains("10.1.0.2 is in use")));
    let card = state.lend(&wish).unwrap();
    assert_eq!(card.tap, "hull-ta");
    assert_eq!(state.lent().unwrap(), std::slice::from_ref(&card));
    state.give_back(&card).unwrap();
    assert!(state.lent().unwrap().is_empty() && state.lend(&same).is_err());
}
