//! A VMM that has been taken over: enters the jail as `hull-vmm` does, then tries what its argument says.
//!
//! `attempt WALL NAME [WHERE]`: the wall is `none`, `process` (what the whole process is in) or the role of a thread, which
//! adds the list of its system calls. Prints `done`, or the number of the error that refused it. `tests/walls.rs`
//! runs it. `attempt measure` says instead how long it took to put the walls up; `cargo xtask bench jail` runs that.
#![allow(unsafe_code, reason = "system calls as an attacker makes them: by number, with any argument")]

use std::ffi::CString;
use std::io::{self, Write};
use std::time::Instant;

use hull_jail::seccomp::{self, Role};
use hull_jail::vmm::VmmJail;
use libc::{c_long, c_void};

/// The first of the users that nobody has.
const FIRST_USER: u32 = 0x7000_0000;
/// How many threads or processes the jail leaves.
const THREADS: u32 = 12;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == ["measure"] {
        return measure();
    }
    let [wall, name, rest @ ..] = args.as_slice() else { panic!("attempt WALL NAME [WHERE]") };
    let target = rest.first().map_or("", String::as_str);
    if wall != "none" {
        enter();
    }
    if let Some((_, role)) = Role::NAMES.into_iter().find(|(known, _)| known == wall) {
        seccomp::confine(role).expect("the wall");
    }
    let line = match attempt(name, target) {
        Ok(()) => "done\n".to_owned(),
        Err(error) => format!("{}\n", error.raw_os_error().unwrap_or(-1)),
    };
    let _read_by_the_test = io::stdout().write_all(line.as_bytes());
}

fn enter() {
    let jail =
        VmmJail { first_user: Some(FIRST_USER), last_descriptor: 2, descriptors: 16, threads: THREADS };
    for missing in jail.enter().expect("the jail") {
        eprintln!("{missing}");
    }
}

/// Puts up every wall of a VMM with one processor; a line for each: its name, and how many microseconds that took.
fn measure() {
    let start = Instant::now();
    enter();
    println!("process {}", start.elapsed().as_micros());
    for (name, role) in Role::NAMES {
        // On a thread of its own, as in a VMM: who is behind a wall starts no more threads.
        let took = std::thread::spawn(move || {
            let start = Instant::now();
            seccomp::confine(role).expect("the wall");
            start.elapsed()
        });
        println!("{name} {}", took.join().expect("a thread").as_micros());
    }
}

/// What a call came to.
fn called(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn text(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}

/// One system call with these arguments.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: every pointer among the arguments is to memory that lives until after the call and is as long as
        // the kernel expects; what the call may do to this process is the point of this program.
        called(unsafe { libc::syscall($number $(, $argument)*) })
    };
}

fn attempt(name: &str, target: &str) -> io::Result<()> {
    let here = libc::AT_FDCWD;
    match name {
        "list-root" => list("/"),
        "open" => call!(libc::SYS_openat, here, text(target).as_ptr(), libc::O_RDONLY),
        "open-proc" => call!(libc::SYS_openat, here, text("/proc/self/mem").as_ptr(), libc::O_RDWR),
        "create" => {
            call!(libc::SYS_openat, here, text("/tmp").as_ptr(), libc::O_TMPFILE | libc::O_WRONLY, 0o600)
                .or_else(|_| call!(libc::SYS_openat, here, text("/x").as_ptr(), libc::O_CREAT, 0o600))
        }
        "write-own-binary" => call!(libc::SYS_openat, here, text(target).as_ptr(), libc::O_WRONLY),
        "mkdir" => call!(libc::SYS_mkdirat, here, text("/made").as_ptr(), 0o700),
        "device" => call!(libc::SYS_mknodat, here, text("/disk").as_ptr(), libc::S_IFBLK | 0o600, 0x800),
        "exec" => execute(target),
        "chroot" => call!(libc::SYS_chroot, text("/").as_ptr()),
        "mount" => call!(
            libc::SYS_mount,
            text("x").as_ptr(),
            text("/").as_ptr(),
            text("tmpfs").as_ptr(),
            0,
            std::ptr::null::<c_void>()
        ),
        "inherited" => {
            call!(libc::SYS_read, target.parse::<c_long>().expect("a number"), [0_u8; 1].as_mut_ptr(), 1)
        }
        "file-handle" => call!(libc::SYS_open_by_handle_at, here, [8_u32, 1, 2, 0].as_ptr(), libc::O_RDONLY),
        _ => return network(name, target),
    }
    .map(drop)
}

/// Lists a directory; an empty one counts as none.
fn list(directory: &str) -> io::Result<c_long> {
    let mut entries = [0_u8; 4096];
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let open = call!(libc::SYS_openat, libc::AT_FDCWD, text(directory).as_ptr(), flags)?;
    match call!(libc::SYS_getdents64, open, entries.as_mut_ptr(), entries.len())? {
        // The directory itself and its parent, at 24 bytes each.
        ..=48 => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        length => Ok(length),
    }
}

fn execute(path: &str) -> io::Result<c_long> {
    let (path, end) = (text(path), std::ptr::null::<libc::c_char>());
    let list = [path.as_ptr(), end];
    call!(libc::SYS_execve, path.as_ptr(), list.as_ptr(), list[1..].as_ptr())
}

/// Reaching others by a socket.
fn network(name: &str, target: &str) -> io::Result<()> {
    let mut address = [0_u8; 110];
    let (family, length) = match name {
        "connect-unix" | "connect-abstract" => {
            let start = if name == "connect-unix" { 2 } else { 3 };
            address[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
            address[start..start + target.len()].copy_from_slice(target.as_bytes());
            (libc::AF_UNIX, start + target.len())
        }
        "connect-tcp" => {
            let port: u16 = target.parse().expect("a port");
            address[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            address[2..4].copy_from_slice(&port.to_be_bytes());
            address[4..8].copy_from_slice(&[127, 0, 0, 1]);
            (libc::AF_INET, 16)
        }
        "vsock" => (libc::AF_VSOCK, 0),
        _ => return process(name, target),
    };
    let socket = call!(libc::SYS_socket, family, libc::SOCK_STREAM, 0)?;
    if length == 0 {
        // The host, as every guest may ask it.
        address[..2].copy_from_slice(&(libc::AF_VSOCK as u16).to_ne_bytes());
        address[4..8].copy_from_slice(&1_u32.to_ne_bytes());
        address[8..12].copy_from_slice(&2_u32.to_ne_bytes());
    }
    call!(libc::SYS_connect, socket, address.as_ptr(), if length == 0 { 16 } else { length }).map(drop)
}

/// Reaching other processes, and the kernel's way of making more.
fn process(name: &str, target: &str) -> io::Result<()> {
    let victim: c_long = target.parse().unwrap_or(1);
    let mut byte = 0_u8;
    let own = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    match name {
        "signal" => call!(libc::SYS_kill, victim, 0),
        "signal-thread" => call!(libc::SYS_tgkill, victim, victim, 0),
        "ptrace" => call!(libc::SYS_ptrace, libc::PTRACE_ATTACH, victim, 0, 0),
        "read-memory" => call!(libc::SYS_process_vm_readv, victim, &raw const own, 1, &raw const own, 1, 0),
        "pidfd" => {
            let process = call!(libc::SYS_pidfd_open, victim, 0)?;
            call!(libc::SYS_pidfd_getfd, process, 0, 0)
        }
        "priority" => call!(libc::SYS_setpriority, 0, victim, -1),
        "fork-bomb" => return fork_bomb(),
        "fill-memory" => return fill_memory(),
        _ => return kernel(name),
    }
    .map(drop)
}

/// Forks until it is refused, or twice as often as is allowed.
fn fork_bomb() -> io::Result<()> {
    for _ in 0..2 * THREADS {
        if call!(libc::SYS_fork)? == 0 {
            // Stays for a while, so that it counts, and cannot be forgotten.
            // SAFETY: sleeps; the child then ends without returning into what it shares with its parent.
            unsafe {
                libc::sleep(2);
                libc::_exit(0);
            }
        }
    }
    Ok(())
}

/// Takes memory until it is refused, or 256 MiB.
fn fill_memory() -> io::Result<()> {
    let mut held = Vec::new();
    for _ in 0..256 {
        let mut block: Vec<u8> = Vec::new();
        block.try_reserve_exact(1 << 20).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        block.resize(1 << 20, 1);
        held.push(block);
    }
    std::hint::black_box(held);
    Ok(())
}

/// Asking the kernel for more than was given.
fn kernel(name: &str) -> io::Result<()> {
    let (write, exec) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    match name {
        "become-root" => call!(libc::SYS_setresuid, 0, 0, 0),
        "raise-files" => raise(libc::RLIMIT_NOFILE),
        "raise-core" => raise(libc::RLIMIT_CORE),
        "regain-capabilities" => {
            // Version 3; every capability there is.
            let (header, sets) = ([0x2008_0522_u32, 0], [u32::MAX; 6]);
            call!(libc::SYS_capset, header.as_ptr(), sets.as_ptr())
        }
        "dumpable" => call!(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0),
        "bpf" => load_bpf(),
        "module" => call!(libc::SYS_init_module, [0_u8; 4].as_ptr(), 4, text("").as_ptr()),
        "reboot" => call!(libc::SYS_reboot, 0xfee1_deadu32, 672_274_793, 0, 0),
        "host-name" => call!(libc::SYS_sethostname, text("x").as_ptr(), 1),
        "clock" => call!(libc::SYS_settimeofday, [1_u64, 0].as_ptr(), 0),
        "namespace" => call!(libc::SYS_unshare, libc::CLONE_NEWUSER),
        "io-uring" => call!(libc::SYS_io_uring_setup, 1, [0_u8; 120].as_ptr()),
        "userfaultfd" => call!(libc::SYS_userfaultfd, 0),
        "memfd" => call!(libc::SYS_memfd_create, text("x").as_ptr(), 0),
        "kvm-request" => call!(libc::SYS_ioctl, 0, 0xae01, 0),
        "take-tap" => call!(libc::SYS_ioctl, 0, libc::TUNSETIFF, [0_u8; 40].as_ptr()),
        "keep-tap" => call!(libc::SYS_ioctl, 0, libc::TUNSETPERSIST, 1),
        "odd-offload" => call!(libc::SYS_ioctl, 0, libc::TUNSETOFFLOAD, libc::TUN_F_UFO),
        "terminal-input" => call!(libc::SYS_ioctl, 0, libc::TIOCSTI, text("x").as_ptr()),
        "executable-memory" => call!(libc::SYS_mmap, 0, 4096, exec, anonymous, -1, 0),
        "make-executable" => {
            let at = call!(libc::SYS_mmap, 0, 4096, write, anonymous, -1, 0)?;
            call!(libc::SYS_mprotect, at, 4096, exec)
        }
        "x32-call" => call!(libc::SYS_getppid | 0x4000_0000),
        "compat-call" => return compat_call(),
        "map-file" => call!(libc::SYS_mmap, 0, 4096, libc::PROT_READ, libc::MAP_PRIVATE, 0, 0),
        other => panic!("no attempt is called {other}"),
    }
    .map(drop)
}

/// The 32-bit kernel's `getpid`, whose number is `writev` among the 64-bit calls.
fn compat_call() -> io::Result<()> {
    let mut result = 20_i64;
    // SAFETY: the call takes no argument and changes nothing; the 32-bit entry may clear the registers listed.
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    called(result).map(drop)
}

fn raise(limit: libc::__rlimit_resource_t) -> io::Result<c_long> {
    let mut now = [0_u64; 2];
    call!(libc::SYS_prlimit64, 0, limit, 0, now.as_mut_ptr())?;
    let more = [now[1].saturating_add(1); 2];
    call!(libc::SYS_prlimit64, 0, limit, more.as_ptr(), 0)
}

/// Loads a program that a probe of the kernel would run: it returns 0.
fn load_bpf() -> io::Result<c_long> {
    let (program, license) = ([0xb7_u64, 0x95], text("GPL"));
    let mut attributes = [0_u64; 6];
    attributes[0] = 2 << 32 | 2; // two instructions, BPF_PROG_TYPE_KPROBE in the low half
    attributes[1] = program.as_ptr() as u64;
    attributes[2] = license.as_ptr() as u64;
    call!(libc::SYS_bpf, 5, attributes.as_ptr(), 48)
}
