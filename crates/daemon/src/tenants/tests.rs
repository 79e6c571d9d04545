//! Who is who, and that what is told is remembered.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use super::*;

fn opened() -> (tempfile::TempDir, State) {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(&dir.path().join("state.db")).unwrap();
    (dir, state)
}

fn spec(name: &str, uids: &[u32]) -> TenantSpec {
    TenantSpec { name: name.into(), uids: uids.to_vec(), quotas: Amounts::new() }
}

fn token(scope: Scope, lifetime: Option<u64>) -> TokenSpec {
    TokenSpec { name: String::new(), scope, lifetime }
}

#[test]
fn users_and_tokens_lead_to_their_tenants() {
    let (_dir, state) = opened();
    let tenants = Tenants::load(&state).unwrap();
    assert!(tenants.of_user(0).unwrap().administers);
    assert_eq!(tenants.of_user(4242), Err(Unknown::User(4242)));
    tenants.create(&state, spec("acme", &[4242])).unwrap();
    let user = tenants.of_user(4242).unwrap();
    assert_eq!((&*user.tenant, user.scope, user.administers), ("acme", Scope::Admin, false));
    let made = tenants.create_token(&state, "acme", token(Scope::Operate, None)).unwrap();
    let host = tenants.create_token(&state, "default", token(Scope::Operate, Some(1000))).unwrap();
    // What is written is known to the next daemon, and without the secret.
    let text = state
        .tokens()
        .unwrap()
        .iter()
        .map(|(token, digest)| format!("{token:?}{digest}"))
        .collect::<String>();
    assert!(!text.contains(made.secret.get(21..).unwrap()));
    let tenants = Tenants::load(&state).unwrap();
    let known = tenants.of_token(&state, &made.secret).unwrap();
    assert_eq!((&*known.tenant, known.scope, known.administers), ("acme", Scope::Operate, false));
    assert!(!tenants.of_token(&state, &host.secret).unwrap().administers);
    assert!(tenants.tokens("acme").iter().all(|token| token.last_used_at.is_some()));
    assert!(tenants.of_user(4242).is_ok());
    // Another's token cannot be removed, nor told from one that is not there.
    let mine = tenants.remove_token(&state, "default", &made.token.id).unwrap_err().to_string();
    assert_eq!(
        mine.replace(&made.token.id, "x"),
        tenants.remove_token(&state, "default", "x").unwrap_err().to_string()
    );
    tenants.remove(&state, "acme").unwrap();
    for tenants in [tenants, Tenants::load(&state).unwrap()] {
        assert_eq!(tenants.of_token(&state, &made.secret), Err(Unknown::Token));
        assert_eq!(tenants.of_user(4242), Err(Unknown::User(4242)));
    }
}

#[test]
fn a_token_ends() {
    let now = clock::unix_ns();
    let mut token = Token {
        id: "0".into(),
        tenant: "acme".into(),
        name: String::new(),
        scope: Scope::Read,
        created_at: String::new(),
        expires_at: None,
        last_used_at: None,
    };
    assert!(!ended(&token, now));
    token.expires_at = Some(clock::rfc3339_nanos(now));
    assert!(ended(&token, now) && !ended(&token, now - 1_000_000));
    token.expires_at = Some("never".into());
    assert!(ended(&token, now));
}

#[test]
fn what_cannot_be_is_refused() {
    let (_dir, state) = opened();
    let tenants = Tenants::load(&state).unwrap();
    for bad in ["", "Acme", "-a", "a_b", "a|b", "a/b", "ä", &"a".repeat(64)] {
        assert!(tenants.create(&state, spec(bad, &[])).is_err(), "{bad}");
    }
    for bad in [0, tenants.own, NOBODY, u32::MAX] {
        assert!(tenants.create(&state, spec("acme", &[bad])).is_err(), "{bad}");
    }
    tenants.create(&state, spec("acme", &[7, 7])).unwrap();
    assert!(tenants.create(&state, spec("acme", &[])).is_err());
    assert!(tenants.create(&state, spec("other", &[7])).is_err());
    assert!(tenants.remove(&state, "default").is_err());
    assert!(tenants.create_token(&state, "nobody", token(Scope::Read, None)).is_err());
    for lifetime in [0, u64::MAX, LIFETIME_MAX + 1] {
        assert!(
            tenants.create_token(&state, "acme", token(Scope::Read, Some(lifetime))).is_err(),
            "{lifetime}"
        );
    }
    let patch = r#"{"quotas":{"cpus":2,"memory":null},"uids":[8]}"#;
    let tenant = tenants.update(&state, "acme", serde_json::from_str(patch).unwrap()).unwrap();
    assert_eq!((tenant.quotas, tenant.uids), ([(Resource::Cpus, 2)].into(), vec![8]));
    assert!(tenants.of_user(7).is_err() && tenants.of_user(8).is_ok());
    assert!(serde_json::from_str::<TenantPatch>(r#"{"quotas":{"ships":2}}"#).is_err());
}

#[test]
fn what_runs_is_counted_until_it_ends() {
    let (_dir, state) = opened();
    let tenants = Arc::new(Tenants::load(&state).unwrap());
    let quotas: Amounts = [(Resource::Cpus, 3)].into();
    tenants.create(&state, TenantSpec { quotas, ..spec("acme", &[]) }).unwrap();
    let cpus = |number| Amounts::from([(Resource::Cpus, number)]);
    let first = tenants.start("acme", cpus(2)).unwrap_or_else(|_| panic!("two of three"));
    assert!(tenants.start("acme", cpus(2)).is_err());
    assert!(tenants.start("default", cpus(200)).is_ok());
    let more = tenants.runs("acme", cpus(5));
    assert_eq!(tenants.running("acme"), cpus(7));
    drop((first, more));
    assert_eq!(tenants.running("acme"), Amounts::new());
    // Of many at once as many pass as there is room for.
    let passed: Vec<_> = std::thread::scope(|scope| {
        let tried: Vec<_> = (0..8).map(|_| scope.spawn(|| tenants.start("acme", cpus(1)).ok())).collect();
        tried.into_iter().filter_map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(passed.len(), 3);
}
