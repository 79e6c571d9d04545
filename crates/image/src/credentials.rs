//! Credentials that the user's Docker configuration has for a registry (`~/.docker/config.json`, with its helpers).
//!
//! Called by the client, as the user; the daemon never reads that file. May run a credential helper, and waits for it.

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential};
use hull_protocol::api::Credentials;

use crate::reference::{self, ReferenceError};

/// Why no credentials could be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The reference is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The configuration or its helper failed.
    #[error(
        "cannot get credentials for {registry} from the Docker configuration: check it and its credential helper"
    )]
    Docker {
        /// Which registry.
        registry: String,
        /// How.
        #[source]
        source: CredentialRetrievalError,
    },
}

/// The credentials for the registry that an image is in, `None` where the user has none.
///
/// # Errors
/// The reference is none, or there is a configuration that cannot be used.
pub fn credentials_for(image: &str) -> Result<Option<Credentials>, CredentialsError> {
    let reference = reference::parse(image)?;
    let registry = match reference.registry() {
        "docker.io" => "https://index.docker.io/v1/",
        registry => registry,
    };
    match get_credential(registry) {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Ok(Some(Credentials { username, password }))
        }
        Ok(DockerCredential::IdentityToken(password)) => {
            Ok(Some(Credentials { username: "<token>".to_owned(), password }))
        }
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError
            | CredentialRetrievalError::NoCredentialConfigured,
        ) => Ok(None),
        Err(source) => Err(CredentialsError::Docker { registry: registry.to_owned(), source }),
    }
}
