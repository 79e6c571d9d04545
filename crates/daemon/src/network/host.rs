//! What the host has of its networks, brought about from the state and kept so.
//!
//! Owner: the daemon; everything goes through one lock, one change after the other. Invariants: what is in the kernel
//! follows from the state and from what runs; a change that fails half-way is undone, or everything is made anew at
//! the next; nothing is touched before somebody needs a network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use hull_protocol::api::{Card, Microvm, Network};
use hull_protocol::network::{EgressPolicy, PublishedPort};
use tokio::sync::{Mutex, MutexGuard};

use super::elements::{self, Element};
use super::links::{Links, PREFIX};
use super::names::{self, Asker, Askers};
use super::nft::Nft;
use super::publish::{self, Held};
use super::realm::Realm;
use super::{NetworkError, firewall, forwarding, ruleset};
use crate::fleet::Host;
use crate::microvm::chain;
use crate::resolver::{Container, Resolver};
use crate::state::State;

/// How long an address that a name stands for is kept at least and at most, in seconds.
const NAME_LASTS: (u32, u32) = (60, 86_400);

/// This host's networks.
#[derive(Default)]
pub struct HostNetworks {
    inner: Mutex<Inner>,
    askers: Askers,
}

/// What is behind the lock.
#[derive(Default)]
pub struct Inner {
    realm: Option<Realm>,
    active: HashMap<String, Active>,
    askers: Askers,
    resolver: Option<Resolver>,
    /// The networks that have been named to the resolver, by id: whose last container has gone is told so.
    served: std::collections::BTreeSet<String>,
    /// When taps were lent to plain VMs that may not have opened them yet.
    pub(super) lent: HashMap<String, Instant>,
    /// Something failed half-way: all is made anew before the next change.
    stale: bool,
}

/// A microVM that runs.
pub(super) struct Active {
    cards: Vec<Card>,
    policy: Option<EgressPolicy>,
    names: Vec<String>,
    askers: Vec<(IpAddr, Asker)>,
    elements: Vec<Element>,
    held: Held,
}

/// What a microVM that starts gets.
#[derive(Debug, Default)]
pub struct Attached {
    /// The host's ends of its cards, opened.
    pub taps: Vec<OwnedFd>,
    /// Its networks, one for each card.
    pub networks: Vec<Network>,
    /// Its published ports, the host's filled in.
    pub ports: Vec<PublishedPort>,
}

impl HostNetworks {
    /// Has names answered on every network from now on. Needs the runtime.
    pub async fn resolve(&self, host: &Arc<Host>) {
        let mut inner = self.lock().await;
        inner.askers = self.askers.clone();
        inner.resolver = Some(names::resolver(&self.askers, Arc::downgrade(host)));
    }

    /// Waits for its turn. Whoever holds it holds every change up.
    pub async fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().await
    }

    /// Gives a microVM that starts what it is to have: ports first, so that one that is taken leaves nothing behind.
    /// Needs the runtime.
    ///
    /// # Errors
    /// When the host cannot have it; nothing is left of it then.
    pub async fn attach(&self, state: &State, record: &Microvm) -> Result<Attached, NetworkError> {
        if record.cards.is_empty() {
            return Ok(Attached::default());
        }
        let mut inner = self.lock().await;
        inner.enter(state).await?;
        let networks = networks_of(state, &record.cards)?;
        let active = Active::new(record, &networks, &record.spec.networking.publish)?;
        let ports = active.held.ports.clone();
        let taps = inner.connect(state, &record.id, active, &networks).await?;
        Ok(Attached { taps, networks, ports })
    }

    /// Takes back what a microVM that has ended had. Its taps went with its VMM.
    pub async fn detach(&self, id: &str) {
        self.lock().await.disconnect(id).await;
    }

    /// Answers to what a microVM that runs is called by now.
    pub async fn rename(&self, record: &Microvm) {
        let mut inner = self.lock().await;
        if let Some(active) = inner.active.get_mut(&record.id) {
            active.names = names::names(record);
            inner.name();
        }
    }

    /// Takes a guest's question for a name into account that its policy, or its network's, lists: the addresses of the
    /// answer are exceptions for as long as the answer is good. Returns when that holds.
    ///
    /// # Errors
    /// When the host's rules cannot be changed; the answer had better not be given then.
    pub async fn allow(
        &self,
        state: &State,
        client: IpAddr,
        name: &str,
        addresses: &[IpAddr],
        seconds: u32,
    ) -> Result<(), NetworkError> {
        let inner = self.lock().await;
        let is_client = |card: &&Card| client == IpAddr::V4(card.ip) || client == IpAddr::V6(card.ip6);
        let found = inner
            .active
            .values()
            .find_map(|active| active.cards.iter().find(is_client).map(|card| (active, card)));
        let (Some((active, card)), Some(realm)) = (found, &inner.realm) else { return Ok(()) };
        let policy = match &active.policy {
            Some(policy) => policy.clone(),
            None => networks_of(state, std::slice::from_ref(card))?
                .pop()
                .map(|network| network.egress)
                .unwrap_or_default(),
        };
        let seconds = seconds.clamp(NAME_LASTS.0, NAME_LASTS.1);
        let mut commands = Vec::new();
        for rule in policy
            .rules
            .iter()
            .filter(|rule| rule.name.as_deref().is_some_and(|known| names::covers(known, name)))
        {
            for address in addresses {
                // From every card of its own: which way it goes is the guest's choice.
                for card in &active.cards {
                    let source = if address.is_ipv4() { IpAddr::V4(card.ip) } else { IpAddr::V6(card.ip6) };
                    let port = rule.port.map(|port| (rule.transport, port));
                    for (key, lasting) in elements::of_name(source, *address, port, seconds) {
                        // What is there keeps its time; so it is made anew, in one transaction.
                        commands.extend(elements::put(std::slice::from_ref(&lasting)));
                        commands.extend(elements::take(&[key]));
                        commands.extend(elements::put(&[lasting]));
                    }
                }
            }
        }
        if commands.is_empty() { Ok(()) } else { Ok(realm.nft.apply(&commands).await?) }
    }
}

impl Active {
    fn new(record: &Microvm, networks: &[Network], publish: &[PublishedPort]) -> Result<Self, NetworkError> {
        let policy = record.spec.networking.egress.clone();
        let mut all = Vec::new();
        for card in &record.cards {
            all.extend(elements::of_card(card, policy.as_ref())?);
        }
        let out = record.cards.iter().zip(networks).find(|(_, network)| !network.internal);
        let held = match out {
            Some((card, _)) => {
                let held = publish::hold(publish, card)?;
                all.extend(held.ports.iter().flat_map(|port| elements::of_port(port, card)));
                held
            }
            None => Held::default(),
        };
        let askers = names::askers(&record.cards, networks, policy.as_ref()).collect();
        let names = names::names(record);
        Ok(Self { cards: record.cards.clone(), policy, names, askers, elements: all, held })
    }

    /// A plain VM with this card: no ports, no policy of its own, no name.
    pub(super) fn plain(card: &Card, network: &Network) -> Result<Self, NetworkError> {
        let cards = vec![card.clone()];
        let askers = names::askers(&cards, std::slice::from_ref(network), None).collect();
        let elements = elements::of_card(card, None)?;
        Ok(Self { cards, policy: None, names: Vec::new(), askers, elements, held: Held::default() })
    }
}

/// The networks of these cards, one for each.
///
/// # Errors
/// When the state cannot be read.
pub fn networks_of(state: &State, cards: &[Card]) -> Result<Vec<Network>, NetworkError> {
    let known = state.networks()?;
    let find = |card: &Card| {
        let found = known.iter().find(|network| network.id == card.network_id).cloned();
        found.ok_or_else(|| NetworkError::State(crate::state::StateError::NoNetwork(card.network.clone())))
    };
    cards.iter().map(find).collect()
}

impl Inner {
    /// Takes this host's networks, if that has not been done, and makes all of it as the state says.
    ///
    /// # Errors
    /// When this host cannot have networks.
    pub(super) async fn enter(&mut self, state: &State) -> Result<(), NetworkError> {
        self.hold()?;
        self.take_back(state).await?;
        if self.stale {
            self.rebuild(state).await?;
            self.stale = false;
        }
        Ok(())
    }

    /// Takes this host's networks. What is there is not what the state says then.
    fn hold(&mut self) -> Result<(), NetworkError> {
        if self.realm.is_none() {
            self.realm = Some(Realm::open()?);
            self.stale = true;
        }
        Ok(())
    }

    /// Takes up what runs since an earlier daemon, whose ports are held again, and makes all of it as the state says.
    pub async fn reconcile(&mut self, state: &State, running: &[Microvm]) {
        for record in running.iter().filter(|record| !record.cards.is_empty()) {
            let active = networks_of(state, &record.cards)
                .and_then(|networks| Active::new(record, &networks, &record.ports));
            match active {
                Ok(active) => drop(self.active.insert(record.id.clone(), active)),
                Err(error) => tracing::error!("microVM {} lost its network: {}", record.id, chain(&error)),
            }
        }
        if state.networks().is_ok_and(|networks| networks.is_empty()) {
            return;
        }
        let entered = match self.hold().and_then(|()| self.take_up_plain(state)) {
            Ok(()) => self.enter(state).await,
            error => error,
        };
        if let Err(error) = entered {
            tracing::error!("this host's networks are not there: {}", chain(&error));
        }
    }

    /// Gives somebody who starts cards of these networks, one each; their taps, opened.
    pub(super) async fn connect(
        &mut self,
        state: &State,
        id: &str,
        active: Active,
        networks: &[Network],
    ) -> Result<Vec<OwnedFd>, NetworkError> {
        let Some(Realm { links, nft, .. }) = &self.realm else { return Err(NetworkError::Privilege) };
        let mut taps = Vec::new();
        for (card, network) in active.cards.iter().zip(networks) {
            taps.push(hull_tap::open(&card.tap, false)?);
            links.port(&card.tap, network).await?;
        }
        let opened = forwarding::open(&links.list().await?, state)?;
        let opened = opened.iter().map(|link| elements::of_opened(link));
        let all: Vec<Element> = active.elements.iter().cloned().chain(opened).collect();
        if let Err(error) = nft.apply(&elements::put(&all)).await {
            self.stale = true;
            return Err(error.into());
        }
        self.take_up(id, active);
        self.name();
        Ok(taps)
    }

    /// Takes up somebody whose cards are there.
    pub(super) fn take_up(&mut self, id: &str, active: Active) {
        self.active.insert(id.to_owned(), active);
    }

    /// Takes back what somebody had.
    pub(super) async fn disconnect(&mut self, id: &str) {
        let Some(active) = self.active.remove(id) else { return };
        self.name();
        let Some(Realm { links, nft, .. }) = &self.realm else { return };
        let taken = nft.apply(&elements::take(&active.elements)).await;
        for card in &active.cards {
            // Where it is still there, nobody holds it, or somebody who has no right to.
            let _it_is_stale_then = links.remove(&card.tap).await;
        }
        if let Err(error) = taken {
            let error = chain(&error);
            tracing::warn!("the rules for {id} could not be taken back, all are made anew: {error}");
            self.stale = true;
        }
    }

    /// Makes what is missing, removes what is stale, and leaves what is others'.
    async fn rebuild(&mut self, state: &State) -> Result<(), NetworkError> {
        let Some(Realm { links, nft, .. }) = &self.realm else { return Err(NetworkError::Privilege) };
        let networks = state.networks()?;
        let mut all = Vec::new();
        for network in &networks {
            all.extend(elements::of_network(network)?);
        }
        let mut known: Vec<&str> = networks.iter().map(|network| network.bridge.as_str()).collect();
        for active in self.active.values() {
            all.extend(active.elements.iter().cloned());
            known.extend(active.cards.iter().map(|card| card.tap.as_str()));
        }
        // The rules stand before there is anything that they are for.
        forwarding::open(&links.list().await?, state)?;
        all.extend(forwarding::opened(state)?.iter().map(|link| elements::of_opened(link)));
        nft.apply(&[ruleset::skeleton(), elements::put(&all)].concat()).await?;
        for link in links.list().await? {
            if link.name.starts_with(PREFIX) && !known.contains(&link.name.as_str()) {
                tracing::info!("the link {} is nobody's: it is removed", link.name);
                links.remove(&link.name).await?;
            }
        }
        for network in &networks {
            links.bridge(network).await?;
        }
        let there = links.list().await?;
        for card in self.active.values().flat_map(|active| &active.cards) {
            let network = networks.iter().find(|network| network.id == card.network_id);
            if let Some(network) = network.filter(|_| there.iter().any(|link| link.name == card.tap)) {
                links.port(&card.tap, network).await?;
            }
        }
        if let Some(resolver) = &self.resolver {
            networks.iter().for_each(|network| names::serve(resolver, network));
        }
        for obstacle in firewall::obstacles(nft).await? {
            tracing::warn!("{obstacle}");
        }
        self.name();
        Ok(())
    }

    /// Tells the resolver who runs by now.
    fn name(&mut self) {
        let ids = self.active.values().flat_map(|active| &active.cards).map(|card| card.network_id.clone());
        self.served.extend(ids);
        let askers = self.active.values().flat_map(|active| active.askers.iter().cloned()).collect();
        *self.askers.write().unwrap_or_else(PoisonError::into_inner) = askers;
        let Some(resolver) = &self.resolver else { return };
        let mut containers: HashMap<&str, Vec<Container>> =
            self.served.iter().map(|id| (id.as_str(), Vec::new())).collect();
        for active in self.active.values().filter(|active| !active.names.is_empty()) {
            for card in &active.cards {
                let container = names::container(&active.names, card, &active.cards);
                containers.entry(&card.network_id).or_default().push(container);
            }
        }
        for (network, containers) in containers {
            // One without a resolver has been complained of.
            let _served = resolver.set_names(network, &containers);
        }
    }

    /// Makes a network that the state has just come to know.
    pub(super) async fn make(&mut self, state: &State, network: &Network) -> Result<(), NetworkError> {
        let all = elements::of_network(network)?;
        let Some(Realm { links, nft, .. }) = &self.realm else { return Err(NetworkError::Privilege) };
        let opened = forwarding::open(&links.list().await?, state)?;
        let opened: Vec<Element> = opened.iter().map(|link| elements::of_opened(link)).collect();
        nft.apply(&elements::put(&[all, opened].concat())).await?;
        links.bridge(network).await?;
        if let Some(resolver) = &self.resolver {
            names::serve(resolver, network);
        }
        Ok(())
    }

    /// Removes what the host has of a network that the state has forgotten; of the last one, everything.
    pub(super) async fn unmake(&mut self, state: &State, network: &Network) -> Result<(), NetworkError> {
        let Some(Realm { links, nft, .. }) = &self.realm else { return Err(NetworkError::Privilege) };
        self.stale = true;
        if let Some(resolver) = &self.resolver {
            resolver.remove_network(&network.id);
        }
        self.served.remove(&network.id);
        links.remove(&network.bridge).await?;
        if state.networks()?.is_empty() {
            nft.apply(&ruleset::removal()).await?;
            forwarding::close(state)?;
            self.realm = None;
        } else {
            nft.apply(&elements::take(&elements::of_network(network)?)).await?;
        }
        self.stale = false;
        Ok(())
    }

    /// Marks what is there as not to be relied on.
    pub(super) fn doubt(&mut self) {
        self.stale = true;
    }

    /// The host's links, and its rules' program.
    pub(super) fn tools(&self) -> Option<(&Links, &Nft)> {
        self.realm.as_ref().map(|realm| (&realm.links, &realm.nft))
    }
}
