//! The agent's side of [`hull_protocol::transfer`]: files in and out of the container, and its processes.
//!
//! One thread for each connection, at most [`AT_ONCE`]. Invariant: a host that does not read, or breaks off, costs its
//! own connection.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hull_archive::{ArchiveError, Unpack, pack};
use hull_protocol::agent::{AgentError, AgentErrorKind};
use hull_protocol::transfer::{Answer, CHUNK_MAX, Query, chunk_length, chunk_prefix};
use rustix::fs::OFlags;

use crate::files;
use crate::messages::{read_message, write_message};
use crate::process::Process;
use crate::{top, user};

/// The most connections that are served at one time.
pub(crate) const AT_ONCE: usize = 32;
/// How long a new connection may take to say what it is for.
const QUERY_WAIT: Duration = Duration::from_secs(20);
/// The largest query, in bytes.
const QUERY_MAX: usize = 64 << 10;

/// Serves one connection to its end. `container` is the container's own process, if it has been started.
pub(crate) fn serve(
    mut connection: UnixStream,
    container: impl FnOnce() -> Result<std::sync::Arc<Process>, AgentError>,
) -> io::Result<()> {
    connection.set_read_timeout(Some(QUERY_WAIT))?;
    let Some(query) = read_message::<Query>(&mut connection, QUERY_MAX)? else { return Ok(()) };
    connection.set_read_timeout(None)?;
    let root = container().and_then(|process| Ok((files::root(&process.descriptor()?)?, process)));
    let (root, process) = match root {
        Ok(found) => found,
        Err(error) => return refuse(&mut connection, error),
    };
    match query {
        Query::Processes => answer(&mut connection, processes(&root, &process)),
        Query::Stat { path, follow } => {
            let found = files::resolve(&root, &path, follow).and_then(|opened| files::stat(&opened));
            answer(&mut connection, found.map(Answer::Stat))
        }
        Query::Pack { path, follow, name } => {
            let opened = files::archive_name(&path, name)
                .and_then(|name| Ok((files::resolve(&root, &path, follow)?, name)));
            match opened.and_then(|(opened, name)| Ok((files::stat(&opened)?, opened, name))) {
                Ok((stat, opened, name)) => {
                    answer(&mut connection, Ok(Answer::Stat(stat)))?;
                    send(&mut connection, &opened, &name)
                }
                Err(error) => refuse(&mut connection, error),
            }
        }
        Query::Unpack { path, keep_owner } => match files::resolve_directory(&root, &path) {
            Ok(directory) => {
                answer(&mut connection, Ok(Answer::Ready))?;
                receive(connection, &directory, keep_owner)
            }
            Err(error) => refuse(&mut connection, error),
        },
    }
}

fn answer(connection: &mut UnixStream, answer: Result<Answer, AgentError>) -> io::Result<()> {
    write_message(connection, &answer)
}

fn refuse(connection: &mut UnixStream, error: AgentError) -> io::Result<()> {
    answer(connection, Err(error))
}

fn processes(root: &OwnedFd, process: &Process) -> Result<Answer, AgentError> {
    let first = process.pid().ok_or_else(|| AgentError {
        kind: AgentErrorKind::Invalid,
        message: "the container's process does not run".into(),
    })?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    // An image without users has numbers.
    let passwd = files::open_inside(root, "/etc/passwd", flags).map(|file| user::read_hostile(file.into()));
    Ok(Answer::Processes(top::list(first, &passwd.unwrap_or_default())))
}

/// Sends a tree, and whether that was all of it.
fn send(connection: &mut UnixStream, opened: &OwnedFd, name: &str) -> io::Result<()> {
    let mut output = BufWriter::with_capacity(CHUNK_MAX, Chunks(connection));
    let packed = pack(opened, name.as_bytes(), &mut output);
    if let Err(ArchiveError::Stream(error)) = packed {
        // Nothing of what is left in the buffer has anywhere to go.
        let (_, _unsent) = output.into_parts();
        return Err(error);
    }
    let Chunks(connection) = output.into_inner().map_err(io::IntoInnerError::into_error)?;
    connection.write_all(&[0; 4])?;
    write_message(connection, &packed.map_err(|error| files::copy_error(&error)))
}

/// Writes a tree, and says whether that was all of it.
fn receive(mut connection: UnixStream, directory: &OwnedFd, keep_owner: bool) -> io::Result<()> {
    let how = Unpack { keep_owner, devices: true, mode: 0o7777, only: None };
    let mut chunks =
        Unchunked { source: BufReader::with_capacity(CHUNK_MAX, &connection), left: 0, over: false };
    let unpacked = how.run(directory, &mut chunks);
    let over = chunks.over;
    let verdict = unpacked.map(drop).map_err(|error| files::copy_error(&error));
    write_message(&mut connection, &verdict)?;
    if !over {
        // The host hears why before it has to notice that nobody reads.
        io::copy(&mut connection, &mut io::sink())?;
    }
    Ok(())
}

/// Bytes to the host, in chunks.
struct Chunks<'a>(&'a mut UnixStream);

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = bytes.get(..bytes.len().min(CHUNK_MAX)).unwrap_or_default();
        if let Some(prefix) = chunk_prefix(bytes.len()).filter(|_| !bytes.is_empty()) {
            self.0.write_all(&prefix)?;
            self.0.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes from the host, of its chunks.
struct Unchunked<R> {
    source: R,
    /// Of the current chunk.
    left: usize,
    /// The last chunk has been read.
    over: bool,
}

impl<R: Read> Read for Unchunked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.over {
            let mut prefix = [0; 4];
            self.source.read_exact(&mut prefix)?;
            let too_long = || io::Error::other("a chunk is over the limit");
            self.left = chunk_length(prefix).ok_or_else(too_long)?;
            self.over = self.left == 0;
        }
        let most = buffer.len().min(self.left);
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let length = self.source.read(buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self.left.saturating_sub(length);
        Ok(length)
    }
}
