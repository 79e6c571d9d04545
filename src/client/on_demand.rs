//! The user's own daemon, started when somebody needs it.
//!
//! Owner: the verb that connects. Invariant: at most one daemon serves a run directory. Who binds its socket
//! holds the lock, and the socket stands, in nobody else's reach, before the daemon is started: connecting needs
//! no waiting and no polling.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, absolute};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use hull_daemon::paths::Paths;
use rustix::fs::{FlockOperation, flock};

/// How much of the end of the daemon's log is shown.
const LOG_TAIL: u64 = 2 << 10;

/// Starts the daemon if its socket is dead. What was started is returned, to tell the user what became of it.
pub(super) fn ensure(paths: &Paths) -> Result<Option<Child>> {
    if alive(&paths.socket()) {
        return Ok(None);
    }
    directory(&paths.data)?;
    match bind(paths)? {
        Some(listener) => spawn(paths, listener).map(Some),
        // Somebody else was faster.
        None => Ok(None),
    }
}

/// The listening socket of a daemon, for its owner alone; none if a daemon already serves it.
pub(crate) fn bind(paths: &Paths) -> Result<Option<UnixListener>> {
    directory(&paths.run)?;
    let lock = lock(&paths.lock())?;
    let socket = paths.socket();
    if alive(&socket) {
        return Ok(None);
    }
    // Renamed to its place when its mode is right; that also replaces what a killed daemon left behind.
    let fresh = paths.run.join(format!("new{}", std::process::id()));
    let _nothing_left_behind = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).with_context(|| {
        format!("the socket {} cannot be made (HULL_RUN_DIR chooses another directory)", socket.display())
    })?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, &socket)
        .with_context(|| format!("the socket {} cannot be placed", socket.display()))?;
    drop(lock);
    Ok(Some(listener))
}

/// What to say when the daemon does not answer: what became of it, and the end of its log.
pub(super) fn complaint(paths: &Paths, cause: &anyhow::Error, started: Option<Child>) -> anyhow::Error {
    let (state, log) = match started.map(|mut child| child.try_wait()) {
        Some(Ok(Some(status))) => (format!("the daemon ended at once ({status})"), Some(paths.log())),
        Some(_) => (format!("the daemon does not answer ({cause:#})"), Some(paths.log())),
        None => (format!("the daemon does not answer ({cause:#})"), None),
    };
    match log.and_then(|log| tail(&log).ok().map(|tail| (log, tail))) {
        Some((log, tail)) if !tail.is_empty() => anyhow!("{state}; the end of {}:\n{tail}", log.display()),
        _ => anyhow!("{state}"),
    }
}

fn alive(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

fn directory(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("{} cannot be made", parent.display()))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("{} cannot be made", path.display()))
        }
        _ => Ok(()),
    }
}

fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    let file = file.with_context(|| format!("{} cannot be opened", path.display()))?;
    flock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("{} cannot be locked", path.display()))?;
    Ok(file)
}

/// The daemon gets the listening socket as its standard input, which needs no descriptor number to be agreed on.
fn spawn(paths: &Paths, listener: UnixListener) -> Result<Child> {
    let path = paths.log();
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    let log = log.with_context(|| format!("{} cannot be opened", path.display()))?;
    let hull = std::env::current_exe().context("hull does not know where it is")?;
    if !hull.is_file() {
        bail!("hull has been replaced while it ran: try again");
    }
    Command::new(hull)
        .args(["serve", "--on-demand", "--listen-stdin", "--data-dir"])
        .arg(absolute(&paths.data)?)
        .arg("--run-dir")
        .arg(absolute(&paths.run)?)
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("the daemon cannot be started")
}

fn tail(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.reverse();
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]
    use super::*;

    #[test]
    fn one_daemon_has_the_socket_and_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { data: dir.path().join("data"), run: dir.path().join("run") };
        let first = bind(&paths).unwrap().unwrap();
        assert_eq!(fs::metadata(paths.socket()).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(bind(&paths).unwrap().is_none(), "a living daemon's socket was taken");
        drop(first);
        assert!(paths.socket().exists() && bind(&paths).unwrap().is_some(), "a stale socket stayed");
        let left: Vec<_> =
            fs::read_dir(&paths.run).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn a_daemon_that_does_not_come_is_spoken_of_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { data: dir.path().to_owned(), run: dir.path().to_owned() };
        fs::write(paths.log(), "first\nsecond\n3\n4\n5\nhull: no program\n").unwrap();
        let mut child = Command::new("false").spawn().unwrap();
        child.wait().unwrap();
        let text = complaint(&paths, &anyhow!("reset"), Some(child)).to_string();
        assert!(text.contains("ended at once") && text.ends_with("5\nhull: no program"), "{text}");
        assert!(!text.contains("first"), "{text}");
        let text = complaint(&paths, &anyhow!("reset"), None).to_string();
        assert_eq!(text, "the daemon does not answer (reset)");
    }
}
