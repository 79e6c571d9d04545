//! The fleet's part in volumes: whose they are, what they count, which microVMs have them.
//!
//! Owner: the fleet. Invariant: a tenant's volumes become more, or larger, under the same lock as its microVMs.

use std::sync::Arc;

use hull_protocol::api::{HOST_TENANT, Volume, VolumeSpec};
use hull_protocol::units::Bytes;

use super::{Fleet, FleetError};
use crate::microvm::Microvm;
use crate::plan::WantedVolume;
use crate::state::Key;
use crate::volumes::{Found, Owner, VolumeError};

impl Fleet {
    /// Makes a volume of a tenant's. Blocks while its file system is made. With a key, only once.
    ///
    /// # Errors
    /// When it cannot be; nothing is left of it then.
    pub fn create_volume(
        &self,
        tenant: &str,
        spec: VolumeSpec,
        key: Option<&Key>,
    ) -> Result<Volume, FleetError> {
        let volumes = &self.host.volumes;
        self.for_tenant(tenant, |owner| volumes.create(&self.host.state, owner, spec, key))
    }

    /// Makes a tenant's volume larger. Who has it attached is told by the caller.
    ///
    /// # Errors
    /// When it is larger already, or the tenant or the host cannot have it.
    pub fn grow_volume(&self, tenant: &str, name: &str, size: Bytes) -> Result<Volume, FleetError> {
        let volumes = &self.host.volumes;
        self.for_tenant(tenant, |owner| volumes.grow(&self.host.state, owner, name, size))
    }

    /// The volumes that a new microVM of a tenant's is to have.
    pub(super) async fn find_or_make_volumes(
        self: &Arc<Self>,
        tenant: &str,
        wanted: &[WantedVolume],
    ) -> Result<Found, FleetError> {
        if wanted.is_empty() {
            return Ok(Found::default());
        }
        let (fleet, tenant, wanted) = (self.clone(), tenant.to_owned(), wanted.to_vec());
        let found = tokio::task::spawn_blocking(move || {
            let host = fleet.host();
            fleet.for_tenant(&tenant, |owner| host.volumes.find_or_make(&host.state, owner, &wanted))
        });
        found.await.map_err(|error| FleetError::Directory(std::io::Error::other(error)))?
    }

    fn for_tenant<T>(
        &self,
        tenant: &str,
        work: impl FnOnce(Owner<'_>) -> Result<T, VolumeError>,
    ) -> Result<T, FleetError> {
        let owner = Owner { tenant, counting: &self.creating, judge: &|wanted| self.admit(tenant, wanted) };
        work(owner).map_err(|error| match error {
            // How full the host is is the host's own tenant's business.
            VolumeError::Space(_) if tenant != HOST_TENANT => FleetError::Full,
            error => error.into(),
        })
    }

    /// Those that were made with the volume of this id.
    pub fn users_of(&self, volume: &str) -> Vec<Microvm> {
        let uses = |microvm: &&Microvm| microvm.record().volumes.iter().any(|own| own.id == volume);
        self.lock().values().filter(uses).cloned().collect()
    }
}
