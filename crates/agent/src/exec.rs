//! The last step of the stage: environment, the file that the program's name stands for, `execve`.
//!
//! Runs as the container's user inside its root. Invariant: failures have the kinds and words Docker's have.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use hull_jail::execute;
use hull_protocol::agent::{AgentError, AgentErrorKind, ProcessSpec};
use rustix::fs::{Access, FileType, access, stat};
use rustix::io::Errno;

use crate::user::User;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment: of entries with the same name the last, and what Docker adds where it is missing.
fn environment(process: &ProcessSpec, user: &User, hostname: &str) -> Vec<String> {
    let usual = [("PATH", DEFAULT_PATH), ("HOME", &user.home), ("HOSTNAME", hostname)];
    let terminal = process.terminal.map(|_| ("TERM", "xterm"));
    let mut all: BTreeMap<&str, &str> = usual.into_iter().chain(terminal).collect();
    all.extend(process.env.iter().filter_map(|entry| entry.split_once('=')));
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Executes the process's program; comes back only to say why not.
pub(crate) fn execute(process: &ProcessSpec, user: &User, hostname: &str) -> AgentError {
    let env = environment(process, user, hostname);
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let Some(program) = process.args.first() else {
        return AgentError { kind: AgentErrorKind::Invalid, message: "there is no command".into() };
    };
    let file = match look_up(program, path) {
        Ok(file) => file,
        Err(error) => return error,
    };
    let error = execute::replace(&file, &process.args, &env);
    let (kind, why) = match error.kind() {
        io::ErrorKind::NotFound => (AgentErrorKind::NotFound, "no such file or directory".to_owned()),
        io::ErrorKind::InvalidInput => (AgentErrorKind::Invalid, error.to_string()),
        io::ErrorKind::PermissionDenied => (AgentErrorKind::NotExecutable, "permission denied".to_owned()),
        _ if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
            (AgentErrorKind::NotExecutable, "exec format error".to_owned())
        }
        _ => (AgentErrorKind::NotExecutable, error.to_string()),
    };
    AgentError { kind, message: format!("exec: \"{program}\": {why}") }
}

/// The file that a program's name stands for.
fn look_up(program: &str, path: &str) -> Result<PathBuf, AgentError> {
    let problem = |kind, why: &str| AgentError { kind, message: format!("exec: \"{program}\": {why}") };
    let judge = |file: &Path| match stat(file) {
        Err(Errno::ACCESS) => Err(problem(AgentErrorKind::NotExecutable, "permission denied")),
        Err(_) => Err(problem(AgentErrorKind::NotFound, "no such file or directory")),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(problem(AgentErrorKind::NotExecutable, "is a directory"))
        }
        Ok(_) if access(file, Access::EXEC_OK).is_err() => {
            Err(problem(AgentErrorKind::NotExecutable, "permission denied"))
        }
        Ok(_) => Ok(file.to_owned()),
    };
    if program.contains('/') {
        return judge(Path::new(program));
    }
    // As Docker has it, one in a directory of PATH that cannot be executed counts as none.
    path.split(':')
        .filter(|directory| !directory.is_empty() && !program.is_empty())
        .find_map(|directory| judge(&Path::new(directory).join(program)).ok())
        .ok_or_else(|| problem(AgentErrorKind::NotFound, "executable file not found in $PATH"))
}
