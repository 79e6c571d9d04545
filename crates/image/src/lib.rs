//! OCI images: pulled or imported, verified, stored by digest, and flattened to one read-only EROFS block image each.
//!
//! Owned by the daemon, which shares one [`Store`] between its tasks; blocking work runs on the runtime's blocking
//! threads. Invariants: nothing is used before its digest has been verified; nothing from an image is ever unpacked
//! onto the host's file system; what is in the store under its final name is whole and on disk.
#![forbid(unsafe_code)]

mod blob;
mod copies;
mod credentials;
mod digest;
mod erofs;
mod flatten;
#[doc(hidden)]
pub mod fuzz;
mod import;
mod layer;
mod limits;
mod lock;
mod manifest;
mod pack;
mod pull;
mod record;
mod reference;
mod signature;
mod store;
mod tree;

pub use blob::BlobError;
pub use copies::{CopiesError, copies_image};
pub use credentials::{CredentialsError, credentials_for};
pub use digest::{Digest, DigestError};
pub use erofs::ErofsError;
pub use flatten::FlattenError;
pub use import::{ImportError, ImportKind};
pub use layer::LayerError;
pub use limits::Limits;
pub use lock::lock_within;
pub use manifest::ManifestError;
pub use pack::{PackError, pack_directory};
pub use pull::{PullError, RequestError};
pub use record::{ImageConfig, ImageRecord};
pub use reference::{ReferenceError, repository_of};
pub use signature::{Key, KeyError};
pub use store::{Freed, InstallError, Removed, Store, StoreError};
