//! Token buckets: how much may pass in a time, with bursts after silence.
//!
//! A part of each direction of a card, and of a disk, on the I/O thread; pure over a clock that is passed in. Invariant: whatever is
//! asked when, no more than `per_second * t + burst` tokens are given in any time `t`, and over a long one no
//! fewer than `per_second * t`: levels are kept exact, in billionths of a token.

use std::time::Duration;

/// So many tokens a second, and so many at once after silence. Both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second.
    pub per_second: u64,
    /// The bucket's size.
    pub burst: u64,
}

/// Limits of a disk or of one direction of a card; what is missing limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes: of frames, from the Ethernet header on, or of a disk's requests.
    pub bytes: Option<Rate>,
    /// Frames as on a wire, one that has yet to be cut counting for what it is cut into; or a disk's requests.
    pub units: Option<Rate>,
}

const NANOS: i128 = 1_000_000_000;

/// One bucket, full at first.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// Billionths of a token; below zero when more was taken than could be known beforehand.
    level: i128,
    filled: Duration,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        let rate = Rate { per_second: rate.per_second.max(1), burst: rate.burst.max(1) };
        Self { rate, level: i128::from(rate.burst).saturating_mul(NANOS), filled: Duration::ZERO }
    }

    /// How long it takes until `tokens` are there; none if they are. More than the bucket holds are there when it is
    /// full.
    fn wait(&mut self, now: Duration, tokens: u64) -> Option<Duration> {
        let per_second = i128::from(self.rate.per_second);
        let full = i128::from(self.rate.burst).saturating_mul(NANOS);
        let elapsed = i128::try_from(now.saturating_sub(self.filled).as_nanos()).unwrap_or(i128::MAX);
        self.level = self.level.saturating_add(elapsed.saturating_mul(per_second)).min(full);
        self.filled = self.filled.max(now);
        let missing = i128::from(tokens).saturating_mul(NANOS).min(full).saturating_sub(self.level);
        if missing <= 0 {
            return None;
        }
        let nanos = missing.saturating_add(per_second.saturating_sub(1)).checked_div(per_second)?;
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn take(&mut self, tokens: u64) {
        self.level = self.level.saturating_sub(i128::from(tokens).saturating_mul(NANOS));
    }
}

/// The buckets of one direction.
#[derive(Debug)]
pub struct Limiter {
    bytes: Option<Bucket>,
    units: Option<Bucket>,
}

impl Limiter {
    /// Full buckets.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self { bytes: limits.bytes.map(Bucket::new), units: limits.units.map(Bucket::new) }
    }

    /// How long so many bytes and units have to wait; none if they may pass.
    pub fn wait(&mut self, now: Duration, bytes: u64, units: u64) -> Option<Duration> {
        let bytes = self.bytes.as_mut().and_then(|bucket| bucket.wait(now, bytes));
        let units = self.units.as_mut().and_then(|bucket| bucket.wait(now, units));
        bytes.max(units)
    }

    /// They have passed.
    pub fn take(&mut self, bytes: u64, units: u64) {
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes);
        }
        if let Some(bucket) = &mut self.units {
            bucket.take(units);
        }
    }
}

#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bytes(per_second: u64, burst: u64) -> Limiter {
        Limiter::new(&Limits { bytes: Some(Rate { per_second, burst }), units: None })
    }

    /// Passes frames of a size as soon as they may, until a time; bytes passed.
    fn flood(limiter: &mut Limiter, from: Duration, until: Duration, size: u64) -> u64 {
        let (mut now, mut passed) = (from, 0);
        loop {
            match limiter.wait(now, size, 1) {
                None => {
                    limiter.take(size, 1);
                    passed += size;
                }
                Some(wait) => now += wait,
            }
            if now > until {
                return passed;
            }
        }
    }

    #[test]
    fn a_burst_then_the_rate_then_a_burst_again() {
        let mut limiter = bytes(1_000_000, 50_000);
        assert_eq!(flood(&mut limiter, Duration::ZERO, Duration::ZERO, 1000), 50_000);
        assert_eq!(flood(&mut limiter, Duration::ZERO, SECOND, 1000), 1_000_000);
        // Silence fills the bucket and no more.
        assert_eq!(flood(&mut limiter, SECOND * 100, SECOND * 100, 1000), 50_000);
    }

    #[test]
    fn a_frame_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_off() {
        let mut limiter = bytes(1000, 100);
        assert_eq!(limiter.wait(Duration::ZERO, 1500, 1), None);
        limiter.take(1500, 1);
        assert_eq!(limiter.wait(Duration::ZERO, 1, 1), Some(Duration::from_millis(1401)));
        assert_eq!(flood(&mut limiter, Duration::ZERO, SECOND * 150, 1500), 150_000);
    }

    #[test]
    fn the_stricter_of_both_counts() {
        let rate = |per_second| Some(Rate { per_second, burst: 10 });
        let mut limiter = Limiter::new(&Limits { bytes: rate(1_000_000), units: rate(10) });
        (0..10).for_each(|_| limiter.take(1, 1));
        assert_eq!(limiter.wait(Duration::ZERO, 1, 1), Some(Duration::from_millis(100)));
        assert_eq!(limiter.wait(SECOND, 1, 10), None);
    }

    #[test]
    fn nothing_set_limits_nothing_and_extremes_do_not_overflow() {
        let mut free = Limiter::new(&Limits::default());
        free.take(u64::MAX, u64::MAX);
        assert_eq!(free.wait(Duration::ZERO, u64::MAX, u64::MAX), None);
        let mut wide = bytes(u64::MAX, u64::MAX);
        (0..100).for_each(|_| wide.take(u64::MAX, 1));
        assert!(wide.wait(Duration::ZERO, u64::MAX, 1).is_some());
        assert_eq!(wide.wait(Duration::MAX, u64::MAX, 1), None);
        let mut narrow = bytes(0, 0);
        narrow.take(u64::MAX, 1);
        assert!(narrow.wait(SECOND, 1, 1).is_some());
    }

    proptest! {
        #[test]
        fn never_more_than_rate_and_burst_and_in_the_long_run_no_less(
            per_second in 1..2_000_000_000_u64,
            burst in 1..10_000_000_u64,
            steps in prop::collection::vec((1..70_000_u64, 0..3_000_000_u64), 1..400),
        ) {
            let mut limiter = bytes(per_second, burst);
            let (mut now, mut passed) = (Duration::ZERO, 0_u128);
            for (size, pause) in steps {
                let size = size.min(burst);
                now += Duration::from_nanos(pause);
                // Whoever waits as long as told may pass.
                if let Some(wait) = limiter.wait(now, size, 1) {
                    prop_assert!(limiter.wait(now + wait - Duration::from_nanos(1), size, 1).is_some());
                    now += wait;
                    prop_assert_eq!(limiter.wait(now, size, 1), None);
                }
                limiter.take(size, 1);
                passed += u128::from(size);
                let most = u128::from(per_second) * now.as_nanos() + u128::from(burst) * 1_000_000_000;
                prop_assert!(passed * 1_000_000_000 <= most, "{passed} after {now:?}");
            }
            // From now on, somebody who always wants more gets the rate, to the byte.
            let (start, size) = (now, burst.min(1500));
            let mut then = 0_u128;
            for _ in 0..200 {
                now += limiter.wait(now, size, 1).unwrap_or_default();
                limiter.take(size, 1);
                then += u128::from(size);
            }
            let least = u128::from(per_second) * (now - start).as_nanos();
            prop_assert!((then + u128::from(size)) * 1_000_000_000 >= least);
        }
    }
}
