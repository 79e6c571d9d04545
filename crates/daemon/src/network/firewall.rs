//! Filters of others that drop what guests send: found and said, and left as they are.
//!
//! libnftables-json(5); the tables of iptables-nft are among them. What an accept in one table lets through another one
//! may still drop, and what others put there is theirs. Owner: whoever asks.

use std::collections::BTreeSet;

use serde_json::Value;

use super::links::PREFIX;
use super::nft::{Nft, NftError};
use super::ruleset::TABLE;

/// Where Docker leaves room for the rules of others.
const DOCKERS_ROOM: &str = "DOCKER-USER";

/// What stands in the way, and what to do about it; nothing on a host that lets guests through.
///
/// # Errors
/// When the host's rules cannot be read.
pub async fn obstacles(nft: &Nft) -> Result<Vec<String>, NftError> {
    let chains = nft.list(&["chains"]).await?;
    let mut obstacles = Vec::new();
    for (family, table) in forwarding_tables(&chains) {
        // It may have gone meanwhile.
        let Ok(listing) = nft.list(&["table", &family, &table]).await else { continue };
        obstacles.extend(obstacle(&family, &table, &listing));
    }
    Ok(obstacles)
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Tables of others that see what the host forwards.
fn forwarding_tables(chains: &[Value]) -> BTreeSet<(String, String)> {
    let forwards = |chain: &&Value| {
        text(chain, "hook") == "forward"
            && ["inet", "ip", "ip6"].contains(&text(chain, "family"))
            && text(chain, "table") != TABLE
    };
    let chains = chains.iter().filter_map(|value| value.get("chain")).filter(forwards);
    chains.map(|chain| (text(chain, "family").to_owned(), text(chain, "table").to_owned())).collect()
}

/// What a table does to guests, if it drops what it does not know and does not know Hull's bridges.
fn obstacle(family: &str, table: &str, listing: &[Value]) -> Option<String> {
    let rules = || listing.iter().filter_map(|value| value.get("rule"));
    let bridges = format!("\"{PREFIX}");
    if rules().any(|rule| rule.to_string().contains(&bridges)) {
        return None;
    }
    let mut chains = listing.iter().filter_map(|value| value.get("chain"));
    let closed = chains.clone().find(|chain| {
        let last = rules().rfind(|rule| text(rule, "chain") == text(chain, "name"));
        text(chain, "hook") == "forward" && (text(chain, "policy") == "drop" || last.is_some_and(drops_all))
    })?;
    let name = text(closed, "name");
    let room = if chains.any(|chain| text(chain, "name") == DOCKERS_ROOM) { DOCKERS_ROOM } else { name };
    let let_through =
        |end: &str| format!("nft insert rule {family} {table} {room} {end} '\"{PREFIX}*\"' accept");
    Some(format!(
        "the chain {name} of {family} {table}, which is not Hull's, drops what it does not know, and so what guests send and \
         receive: let it through there with: {}; {}",
        let_through("iifname"),
        let_through("oifname"),
    ))
}

/// Whether a rule ends all that comes to it.
fn drops_all(rule: &Value) -> bool {
    let Some(words) = rule.get("expr").and_then(Value::as_array) else { return false };
    let ends = |word: &Value| word.get("drop").is_some() || word.get("reject").is_some();
    let harmless = |word: &Value| ends(word) || word.get("counter").is_some() || word.get("log").is_some();
    words.iter().any(ends) && words.iter().all(harmless)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chain(name: &str, policy: &str) -> Value {
        let hook = if policy.is_empty() { Value::Null } else { "forward".into() };
        json!({ "chain": { "family": "ip", "table": "filter", "name": name, "hook": hook, "policy": policy } })
    }

    fn rule(chain: &str, words: &[Value]) -> Value {
        json!({ "rule": { "family": "ip", "table": "filter", "chain": chain, "expr": words } })
    }

    #[test]
    fn who_drops_the_unknown_is_told_how_to_know_hull() {
        let said = |listing: &[Value]| obstacle("ip", "filter", listing).unwrap_or_default();
        assert!(
            said(&[chain("FORWARD", "drop")])
                .contains("insert rule ip filter FORWARD iifname '\"hull-*\"' accept")
        );
        let docker = [chain("FORWARD", "drop"), chain("DOCKER-USER", "")];
        assert!(said(&docker).contains("insert rule ip filter DOCKER-USER oifname"));
        let reject = json!({ "reject": { "type": "icmpx" } });
        let all = rule("FORWARD", &[json!({ "counter": { "packets": 1, "bytes": 1 } }), reject.clone()]);
        assert!(said(&[chain("FORWARD", "accept"), all]).contains("the chain FORWARD of ip filter"));
    }

    #[test]
    fn who_lets_guests_through_is_left_alone() {
        let docker0 =
            json!({ "match": { "op": "==", "left": { "meta": { "key": "iifname" } }, "right": "docker0" } });
        let hull =
            json!({ "match": { "op": "==", "left": { "meta": { "key": "iifname" } }, "right": "hull-*" } });
        for listing in [
            vec![],
            vec![chain("FORWARD", "accept")],
            vec![chain("other", ""), rule("other", &[json!({ "drop": null })])],
            vec![chain("FORWARD", "accept"), rule("FORWARD", &[docker0, json!({ "drop": null })])],
            vec![chain("FORWARD", "drop"), rule("FORWARD", &[hull, json!({ "accept": null })])],
        ] {
            assert_eq!(obstacle("ip", "filter", &listing), None);
        }
        let own =
            json!({ "chain": { "family": "inet", "table": "hull", "name": "forward", "hook": "forward" } });
        let bridges =
            json!({ "chain": { "family": "bridge", "table": "x", "name": "forward", "hook": "forward" } });
        let tables = forwarding_tables(&[own, bridges, chain("FORWARD", "drop"), chain("user", "")]);
        assert_eq!(tables, BTreeSet::from([("ip".to_owned(), "filter".to_owned())]));
    }
}
