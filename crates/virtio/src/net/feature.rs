//! The feature bits of a card and what follows from them (virtio 1.2, section 5.1.3).
//!
//! Pure. Invariant: an offload counts only together with those it needs, whatever the driver chose.

use hull_tap::Offload;

/// The driver may leave checksums to the device.
pub(super) const CSUM: u64 = 1 << 0;
/// The driver takes frames without checksum.
pub(super) const GUEST_CSUM: u64 = 1 << 1;
/// The driver may change later what it takes.
pub(super) const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// The device says the largest packet.
pub(super) const MTU: u64 = 1 << 3;
/// The device has an address.
pub(super) const MAC: u64 = 1 << 5;
/// The driver takes large TCP segments over IPv4.
pub(super) const GUEST_TSO4: u64 = 1 << 7;
/// The same over IPv6.
pub(super) const GUEST_TSO6: u64 = 1 << 8;
/// The same with congestion marks.
pub(super) const GUEST_ECN: u64 = 1 << 9;
/// The driver may send large TCP segments over IPv4.
pub(super) const HOST_TSO4: u64 = 1 << 11;
/// The same over IPv6.
pub(super) const HOST_TSO6: u64 = 1 << 12;
/// The same with congestion marks.
pub(super) const HOST_ECN: u64 = 1 << 13;
/// A frame may fill several buffers of the driver.
pub(super) const MRG_RXBUF: u64 = 1 << 15;
/// The device says whether the link is up.
pub(super) const STATUS: u64 = 1 << 16;
/// There is a control queue.
pub(super) const CTRL_VQ: u64 = 1 << 17;
/// The driver says on it what it listens to.
pub(super) const CTRL_RX: u64 = 1 << 18;
/// The driver takes several UDP datagrams over IPv4 as one.
pub(super) const GUEST_USO4: u64 = 1 << 54;
/// The same over IPv6.
pub(super) const GUEST_USO6: u64 = 1 << 55;
/// The driver may send several UDP datagrams as one.
pub(super) const HOST_USO: u64 = 1 << 56;

/// All that a guest can turn on and off by [`CTRL_GUEST_OFFLOADS`].
pub(super) const GUEST_OFFLOADS: u64 =
    GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_USO4 | GUEST_USO6;

/// What a card offers beside what every device does.
pub(super) fn offered(segments_udp: bool) -> u64 {
    let udp = if segments_udp { GUEST_USO4 | GUEST_USO6 | HOST_USO } else { 0 };
    let guest = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | CTRL_GUEST_OFFLOADS;
    let host = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN;
    guest | host | udp | MTU | MAC | MRG_RXBUF | STATUS | CTRL_VQ | CTRL_RX
}

/// What a guest takes.
pub(super) fn guest_offload(features: u64) -> Offload {
    let has = |bits| features & bits == bits;
    if !has(GUEST_CSUM) {
        return Offload::NONE;
    }
    let (tso4, tso6) = (has(GUEST_TSO4), has(GUEST_TSO6));
    Offload::CHECKSUM
        .and(Offload::TSO4.when(tso4))
        .and(Offload::TSO6.when(tso6))
        .and(Offload::ECN.when(has(GUEST_ECN) && (tso4 || tso6)))
        // A tap knows both only.
        .and(Offload::USO.when(has(GUEST_USO4 | GUEST_USO6)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offload_counts_only_with_what_it_needs() {
        assert_eq!(guest_offload(GUEST_TSO4 | GUEST_TSO6 | GUEST_USO4), Offload::NONE);
        assert_eq!(guest_offload(GUEST_CSUM | GUEST_ECN | GUEST_USO4), Offload::CHECKSUM);
        let all = Offload::CHECKSUM.and(Offload::TSO4).and(Offload::TSO6).and(Offload::ECN).and(Offload::USO);
        assert_eq!(guest_offload(u64::MAX), all);
        assert_eq!(offered(true) & GUEST_OFFLOADS, GUEST_OFFLOADS);
        assert_eq!(offered(false) & (GUEST_USO4 | GUEST_USO6 | HOST_USO), 0);
    }
}
