//! Every order in which the steps of vCPU threads and of the machine at the gate can be seen, by a model of memory and
//! of locks. What a vCPU does in the guest is a write to a place that the machine reads while the gate is closed: the model finds
//! any order in which both happen at once, and any in which a thread waits for good.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
#![expect(unsafe_code, reason = "the model looks at plain memory, to see that nobody else does")]

mod sync {
    pub use loom::sync::{Condvar, Mutex, MutexGuard, atomic};
}
#[path = "../src/gate.rs"]
mod gate;

use gate::{Gate, Pass};
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Notify};
use loom::thread::{self, JoinHandle};

/// A vCPU: what its guest changes, and what makes it leave the guest.
#[derive(Clone)]
struct Vcpu {
    guest: Arc<UnsafeCell<u32>>,
    kicked: Arc<Notify>,
}

impl Vcpu {
    fn new() -> Self {
        Self { guest: Arc::new(UnsafeCell::new(0)), kicked: Arc::new(Notify::new()) }
    }

    /// Its thread, as in `vcpu.rs`: the guest writes and stays until it is kicked.
    fn run(&self, gate: &Arc<Gate>) -> JoinHandle<()> {
        let (gate, Self { guest, kicked }) = (gate.clone(), self.clone());
        thread::spawn(move || {
            loop {
                if gate.wants_attention() && gate.pass() == Pass::Leave {
                    return;
                }
                // SAFETY: the model checks that nobody looks at the same time.
                guest.with_mut(|place| unsafe { *place += 1 });
                kicked.wait();
            }
        })
    }

    /// The machine looks at the guest: the model finds any order in which that is written at the same time.
    fn look(&self) {
        // SAFETY: as above.
        self.guest.with(|place| unsafe { std::hint::black_box(*place) });
    }
}

fn model(count: usize, act: fn(&Gate, &[Vcpu])) {
    let mut model = loom::model::Builder::new();
    // With more switches of threads than that between two waits there are too many orders to go through.
    model.preemption_bound = Some(if count > 1 { 2 } else { 4 });
    model.check(move || {
        let gate = Arc::new(Gate::new(count));
        let vcpus: Vec<Vcpu> = (0..count).map(|_| Vcpu::new()).collect();
        let threads: Vec<_> = vcpus.iter().map(|vcpu| vcpu.run(&gate)).collect();
        act(&gate, &vcpus);
        gate.end(|| kick(&vcpus));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        // All have left: whatever they wrote is seen.
        vcpus.iter().for_each(Vcpu::look);
    });
}

fn kick(vcpus: &[Vcpu]) {
    vcpus.iter().for_each(|vcpu| vcpu.kicked.notify());
}

/// A pause and what follows it.
fn pause(gate: &Gate, vcpus: &[Vcpu]) {
    gate.close(|| kick(vcpus));
    vcpus.iter().for_each(Vcpu::look);
    gate.open();
}

#[test]
fn nothing_moves_while_the_gate_is_closed() {
    model(1, pause);
    model(2, pause);
}

#[test]
fn a_gate_closes_again_at_once() {
    model(1, |gate, vcpus| {
        pause(gate, vcpus);
        pause(gate, vcpus);
    });
}

#[test]
fn the_end_comes_to_who_is_parked_and_to_who_is_not() {
    model(2, |_, _| {});
    model(2, |gate, vcpus| gate.close(|| kick(vcpus)));
}
