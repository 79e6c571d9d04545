//! The attacker wants another tenant's volumes, and files of the host.

use serde_json::{Value, json};

use super::super::support::{Answer, spec};
use super::{Attacker, Victim, token};

/// The size of the victim's volume.
pub const SIZE: u64 = 16 << 20;

/// What to post for a microVM with this one mount.
fn with(name: &str, mount: Value) -> Value {
    let mut wanted = spec(name, &["stay"], json!({}));
    wanted["container"]["mounts"] = json!([mount]);
    wanted
}

fn at_data(source: &str) -> Value {
    json!({"type": "volume", "source": source, "target": "/data", "size": SIZE})
}

/// Volumes by name, by id, by a mount, by whatever removes or makes many.
pub fn volumes(attacker: &mut Attacker<'_>, theirs: &Victim) {
    let host = attacker.host;
    let tree = host.daemon.dir.path().join("tree");
    host.daemon.ok(&["--tenant", "mallory", "import", tree.to_str().unwrap(), "tree"]);
    let spare = host.done(&host.acme, "POST /v1/volumes", Some(&json!({"name": "spare", "size": SIZE})));
    let before = host.done(&host.acme, "GET /v1/volumes/vault", None);
    for wanted in ["vault", theirs.volume.as_str(), "spare"] {
        attacker.missing("GET /v1/volumes/THEIRS", wanted, None);
        attacker.missing("PATCH /v1/volumes/THEIRS", wanted, Some(json!({"size": 4 * SIZE})));
        attacker.missing("DELETE /v1/volumes/THEIRS", wanted, None);
    }
    for path in ["acme%2fvault", "..%2f..%2fvolumes%2fvault", "vault%00", "acme%7Cvault"] {
        attacker.refused(404, &format!("GET /v1/volumes/{path}"), None);
    }
    // A mount names what is one's own, and makes it: the same name, and the very id, are another volume.
    for (number, name) in ["vault", theirs.volume.as_str()].into_iter().enumerate() {
        attacker.attempts += 1;
        let spy = host.run(&host.mallory, &with(&format!("spy{number}"), at_data(name)));
        let record = host.done(&host.mallory, &format!("GET /v1/microvms/{spy}"), None);
        assert_eq!(record["state"], "running", "{record}");
        assert_ne!(record["volumes"][0]["id"], json!(theirs.volume));
        let own = host.done(&host.mallory, &format!("GET /v1/volumes/{name}"), None);
        assert_eq!((&own["tenant"], own["users"].as_array().map(Vec::len)), (&json!("mallory"), Some(1)));
    }
    for name in ["../vault", "/var/lib/hull/volumes", "acme/vault", "acme|vault", ""] {
        attacker.refused(400, "POST /v1/volumes", Some(json!({"name": name})));
        attacker.refused(400, "POST /v1/microvms", Some(with("spy", at_data(name))));
    }
    attacker.refused(400, "POST /v1/volumes", Some(json!({"name": "mine", "tenant": "acme"})));
    // The victim's key makes something of one's own.
    let body = json!({"name": "keyed", "size": SIZE});
    let ask = |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "known-too")];
        host.daemon.request("POST /v1/volumes", &headers, Some(&body)).unwrap()
    };
    let (first, own) = (ask(&host.acme), ask(&host.mallory));
    attacker.attempts += 1;
    assert_eq!((first.status, own.status), (201, 201), "{own:?}");
    assert!(own.json()["id"] != first.json()["id"] && own.json()["tenant"] == "mallory", "{own:?}");
    assert!(!own.headers.contains_key("idempotency-replayed"), "{own:?}");
    let entry = attacker.last(&attacker.who);
    assert_eq!((&entry["made"], &entry["status"]), (&json!("/v1/volumes/keyed"), &json!(201)), "{entry}");
    // Whoever clears up clears up its own.
    for (line, body) in
        [("POST /v1/volumes/prune", None), ("POST /v1/system/prune", Some(json!({"volumes": true})))]
    {
        attacker.attempts += 1;
        let pruned = host.done(&host.mallory, line, body.as_ref());
        assert!(!pruned.to_string().contains("spare"), "{pruned}");
    }
    host.daemon.ok(&["--tenant", "mallory", "rm", "-f", "spy0", "spy1"]);
    host.done(&host.mallory, "POST /v1/volumes/prune", None);
    assert_eq!(host.done(&host.mallory, "GET /v1/volumes", None), json!([]));
    // All of the victim's is there, as it was, and it was told of its own alone.
    assert_eq!(host.done(&host.acme, "GET /v1/volumes/spare", None)["id"], spare["id"]);
    assert_eq!(host.done(&host.acme, "GET /v1/volumes/vault", None), before);
    let told = host.ask(&host.acme, "GET /v1/events?follow=false&after=1", None).text;
    assert!(told.contains("vault") && told.contains("spare") && !told.contains("spy"), "{told}");
}

/// What the daemon would read as itself, by a copy into a container.
pub fn files_of_the_host(attacker: &mut Attacker<'_>) {
    let host = attacker.host;
    let operator = token(&host.daemon, "default", &["--scope", "operate"]);
    let operators = (operator.clone(), format!("token:{}", &operator[5..21]));
    for source in ["/etc/shadow", "/var/lib/hull/state.db", "/proc/self/environ", "/"] {
        for read_only in [true, false] {
            let mount = json!({"type": "bind", "source": source, "target": "/copy", "read_only": read_only});
            let refused = attacker.refused(403, "POST /v1/microvms", Some(with("thief", mount)));
            forbidden(&refused);
        }
    }
    // Among others, and with a key that is used again.
    let mount = json!({"type": "bind", "source": "/etc/shadow", "target": "/copy", "read_only": true});
    let mut wanted = with("thief", mount);
    wanted["container"]["mounts"].as_array_mut().unwrap().insert(0, at_data("cover"));
    forbidden(&attacker.refused(403, "POST /v1/microvms", Some(wanted.clone())));
    // Whoever only operates the host's own tenant, and root for somebody else: those may see it who administer the
    // host, for its own tenant.
    let bearer = format!("Bearer {}", operators.0);
    for (headers, who) in
        [(("Authorization", bearer.as_str()), operators.1.as_str()), (("Hull-Tenant", "mallory"), "uid:0")]
    {
        attacker.attempts += 1;
        let answer = host.daemon.request("POST /v1/microvms", &[headers], Some(&wanted)).unwrap();
        forbidden(&answer);
        attacker.written(who, "POST /v1/microvms", 403);
    }
    // Nothing was made on the way.
    assert_eq!(host.done(&host.mallory, "GET /v1/volumes", None), json!([]));
    assert!(!host.done(&host.mallory, "GET /v1/microvms", None).to_string().contains("thief"));
}

fn forbidden(answer: &Answer) {
    assert_eq!((answer.status, &answer.json()["type"]), (403, &json!("/problems/forbidden")), "{answer:?}");
    assert!(answer.json()["detail"].as_str().unwrap().contains("those who administer it"), "{answer:?}");
}
