//! Which error of the daemon's is which problem.

use hull_image::InstallError;
use hull_protocol::agent::AgentErrorKind;

use super::ApiError;
use crate::disk::DiskError;
use crate::fleet::FleetError;
use crate::kernel::KernelError;
use crate::microvm::exec::ExecError;
use crate::microvm::transfer::TransferError;
use crate::microvm::{MicrovmError, NoRoom, chain};
use crate::network::NetworkError;
use crate::plan::PlanError;
use crate::secrets::SecretError;
use crate::state::StateError;
use crate::tenants::TenantError;
use crate::trust::Untrusted;
use crate::volumes::VolumeError;

impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::NotFound(_) | FleetError::NoExec(_) => Self::not_found(error.to_string()),
            FleetError::Ambiguous(_) => Self::conflict(error.to_string()),
            FleetError::Plan(PlanError::MemoryTooLarge(..)) => Self::of("over-capacity", error.to_string()),
            FleetError::Name(_) | FleetError::Plan(_) => Self::invalid(error.to_string()),
            FleetError::HostFiles => Self::of("forbidden", error.to_string()),
            FleetError::Quota(_) => Self::of("over-quota", error.to_string()),
            FleetError::Space(_) | FleetError::Full => Self::of("no-space", error.to_string()),
            FleetError::Image(error) => error.into(),
            FleetError::State(error) => error.into(),
            FleetError::Network(error) => error.into(),
            FleetError::Volume(error) => error.into(),
            FleetError::Directory(_) => Self::internal(&error),
        }
    }
}

impl From<StateError> for ApiError {
    fn from(error: StateError) -> Self {
        match &error {
            StateError::NameTaken(_) => Self::of("name-taken", error.to_string()),
            StateError::KeyUsed { .. } => Self::of("key-reused", error.to_string()),
            StateError::NetworkTaken(_) | StateError::NetworkInUse(..) => Self::conflict(error.to_string()),
            StateError::CardInUse(_) | StateError::Lease(_) => Self::conflict(error.to_string()),
            StateError::VolumeTaken(_) | StateError::VolumeInUse(..) => Self::conflict(error.to_string()),
            StateError::NoCard(_) | StateError::NoVolume(_) => Self::not_found(error.to_string()),
            StateError::NoNetwork(_) => {
                Self::new(404, "no-such-network", "No such network", error.to_string())
            }
            StateError::NoTenant(_) => Self::not_found(error.to_string()),
            StateError::Newer(_) | StateError::Database(_) | StateError::Record(_) => Self::internal(&error),
        }
    }
}

impl From<NetworkError> for ApiError {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::State(error) => error.into(),
            NetworkError::Quota(error) => Self::of("over-quota", error.to_string()),
            NetworkError::Overlap { .. } | NetworkError::Occupied(_) | NetworkError::PortTaken(_) => {
                Self::conflict(chain(&error))
            }
            error if error.is_of_host() => {
                tracing::error!("a network cannot be had: {}", chain(&error));
                Self::new(503, "no-networks", "This host cannot have it", chain(&error))
            }
            error => Self::invalid(chain(&error)),
        }
    }
}

impl From<VolumeError> for ApiError {
    fn from(error: VolumeError) -> Self {
        match error {
            VolumeError::State(error) => error.into(),
            VolumeError::Name(_) | VolumeError::Disk(DiskError::Size(_)) => Self::invalid(error.to_string()),
            VolumeError::Quota(_) => Self::of("over-quota", error.to_string()),
            VolumeError::Space(_) => Self::of("no-space", error.to_string()),
            VolumeError::Locked(_) | VolumeError::Shrinks { .. } => Self::conflict(error.to_string()),
            VolumeError::Disk(_) | VolumeError::Io(..) => Self::internal(&error),
        }
    }
}

impl From<TenantError> for ApiError {
    fn from(error: TenantError) -> Self {
        match error {
            TenantError::NotFound(_) | TenantError::NoToken(_) => Self::not_found(error.to_string()),
            TenantError::Invalid(_) => Self::invalid(error.to_string()),
            TenantError::Conflict(_) => Self::conflict(error.to_string()),
            TenantError::State(error) => error.into(),
        }
    }
}

impl From<MicrovmError> for ApiError {
    fn from(error: MicrovmError) -> Self {
        match error {
            MicrovmError::Refused(_) | MicrovmError::Agent(_) => Self::conflict(error.to_string()),
            MicrovmError::Gone => Self::not_found(error.to_string()),
            MicrovmError::Transfer(error) => error.into(),
            MicrovmError::Secret(error) => error.into(),
            MicrovmError::NoRoom(NoRoom::Capacity(_) | NoRoom::Full) => {
                Self::of("over-capacity", error.to_string())
            }
            MicrovmError::NoRoom(NoRoom::Quota(_)) => Self::of("over-quota", error.to_string()),
            MicrovmError::NoRoom(NoRoom::Held(_)) => Self::conflict(error.to_string()),
            MicrovmError::NoRoom(NoRoom::Space(_)) => Self::of("no-space", error.to_string()),
            MicrovmError::Name(_) => Self::invalid(error.to_string()),
            MicrovmError::Changed(_) => Self::of("precondition-failed", error.to_string()),
            MicrovmError::Vmm(_) => Self::of("vmm-failed", chain(&error)),
            MicrovmError::State(error) => error.into(),
            MicrovmError::Limit(_) | MicrovmError::Files(_) => Self::internal(&error),
        }
    }
}

impl From<SecretError> for ApiError {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::NotInMemory => Self::conflict(error.to_string()),
            SecretError::Full => Self::of("no-space", error.to_string()),
            SecretError::Unknown(_) => Self::not_found(error.to_string()),
            SecretError::TooLong | SecretError::TooMuch => Self::of("too-large", error.to_string()),
            SecretError::Missing(_) => Self::of("secret-missing", error.to_string()),
            SecretError::Io(..) => Self::internal(&error),
        }
    }
}

impl From<ExecError> for ApiError {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::Plan(_) => Self::invalid(error.to_string()),
            ExecError::NotFound => Self::not_found(error.to_string()),
            ExecError::Refused(_) | ExecError::TooMany | ExecError::Agent(_) => {
                Self::conflict(error.to_string())
            }
        }
    }
}

impl From<TransferError> for ApiError {
    fn from(error: TransferError) -> Self {
        let agent = match &error {
            TransferError::Agent(agent) => agent.kind,
            TransferError::Body(_) => AgentErrorKind::Invalid,
            TransferError::Io(_) | TransferError::Protocol => AgentErrorKind::Failed,
        };
        match agent {
            AgentErrorKind::NotFound => Self::of("no-such-file", error.to_string()),
            AgentErrorKind::Invalid => Self::invalid(error.to_string()),
            AgentErrorKind::Failed | AgentErrorKind::NotExecutable => Self::of("copy-failed", chain(&error)),
        }
    }
}

impl From<hull_image::StoreError> for ApiError {
    fn from(error: hull_image::StoreError) -> Self {
        match &error {
            hull_image::StoreError::NotFound(_) => {
                Self::new(404, "no-such-image", "No such image", error.to_string())
            }
            hull_image::StoreError::InUse(_) | hull_image::StoreError::Ambiguous(_) => {
                Self::conflict(error.to_string())
            }
            _ => Self::internal(&error),
        }
    }
}

impl From<Untrusted> for ApiError {
    fn from(error: Untrusted) -> Self {
        Self::of("untrusted-image", error.to_string())
    }
}

impl From<KernelError> for ApiError {
    fn from(error: KernelError) -> Self {
        match &error {
            KernelError::NotFound(_) => Self::not_found(chain(&error)),
            KernelError::InUse(_) => Self::conflict(chain(&error)),
            KernelError::Store(..)
            | KernelError::Spool(_)
            | KernelError::Agent(..)
            | KernelError::Damaged(..) => Self::internal(&error),
            KernelError::BadName(_) | KernelError::NoneUsable(_) | KernelError::NoHostKernel(..) => {
                Self::invalid(chain(&error))
            }
            _ => Self::of("import-failed", chain(&error)),
        }
    }
}

impl From<hull_image::PullError> for ApiError {
    fn from(error: hull_image::PullError) -> Self {
        if let hull_image::PullError::Install(error @ InstallError::NoRoom { .. }) = &error {
            return Self::of("over-quota", error.to_string());
        }
        if let hull_image::PullError::Unsigned(_) = &error {
            return Self::of("untrusted-image", error.to_string());
        }
        // Nearly always the registry, the reference or the image; the text names which.
        Self::new(422, "pull-failed", "The image could not be pulled", chain(&error))
    }
}

impl From<hull_image::ImportError> for ApiError {
    fn from(error: hull_image::ImportError) -> Self {
        if let hull_image::ImportError::Install(error @ InstallError::NoRoom { .. }) = &error {
            return Self::of("over-quota", error.to_string());
        }
        Self::of("import-failed", chain(&error))
    }
}
