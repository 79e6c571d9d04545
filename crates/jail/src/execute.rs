//! The last step of an isolated process: nothing inherited by accident, then execve(2).
#![allow(
    unsafe_code,
    reason = "descriptors by number, signal dispositions and execve(2) have no safe interface"
)]

use std::ffi::{CString, NulError};
use std::io;
use std::path::Path;
use std::ptr;

/// The last signal there is.
const SIGNAL_MAX: libc::c_int = 64;

/// Has every descriptor from `first` on closed by the next execve(2), whoever opened it.
///
/// # Errors
/// When the kernel refuses; it is older than Linux 5.11 then.
pub fn keep_descriptors_below(first: u32) -> io::Result<()> {
    // libc's CLOSE_RANGE_CLOEXEC has not the type that close_range takes in every C library.
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: closes nothing now, so no descriptor that is in use goes away.
    let result = unsafe { libc::close_range(first, u32::MAX, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// When the kernel refuses; it is older than Linux 5.9 then.
pub fn close_descriptors_from(first: u32) -> io::Result<()> {
    // SAFETY: called before this process opens anything: nobody owns a descriptor that goes away.
    let result = unsafe { libc::close_range(first, u32::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Signals do what they do by default, and none is blocked.
fn reset_signals() {
    // The kernel's sigaction: handler, flags, restorer and mask, of which zeros are the default. libc's own would
    // leave out the signals it uses itself.
    let default = [0_u64; 4];
    for number in 1..=SIGNAL_MAX {
        // SAFETY: sets no handler; the kernel reads no more than the four words, and writes nothing. KILL and STOP
        // are refused.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                ptr::null_mut::<u64>(),
                size_of::<u64>(),
            );
        }
    }
    let mut none = std::mem::MaybeUninit::uninit();
    // SAFETY: the set is initialised by the first call and only read by the second.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

fn words(words: &[String]) -> Result<Vec<CString>, NulError> {
    words.iter().map(|word| CString::new(word.as_bytes())).collect()
}

fn pointers(words: &[CString]) -> Vec<*const libc::c_char> {
    words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect()
}

/// Becomes the program in `file`, with these arguments (its own name first) and `NAME=value` pairs; comes back only to
/// say why not. Unlike execvp(3) it hands nothing it does not know to a shell.
pub fn replace(file: &Path, args: &[String], env: &[String]) -> io::Error {
    let name = CString::new(file.as_os_str().as_encoded_bytes());
    let (name, args, env) = match (name, words(args), words(env)) {
        (Ok(name), Ok(args), Ok(env)) => (name, args, env),
        _ => {
            return io::Error::new(
                io::ErrorKind::InvalidInput,
                "a zero byte in the command or its environment",
            );
        }
    };
    reset_signals();
    let (args, env) = (pointers(&args), pointers(&env));
    // SAFETY: every pointer is to a string with its zero byte that lives until after the call, and both lists end
    // with a null pointer.
    unsafe { libc::execve(name.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_byte_is_refused_before_anything_happens() {
        let error = replace(Path::new("/bin/true"), &["true\0".into()], &[]);
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
