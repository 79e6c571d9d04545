//! Where the daemon keeps its things: `/var/lib/hull` and `/run/hull` for root, the XDG directories for everybody
//! else, `HULL_DATA_DIR` and `HULL_RUN_DIR` for who wants them elsewhere.

use std::env::var_os;
use std::path::{Path, PathBuf};

/// The two directories of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What stays: images, kernels, disks, state.
    pub data: PathBuf,
    /// Sockets, and values of secrets; gone with a reboot.
    pub run: PathBuf,
}

impl Paths {
    /// The calling user's.
    pub fn of_user() -> Self {
        let root = rustix::process::geteuid().is_root();
        let home = || var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let data = match var_os("HULL_DATA_DIR") {
            Some(directory) => directory.into(),
            None if root => PathBuf::from("/var/lib/hull"),
            None => var_os("XDG_DATA_HOME")
                .map_or_else(|| home().join(".local/share"), PathBuf::from)
                .join("hull"),
        };
        let run = match var_os("HULL_RUN_DIR") {
            Some(directory) => directory.into(),
            None if root => PathBuf::from("/run/hull"),
            None => var_os("XDG_RUNTIME_DIR")
                .map_or_else(|| data.join("run"), |dir| PathBuf::from(dir).join("hull")),
        };
        Self { data, run }
    }

    /// The socket the REST API is on.
    pub fn socket(&self) -> PathBuf {
        self.run.join("hull.sock")
    }

    /// Held while a daemon starts or leaves.
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// What a daemon started on demand has to say.
    pub fn log(&self) -> PathBuf {
        self.data.join("daemon.log")
    }

    /// One microVM's lasting files.
    pub fn microvm(&self, id: &str) -> PathBuf {
        self.data.join("microvms").join(id)
    }

    /// The values of all microVMs' secrets, a directory for each.
    pub fn secrets(&self) -> PathBuf {
        self.run.join("secrets")
    }

    /// One microVM's sockets. The id is cut: a socket's path has at most 107 bytes.
    pub fn sockets(&self, id: &str) -> PathBuf {
        self.run.join(id.get(..12).unwrap_or(id))
    }
}

/// A program that belongs to Hull: beside this one, or in `HULL_LIBEXEC`.
///
/// # Errors
/// With the place where it was expected.
pub fn program(name: &str) -> Result<PathBuf, PathBuf> {
    let here = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("hull"));
    let beside = |place: &Path| place.join(name);
    let mut places: Vec<PathBuf> = var_os("HULL_LIBEXEC").iter().map(|dir| beside(Path::new(dir))).collect();
    places.push(here.with_file_name(name));
    if let Some(prefix) = here.parent().and_then(Path::parent) {
        places.extend([beside(&prefix.join("libexec/hull")), beside(&prefix.join("lib/hull"))]);
    }
    let found = places.iter().find(|place| place.is_file()).cloned();
    found.ok_or_else(|| here.with_file_name(name))
}
