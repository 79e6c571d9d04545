//! A tenant's volumes. What is made, grown or removed is told to its tenant.

use hull_protocol::api::{PrunedVolumes, Volume, VolumeSpec};
use hull_protocol::units::Bytes;

use super::View;
use crate::fleet::FleetError;
use crate::microvm::Microvm;
use crate::state::{Key, StateError};
use crate::volumes::VolumeError;

impl View {
    /// Its volumes, with what they take of the host's disk.
    ///
    /// # Errors
    /// When the state fails.
    pub fn volumes(&self) -> Result<Vec<Volume>, VolumeError> {
        let host = self.fleet.host();
        host.volumes.list(&host.state, &self.tenant)
    }

    /// Its volume of this name or id, with those who use it.
    ///
    /// # Errors
    /// When there is none.
    pub fn volume(&self, name: &str) -> Result<Volume, VolumeError> {
        let host = self.fleet.host();
        host.volumes.inspect(&host.state, &self.tenant, name)
    }

    /// Makes a volume. Blocks while its file system is made.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn create_volume(&self, spec: VolumeSpec, key: Option<&Key>) -> Result<Volume, FleetError> {
        let volume = self.fleet.create_volume(&self.tenant, spec, key)?;
        self.fleet.host().events.volume(&volume, "create");
        Ok(volume)
    }

    /// Makes its volume larger. Who has it attached is told by the caller. Blocks.
    ///
    /// # Errors
    /// When it cannot be, or there is none.
    pub fn grow_volume(&self, name: &str, size: Bytes) -> Result<Volume, FleetError> {
        self.fleet.grow_volume(&self.tenant, name, size)
    }

    /// The microVMs that were made with its volume.
    pub fn users_of_volume(&self, volume: &Volume) -> Vec<Microvm> {
        self.fleet.users_of(&volume.id)
    }

    /// Whether a microVM was made with its volume.
    ///
    /// # Errors
    /// When the state fails.
    pub fn uses_volume(&self, volume: &Volume) -> Result<bool, StateError> {
        Ok(!self.fleet.host().state.volume_users(&volume.id)?.is_empty())
    }

    /// Removes its volume of this name or id.
    ///
    /// # Errors
    /// When a microVM was made with it, or there is none.
    pub fn remove_volume(&self, name: &str) -> Result<(), VolumeError> {
        let host = self.fleet.host();
        let removed = host.volumes.remove(&host.state, &self.tenant, name)?;
        host.events.volume(&removed, "remove");
        Ok(())
    }

    /// Removes its volumes that no microVM was made with.
    ///
    /// # Errors
    /// When the state fails.
    pub fn prune_volumes(&self) -> Result<PrunedVolumes, VolumeError> {
        let host = self.fleet.host();
        let (pruned, removed) = host.volumes.prune(&host.state, &self.tenant)?;
        removed.iter().for_each(|volume| host.events.volume(volume, "remove"));
        Ok(pruned)
    }
}
