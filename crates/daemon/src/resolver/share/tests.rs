#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "a panic is a failed test")]

use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn limits() -> Limits {
    Limits {
        queries: 100,
        client_queries: 3,
        client_rate: 10,
        connections: 3,
        client_connections: 2,
        clients: 4,
    }
}

fn client(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

#[test]
fn a_place_is_given_back() {
    let (shares, now) = (Shares::new(limits()), Instant::now());
    let take = |kind| shares.take(client(1), kind, now);
    let mut held: Vec<_> = (0..3).map(|_| take(Kind::Query).unwrap()).collect();
    assert!(take(Kind::Query).is_none(), "three are under way");
    held.pop();
    held.push(take(Kind::Query).unwrap());
    let connections = (take(Kind::Connection).unwrap(), take(Kind::Connection).unwrap());
    assert!(take(Kind::Connection).is_none());
    let other = shares.take(client(2), Kind::Connection, now).unwrap();
    assert!(shares.take(client(3), Kind::Connection, now).is_none(), "the network has three");
    drop((connections, other));
    assert!(shares.take(client(3), Kind::Connection, now).is_some());
}

#[test]
fn clients_without_number_push_nobody_out() {
    let (shares, now) = (Shares::new(limits()), Instant::now());
    let held: Vec<_> = (1..=4).map(|last| shares.take(client(last), Kind::Query, now).unwrap()).collect();
    assert!(shares.take(client(5), Kind::Query, now).is_none());
    drop(held);
    // Their buckets are not full again yet.
    assert!(shares.take(client(5), Kind::Query, now).is_none());
    assert!(shares.take(client(5), Kind::Query, now + Duration::from_secs(1)).is_some());
    assert_eq!(shares.clients().by_address.len(), 1);
}

proptest! {
    #[test]
    fn nobody_gets_more_than_the_rate(steps in prop::collection::vec((0_u64..400_000_000, 1_u8..9), 1..300)) {
        let start = Instant::now();
        let shares = Shares::new(limits());
        let (mut passed, mut served) = (0, 0_u128);
        for (pause, tries) in steps {
            passed += pause;
            for _ in 0..tries {
                let place = shares.take(client(1), Kind::Query, start + Duration::from_nanos(passed));
                served += u128::from(place.is_some());
            }
        }
        prop_assert!(served <= 10 + u128::from(passed) * 10 / 1_000_000_000);
    }
}
