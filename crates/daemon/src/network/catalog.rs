//! Which networks there are: made, listed, shown and removed, and what a new microVM gets of them.
//!
//! Owner: the API's handlers, through [`HostNetworks`]'s lock. Invariant: a network is in the state before the host has any
//! of it, and gone from the state before the host loses it: a daemon that dies between the two finishes it at its next
//! start.

use std::collections::HashMap;
use std::time::SystemTime;

use hull_protocol::api::{Amounts, Card, HOST_TENANT, Network, NetworkSpec, Refused, Resource};
use hull_protocol::network::{Attachment, DEFAULT_NETWORK, HOST_LESS_NETWORK, Mac, NetworkingSpec};
use ipnet::IpNet;
use serde_json::Value;

use super::host::Inner;
use super::links::PREFIX;
use super::ruleset::TABLE;
use super::subnet::{self, Taken};
use super::{HostNetworks, NetworkError, address, elements, firewall, wishes};
use crate::clock::rfc3339;
use crate::fleet::random_bytes;
use crate::microvm::chain;
use crate::state::{State, StateError, Wish};
use crate::tenants::Tenants;

/// For whom a network is.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// Where its quotas are.
    pub tenants: &'a Tenants,
}

impl Owner<'_> {
    fn is_host(self) -> bool {
        self.tenant == HOST_TENANT
    }
}

/// Who has a subnet that is another tenant's, or the host's.
const NOBODYS_BUSINESS: &str = "";
/// The MTU of a network whose user did not say.
const MTU: u16 = 1500;

impl HostNetworks {
    /// Makes a network.
    ///
    /// # Errors
    /// When it cannot be; nothing is left of it then.
    pub async fn create(
        &self,
        state: &State,
        owner: Owner<'_>,
        spec: NetworkSpec,
    ) -> Result<Network, NetworkError> {
        wishes::network(&spec)?;
        let mut inner = self.lock().await;
        inner.enter(state).await?;
        create(&mut inner, state, owner, spec).await
    }

    /// Removes a network that nobody is on.
    ///
    /// # Errors
    /// When somebody is, or there is none.
    pub async fn remove(&self, state: &State, tenant: &str, name: &str) -> Result<(), NetworkError> {
        let mut inner = self.lock().await;
        let network = find(state, tenant, name)?;
        inner.enter(state).await?;
        state.remove_network(&network)?;
        inner.unmake(state, &network).await
    }

    /// A network with its members, and what was refused on it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn inspect(&self, state: &State, tenant: &str, name: &str) -> Result<Network, NetworkError> {
        let mut network = find(state, tenant, name)?;
        network.members = state.members(&network.id)?;
        let mut inner = self.lock().await;
        inner.take_back(state).await?;
        network.plain = state.lent()?;
        network.plain.retain(|card| card.network_id == network.id);
        if let Some((_, nft)) = inner.tools().filter(|_| !network.internal) {
            network.notices = firewall::obstacles(nft).await?;
        }
        let counters = counters(&inner, "inet").await?;
        network.refused = counters.get(&elements::network_counter(&network.id)).copied();
        Ok(network)
    }

    /// Fills in what cards were refused.
    ///
    /// # Errors
    /// When the host's rules cannot be read.
    pub async fn count(&self, cards: &mut [Card]) -> Result<(), NetworkError> {
        if cards.is_empty() {
            return Ok(());
        }
        let inner = self.lock().await;
        let (refused, forged) = (counters(&inner, "inet").await?, counters(&inner, "bridge").await?);
        for card in cards {
            let name = elements::card_counter(card);
            card.refused = refused.get(&name).copied();
            card.forged = forged.get(&name).copied();
        }
        Ok(())
    }

    /// What a new microVM is to have, and what its user should know. Who named no network goes without one where the
    /// host cannot have any; who named one is told why there is none.
    ///
    /// # Errors
    /// When it asks for what cannot be.
    pub async fn wishes(
        &self,
        state: &State,
        owner: Owner<'_>,
        spec: &NetworkingSpec,
    ) -> Result<(Vec<Wish>, Vec<String>), NetworkError> {
        wishes::networking(spec)?;
        let named = wishes::attachments(spec)?;
        let explicit = named.is_some() || !spec.publish.is_empty();
        let default = || Attachment { network: DEFAULT_NETWORK.into(), ..Attachment::default() };
        let attachments = named.unwrap_or_else(|| vec![default()]);
        let mut inner = self.lock().await;
        let mut found = Vec::new();
        for attachment in &attachments {
            match wish(&mut inner, state, owner, attachment).await {
                Ok(wish) => found.push(wish),
                Err(error) if !explicit && error.is_of_host() => {
                    let notice = format!("it runs without a network: {}", chain(&error));
                    return Ok((Vec::new(), vec![notice]));
                }
                Err(error) => return Err(error),
            }
        }
        let internal = found.iter().all(|(_, network)| network.internal);
        if internal && !spec.publish.is_empty() {
            return Err(NetworkError::Invalid(
                "a port can be published only of a network with a way out: add one with --network".into(),
            ));
        }
        Ok((found.into_iter().map(|(wish, _)| wish).collect(), Vec::new()))
    }
}

/// The tenant's network of this name or id.
pub(super) fn find(state: &State, tenant: &str, name: &str) -> Result<Network, NetworkError> {
    let mut networks = state.networks()?;
    networks.retain(|network| network.tenant == tenant);
    let named = networks.iter().find(|network| network.name == name);
    let found = named.or_else(|| networks.iter().find(|network| network.id == name));
    found.cloned().ok_or_else(|| StateError::NoNetwork(name.to_owned()).into())
}

/// What an attachment comes to. The networks that exist by themselves are made when they are first asked for.
pub(super) async fn wish(
    inner: &mut Inner,
    state: &State,
    owner: Owner<'_>,
    attachment: &Attachment,
) -> Result<(Wish, Network), NetworkError> {
    let name = attachment.network.as_str();
    inner.enter(state).await?;
    let network = match find(state, owner.tenant, name) {
        Err(NetworkError::State(StateError::NoNetwork(_)))
            if [DEFAULT_NETWORK, HOST_LESS_NETWORK].contains(&name) =>
        {
            let spec = NetworkSpec {
                name: name.into(),
                internal: name == HOST_LESS_NETWORK,
                ..NetworkSpec::default()
            };
            create(inner, state, owner, spec).await?
        }
        found => found?,
    };
    let wish = Wish {
        network: network.id.clone(),
        mac: attachment.mac.unwrap_or_else(random_mac),
        ip: attachment.ip,
        ip6: attachment.ip6,
        aliases: attachment.aliases.clone(),
    };
    Ok((wish, network))
}

async fn create(
    inner: &mut Inner,
    state: &State,
    owner: Owner<'_>,
    spec: NetworkSpec,
) -> Result<Network, NetworkError> {
    let network = resolve(inner, state, owner, spec).await?;
    state.insert_network(&network)?;
    if let Err(error) = inner.make(state, &network).await {
        // Nothing half-made: what there is of it is nobody's, and removed when all is made anew.
        inner.doubt();
        state.remove_network(&network)?;
        let _the_first_error_says_more = inner.enter(state).await;
        return Err(error);
    }
    tracing::info!(
        "network {}: {} and {} on {}",
        network.name,
        network.subnet,
        network.subnet6,
        network.bridge
    );
    Ok(network)
}

/// A network as its user wants it, with what was left open chosen.
async fn resolve(
    inner: &Inner,
    state: &State,
    owner: Owner<'_>,
    spec: NetworkSpec,
) -> Result<Network, NetworkError> {
    let known = state.networks()?;
    let own = || known.iter().filter(|network| network.tenant == owner.tenant);
    if own().any(|network| network.name == spec.name) {
        return Err(StateError::NetworkTaken(spec.name).into());
    }
    let of = |number: u64| Amounts::from([(Resource::Networks, number)]);
    owner.tenants.admit(owner.tenant, &of(own().count() as u64), &of(1))?;
    let mut taken: Vec<Taken> = Vec::new();
    for network in &known {
        let theirs = network.tenant != owner.tenant;
        let by = if theirs { NOBODYS_BUSINESS.into() } else { format!("the network {}", network.name) };
        let subnets = [&network.subnet, &network.subnet6];
        taken.extend(
            subnets.iter().filter_map(|text| Some(Taken { subnet: text.parse().ok()?, by: by.clone() })),
        );
    }
    if let Some((links, _)) = inner.tools() {
        let routes = links.routes().await?;
        let hidden = |taken: Taken| Taken { by: NOBODYS_BUSINESS.into(), ..taken };
        taken.extend(routes.into_iter().map(|taken| if owner.is_host() { taken } else { hidden(taken) }));
    }
    let subnet = match &spec.subnet {
        Some(text) => subnet::parse4(text)?,
        None => subnet::choose(owner.is_host() && spec.name == DEFAULT_NETWORK, &taken)?,
    };
    let subnet6 = match &spec.subnet6 {
        Some(text) => subnet::parse6(text)?,
        None => subnet::choose6(random_bytes()),
    };
    for wanted in [IpNet::V4(subnet), IpNet::V6(subnet6)] {
        subnet::check(wanted, &taken).map_err(unnamed)?;
    }
    let id = crate::fleet::new_id();
    Ok(Network {
        bridge: format!("{PREFIX}{}", id.get(..8).unwrap_or(&id)),
        id,
        name: spec.name,
        tenant: owner.tenant.into(),
        subnet: subnet.to_string(),
        gateway: address::pool4(subnet).0,
        subnet6: subnet6.to_string(),
        gateway6: address::pool6(subnet6).0,
        mtu: spec.mtu.unwrap_or(MTU),
        internal: spec.internal,
        egress: spec.egress,
        labels: spec.labels,
        created_at: rfc3339(SystemTime::now()),
        members: Vec::new(),
        refused: None,
        plain: Vec::new(),
        notices: Vec::new(),
    })
}

/// Does not tell whose a subnet is, where that is nobody's business.
fn unnamed(error: NetworkError) -> NetworkError {
    match error {
        NetworkError::Overlap { wanted, by, .. } if by == NOBODYS_BUSINESS => NetworkError::Occupied(wanted),
        error => error,
    }
}

/// An address that no maker of cards gives out.
fn random_mac() -> Mac {
    let [a, b, c, d, e] = random_bytes();
    Mac([2, a, b, c, d, e])
}

/// The counters of one of Hull's tables by name; none where there is no table yet.
async fn counters(inner: &Inner, family: &str) -> Result<HashMap<String, Refused>, NetworkError> {
    let Some((_, nft)) = inner.tools() else { return Ok(HashMap::new()) };
    let listed = nft.list(&["counters", "table", family, TABLE]).await?;
    let counter = |value: &Value| {
        let counter = value.get("counter")?;
        let number = |name| counter.get(name).and_then(Value::as_u64).unwrap_or(0);
        let name = counter.get("name")?.as_str()?.to_owned();
        Some((name, Refused { packets: number("packets"), bytes: number("bytes") }))
    };
    Ok(listed.iter().filter_map(counter).collect())
}
