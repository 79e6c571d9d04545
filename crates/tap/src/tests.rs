#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::thread;

use rustix::thread::UnshareFlags;

use super::*;

/// Runs in a network namespace of the test's own; without the right to one there is nothing to test.
fn alone(test: impl FnOnce() + Send + 'static) {
    thread::spawn(move || {
        // SAFETY: NEWNET touches neither memory nor descriptors of this process.
        let apart = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
        assert!(apart.is_ok(), "run the tests as root: {apart:?}");
        test();
    })
    .join()
    .unwrap();
}

#[test]
fn bad_names_never_reach_the_driver() {
    for name in ["", "tap%d", "a/b", "a:1", "a b", ".", "..", "abcdefghijklmnop", "tap\n", "täp"] {
        assert!(matches!(open(name, false), Err(TapError::Name(_))), "{name}");
    }
}

#[test]
fn a_tap_is_made_opened_once_and_goes() {
    alone(|| {
        assert!(matches!(attach("hull0", false), Err(TapError::Missing(_))));
        let tap = open("hull0", false).unwrap();
        assert_eq!(verify(tap.as_fd()).unwrap(), "hull0");
        assert!(matches!(attach("hull0", false), Err(TapError::Busy(_))));
        assert!(matches!(attach("lo", false), Err(TapError::Kind(_))));
        drop(tap);
        assert!(matches!(attach("hull0", false), Err(TapError::Missing(_))));
    });
}

#[test]
fn a_persistent_tap_stays_until_it_is_given_up() {
    alone(|| {
        set_persistent(open("hull0", false).unwrap().as_fd(), true).unwrap();
        set_persistent(attach("hull0", false).unwrap().as_fd(), false).unwrap();
        assert!(matches!(attach("hull0", false), Err(TapError::Missing(_))));
    });
}

#[test]
fn a_tap_of_several_queues_is_opened_several_times() {
    alone(|| {
        let taps = [open("hull0", true).unwrap(), attach("hull0", true).unwrap()];
        assert!(taps.iter().all(|tap| verify(tap.as_fd()).unwrap() == "hull0"));
    });
}

#[test]
fn what_is_no_tap_of_ours_is_found_out() {
    alone(|| {
        let file = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap();
        assert!(matches!(verify(file.as_fd()), Err(TapError::NotATap)));
        let unattached = rustix::fs::open(DRIVER, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap();
        assert!(matches!(verify(unattached.as_fd()), Err(TapError::NotATap)));
        let plain = open_with("hull1", libc::IFF_TAP | libc::IFF_NO_PI).unwrap();
        assert!(matches!(verify(plain.as_fd()), Err(TapError::NotATap)));
    });
}

#[test]
fn offloads_are_taken_or_refused() {
    alone(|| {
        let tap = open("hull0", false).unwrap();
        let tcp = Offload::CHECKSUM.and(Offload::TSO4).and(Offload::TSO6).and(Offload::ECN);
        set_offload(tap.as_fd(), tcp).unwrap();
        set_offload(tap.as_fd(), Offload::NONE).unwrap();
        assert!(set_offload(tap.as_fd(), Offload(0x8000_0000)).is_err());
    });
}
