//! A token bucket: so many a second, and twice as many at once.
//!
//! Pure but for the clock, which the caller reads. RFC 6585, section 4, is what its refusals are answered with.

use std::time::{Duration, Instant};

/// One bucket.
#[derive(Debug)]
pub struct Bucket {
    /// How long one takes to come; none: there is no limit.
    each: Option<Duration>,
    /// When all that has been taken will have come.
    paid_until: Option<Instant>,
    burst: Duration,
}

impl Bucket {
    /// A full one of this rate; without one there is no limit.
    pub fn new(per_second: Option<u64>) -> Self {
        let each = per_second.map(|rate| match Duration::from_secs(1).as_nanos() as u64 {
            // None a second: none at all.
            _ if rate == 0 => Duration::MAX,
            second => Duration::from_nanos(second / rate),
        });
        Self { each, paid_until: None, burst: Duration::from_secs(2).max(each.unwrap_or_default()) }
    }

    /// Takes one, or says how long it is until there is one.
    ///
    /// # Errors
    /// When it is empty.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let Some(each) = self.each else { return Ok(()) };
        if each == Duration::MAX {
            return Err(Duration::from_secs(3600));
        }
        let owed = self.paid_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let then = owed + each;
        if then > self.burst {
            return Err(then - self.burst);
        }
        self.paid_until = Some(now + then);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Bucket, now: Instant) -> usize {
        (0..10_000).take_while(|_| bucket.take(now).is_ok()).count()
    }

    #[test]
    fn two_seconds_worth_come_at_once_and_then_so_many_a_second() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Some(10));
        assert_eq!(taken(&mut bucket, now), 20);
        assert_eq!(bucket.take(now), Err(Duration::from_millis(100)));
        assert_eq!(taken(&mut bucket, now + Duration::from_secs(1)), 10);
        assert_eq!(taken(&mut bucket, now + Duration::from_secs(100)), 20);
    }

    #[test]
    fn no_limit_is_none_and_none_a_second_is_nothing() {
        let now = Instant::now();
        assert_eq!(taken(&mut Bucket::new(None), now), 10_000);
        let mut none = Bucket::new(Some(0));
        assert!(none.take(now).is_err() && none.take(now + Duration::from_secs(1_000_000)).is_err());
        let mut one = Bucket::new(Some(1));
        assert_eq!(taken(&mut one, now), 2);
        let _more_than_nanoseconds_can_tell = taken(&mut Bucket::new(Some(u64::MAX)), now);
    }
}
