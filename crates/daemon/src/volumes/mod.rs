//! Named volumes: ext4 disks that outlive the microVMs they are attached to.
//!
//! Owner: the API's handlers and the runs, on blocking threads. Invariants: a volume's file is whole and on disk before
//! its record is, and its record has gone before its file goes: a daemon that dies between the two leaves a file of
//! nobody's, which the next one clears away; the host never mounts what a guest has written; a file that is handed to a
//! VMM is locked for as long as that has it, whichever daemon asks; a volume is found by its own tenant alone.

pub mod holders;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hull_image::lock_within;
use hull_protocol::api::{Amounts, PrunedVolumes, Volume, VolumeSpec, VolumeUse};
use hull_protocol::units::{Bytes, DISK_MAX, MIB};

use self::holders::Holders;
use crate::clock::rfc3339;
use crate::disk::{self, DiskError};
use crate::fleet::{BadName, check_name, new_id};
use crate::plan::{DISK_DEFAULT, WantedVolume};
use crate::space::{self, NoSpace};
use crate::state::{Key, State, StateError};
use crate::tenants::quota::{self, OverQuota};

/// How long whoever had a volume before may take to let go of it.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// Why a volume could not be had.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// It is not there, its name is taken, or it is in use; or the state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A name that none can have.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A volume never shrinks.
    #[error(
        "the volume {name} has {size}: it can be made larger, but {wanted} is less; copy it to a smaller one"
    )]
    Shrinks {
        /// Its name.
        name: String,
        /// What it has.
        size: Bytes,
        /// What was asked for.
        wanted: Bytes,
    },
    /// Its disk could not be made.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Its tenant has as much as it may.
    #[error(transparent)]
    Quota(#[from] OverQuota),
    /// The host has no room for more.
    #[error(transparent)]
    Space(#[from] NoSpace),
    /// A VMM that no daemon knows any more still has it.
    #[error(
        "the volume {0} is still held by a VMM that has not ended: try again, or end that process ('hull-vmm')"
    )]
    Locked(String),
    /// Its file cannot be used.
    #[error("the file {0} of a volume cannot be used")]
    Io(PathBuf, #[source] io::Error),
}

/// The volumes of one daemon.
#[derive(Debug)]
pub struct Volumes {
    directory: PathBuf,
    holders: Holders,
}

/// For whom volumes are made and grown.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// Held while what its tenants have becomes more.
    pub counting: &'a Mutex<()>,
    /// Judges whether the tenant may have so much more.
    pub judge: &'a dyn Fn(&Amounts) -> Result<(), VolumeError>,
}

impl Owner<'_> {
    fn count(&self) -> MutexGuard<'_, ()> {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a new microVM gets, and what was made for it.
#[derive(Debug, Default)]
pub struct Found {
    /// Its volumes, in the order they were asked for.
    pub uses: Vec<VolumeUse>,
    /// Those that were not there before.
    pub made: Vec<Volume>,
}

impl Volumes {
    /// Those with files below the daemon's data directory.
    pub fn new(data: &Path) -> Self {
        Self { directory: data.join("volumes"), holders: Holders::default() }
    }

    /// Who has them.
    pub fn holders(&self) -> &Holders {
        &self.holders
    }

    /// Where their files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The name of a volume's file.
    pub fn file_name(id: &str) -> String {
        format!("{id}.ext4")
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(Self::file_name(id))
    }

    /// Makes a volume. Blocks while its file system is made.
    ///
    /// # Errors
    /// When it cannot be; nothing is left of it then.
    pub fn create(
        &self,
        state: &State,
        owner: Owner<'_>,
        spec: VolumeSpec,
        key: Option<&Key>,
    ) -> Result<Volume, VolumeError> {
        let id = new_id();
        let name = spec.name.unwrap_or_else(|| id.clone());
        check_name(&name)?;
        match state.volume(owner.tenant, &name) {
            Err(StateError::NoVolume(_)) => {}
            Ok(_) => return Err(StateError::VolumeTaken(name).into()),
            Err(error) => return Err(error.into()),
        }
        let size = whole(spec.size.unwrap_or(DISK_DEFAULT));
        // Before anything is made for it, too.
        (owner.judge)(&quota::of_volume(size))?;
        let place = |error| VolumeError::Io(self.directory.clone(), error);
        disk::private_directory(&self.directory).map_err(place)?;
        space::check(&self.directory)?;
        disk::make(&self.path(&id), size)?;
        let volume = Volume {
            id,
            name,
            tenant: owner.tenant.to_owned(),
            size,
            labels: spec.labels,
            created_at: rfc3339(SystemTime::now()),
            used: None,
            users: Vec::new(),
        };
        if let Err(error) = keep(state, owner, &volume, key) {
            self.remove_file(&volume)?;
            return Err(error);
        }
        tracing::info!("volume {} of {}: {}", volume.name, volume.tenant, volume.size);
        Ok(volume)
    }

    /// The volumes that a new microVM is to have; those that are missing are made.
    ///
    /// # Errors
    /// When one cannot be had; none was made then.
    pub fn find_or_make(
        &self,
        state: &State,
        owner: Owner<'_>,
        wanted: &[WantedVolume],
    ) -> Result<Found, VolumeError> {
        let mut found = Found::default();
        for wish in wanted {
            match self.find_or_make_one(state, owner, wish, &mut found.made) {
                Ok(volume) => {
                    found.uses.push(VolumeUse { id: volume.id, name: volume.name, read_only: wish.read_only })
                }
                Err(error) => {
                    self.unmake(state, &found.made);
                    return Err(error);
                }
            }
        }
        Ok(found)
    }

    fn find_or_make_one(
        &self,
        state: &State,
        owner: Owner<'_>,
        wish: &WantedVolume,
        made: &mut Vec<Volume>,
    ) -> Result<Volume, VolumeError> {
        match state.volume(owner.tenant, &wish.name) {
            Err(StateError::NoVolume(_)) => {}
            found => return Ok(found?),
        }
        let spec = VolumeSpec { name: Some(wish.name.clone()), size: wish.size, ..VolumeSpec::default() };
        match self.create(state, owner, spec, None) {
            Ok(volume) => {
                made.push(volume.clone());
                Ok(volume)
            }
            // Somebody was faster.
            Err(VolumeError::State(StateError::VolumeTaken(name))) => Ok(state.volume(owner.tenant, &name)?),
            Err(error) => Err(error),
        }
    }

    /// Takes back what was made for a microVM that could not be.
    pub fn unmake(&self, state: &State, made: &[Volume]) {
        for volume in made {
            match self.remove_volume(state, volume) {
                // Another one uses it by now.
                Ok(()) | Err(VolumeError::State(StateError::VolumeInUse(..))) => {}
                Err(error) => tracing::error!("the volume {} stays: {error}", volume.name),
            }
        }
    }

    /// Every volume of a tenant's, with what it takes of the host's disk.
    ///
    /// # Errors
    /// When the state fails.
    pub fn list(&self, state: &State, tenant: &str) -> Result<Vec<Volume>, VolumeError> {
        let mut volumes = state.volumes_of(tenant)?;
        volumes.iter_mut().for_each(|volume| volume.used = Some(self.used(volume)));
        Ok(volumes)
    }

    /// One volume of a tenant's, with those who use it.
    ///
    /// # Errors
    /// When there is none.
    pub fn inspect(&self, state: &State, tenant: &str, name: &str) -> Result<Volume, VolumeError> {
        let mut volume = state.volume(tenant, name)?;
        volume.used = Some(self.used(&volume));
        volume.users = state.volume_users(&volume.id)?;
        for user in &mut volume.users {
            user.attached = self.holders.has(&user.id, &volume.id);
        }
        Ok(volume)
    }

    fn used(&self, volume: &Volume) -> Bytes {
        let blocks = self.path(&volume.id).symlink_metadata().map_or(0, |metadata| metadata.blocks());
        Bytes(blocks.saturating_mul(512))
    }

    /// Removes a tenant's volume that no microVM was made with.
    ///
    /// # Errors
    /// When one was, or there is none of that name.
    pub fn remove(&self, state: &State, tenant: &str, name: &str) -> Result<Volume, VolumeError> {
        let volume = state.volume(tenant, name)?;
        self.remove_volume(state, &volume)?;
        Ok(volume)
    }

    fn remove_volume(&self, state: &State, volume: &Volume) -> Result<(), VolumeError> {
        state.remove_volume(volume)?;
        self.remove_file(volume)
    }

    fn remove_file(&self, volume: &Volume) -> Result<(), VolumeError> {
        let path = self.path(&volume.id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(VolumeError::Io(path, error)),
            _ => Ok(()),
        }
    }

    /// Removes every volume of a tenant's that no microVM was made with.
    ///
    /// # Errors
    /// When the state fails.
    pub fn prune(&self, state: &State, tenant: &str) -> Result<(PrunedVolumes, Vec<Volume>), VolumeError> {
        let (mut pruned, mut removed) = (PrunedVolumes::default(), Vec::new());
        for volume in state.volumes_of(tenant)? {
            let used = self.used(&volume);
            match self.remove_volume(state, &volume) {
                Ok(()) => {
                    pruned.freed = Bytes(pruned.freed.get().saturating_add(used.get()));
                    pruned.volumes.push(volume.name.clone());
                    removed.push(volume);
                }
                Err(VolumeError::State(StateError::VolumeInUse(..))) => {}
                Err(error) => tracing::warn!("the volume {} is not pruned: {error}", volume.name),
            }
        }
        Ok((pruned, removed))
    }

    /// Makes a volume's disk larger. Who has it attached is told by the caller.
    ///
    /// # Errors
    /// When it is larger already, or the host cannot have it.
    pub fn grow(
        &self,
        state: &State,
        owner: Owner<'_>,
        name: &str,
        wanted: Bytes,
    ) -> Result<Volume, VolumeError> {
        let counted = owner.count();
        let mut volume = state.volume(owner.tenant, name)?;
        let size = whole(wanted);
        if size < volume.size {
            return Err(VolumeError::Shrinks { name: volume.name, size: volume.size, wanted });
        }
        if size > DISK_MAX {
            return Err(DiskError::Size(wanted).into());
        }
        space::check(&self.directory)?;
        (owner.judge)(&quota::more_disk(Bytes(size.get().saturating_sub(volume.size.get()))))?;
        // The file first: one that is larger than its record is no harm, and the next try finds it so.
        let path = self.path(&volume.id);
        let file = OpenOptions::new().write(true).open(&path);
        let grown = file.and_then(|file| {
            if file.metadata()?.len() < size.get() {
                file.set_len(size.get())?;
            }
            Ok(file)
        });
        let file = grown.map_err(|error| VolumeError::Io(path.clone(), error))?;
        volume.size = size;
        state.update_volume(&volume)?;
        // What its guest has written may take long to get to the disk, and others wait to be counted.
        drop(counted);
        file.sync_all().map_err(|error| VolumeError::Io(path, error))?;
        Ok(volume)
    }

    /// The disks of a microVM's volumes, each locked for as long as somebody has it open. Blocks for a second at most
    /// for each that somebody has.
    ///
    /// # Errors
    /// When one has gone, or a VMM that nobody knows of has it.
    pub fn open(&self, uses: &[VolumeUse]) -> Result<Vec<File>, VolumeError> {
        uses.iter().map(|volume| self.open_one(volume)).collect()
    }

    fn open_one(&self, volume: &VolumeUse) -> Result<File, VolumeError> {
        let path = self.path(&volume.id);
        let file = OpenOptions::new().read(true).write(!volume.read_only).open(&path);
        let file = file.map_err(|error| VolumeError::Io(path.clone(), error))?;
        let lock = || if volume.read_only { file.try_lock_shared() } else { file.try_lock() };
        match lock_within(LOCK_WAIT, lock) {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(VolumeError::Locked(volume.name.clone())),
            Err(TryLockError::Error(error)) => Err(VolumeError::Io(path, error)),
        }
    }

    /// The size of all these that can be written.
    pub fn writable_size(&self, uses: &[VolumeUse]) -> Bytes {
        let size = |volume: &VolumeUse| self.path(&volume.id).metadata().map_or(0, |metadata| metadata.len());
        Bytes(uses.iter().filter(|volume| !volume.read_only).map(size).fold(0, u64::saturating_add))
    }
}

/// Writes the record of a volume whose file is there, if its owner may have it.
fn keep(state: &State, owner: Owner<'_>, volume: &Volume, key: Option<&Key>) -> Result<(), VolumeError> {
    let _counted = owner.count();
    (owner.judge)(&quota::of_volume(volume.size))?;
    Ok(state.insert_volume(volume, key)?)
}

/// Rounded up to whole MiB; what is too large stays too large.
fn whole(size: Bytes) -> Bytes {
    Bytes(size.get().checked_next_multiple_of(MIB).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
