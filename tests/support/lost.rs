//! Guests that the emulated host loses: now and then one hangs or meets a fault that no processor raises, on an idle host
//! and under other monitors too. There, and only there, a lost guest is booted again, and it is said.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many guests one test program may lose: more is no accident.
const LOST_MAX: u32 = 3;

static LOST: AtomicU32 = AtomicU32::new(0);

/// Whether a guest that was lost may be booted again.
pub fn forgive(how: &str) -> bool {
    let emulated = std::env::var("HULL_LAB").is_ok_and(|lab| lab == "emulated");
    if !emulated || LOST.fetch_add(1, Ordering::Relaxed) >= LOST_MAX {
        return false;
    }
    // Past the test harness, which shows what a test prints only when it fails.
    let line = format!("LOST by the emulated host and booted again: {}\n", how.trim());
    std::io::stderr().write_all(line.as_bytes()).is_ok()
}
