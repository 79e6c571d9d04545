//! What a VMM that has been taken over reaches: nothing. Each attempt is made behind each wall by itself, so that
//! neither needs the other: in the process's jail it is refused with the error expected, behind the system calls of
//! any thread the process is killed.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use hull_jail::seccomp::Role;
use libc::{
    EACCES, EAGAIN, EBADF, ECONNREFUSED, EINVAL, ENETUNREACH, ENODEV, ENOENT, ENOSYS, ENOTTY, EPERM, EROFS,
    ESRCH,
};

/// A user without rights.
const NOBODY: u32 = 65_534;

/// An attempt, its target, whether it succeeds for root outside of the jail, and the errors that refuse it inside. No
/// error: any user may, and only the list of system calls stands against it.
type Attempt = (&'static str, Target, bool, &'static [i32]);

#[derive(Clone, Copy)]
enum Target {
    None,
    File,
    OwnBinary,
    Socket,
    Abstract,
    Port,
    Process,
}

const ATTEMPTS: &[Attempt] = &[
    ("list-root", Target::None, true, &[EACCES, ENOENT]),
    ("open", Target::File, true, &[ENOENT]),
    ("open-proc", Target::None, true, &[ENOENT]),
    ("create", Target::None, true, &[EACCES, EROFS]),
    ("write-own-binary", Target::OwnBinary, false, &[ENOENT]),
    ("mkdir", Target::None, false, &[EACCES, EROFS]),
    ("device", Target::None, false, &[EACCES, EROFS, EPERM]),
    ("exec", Target::OwnBinary, false, &[ENOENT]),
    ("chroot", Target::None, true, &[EPERM]),
    ("mount", Target::None, false, &[EPERM]),
    ("file-handle", Target::None, false, &[EPERM]),
    ("connect-unix", Target::Socket, true, &[ENOENT]),
    ("connect-abstract", Target::Abstract, true, &[ECONNREFUSED, EPERM]),
    ("connect-tcp", Target::Port, true, &[EACCES, ENETUNREACH]),
    ("vsock", Target::None, false, &[]),
    ("signal", Target::Process, true, &[EPERM]),
    ("signal-thread", Target::Process, true, &[EPERM]),
    ("ptrace", Target::Process, true, &[EPERM]),
    ("read-memory", Target::Process, false, &[EPERM]),
    ("pidfd", Target::Process, true, &[EPERM]),
    ("priority", Target::Process, true, &[EPERM, EACCES]),
    ("become-root", Target::None, true, &[EPERM, EINVAL]),
    ("raise-files", Target::None, false, &[EPERM]),
    ("raise-core", Target::None, false, &[EPERM]),
    ("regain-capabilities", Target::None, false, &[EPERM]),
    ("dumpable", Target::None, true, &[]),
    ("bpf", Target::None, false, &[EPERM, ENOSYS]),
    ("module", Target::None, false, &[EPERM, ENOSYS]),
    ("reboot", Target::None, false, &[EPERM]),
    ("host-name", Target::None, false, &[EPERM]),
    ("clock", Target::None, false, &[EPERM]),
    ("namespace", Target::None, true, &[]),
    ("io-uring", Target::None, false, &[]),
    ("userfaultfd", Target::None, false, &[]),
    ("memfd", Target::None, true, &[]),
    ("kvm-request", Target::None, false, &[EBADF, ENOTTY, EINVAL, ENODEV]),
    ("take-tap", Target::None, false, &[EBADF, ENOTTY, EINVAL, ENODEV]),
    ("keep-tap", Target::None, false, &[EBADF, ENOTTY, EINVAL, ENODEV]),
    ("odd-offload", Target::None, false, &[EBADF, ENOTTY, EINVAL, ENODEV]),
    ("terminal-input", Target::None, false, &[EBADF, ENOTTY, EINVAL, ENODEV]),
    ("executable-memory", Target::None, true, &[]),
    ("make-executable", Target::None, true, &[]),
    ("map-file", Target::None, false, &[]),
    ("x32-call", Target::None, false, &[]),
];

/// What there is to attack.
struct Range {
    dir: tempfile::TempDir,
    program: PathBuf,
    victim: Child,
    port: u16,
    abstract_name: String,
    _listeners: (UnixListener, UnixListener, TcpListener),
}

impl Range {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(dir.path().join("file"), "secret").unwrap();
        // Where every user can reach it. A process of its own writes it: while this one had it open for
        // writing, another test's fork would keep it open too, and what is written to cannot be started.
        let program = dir.path().join("attempt");
        let built = std::env::current_exe().unwrap();
        let built = built.parent().unwrap().with_file_name("examples").join("attempt");
        assert!(Command::new("cp").arg(built).arg(&program).status().unwrap().success());
        let abstract_name = format!("hull-walls-{}-{:p}", std::process::id(), &raw const dir);
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            port: tcp.local_addr().unwrap().port(),
            _listeners: (
                UnixListener::bind(dir.path().join("socket")).unwrap(),
                UnixListener::bind_addr(&address).unwrap(),
                tcp,
            ),
            victim: Command::new("sleep").arg("600").spawn().unwrap(),
            abstract_name,
            program,
            dir,
        }
    }

    fn target(&self, target: Target) -> String {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        match target {
            Target::None => String::new(),
            Target::File => path(&self.dir.path().join("file")),
            Target::OwnBinary => path(&self.program),
            Target::Socket => path(&self.dir.path().join("socket")),
            Target::Abstract => self.abstract_name.clone(),
            Target::Port => self.port.to_string(),
            Target::Process => self.victim.id().to_string(),
        }
    }

    /// Makes an attempt behind a wall.
    fn attempt(&self, wall: &str, name: &str, target: Target, user: Option<u32>) -> Output {
        let mut command = Command::new(&self.program);
        command.args([wall, name, &self.target(target)]).stdin(Stdio::null());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        command.output().unwrap()
    }

    /// Makes every attempt in the process's jail.
    fn all_are_refused(&self, user: Option<u32>) {
        for (name, target, _, errors) in ATTEMPTS.iter().filter(|(_, _, _, errors)| !errors.is_empty()) {
            let output = self.attempt("process", name, *target, user);
            let said = String::from_utf8_lossy(&output.stdout);
            let refused = said.trim().parse().is_ok_and(|error: i32| errors.contains(&error));
            let missing = String::from_utf8_lossy(&output.stderr);
            assert!(refused, "{name}: {said:?}, {}; {missing}", output.status);
        }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        let _ended_already = self.victim.kill().and_then(|()| self.victim.wait());
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn the_attempts_are_good_ones() {
    // Outside of the jail they do what they should: what stops them inside is the jail.
    let range = Range::new();
    for (name, target, works, _) in ATTEMPTS {
        if *works && is_root() {
            let output = range.attempt("none", name, *target, None);
            assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n", "{name}: {}", output.status);
        }
    }
}

#[test]
fn the_jail_of_the_process_refuses_every_attempt() {
    Range::new().all_are_refused(None);
}

#[test]
fn the_jail_of_an_ordinary_user_refuses_them_too() {
    // Who is none can only be himself, which the test above shows.
    Range::new().all_are_refused(is_root().then_some(NOBODY));
}

#[test]
fn the_walls_of_every_thread_kill_for_every_attempt() {
    let range = Range::new();
    for (wall, _) in Role::NAMES {
        for (name, target, _, _) in ATTEMPTS {
            let output = range.attempt(wall, name, *target, None);
            assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{wall}, {name}: {output:?}");
            assert!(!output.status.core_dumped(), "{wall}, {name} left its memory in a file");
        }
        let output = range.attempt(wall, "fork-bomb", Target::None, None);
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{wall}, a fork: {output:?}");
    }
}

#[test]
fn calls_of_32_bit_programs_are_no_way_around() {
    let range = Range::new();
    for (wall, _) in Role::NAMES {
        let output = range.attempt(wall, "compat-call", Target::None, None);
        // A kernel that knows no 32-bit programs stops it by itself.
        let signal = output.status.signal();
        assert!(signal == Some(libc::SIGSYS) || signal == Some(libc::SIGSEGV), "{wall}: {output:?}");
    }
}

#[test]
fn a_descriptor_that_was_left_open_is_closed() {
    let range = Range::new();
    let file = File::open(range.dir.path().join("file")).unwrap();
    // Without the flag that closes it: whoever is started from here on inherits it.
    let leaked = rustix::io::dup(&file).unwrap();
    let number = leaked.as_raw_fd().to_string();
    let said = |wall: &str| {
        let output = Command::new(&range.program).args([wall, "inherited", &number]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(said("none"), "done");
    assert_eq!(said("process"), EBADF.to_string());
}

#[test]
fn a_fork_bomb_is_bounded() {
    // Only who has a user of its own is counted by it.
    if is_root() {
        let range = Range::new();
        let mut child = Command::new(&range.program)
            .args(["process", "fork-bomb"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert_eq!(said.trim(), EAGAIN.to_string());
    }
}

#[test]
fn a_process_that_has_gone_is_not_refused_but_missing() {
    // That a refusal is not mistaken for a target that was never there.
    let mut range = Range::new();
    range.victim.kill().unwrap();
    range.victim.wait().unwrap();
    let output = range.attempt("none", "signal", Target::Process, None);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), ESRCH.to_string());
}
