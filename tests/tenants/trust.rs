//! The image policy: what each tenant may bring.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::namespace::Namespace;
use super::registry::Registry;
use super::support::Daemon;

/// The last line of a pull's answer, or the problem that it is.
fn pulled(daemon: &Daemon, reference: &str) -> Value {
    let body = json!({"reference": reference, "plain_http": true});
    let answer = daemon.request("POST /v1/images/pull", &[], Some(&body)).unwrap();
    serde_json::from_str(answer.text.lines().rfind(|line| line.starts_with('{')).unwrap()).unwrap()
}

#[test]
fn what_must_be_signed_and_is_not_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let key = "openssl ecparam -name prime256v1 -genkey -noout | openssl ec -pubout -out cosign.pub";
    let made = Command::new("sh").args(["-c", key]).current_dir(dir.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let namespace = Namespace::new();
    let registry = Registry::start(|program, args| namespace.command(program, args));
    let signed = format!("127.0.0.1:{}/debian", registry.port);
    let policy = json!({
        "tenants": {"default": [
            {"images": signed, "accept": {"signed_by": ["cosign.pub"]}},
            {"images": "docker.io/library/tree", "accept": "any"},
        ]},
        "others": [{"images": "docker.io/library/tree", "accept": "any"}],
    });
    let file = dir.path().join("policy.json");
    fs::write(&file, policy.to_string()).unwrap();
    let flags = ["--image-policy", file.to_str().unwrap()];
    let daemon = Daemon::start_within(&["nsenter", &namespace.flag(), "--"], &flags);

    let refused = pulled(&daemon, &signed).to_string();
    assert!(refused.contains("untrusted-image") && refused.contains("no signature"), "{refused}");
    let refused = pulled(&daemon, &format!("127.0.0.1:{}/python", registry.port)).to_string();
    assert!(refused.contains("untrusted-image") && refused.contains("does not let tenant"), "{refused}");
    let tree = daemon.dir.path().join("tree");
    let import = |name: &str| daemon.hull(&["import", tree.to_str().unwrap(), name]).output().unwrap();
    assert!(import("tree").status.success());
    for name in [signed.as_str(), "other"] {
        let refused = import(name);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("image policy"), "{name}: {said}");
    }
    // What was refused is not there; what may come is the only image.
    assert_eq!(daemon.ok(&["images"]).lines().count(), 2);
}

#[test]
fn a_daemon_with_a_policy_that_it_cannot_read_does_not_serve() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.json");
    fs::write(&file, r#"{"others": [{"images": "*", "accept": "signed"}]}"#).unwrap();
    let served = Command::new(env!("CARGO_BIN_EXE_hull"))
        .args(["serve", "--image-policy", file.to_str().unwrap()])
        .env("HULL_DATA_DIR", dir.path().join("data"))
        .env("HULL_RUN_DIR", dir.path().join("run"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&served.stderr);
    assert!(!served.status.success() && said.contains("policy.json is no image policy"), "{said}");
}
