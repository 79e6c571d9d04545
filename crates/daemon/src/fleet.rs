//! All microVMs of one daemon, by id, name and the start of an id.

mod volumes;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use hull_protocol::api::{Amounts, HOST_TENANT, Microvm as Record, State as Life};
use hull_protocol::spec::MicrovmSpec;

use crate::audit::Audit;
use crate::capacity::Capacity;
use crate::cgroup::Groups;
use crate::clock::rfc3339;
use crate::events::Feeds;
use crate::kernel::Bundles;
use crate::leftovers;
use crate::metrics::Metrics;
use crate::microvm::turns::Turns;
use crate::microvm::{self, Microvm};
use crate::network::{HostNetworks, NetworkError, Owner};
use crate::paths::Paths;
use crate::plan::{self, PlanError};
use crate::space::NoSpace;
use crate::state::{Key, State, StateError, Wish};
use crate::tenants::Tenants;
use crate::tenants::quota::{self, OverQuota};
use crate::trust::Policy;
use crate::volumes::{Found, VolumeError, Volumes};

/// The longest name of a microVM, in characters.
const NAME_MAX: usize = 128;
/// How many made-up names are tried.
const NAME_TRIES: u32 = 100;

/// What every microVM of this daemon shares.
pub struct Host {
    /// Where things are.
    pub paths: Paths,
    /// The images.
    pub images: hull_image::Store,
    /// The kernels.
    pub kernels: Bundles,
    /// The VMM program.
    pub vmm: std::path::PathBuf,
    /// What is remembered.
    pub state: State,
    /// The networks.
    pub networks: HostNetworks,
    /// What happens.
    pub events: Feeds,
    /// The volumes.
    pub volumes: Volumes,
    /// Who there is.
    pub tenants: Arc<Tenants>,
    /// What images they may bring.
    pub policy: Policy,
    /// What they did.
    pub audit: Audit,
    /// Control groups of VMMs.
    pub groups: Groups,
    /// What running microVMs have been promised.
    pub capacity: Capacity,
    /// Whose turn it is to boot.
    pub turns: Turns,
    /// What is counted.
    pub metrics: Metrics,
}

impl Host {
    /// A tenant's images. Those of the host's own tenant have no owner's mark.
    pub fn images_of(&self, tenant: &str) -> hull_image::Store {
        self.images.of(if tenant == HOST_TENANT { "" } else { tenant })
    }
}

/// Why a microVM could not be made or found.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No microVM goes by that.
    #[error("there is no microVM '{0}': 'hull ps -a' lists all")]
    NotFound(String),
    /// More than one id starts with that.
    #[error("more than one microVM's id starts with '{0}': write more of it")]
    Ambiguous(String),
    /// No exec has that id.
    #[error("there is no exec '{0}': it has been forgotten, or never was")]
    NoExec(String),
    /// A name that none can have.
    #[error(transparent)]
    Name(#[from] BadName),
    /// Its tenant has as much as it may.
    #[error(transparent)]
    Quota(#[from] OverQuota),
    /// The host has no room for more.
    #[error(transparent)]
    Space(#[from] NoSpace),
    /// The same, for those who are not to know how much of it there is.
    #[error("the host has no room for more now: try again later")]
    Full,
    /// The image is not in the store.
    #[error(transparent)]
    Image(#[from] hull_image::StoreError),
    /// The host cannot have it.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It could not be remembered.
    #[error(transparent)]
    State(#[from] StateError),
    /// Files of the host, for somebody who does not administer it.
    #[error(
        "files of the host (a mount of the type 'bind') are for those who administer it: its root, or an admin token of the \
         tenant 'default'; use a volume, or 'hull cp'"
    )]
    HostFiles,
    /// The networks it asks for cannot be had.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A volume it asks for cannot be had.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Its directory could not be made.
    #[error("the directory for a new microVM could not be made")]
    Directory(#[source] std::io::Error),
}

/// A name that no microVM can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "'{0}' is no name: use up to {NAME_MAX} letters, digits, '_', '.' and '-', the first a letter or digit"
)]
pub struct BadName(String);

/// Checks a name that a user has chosen.
///
/// # Errors
/// When none can have it.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let letter = |c: char| c.is_ascii_alphanumeric();
    let fits = name.len() <= NAME_MAX
        && name.starts_with(letter)
        && name.chars().all(|c| letter(c) || matches!(c, '_' | '.' | '-'));
    if fits { Ok(()) } else { Err(BadName(name.to_owned())) }
}

/// All microVMs.
pub struct Fleet {
    host: Arc<Host>,
    all: Mutex<HashMap<String, Microvm>>,
    /// Held while one is made, or a volume made or grown: between its record and its actor nobody may look for it, and
    /// what is judged by quotas counts before the next is judged.
    creating: Mutex<()>,
}

impl Fleet {
    /// The microVMs that the state knows. Those that run since an earlier daemon are taken over, and what half-done
    /// operations left is cleared away; `stays`: this daemon is none that leaves when idle.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn load(host: Arc<Host>, stays: bool) -> Result<Self, StateError> {
        let mut all = HashMap::new();
        let records = host.state.microvms()?;
        leftovers::clear(&host, &records);
        for mut record in records {
            // An image that has gone meanwhile is an error of the next start, not of this one.
            let config =
                host.images.resolve(&record.image_digest).map(|image| image.config).unwrap_or_default();
            let id = record.id.clone();
            let resolved = match plan::resolve(&id, &record.spec, &config, plan::host_memory())
                .or_else(|_| plan::resolve_without_image(&record))
            {
                Ok(resolved) => resolved,
                Err(error) => {
                    tracing::error!("microVM {id} cannot be had any more: {error}");
                    continue;
                }
            };
            if microvm::starts_at_load(&record, stays) {
                record.state = Life::Restarting;
            }
            let runs = !record.state.is_at_rest() && record.state != Life::Restarting;
            let spawn = if runs { Microvm::resume } else { Microvm::spawn };
            all.insert(id, spawn(host.clone(), record, resolved));
        }
        Ok(Self { host, all: Mutex::new(all), creating: Mutex::default() })
    }

    /// What they share.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Microvm>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, microvm| !microvm.is_gone());
        all
    }

    /// Every microVM, the oldest first.
    pub fn list(&self) -> Vec<Record> {
        self.sorted(|_| true)
    }

    /// Every microVM of a tenant, the oldest first.
    pub fn list_of(&self, tenant: &str) -> Vec<Record> {
        self.sorted(|microvm| microvm.tenant() == tenant)
    }

    fn sorted(&self, wanted: impl Fn(&Microvm) -> bool) -> Vec<Record> {
        let all = self.lock();
        let mut records: Vec<Record> =
            all.values().filter(|microvm| wanted(microvm)).map(Microvm::record).collect();
        drop(all);
        records.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        records
    }

    /// Those that have a VMM.
    pub fn running(&self) -> Vec<Record> {
        let runs = |record: &Record| !record.state.is_at_rest() && record.state != Life::Restarting;
        self.list().into_iter().filter(runs).collect()
    }

    /// How many are not at rest.
    pub fn busy(&self) -> usize {
        self.list().iter().filter(|record| !record.state.is_at_rest()).count()
    }

    /// Whether a microVM names this kernel.
    pub fn uses_kernel(&self, name: &str) -> bool {
        self.lock().values().any(|microvm| microvm.record().spec.kernel.as_deref() == Some(name))
    }

    /// Digests of the images that these microVMs were made from; `busy_only`: those of microVMs that are not at rest.
    pub fn images_in_use(&self, busy_only: bool, of: impl Fn(&Record) -> bool) -> HashSet<String> {
        let records =
            self.list().into_iter().filter(|record| of(record) && !(busy_only && record.state.is_at_rest()));
        records.map(|record| record.image_digest).collect()
    }

    /// The tenant's one with this name, id, or start of an id.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(&self, tenant: &str, wanted: &str) -> Result<Microvm, FleetError> {
        let all = self.lock();
        let own = |microvm: &&Microvm| microvm.tenant() == tenant;
        if let Some(found) = all.get(wanted).filter(own) {
            return Ok(found.clone());
        }
        if let Some(named) = all.values().filter(own).find(|microvm| microvm.record().name == wanted) {
            return Ok(named.clone());
        }
        let starts = |id: &str| !wanted.is_empty() && id.starts_with(wanted);
        let mut starting = all.iter().filter(|(id, microvm)| starts(id) && own(microvm));
        match (starting.next(), starting.next()) {
            (Some((_, only)), None) => Ok(only.clone()),
            (Some(_), Some(_)) => Err(FleetError::Ambiguous(wanted.to_owned())),
            (None, _) => Err(FleetError::NotFound(wanted.to_owned())),
        }
    }

    /// The tenant's microVM in which there is an exec with this id.
    ///
    /// # Errors
    /// When there is none.
    pub fn find_exec(&self, tenant: &str, id: &str) -> Result<Microvm, FleetError> {
        let all = self.lock();
        let mut own = all.values().filter(|microvm| microvm.tenant() == tenant);
        let found = own.find(|microvm| microvm.execs().get(id).is_some());
        found.cloned().ok_or_else(|| FleetError::NoExec(id.to_owned()))
    }

    /// The tenant's one with this id, which may be about to be made.
    ///
    /// # Errors
    /// When there is none.
    pub fn find_made(&self, tenant: &str, id: &str) -> Result<Microvm, FleetError> {
        let _it_is_made = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        self.find(tenant, id)
    }

    /// Whether the host's disk has room for something new of a tenant's.
    ///
    /// # Errors
    /// When it is full; how full is told to the host's own tenant.
    pub fn check_space(&self, tenant: &str) -> Result<(), FleetError> {
        crate::space::check(&self.host.paths.data).map_err(|full| match tenant {
            HOST_TENANT => full.into(),
            _ => FleetError::Full,
        })
    }

    /// Makes a microVM; nothing is started. With a key, only once: [`crate::state::StateError::KeyUsed`].
    ///
    /// # Errors
    /// When it cannot be, or its image is not in the store.
    pub async fn create(
        self: &Arc<Self>,
        tenant: &str,
        spec: MicrovmSpec,
        key: Option<&Key>,
    ) -> Result<Microvm, FleetError> {
        self.check_space(tenant)?;
        let id = new_id();
        let image = self.host.images_of(tenant).resolve(&spec.container.image)?;
        let resolved = plan::resolve(&id, &spec, &image.config, plan::host_memory())?;
        // Before anything is made for it, too.
        self.admit::<FleetError>(tenant, &quota::of_existing(&spec))?;
        let owner = Owner { tenant, tenants: &self.host.tenants };
        let (wishes, notices) = self.host.networks.wishes(&self.host.state, owner, &spec.networking).await?;
        let Found { uses, made } = self.find_or_make_volumes(tenant, &resolved.mounts.volumes).await?;
        let mut record = Record {
            id: id.clone(),
            name: String::new(),
            tenant: tenant.to_owned(),
            state: Life::Created,
            image_digest: image.digest.to_string(),
            command: resolved.process.args.clone(),
            created_at: rfc3339(SystemTime::now()),
            started_at: None,
            finished_at: None,
            exit: None,
            vmm_pid: None,
            guest_kernel: None,
            health: None,
            cards: Vec::new(),
            ports: Vec::new(),
            volumes: uses,
            notices,
            revision: 1,
            restarts: 0,
            stop_requested: false,
            trace: None,
            spec,
        };
        let _alone = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = self.admit(tenant, &quota::of_existing(&record.spec));
        if let Err(error) = admitted.and_then(|()| self.name(&mut record, &wishes, key)) {
            self.host.volumes.unmake(&self.host.state, &made);
            return Err(error);
        }
        if let Err(error) = crate::microvm::make_directory(&self.host, &id) {
            self.host.state.remove(&id)?;
            self.host.volumes.unmake(&self.host.state, &made);
            return Err(FleetError::Directory(error));
        }
        for volume in &made {
            self.host.events.volume(volume, "create");
        }
        self.host.events.microvm(&record, "create", &[]);
        let microvm = Microvm::spawn(self.host.clone(), record, resolved);
        self.lock().insert(id, microvm.clone());
        Ok(microvm)
    }

    /// Judges what is new of a tenant's by its quotas; that counts while nothing else is made.
    fn admit<E: From<StateError> + From<OverQuota>>(&self, tenant: &str, wanted: &Amounts) -> Result<(), E> {
        Ok(self.host.tenants.admit(tenant, &self.existing(tenant)?, wanted)?)
    }

    /// What a tenant's microVMs, volumes and images count for as long as they exist.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn existing(&self, tenant: &str) -> Result<Amounts, StateError> {
        Ok(quota::sum([self.disks_of(tenant)?, self.images_of(tenant)].iter()))
    }

    /// What a tenant's microVMs and volumes count for as long as they exist.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn disks_of(&self, tenant: &str) -> Result<Amounts, StateError> {
        let volumes = quota::of_volumes(&self.host.state.volumes_of(tenant)?);
        let microvms = self.list_of(tenant);
        let microvms: Vec<_> = microvms.iter().map(|record| quota::of_existing(&record.spec)).collect();
        Ok(quota::sum(microvms.iter().chain([&volumes])))
    }

    /// What a tenant's images count.
    pub fn images_of(&self, tenant: &str) -> Amounts {
        quota::of_images(&self.host.images_of(tenant).list())
    }

    /// Gives a new record its name, and the state the record: the database decides who has a name.
    fn name(&self, record: &mut Record, wishes: &[Wish], key: Option<&Key>) -> Result<(), FleetError> {
        if let Some(name) = &record.spec.name {
            check_name(name)?;
            record.name.clone_from(name);
            return Ok(self.host.state.insert(record, wishes, key)?);
        }
        for number in 0..NAME_TRIES {
            record.name = made_up_name(&new_id(), number);
            match self.host.state.insert(record, wishes, key) {
                Err(StateError::NameTaken(_)) => {}
                written => return Ok(written?),
            }
        }
        record.name.clone_from(&record.id);
        Ok(self.host.state.insert(record, wishes, key)?)
    }
}

/// 32 hexadecimal digits that nobody can guess.
pub(crate) fn new_id() -> String {
    random_bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that nobody can guess.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes
}

/// Two words for people; after a few tries, a number too.
fn made_up_name(random: &str, number: u32) -> String {
    const FIRST: [&str; 16] = [
        "calm", "brisk", "bright", "quiet", "steady", "swift", "northern", "silver", "early", "deep",
        "amber", "gentle", "hardy", "keen", "lofty", "merry",
    ];
    const SECOND: [&str; 16] = [
        "keel", "mast", "anchor", "harbor", "rudder", "sail", "beacon", "tide", "reef", "compass", "lantern",
        "deck", "pilot", "gull", "current", "cove",
    ];
    let digit = |at: usize| random.as_bytes().get(at).map_or(0, |byte| usize::from(*byte)) % 16;
    let (first, second) = (FIRST.get(digit(0)).unwrap_or(&"calm"), SECOND.get(digit(1)).unwrap_or(&"keel"));
    if number < 10 {
        format!("{first}-{second}")
    } else {
        format!("{first}-{second}-{}", random.get(2..6).unwrap_or("0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_long_and_differ() {
        let (one, other) = (new_id(), new_id());
        assert!(one.len() == 32 && one.bytes().all(|byte| byte.is_ascii_hexdigit()) && one != other);
    }
}
