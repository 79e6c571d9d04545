//! What a card listens to, and the control queue by which its driver says so (virtio 1.2, section 5.1.6.5).
//!
//! A part of the device, on the I/O thread. Invariant: a command is answered whatever it holds, only one that was
//! understood whole changes anything, and what is kept of it is bounded.

use super::feature::GUEST_OFFLOADS;
use crate::chain::{Chain, Reader};
use crate::device::Memory;
use crate::fault::Fault;

const OK: u8 = 0;
const ERROR: u8 = 1;

const CLASS_RX: u8 = 0;
const CLASS_MAC: u8 = 1;
const CLASS_OFFLOADS: u8 = 5;

/// The most groups kept by address; a driver with more gets all of them.
const GROUPS_MAX: u32 = 64;

/// What is received.
#[derive(Debug)]
pub(super) struct Filter {
    /// The card's address, if only frames to it are received.
    own: Option<[u8; 6]>,
    promiscuous: bool,
    all_groups: bool,
    /// None: there are too many to keep, so all are received.
    groups: Option<Vec<[u8; 6]>>,
    /// Further cards' addresses that the driver listens to, in the same way.
    others: Option<Vec<[u8; 6]>>,
}

impl Filter {
    /// Everything is received until the driver says otherwise. With no `own` address, frames to any card always are.
    pub(super) fn new(own: Option<[u8; 6]>) -> Self {
        let none = || Some(Vec::new());
        Self { own, promiscuous: true, all_groups: false, groups: none(), others: none() }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.own);
    }

    /// Whether a frame to this address is received.
    pub(super) fn takes(&self, to: [u8; 6]) -> bool {
        let among = |list: &Option<Vec<_>>| list.as_ref().is_none_or(|list| list.contains(&to));
        let [first, ..] = to;
        if first & 1 == 0 {
            self.promiscuous || self.own.is_none_or(|own| own == to) || among(&self.others)
        } else {
            self.promiscuous || to == [0xff; 6] || self.all_groups || among(&self.groups)
        }
    }
}

/// What a command asks of the device beyond the filter.
pub(super) enum Asked {
    Nothing,
    /// The guest takes these offloads, by their feature bits, from now on.
    Offload(u64),
}

/// Obeys one command: how many bytes were written, and what is left to do.
pub(super) fn obey(
    mem: &Memory,
    chain: &Chain,
    features: u64,
    filter: &mut Filter,
) -> Result<(u32, Asked), Fault> {
    let mut reader = chain.reader(mem);
    let mut command = [0; 2];
    reader.read(&mut command)?;
    let (answer, asked) = match understand(command, reader, features, filter) {
        Some(asked) => (OK, asked),
        None => (ERROR, Asked::Nothing),
    };
    chain.writer(mem).write(&[answer])?;
    Ok((1, asked))
}

fn understand(command: [u8; 2], mut data: Reader<'_>, features: u64, filter: &mut Filter) -> Option<Asked> {
    match command {
        [CLASS_RX, what @ (0 | 1)] => {
            let on = flag(&mut data)?;
            let switch = if what == 0 { &mut filter.promiscuous } else { &mut filter.all_groups };
            *switch = on;
            Some(Asked::Nothing)
        }
        [CLASS_MAC, 0] => {
            let (others, groups) = (addresses(&mut data)?, addresses(&mut data)?);
            (filter.others, filter.groups) = (others, groups);
            Some(Asked::Nothing)
        }
        [CLASS_OFFLOADS, 0] => {
            let mut wanted = [0; 8];
            data.read(&mut wanted).ok()?;
            let wanted = u64::from_le_bytes(wanted);
            // Nothing that was not negotiated can be turned on.
            (wanted & !(features & GUEST_OFFLOADS) == 0).then_some(Asked::Offload(wanted))
        }
        _ => None,
    }
}

fn flag(data: &mut Reader<'_>) -> Option<bool> {
    let mut byte = [0];
    data.read(&mut byte).ok()?;
    match byte {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

/// A list of addresses, or none if it is longer than what is kept. The outer none: there is no list.
fn addresses(data: &mut Reader<'_>) -> Option<Option<Vec<[u8; 6]>>> {
    let mut count = [0; 4];
    data.read(&mut count).ok()?;
    let count = u32::from_le_bytes(count);
    let mut list = data.take(count.checked_mul(6)?).ok()?;
    if count > GROUPS_MAX {
        return Some(None);
    }
    let mut addresses = Vec::new();
    for _ in 0..count {
        let mut address = [0; 6];
        list.read(&mut address).ok()?;
        addresses.push(address);
    }
    Some(Some(addresses))
}
