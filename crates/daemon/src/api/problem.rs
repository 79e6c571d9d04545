//! Failures as `application/problem+json`, RFC 9457.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hull_protocol::agent::AgentErrorKind;
use hull_protocol::api::Problem;

use crate::fleet::FleetError;
use crate::kernel::KernelError;
use crate::microvm::exec::ExecError;
use crate::microvm::transfer::TransferError;
use crate::microvm::{MicrovmError, chain};
use crate::network::NetworkError;
use crate::state::StateError;

/// A failed request.
#[derive(Debug)]
pub struct ApiError(Problem);

impl ApiError {
    pub(super) fn new(status: u16, kind: &str, title: &str, detail: String) -> Self {
        Self(Problem { kind: format!("/problems/{kind}"), title: title.into(), status, detail })
    }

    pub(super) fn invalid(detail: String) -> Self {
        Self::new(400, "invalid", "Invalid request", detail)
    }

    pub(super) fn not_found(detail: String) -> Self {
        Self::new(404, "not-found", "Not found", detail)
    }

    pub(super) fn conflict(detail: String) -> Self {
        Self::new(409, "conflict", "Not possible now", detail)
    }

    pub(super) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!("a request failed: {}", chain(error));
        Self::new(500, "internal", "The host failed", chain(error))
    }

    /// The problem itself.
    pub fn into_problem(self) -> Problem {
        self.0
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::NotFound(_) | FleetError::NoExec(_) => Self::not_found(error.to_string()),
            FleetError::Ambiguous(_) => Self::conflict(error.to_string()),
            FleetError::Name(_) | FleetError::Plan(_) => Self::invalid(error.to_string()),
            FleetError::Image(error) => error.into(),
            FleetError::State(error) => error.into(),
            FleetError::Network(error) => error.into(),
            FleetError::Directory(_) => Self::internal(&error),
        }
    }
}

impl From<StateError> for ApiError {
    fn from(error: StateError) -> Self {
        match &error {
            StateError::NameTaken(_) | StateError::NetworkTaken(_) | StateError::NetworkInUse(..) => {
                Self::conflict(error.to_string())
            }
            StateError::Lease(_) => Self::conflict(error.to_string()),
            StateError::NoNetwork(_) => {
                Self::new(404, "no-such-network", "No such network", error.to_string())
            }
            StateError::Newer(_) | StateError::Database(_) | StateError::Record(_) => Self::internal(&error),
        }
    }
}

impl From<NetworkError> for ApiError {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::State(error) => error.into(),
            NetworkError::Overlap { .. } | NetworkError::PortTaken(_) => Self::conflict(chain(&error)),
            error if error.is_of_host() => {
                tracing::error!("a network cannot be had: {}", chain(&error));
                Self::new(503, "no-networks", "This host cannot have it", chain(&error))
            }
            error => Self::invalid(chain(&error)),
        }
    }
}

impl From<MicrovmError> for ApiError {
    fn from(error: MicrovmError) -> Self {
        match error {
            MicrovmError::Refused(_) | MicrovmError::Agent(_) => Self::conflict(error.to_string()),
            MicrovmError::Gone => Self::not_found(error.to_string()),
            MicrovmError::Transfer(error) => error.into(),
            MicrovmError::State(_) | MicrovmError::Files(_) => Self::internal(&error),
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
            AgentErrorKind::NotFound => {
                Self::new(404, "no-such-file", "No such file or directory", error.to_string())
            }
            AgentErrorKind::Invalid => Self::invalid(error.to_string()),
            AgentErrorKind::Failed | AgentErrorKind::NotExecutable => {
                Self::new(422, "copy-failed", "The guest could not do it", chain(&error))
            }
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

impl From<KernelError> for ApiError {
    fn from(error: KernelError) -> Self {
        match &error {
            KernelError::NotFound(_) => Self::not_found(chain(&error)),
            KernelError::InUse(_) => Self::conflict(chain(&error)),
            KernelError::Store(..)
            | KernelError::Spool(_)
            | KernelError::Agent(..)
            | KernelError::Damaged(..) => Self::internal(&error),
            _ => Self::invalid(chain(&error)),
        }
    }
}

impl From<hull_image::PullError> for ApiError {
    fn from(error: hull_image::PullError) -> Self {
        // Nearly always the registry, the reference or the image; the text names which.
        Self::new(422, "pull-failed", "The image could not be pulled", chain(&error))
    }
}

impl From<hull_image::ImportError> for ApiError {
    fn from(error: hull_image::ImportError) -> Self {
        Self::new(422, "import-failed", "The image could not be imported", chain(&error))
    }
}
