//! The words of which rules are made, as nft's JSON has them.
//!
//! libnftables-json(5). Pure. Owner: the rules beside it.

use serde_json::{Value, json};

use super::TABLE;
use crate::network::subnet::{METADATA4, METADATA6};

/// The commands that make one table.
pub(super) struct Table<'a> {
    pub(super) family: &'static str,
    pub(super) commands: &'a mut Vec<Value>,
}

impl Table<'_> {
    fn add(&mut self, kind: &str, mut what: Value) {
        if let Some(fields) = what.as_object_mut() {
            fields.insert("family".into(), self.family.into());
            fields.insert("table".into(), TABLE.into());
        }
        self.commands.push(json!({ "add": { kind: what } }));
    }

    pub(super) fn set(&mut self, name: &str, key: &[&str], flags: &[&str]) {
        let key = kind(key);
        if flags.is_empty() {
            self.add("set", json!({ "name": name, "type": key }));
        } else {
            self.add("set", json!({ "name": name, "type": key, "flags": flags }));
        }
    }

    pub(super) fn map(&mut self, name: &str, key: &[&str], to: &str) {
        let key = kind(key);
        self.add("map", json!({ "name": name, "type": key, "map": to }));
    }

    pub(super) fn chain(&mut self, name: &str, hook: Option<(&str, &str, i32)>) {
        self.add(
            "chain",
            match hook {
                Some((kind, hook, priority)) => {
                    json!({ "name": name, "type": kind, "hook": hook, "prio": priority, "policy": "accept" })
                }
                None => json!({ "name": name }),
            },
        );
    }

    pub(super) fn rule(&mut self, chain: &str, expressions: Vec<Value>) {
        self.add("rule", json!({ "chain": chain, "expr": expressions }));
    }
}

/// The type of a key; a list of one would be another.
fn kind(key: &[&str]) -> Value {
    match key {
        [only] => (*only).into(),
        all => json!(all),
    }
}

/// A family of addresses.
#[derive(Clone, Copy)]
pub(super) struct Family {
    protocol: &'static str,
    digit: char,
}

pub(super) const FAMILIES: [Family; 2] =
    [Family { protocol: "ip", digit: '4' }, Family { protocol: "ip6", digit: '6' }];

impl Family {
    pub(super) fn set(self, name: &str) -> Value {
        format!("@{name}{}", self.digit).into()
    }

    pub(super) fn saddr(self) -> Value {
        payload(self.protocol, "saddr")
    }

    pub(super) fn daddr(self) -> Value {
        payload(self.protocol, "daddr")
    }

    pub(super) fn metadata(self) -> Value {
        match self.digit {
            '4' => json!({ "set": METADATA4 }),
            _ => json!({ "set": METADATA6 }),
        }
    }

    pub(super) fn loopback(self) -> Value {
        match self.digit {
            '4' => json!({ "prefix": { "addr": "127.0.0.0", "len": 8 } }),
            _ => "::1".into(),
        }
    }

    /// To the address and the port that the maps of this name have for the key.
    pub(super) fn translate(self, maps: &str, key: Vec<Value>) -> Value {
        let look_up = |what: &str| json!({ "map": { "key": { "concat": key }, "data": self.set(&format!("{maps}_{what}")) } });
        json!({ "dnat": { "family": self.protocol, "addr": look_up("address"), "port": look_up("port") } })
    }
}

pub(super) fn meta(key: &str) -> Value {
    json!({ "meta": { "key": key } })
}

pub(super) fn payload(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn matches(op: &str, left: Value, right: Value) -> Value {
    json!({ "match": { "op": op, "left": left, "right": right } })
}

pub(super) fn is(left: Value, right: impl Into<Value>) -> Value {
    matches("==", left, right.into())
}

pub(super) fn is_not(left: Value, right: impl Into<Value>) -> Value {
    matches("!=", left, right.into())
}

pub(super) fn is_in(left: Value, right: &str) -> Value {
    matches("in", left, right.into())
}

pub(super) fn goto(chain: &str) -> Value {
    json!({ "goto": { "target": chain } })
}

pub(super) fn accept() -> Value {
    json!({ "accept": null })
}

/// Whether its destination is another than its sender wrote.
pub(super) fn translated() -> Value {
    is_in(json!({ "ct": { "key": "status" } }), "dnat")
}

/// What belongs to something that was let through passes; what belongs to nothing does not.
pub(super) fn by_state() -> Value {
    let verdicts = json!([
        ["established", accept()],
        ["related", accept()],
        ["invalid", { "drop": null }],
    ]);
    json!({ "vmap": { "key": { "ct": { "key": "state" } }, "data": { "set": verdicts } } })
}

pub(super) fn count(key: Value, counters: impl Into<Value>) -> Value {
    json!({ "counter": { "map": { "key": key, "data": counters.into() } } })
}
