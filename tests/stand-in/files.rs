//! The stand-in's files and processes: whatever is asked for is there, and nothing is in it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use hull_protocol::agent::{AgentError, AgentErrorKind};
use hull_protocol::exec::ContainerProcess;
use hull_protocol::transfer::{Answer, FileKind, FileStat, Query, chunk_length, chunk_prefix};

use super::{read, write};

/// A tar archive without an entry.
const EMPTY: [u8; 1024] = [0; 1024];

/// Answers one question.
pub fn answer(mut connection: UnixStream) -> Option<()> {
    let query: Query = read(&mut connection)?;
    match &query {
        Query::Processes => say(&mut connection, Ok(Answer::Processes(vec![process()]))),
        Query::Stat { path, .. } => say(&mut connection, stat(path)),
        Query::Pack { path, .. } => {
            let found = stat(path);
            let there = found.is_ok();
            say(&mut connection, found)?;
            if there {
                connection.write_all(&chunk_prefix(EMPTY.len())?).ok()?;
                connection.write_all(&EMPTY).ok()?;
                connection.write_all(&chunk_prefix(0)?).ok()?;
                done(&mut connection)?;
            }
            Some(())
        }
        Query::Unpack { .. } => {
            say(&mut connection, Ok(Answer::Ready))?;
            let mut prefix = [0; 4];
            loop {
                connection.read_exact(&mut prefix).ok()?;
                match chunk_length(prefix)? {
                    0 => break,
                    length => connection.read_exact(&mut vec![0; length]).ok()?,
                }
            }
            done(&mut connection)
        }
    }
}

fn say(connection: &mut UnixStream, answer: Result<Answer, AgentError>) -> Option<()> {
    write(connection, &answer)
}

fn done(connection: &mut UnixStream) -> Option<()> {
    write(connection, &Ok::<(), AgentError>(()))
}

fn stat(path: &str) -> Result<Answer, AgentError> {
    if path.contains("missing") {
        return Err(AgentError { kind: AgentErrorKind::NotFound, message: format!("{path} is not there") });
    }
    let (kind, mode, size, mtime) = (FileKind::Directory, 0o755, 4096, 0);
    Ok(Answer::Stat(FileStat { path: path.into(), kind, mode, size, mtime, link_target: None }))
}

fn process() -> ContainerProcess {
    let (user, command) = ("root".into(), "stand-in".into());
    ContainerProcess { pid: 1, ppid: 0, user, cpu_ms: 0, started_ms: 0, resident: 4096, command }
}
