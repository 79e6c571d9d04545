//! Every order in which the steps of two threads on one status register can be seen, by a model of memory.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

mod sync {
    pub use loom::sync::atomic;
}
#[path = "../src/needs_reset.rs"]
#[allow(dead_code, reason = "the model needs a part of it")]
mod needs_reset;

use std::sync::Arc;

use needs_reset::{NeedsReset, STATUS_NEEDS_RESET};
use sync::atomic::{AtomicU32, Ordering};

/// A driver writes its status twice while the device gives up.
#[test]
fn a_device_that_gave_up_says_so_whatever_the_driver_writes() {
    loom::model(|| {
        let (flag, register) = (NeedsReset::default(), Arc::new(AtomicU32::new(0)));
        let device = {
            let (flag, register) = (flag.clone(), register.clone());
            loom::thread::spawn(move || flag.set_in(&register))
        };
        flag.show_in(&register, flag.with(7));
        flag.show_in(&register, flag.with(15));
        device.join().unwrap();
        let shown = u32::from_le(register.load(Ordering::SeqCst));
        assert_eq!(shown, u32::from(15 | STATUS_NEEDS_RESET));
    });
}
