#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use super::*;

fn execs() -> Execs {
    let container = ProcessSpec {
        id: "main".into(),
        args: vec!["serve".into()],
        env: Vec::new(),
        workdir: "/".into(),
        user: String::new(),
        terminal: None,
        stdin: false,
        capabilities: Vec::new(),
        rlimits: Vec::new(),
        no_new_privileges: false,
    };
    Execs::new("f00".into(), container)
}

fn spec() -> ExecSpec {
    ExecSpec { command: vec!["ls".into()], ..ExecSpec::default() }
}

#[test]
fn the_table_is_bounded_and_forgets_only_what_has_ended() {
    let execs = execs();
    let first = execs.create(spec()).unwrap();
    assert_eq!((first.microvm.as_str(), first.state), ("f00", ExecState::Created));
    let second = execs.create(spec()).unwrap();
    for _ in 2..TABLE_MAX {
        execs.create(spec()).unwrap();
    }
    assert!(matches!(execs.create(spec()), Err(ExecError::TooMany)));
    execs.conclude(&second.id, 3, None);
    let ended = execs.get(&second.id).unwrap();
    assert_eq!((ended.state, ended.status), (ExecState::Exited, Some(3)));
    let newest = execs.create(spec()).unwrap();
    assert!(execs.get(&first.id).is_some() && execs.get(&newest.id).is_some());
    assert!(execs.get(&second.id).is_none());
}

#[tokio::test]
async fn without_a_guest_nothing_starts_and_nothing_is_signalled() {
    let execs = Arc::new(execs());
    let one = execs.create(spec()).unwrap();
    assert!(matches!(execs.start(&one.id, None), Err(ExecError::Refused(_))));
    assert!(matches!(execs.start("none", None), Err(ExecError::Refused(_) | ExecError::NotFound)));
    assert!(matches!(execs.signal(&one.id, 15).await, Err(ExecError::Refused(_))));
    assert!(matches!(execs.signal("none", 15).await, Err(ExecError::NotFound)));
    execs.lost();
    let lost = execs.get(&one.id).unwrap();
    assert_eq!((lost.state, lost.status), (ExecState::Exited, Some(KILLED)));
    assert!(lost.error.unwrap().contains("ended before"));
}
