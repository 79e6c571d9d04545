//! All microVMs of one daemon, by id, name and the start of an id.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use hull_protocol::api::{Microvm as Record, State as Life};
use hull_protocol::spec::MicrovmSpec;

use crate::clock::rfc3339;
use crate::kernel::Bundles;
use crate::microvm::Microvm;
use crate::network::{HostNetworks, NetworkError};
use crate::paths::Paths;
use crate::plan::{self, PlanError};
use crate::state::{State, StateError, Wish};

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
    #[error(
        "'{0}' is no name: use up to {NAME_MAX} letters, digits, '_', '.' and '-', the first a letter or digit"
    )]
    Name(String),
    /// The image is not in the store.
    #[error(transparent)]
    Image(#[from] hull_image::StoreError),
    /// The host cannot have it.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It could not be remembered.
    #[error(transparent)]
    State(#[from] StateError),
    /// The networks it asks for cannot be had.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Its directory could not be made.
    #[error("the directory for a new microVM could not be made")]
    Directory(#[source] std::io::Error),
}

/// All microVMs.
pub struct Fleet {
    host: Arc<Host>,
    all: Mutex<HashMap<String, Microvm>>,
}

impl Fleet {
    /// The microVMs that the state knows. Those that run since an earlier daemon are taken over.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn load(host: Arc<Host>) -> Result<Self, StateError> {
        let mut all = HashMap::new();
        for record in host.state.microvms()? {
            // An image that has gone meanwhile is an error of the next start, not of this one.
            let config =
                host.images.resolve(&record.image_digest).map(|image| image.config).unwrap_or_default();
            let id = record.id.clone();
            let resolved = match plan::resolve(&id, &record.spec, &config, plan::host_memory()) {
                Ok(resolved) => resolved,
                Err(error) => {
                    tracing::error!("microVM {id} cannot be had any more: {error}");
                    continue;
                }
            };
            let spawn = if at_rest(record.state) { Microvm::spawn } else { Microvm::resume };
            all.insert(id, spawn(host.clone(), record, resolved));
        }
        Ok(Self { host, all: Mutex::new(all) })
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
        let mut records: Vec<Record> = self.lock().values().map(Microvm::record).collect();
        records.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        records
    }

    /// Those that are not at rest.
    pub fn running(&self) -> Vec<Record> {
        self.list().into_iter().filter(|record| !at_rest(record.state)).collect()
    }

    /// How many are not at rest.
    pub fn busy(&self) -> usize {
        self.running().len()
    }

    /// Whether a microVM names this kernel.
    pub fn uses_kernel(&self, name: &str) -> bool {
        self.lock().values().any(|microvm| microvm.record().spec.kernel.as_deref() == Some(name))
    }

    /// Digests of the images that microVMs were made from; `busy_only`: those of microVMs that are not at rest.
    pub fn images_in_use(&self, busy_only: bool) -> HashSet<String> {
        let records = self.list().into_iter().filter(|record| !busy_only || !at_rest(record.state));
        records.map(|record| record.image_digest).collect()
    }

    /// The one with this name, id, or start of an id.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(&self, wanted: &str) -> Result<Microvm, FleetError> {
        let all = self.lock();
        if let Some(found) = all.get(wanted) {
            return Ok(found.clone());
        }
        if let Some(named) = all.values().find(|microvm| microvm.record().name == wanted) {
            return Ok(named.clone());
        }
        let mut starting = all.iter().filter(|(id, _)| !wanted.is_empty() && id.starts_with(wanted));
        match (starting.next(), starting.next()) {
            (Some((_, only)), None) => Ok(only.clone()),
            (Some(_), Some(_)) => Err(FleetError::Ambiguous(wanted.to_owned())),
            (None, _) => Err(FleetError::NotFound(wanted.to_owned())),
        }
    }

    /// The microVM in which there is an exec with this id.
    ///
    /// # Errors
    /// When there is none.
    pub fn find_exec(&self, id: &str) -> Result<Microvm, FleetError> {
        let all = self.lock();
        let found = all.values().find(|microvm| microvm.execs().get(id).is_some());
        found.cloned().ok_or_else(|| FleetError::NoExec(id.to_owned()))
    }

    /// Makes a microVM; nothing is started.
    ///
    /// # Errors
    /// When it cannot be, or its image is not in the store.
    pub async fn create(&self, spec: MicrovmSpec) -> Result<Microvm, FleetError> {
        let id = new_id();
        let image = self.host.images.resolve(&spec.container.image)?;
        let resolved = plan::resolve(&id, &spec, &image.config, plan::host_memory())?;
        let (wishes, notices) = self.host.networks.wishes(&self.host.state, &spec.networking).await?;
        let mut record = Record {
            id: id.clone(),
            name: String::new(),
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
            notices,
            spec,
        };
        self.name(&mut record, &wishes)?;
        if let Err(error) = crate::microvm::make_directory(&self.host, &id) {
            self.host.state.remove(&id)?;
            return Err(FleetError::Directory(error));
        }
        let microvm = Microvm::spawn(self.host.clone(), record, resolved);
        self.lock().insert(id, microvm.clone());
        Ok(microvm)
    }

    /// Gives a new record its name, and the state the record: the database decides who has a name.
    fn name(&self, record: &mut Record, wishes: &[Wish]) -> Result<(), FleetError> {
        if let Some(name) = &record.spec.name {
            let letter = |c: char| c.is_ascii_alphanumeric();
            let fits = name.len() <= NAME_MAX
                && name.starts_with(letter)
                && name.chars().all(|c| letter(c) || matches!(c, '_' | '.' | '-'));
            if !fits {
                return Err(FleetError::Name(name.clone()));
            }
            record.name.clone_from(name);
            return Ok(self.host.state.insert(record, wishes)?);
        }
        for number in 0..NAME_TRIES {
            record.name = made_up_name(&new_id(), number);
            match self.host.state.insert(record, wishes) {
                Err(StateError::NameTaken(_)) => {}
                written => return Ok(written?),
            }
        }
        record.name.clone_from(&record.id);
        Ok(self.host.state.insert(record, wishes)?)
    }
}

fn at_rest(state: Life) -> bool {
    matches!(state, Life::Created | Life::Stopped | Life::Failed)
}

/// 32 hexadecimal digits that nobody can guess.
pub(crate) fn new_id() -> String {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
