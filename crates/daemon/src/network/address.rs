//! Which address is free.
//!
//! Pure. Owner: the state, within the transaction that writes the lease. Invariant: what is picked is in the range
//! and not taken; a range is only full when every address of it is taken.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{Ipv4Net, Ipv6Net};

/// The first free address after `last`, once around: one that was given back is given out again as late as possible,
/// because neighbours and connections may still mean its old owner.
pub fn pick(range: &RangeInclusive<u128>, taken: &BTreeSet<u128>, last: u128) -> Option<u128> {
    let (start, end) = (*range.start(), *range.end());
    let after = last.checked_add(1).filter(|after| range.contains(after)).unwrap_or(start);
    first_free(after, end, taken).or_else(|| first_free(start, after, taken))
}

fn first_free(from: u128, to: u128, taken: &BTreeSet<u128>) -> Option<u128> {
    if from > to {
        return None;
    }
    let mut free = from;
    for taken in taken.range(from..=to) {
        if *taken > free {
            break;
        }
        free = taken.checked_add(1)?;
    }
    (free <= to).then_some(free)
}

/// The gateway of a subnet, and what its microVMs can have.
pub fn pool4(subnet: Ipv4Net) -> (Ipv4Addr, RangeInclusive<u128>) {
    let first = subnet.network().to_bits().saturating_add(1);
    let last = subnet.broadcast().to_bits().saturating_sub(1);
    (Ipv4Addr::from_bits(first), u128::from(first.saturating_add(1))..=u128::from(last))
}

/// The same for IPv6. The last 32 bits alone tell the addresses of a network apart: that is what the host's rules
/// compare where a guest says whose neighbour it is.
pub fn pool6(subnet: Ipv6Net) -> (Ipv6Addr, RangeInclusive<u128>) {
    let network = subnet.network().to_bits();
    let last = (network | u128::from(u32::MAX)).min(subnet.broadcast().to_bits()).saturating_sub(1);
    (Ipv6Addr::from_bits(network.saturating_add(1)), network.saturating_add(2)..=last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_subnet_has_a_gateway_and_neither_its_first_nor_its_last_address_is_given_out() {
        let (gateway, pool) = pool4("10.1.2.0/29".parse().unwrap());
        assert_eq!(gateway, Ipv4Addr::new(10, 1, 2, 1));
        let addresses: Vec<String> =
            pool.map(|bits| Ipv4Addr::from_bits(bits.try_into().unwrap()).to_string()).collect();
        assert_eq!(addresses, ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"]);
        let (gateway, pool) = pool6("fd00:1::/64".parse().unwrap());
        assert_eq!(gateway.to_string(), "fd00:1::1");
        assert_eq!(Ipv6Addr::from_bits(*pool.end()).to_string(), "fd00:1::ffff:fffe");
    }

    proptest! {
        #[test]
        fn what_is_picked_is_free_and_the_pool_is_used_up_before_it_is_full(
            start in 0_u128..1000,
            size in 1_u128..40,
            taken in prop::collection::btree_set(0_u128..1100, 0..60),
            last in 0_u128..1100,
        ) {
            let range = start..=start + size - 1;
            let mut taken = taken;
            let free = range.clone().filter(|address| !taken.contains(address)).count();
            let mut last = last;
            for _ in 0..free {
                let picked = pick(&range, &taken, last).unwrap();
                prop_assert!(range.contains(&picked));
                prop_assert!(taken.insert(picked), "{picked} was given twice");
                last = picked;
            }
            prop_assert_eq!(pick(&range, &taken, last), None);
        }

        #[test]
        fn an_address_that_was_given_back_comes_last(size in 2_u128..50, back in 0_u128..50) {
            let (range, back) = (100..=100 + size - 1, 100 + back % size);
            let taken: BTreeSet<u128> = [back].into();
            prop_assert_eq!(pick(&range, &BTreeSet::new(), back) == Some(back), size == 1);
            prop_assert_ne!(pick(&range, &taken, back), Some(back));
        }

        #[test]
        fn the_ends_of_all_numbers_are_no_trap(last in any::<u128>()) {
            let all = BTreeSet::from([u128::MAX, 0]);
            let picked = pick(&(u128::MAX - 1..=u128::MAX), &all, last);
            prop_assert_eq!(picked, Some(u128::MAX - 1));
        }
    }
}
