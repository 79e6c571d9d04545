//! What one tenant has of a daemon: the only way from the API to its objects.
//!
//! Made by the API's door for whom it has let in; handlers get nothing else. Invariant: what another tenant has answers as
//! what is not there, so nothing here takes a tenant's name from a request.

mod volumes;

use std::collections::HashSet;
use std::sync::Arc;

use hull_protocol::api::{
    Amounts, Capacity, Card, HOST_TENANT, Microvm as Record, Network, NetworkSpec, NewToken, PlainCard,
    PlainCardSpec, Resource, Tenant, Token, TokenSpec,
};
use hull_protocol::life::Stats;
use hull_protocol::mount::MountSpec;
use hull_protocol::spec::MicrovmSpec;
use hull_protocol::units::Bytes;

use crate::events::Events;
use crate::fleet::{Fleet, FleetError};
use crate::kernel::Bundles;
use crate::microvm::Microvm;
use crate::network::{NetworkError, Owner};
use crate::state::{Key, StateError};
use crate::stats::measure_all;
use crate::tenants::principal::Principal;
use crate::tenants::{TenantError, quota};
use crate::trust::Policy;

/// A tenant's part of the fleet and of the stores.
#[derive(Clone)]
pub struct View {
    fleet: Arc<Fleet>,
    tenant: Arc<str>,
}

impl View {
    /// This tenant's.
    pub fn new(fleet: Arc<Fleet>, tenant: Arc<str>) -> Self {
        Self { fleet, tenant }
    }

    /// Whose it is.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Everything there is, for the host's own tenant.
    pub fn whole(&self) -> Option<&Arc<Fleet>> {
        (&*self.tenant == HOST_TENANT).then_some(&self.fleet)
    }

    /// Its microVMs, the oldest first.
    pub fn list(&self) -> Vec<Record> {
        self.fleet.list_of(&self.tenant)
    }

    /// Its microVM of this name, id, or start of an id.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(&self, wanted: &str) -> Result<Microvm, FleetError> {
        self.fleet.find(&self.tenant, wanted)
    }

    /// Its microVM with this id, which may be about to be made.
    ///
    /// # Errors
    /// When there is none.
    pub fn find_made(&self, id: &str) -> Result<Microvm, FleetError> {
        self.fleet.find_made(&self.tenant, id)
    }

    /// Its microVM in which there is an exec with this id.
    ///
    /// # Errors
    /// When there is none.
    pub fn find_exec(&self, id: &str) -> Result<Microvm, FleetError> {
        self.fleet.find_exec(&self.tenant, id)
    }

    /// Makes a microVM for somebody; nothing is started.
    ///
    /// # Errors
    /// When it cannot be, or not for this one: files of the host are for those who administer it, and for its own tenant.
    pub async fn create(
        &self,
        by: &Principal,
        spec: MicrovmSpec,
        key: Option<&Key>,
    ) -> Result<Microvm, FleetError> {
        let of_host = |mount: &MountSpec| matches!(mount, MountSpec::Bind { .. });
        if spec.container.mounts.iter().any(of_host) && !(by.administers && self.whole().is_some()) {
            return Err(FleetError::HostFiles);
        }
        self.fleet.create(&self.tenant, spec, key).await
    }

    /// Its microVM that was made with this key, and whether the same was asked for.
    ///
    /// # Errors
    /// When the state fails.
    pub fn made_with(&self, key: &Key) -> Result<Option<(String, bool)>, StateError> {
        self.fleet.host().state.made_with(&self.tenant, key)
    }

    /// Its images.
    pub fn images(&self) -> hull_image::Store {
        self.fleet.host().images_of(&self.tenant)
    }

    /// Its images, to get more: as many as the host's disk and its quota leave room for.
    ///
    /// # Errors
    /// When there is no room for any.
    pub fn room_for_images(&self) -> Result<hull_image::Store, FleetError> {
        self.fleet.check_space(&self.tenant)?;
        let tenants = &self.fleet.host().tenants;
        let (disks, images) = (self.fleet.disks_of(&self.tenant)?, self.fleet.images_of(&self.tenant));
        let any = quota::more_disk(Bytes(1));
        tenants.admit(&self.tenant, &quota::sum([&disks, &images].into_iter()), &any)?;
        let of = |amounts: &Amounts| amounts.get(&Resource::Disk).copied();
        let quota = tenants.get(&self.tenant).ok().and_then(|tenant| of(&tenant.quotas));
        let room = quota.map(|quota| quota.saturating_sub(of(&disks).unwrap_or(0)));
        Ok(self.images().within(room.unwrap_or(u64::MAX)))
    }

    /// What images it may bring.
    pub fn policy(&self) -> &Policy {
        &self.fleet.host().policy
    }

    /// Digests of the images that its microVMs were made from; `busy_only`: those of microVMs that are not at rest.
    pub fn images_in_use(&self, busy_only: bool) -> HashSet<String> {
        self.fleet.images_in_use(busy_only, |record| *record.tenant == *self.tenant)
    }

    /// Digests of the images that others' microVMs were made from.
    pub fn images_of_others(&self) -> HashSet<String> {
        self.fleet.images_in_use(false, |record| *record.tenant != *self.tenant)
    }

    /// The kernels, which are the host's: for all to use.
    pub fn kernels(&self) -> &Bundles {
        &self.fleet.host().kernels
    }

    /// Whether one of its microVMs names this kernel; for the host's own tenant, anybody's.
    pub fn uses_kernel(&self, name: &str) -> bool {
        match self.whole() {
            Some(fleet) => fleet.uses_kernel(name),
            None => self.list().iter().any(|record| record.spec.kernel.as_deref() == Some(name)),
        }
    }

    /// What happens to it.
    pub fn events(&self) -> Events {
        self.fleet.host().events.of(&self.tenant)
    }

    /// Where the files of one of its microVMs are.
    pub fn directory(&self, microvm: &Record) -> std::path::PathBuf {
        self.fleet.host().paths.microvm(&microvm.id)
    }

    /// Measures microVMs that run. Blocks for a moment.
    pub fn measure(&self, records: &[Record]) -> Vec<Stats> {
        measure_all(records, &self.fleet.host().groups)
    }

    fn owner(&self) -> Owner<'_> {
        Owner { tenant: &self.tenant, tenants: &self.fleet.host().tenants }
    }

    /// Its networks.
    ///
    /// # Errors
    /// When the state fails.
    pub fn networks(&self) -> Result<Vec<Network>, StateError> {
        let mut networks = self.fleet.host().state.networks()?;
        networks.retain(|network| *network.tenant == *self.tenant);
        Ok(networks)
    }

    /// Makes a network.
    ///
    /// # Errors
    /// When it cannot be.
    pub async fn create_network(&self, spec: NetworkSpec) -> Result<Network, NetworkError> {
        let host = self.fleet.host();
        host.networks.create(&host.state, self.owner(), spec).await
    }

    /// Its network of this name or id, with its members and what was refused on it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn network(&self, name: &str) -> Result<Network, NetworkError> {
        let host = self.fleet.host();
        host.networks.inspect(&host.state, &self.tenant, name).await
    }

    /// Removes its network of this name or id.
    ///
    /// # Errors
    /// When somebody is on it, or there is none.
    pub async fn remove_network(&self, name: &str) -> Result<(), NetworkError> {
        let host = self.fleet.host();
        host.networks.remove(&host.state, &self.tenant, name).await
    }

    /// Lends a card of its network to a plain VM.
    ///
    /// # Errors
    /// When it cannot be had.
    pub async fn lend_card(&self, network: &str, spec: &PlainCardSpec) -> Result<PlainCard, NetworkError> {
        let host = self.fleet.host();
        host.networks.lend(&host.state, self.owner(), network, spec).await
    }

    /// Takes back a card that was lent.
    ///
    /// # Errors
    /// When there is none, or it is still in use.
    pub async fn give_back_card(&self, network: &str, tap: &str) -> Result<(), NetworkError> {
        let host = self.fleet.host();
        host.networks.give_back(&host.state, &self.tenant, network, tap).await
    }

    /// Fills in what cards were refused.
    ///
    /// # Errors
    /// When the host's rules cannot be read.
    pub async fn count_refused(&self, cards: &mut [Card]) -> Result<(), NetworkError> {
        self.fleet.host().networks.count(cards).await
    }

    /// Its tokens, by id.
    pub fn tokens(&self) -> Vec<Token> {
        self.fleet.host().tenants.tokens(&self.tenant)
    }

    /// Makes a token.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn create_token(&self, spec: TokenSpec) -> Result<NewToken, TenantError> {
        let host = self.fleet.host();
        host.tenants.create_token(&host.state, &self.tenant, spec)
    }

    /// Removes its token with this id.
    ///
    /// # Errors
    /// When it has none.
    pub fn remove_token(&self, id: &str) -> Result<(), TenantError> {
        let host = self.fleet.host();
        host.tenants.remove_token(&host.state, &self.tenant, id)
    }

    /// What it is, with what it has now.
    pub fn itself(&self) -> Option<Tenant> {
        let host = self.fleet.host();
        let mut tenant = host.tenants.get(&self.tenant).ok()?;
        tenant.used = self.used();
        Some(tenant)
    }

    fn used(&self) -> Amounts {
        let host = self.fleet.host();
        let existing = self.fleet.existing(&self.tenant).unwrap_or_default();
        let running = host.tenants.running(&self.tenant);
        let networks = self.networks().map_or(0, |networks| networks.len() as u64);
        let networks = Amounts::from([(Resource::Networks, networks)]);
        quota::sum([&existing, &running, &networks].into_iter())
    }

    /// What it has been promised of the host, and may be: of the whole host, for its own tenant. 0: not limited.
    pub fn capacity(&self) -> Capacity {
        let host = self.fleet.host();
        if self.whole().is_some() {
            return host.capacity.shown();
        }
        let running = host.tenants.running(&self.tenant);
        let quotas = host.tenants.get(&self.tenant).map(|tenant| tenant.quotas).unwrap_or_default();
        let of = |amounts: &Amounts, resource| amounts.get(&resource).copied().unwrap_or(0);
        Capacity {
            memory: Bytes(of(&running, Resource::Memory)),
            memory_limit: Bytes(of(&quotas, Resource::Memory)),
            cpus: of(&running, Resource::Cpus),
            cpus_limit: of(&quotas, Resource::Cpus),
        }
    }
}
