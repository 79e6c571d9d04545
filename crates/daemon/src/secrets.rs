//! Values of secrets, from when they are given until their microVM is removed: files in the run directory, which is in
//! memory.
//!
//! Owner: a microVM's actor. Invariants: a value is on no disk; it is whole or not there; nothing here says what it is. Why it
//! is so: `docs/decisions/0017`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hull_protocol::secret::{SECRET_MAX, SECRETS_TOGETHER_MAX, SecretSpec, SecretValue};
use hull_protocol::units::Bytes;

use crate::disk::private_directory;
use crate::paths::Paths;
use crate::space;

/// What is left alone of the run directory's memory: it is for sockets, too, and often for the rest of the host.
const RESERVE: Bytes = Bytes::mib(4);

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The run directory is on a disk.
    #[error(
        "secrets are kept in memory alone, and this daemon's run directory is on a disk: have it started with HULL_RUN_DIR \
         on a tmpfs, such as /run/hull"
    )]
    NotInMemory,
    /// There is no room for more.
    #[error("the host's memory for secrets is full: forget some, or remove microVMs that are not needed")]
    Full,
    /// The microVM was not made with a secret of this name.
    #[error("it has no secret '{0}': name its secrets when it is made")]
    Unknown(String),
    /// A value is too long.
    #[error("a secret has {SECRET_MAX} bytes at most")]
    TooLong,
    /// All values are too long together.
    #[error(
        "the secrets of a microVM have {SECRETS_TOGETHER_MAX} bytes at most together: forget one, or give a shorter value"
    )]
    TooMuch,
    /// Some have no value.
    #[error(
        "no value for the secret {names}: give it ('hull start --secret id=NAME,src=FILE', or PUT \
         /v1/microvms/ID/secrets/NAME); values are in memory alone, and gone when the host has restarted",
        names = .0.join(", ")
    )]
    Missing(Vec<String>),
    /// The host failed.
    #[error("the secret '{0}' cannot be kept or read")]
    Io(String, #[source] io::Error),
}

/// The values of one microVM.
pub(crate) struct Secrets {
    directory: PathBuf,
}

impl Secrets {
    /// Those of the microVM with this id.
    pub(crate) fn of(paths: &Paths, id: &str) -> Self {
        Self { directory: paths.secrets().join(id) }
    }

    /// Keeps a value, in place of an earlier one. The name is one that a secret can have.
    ///
    /// # Errors
    /// When it would be on a disk, there is no room, or the microVM has too much of it.
    pub(crate) fn keep(&self, name: &str, value: &SecretValue) -> Result<(), SecretError> {
        let failed = |error| SecretError::Io(name.to_owned(), error);
        private_directory(&self.directory).map_err(failed)?;
        if !space::in_memory(&self.directory) {
            let _something_is_in_it = fs::remove_dir(&self.directory);
            return Err(SecretError::NotInMemory);
        }
        let others = self.held_besides(name).map_err(failed)?;
        if others.saturating_add(value.reveal().len() as u64) > SECRETS_TOGETHER_MAX as u64 {
            return Err(SecretError::TooMuch);
        }
        if !has_room(&self.directory, value.reveal().len()).map_err(failed)? {
            return Err(SecretError::Full);
        }
        // No secret's name begins with a dot.
        let draft = self.directory.join(format!(".{name}"));
        let written = write(&draft, value).and_then(|()| fs::rename(&draft, self.place(name)));
        written.map_err(|error| {
            let _was_not_made = fs::remove_file(&draft);
            failed(error)
        })
    }

    /// Forgets a value, if there is one.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub(crate) fn forget(&self, name: &str) -> Result<(), SecretError> {
        match fs::remove_file(self.place(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SecretError::Io(name.to_owned(), error))
            }
            _ => Ok(()),
        }
    }

    /// A value.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn read(&self, name: &str) -> Result<SecretValue, SecretError> {
        let file = File::open(self.place(name)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SecretError::Missing(vec![name.to_owned()]),
            _ => SecretError::Io(name.to_owned(), error),
        })?;
        let (mut bytes, most) = (Vec::new(), SECRET_MAX as u64 + 1);
        file.take(most).read_to_end(&mut bytes).map_err(|error| SecretError::Io(name.to_owned(), error))?;
        SecretValue::new(bytes).ok_or(SecretError::TooLong)
    }

    /// Whether all of these have a value.
    ///
    /// # Errors
    /// With the names of those that have none.
    pub(crate) fn check(&self, wanted: &[SecretSpec]) -> Result<(), SecretError> {
        let names = wanted.iter().map(|secret| &secret.name);
        let missing: Vec<String> = names.filter(|name| !self.place(name).is_file()).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(SecretError::Missing(missing)) }
    }

    /// Removes all.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// How long all other values are together, in bytes. What a daemon that was killed had half written goes.
    fn held_besides(&self, name: &str) -> io::Result<u64> {
        fs::read_dir(&self.directory)?.try_fold(0_u64, |sum, entry| {
            let entry = entry?;
            let file = entry.file_name();
            if file.as_encoded_bytes().starts_with(b".") {
                fs::remove_file(entry.path())?;
                return Ok(sum);
            }
            let length = if file == name { 0 } else { entry.metadata()?.len() };
            Ok(sum.saturating_add(length))
        })
    }

    fn place(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Whether so many bytes more leave enough of it alone.
fn has_room(place: &Path, bytes: usize) -> io::Result<bool> {
    let found = rustix::fs::statvfs(place)?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    // A ramfs has no size.
    Ok(found.f_blocks == 0 || free >= RESERVE.get().saturating_add(bytes as u64))
}

fn write(path: &Path, value: &SecretValue) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(value.reveal())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn secrets(run: &Path) -> Secrets {
        Secrets::of(&Paths { data: "/nowhere".into(), run: run.to_owned() }, "0123")
    }

    fn value(text: &str) -> SecretValue {
        SecretValue::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_value_is_kept_for_its_owner_alone_until_it_is_forgotten() {
        let run = tempfile::tempdir_in("/dev/shm").unwrap();
        let secrets = secrets(run.path());
        let wanted = ["a", "b"].map(|name| SecretSpec { name: name.to_owned(), ..SecretSpec::default() });
        let missing = secrets.check(&wanted).unwrap_err().to_string();
        assert!(missing.contains("secret a, b: give it"), "{missing}");
        secrets.keep("a", &value("old")).unwrap();
        secrets.keep("a", &value("new")).unwrap();
        assert_eq!(secrets.read("a").unwrap(), value("new"));
        assert!(matches!(secrets.check(&wanted), Err(SecretError::Missing(names)) if names == ["b"]));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&secrets.directory), mode(&secrets.place("a"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&secrets.directory).unwrap().count(), 1);
        secrets.keep("b", &value("")).unwrap();
        secrets.check(&wanted).unwrap();
        secrets.forget("a").unwrap();
        secrets.forget("a").unwrap();
        assert!(matches!(secrets.read("a"), Err(SecretError::Missing(_))));
        secrets.remove().unwrap();
        secrets.remove().unwrap();
        assert!(!secrets.directory.exists());
    }

    #[test]
    fn all_values_together_have_a_bound() {
        let run = tempfile::tempdir_in("/dev/shm").unwrap();
        let secrets = secrets(run.path());
        let half = value(&"x".repeat(SECRET_MAX));
        secrets.keep("a", &half).unwrap();
        secrets.keep("b", &half).unwrap();
        fs::write(secrets.place(".c"), "of a daemon that was killed").unwrap();
        assert!(matches!(secrets.keep("c", &value("x")), Err(SecretError::TooMuch)));
        // In place of an earlier one, which counts no more.
        secrets.keep("b", &half).unwrap();
        secrets.keep("b", &value("y")).unwrap();
        secrets.keep("c", &value("x")).unwrap();
        assert_eq!(fs::read_dir(&secrets.directory).unwrap().count(), 3);
    }

    #[test]
    fn nothing_is_written_to_a_disk() {
        // A build tree in memory would show nothing.
        let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        if space::in_memory(disk.path()) {
            return;
        }
        let secrets = secrets(disk.path());
        let refused = secrets.keep("a", &value("x")).unwrap_err();
        assert!(matches!(refused, SecretError::NotInMemory), "{refused}");
        assert!(!secrets.directory.exists());
    }
}
