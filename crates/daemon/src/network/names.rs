//! The networks' resolver: which containers it knows, who may ask outside, and what a policy makes of its answers.
//!
//! Owner: [`HostNetworks`]; what the resolver asks back is answered without its lock, but for the answers that a
//! policy waits for. Invariants: names are those of microVMs that run; who has no way out has none by way of names.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use hull_protocol::api::{Card, Microvm, Network};
use hull_protocol::network::{EgressPolicy, HOST_LESS_NETWORK, InterfaceAddress, Verdict};
use ipnet::IpNet;

use crate::fleet::Host;
use crate::microvm::chain;
use crate::resolver::{Answer, Container, Options, Resolver, ResolverError};

/// What is known of those who ask, by address.
pub(super) type Askers = Arc<RwLock<HashMap<IpAddr, Asker>>>;

/// Somebody who may ask.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    internal: bool,
    policy: EgressPolicy,
}

impl Asker {
    /// Whether it may have this name asked for outside: by a policy that refuses all but what it lists, only the
    /// names that are listed.
    fn may_ask(&self, name: &str) -> bool {
        let listed = || self.policy.rules.iter().filter_map(|rule| rule.name.as_deref());
        match self.policy.default {
            _ if self.internal => false,
            Verdict::Allow => true,
            Verdict::Deny => listed().any(|known| covers(known, name)),
        }
    }

    fn is_bound_by_names(&self) -> bool {
        self.policy.rules.iter().any(|rule| rule.name.is_some())
    }
}

/// The askers that a microVM's cards are.
pub(super) fn askers<'a>(
    cards: &'a [Card],
    networks: &'a [Network],
    own: Option<&'a EgressPolicy>,
) -> impl Iterator<Item = (IpAddr, Asker)> + 'a {
    cards.iter().zip(networks).flat_map(move |(card, network)| {
        let policy = own.unwrap_or(&network.egress).clone();
        let asker = Asker { internal: network.internal, policy };
        [(IpAddr::V4(card.ip), asker.clone()), (IpAddr::V6(card.ip6), asker)]
    })
}

/// Whether a name of a policy means this one.
pub(super) fn covers(known: &str, name: &str) -> bool {
    let (known, name) = (known.trim_end_matches('.'), name.trim_end_matches('.'));
    match known.strip_prefix("*.") {
        Some(parent) => {
            let rest = name.len().checked_sub(parent.len()).and_then(|at| name.split_at_checked(at));
            rest.is_some_and(|(labels, end)| {
                end.eq_ignore_ascii_case(parent) && labels.len() > 1 && labels.ends_with('.')
            })
        }
        None => known.eq_ignore_ascii_case(name),
    }
}

/// A resolver that asks these networks back. Without their host there is nobody to answer for.
pub(super) fn resolver(askers: &Askers, host: Weak<Host>) -> Resolver {
    let look_up = |askers: &Askers, client: IpAddr| {
        askers.read().unwrap_or_else(PoisonError::into_inner).get(&client).cloned()
    };
    let (permitting, watching) = (askers.clone(), askers.clone());
    let permit = move |_: &str, client: IpAddr, name: &str| {
        look_up(&permitting, client).is_some_and(|asker| asker.may_ask(name))
    };
    let watcher = move |answer: Answer| {
        let bound = look_up(&watching, answer.client).is_some_and(|asker| asker.is_bound_by_names());
        let host = host.upgrade().filter(|_| bound);
        let watched: std::pin::Pin<Box<dyn Future<Output = bool> + Send>> = Box::pin(async move {
            let Some(host) = host else { return true };
            let seconds = u32::try_from(answer.lifetime.as_secs()).unwrap_or(u32::MAX);
            let Answer { client, name, addresses, .. } = &answer;
            let allowed = host.networks.allow(&host.state, *client, name, addresses, seconds).await;
            if let Err(error) = &allowed {
                tracing::warn!("the addresses of {name} are not let through: {}", chain(error));
            }
            allowed.is_ok()
        });
        watched
    };
    Resolver::new(Options {
        permit: Some(Arc::new(permit)),
        watcher: Some(Arc::new(watcher)),
        ..Options::default()
    })
}

/// Serves a network, unless it is served.
pub(super) fn serve(resolver: &Resolver, network: &Network) {
    if network.name == HOST_LESS_NETWORK {
        return;
    }
    let address = |address: IpAddr, subnet: &str, otherwise: u8| InterfaceAddress {
        address,
        prefix: subnet.parse().map_or(otherwise, |net: IpNet| net.prefix_len()),
    };
    let addresses = [
        address(network.gateway.into(), &network.subnet, 32),
        address(network.gateway6.into(), &network.subnet6, 128),
    ];
    match resolver.add_network(&network.id, &addresses, Some(&network.bridge)) {
        Ok(()) | Err(ResolverError::Taken(_)) => {}
        Err(error) => tracing::error!("the network {} has no names: {}", network.name, chain(&error)),
    }
}

/// The names that a microVM goes by; the first is the one its addresses lead back to.
pub(super) fn names(record: &Microvm) -> Vec<String> {
    let short = record.id.get(..12).unwrap_or(&record.id).to_owned();
    let hostname = record.spec.container.hostname.clone();
    [record.name.clone()].into_iter().chain(hostname).chain([short]).collect()
}

/// A microVM as the others of one of its networks know it.
pub(super) fn container(names: &[String], card: &Card, cards: &[Card]) -> Container {
    let others = cards.iter().map(|card| &card.network_id).filter(|id| **id != card.network_id);
    Container {
        names: names.iter().chain(&card.aliases).cloned().collect(),
        addresses: vec![card.ip.into(), card.ip6.into()],
        others: others.cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use hull_protocol::network::EgressRule;

    use super::*;

    #[test]
    fn a_policys_name_means_itself_or_all_below_it() {
        for (known, name) in
            [("a.example", "A.example."), ("*.example", "a.example"), ("*.example", "b.a.EXAMPLE")]
        {
            assert!(covers(known, name), "{known} {name}");
        }
        for (known, name) in [
            ("a.example", "b.a.example"),
            ("*.example", "example"),
            ("*.example", "aexample"),
            ("*.example", ".example"),
            ("*.example", ""),
        ] {
            assert!(!covers(known, name), "{known} {name}");
        }
    }

    #[test]
    fn who_has_no_way_out_has_none_by_way_of_names() {
        let rule = EgressRule { name: Some("*.example.org".into()), ..EgressRule::default() };
        let asker = |internal, default| Asker {
            internal,
            policy: EgressPolicy { default, rules: vec![rule.clone()] },
        };
        assert!(!asker(true, Verdict::Allow).may_ask("a.example.org"));
        assert!(asker(false, Verdict::Allow).may_ask("secret.example.com"));
        assert!(asker(false, Verdict::Deny).may_ask("a.example.org"));
        assert!(!asker(false, Verdict::Deny).may_ask("secret.example.com"));
    }
}
