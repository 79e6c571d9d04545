//! Small buckets, every short history: not a sample, all of them.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use super::*;

/// Time that passes before a frame, in sixths of a second.
const PAUSES: [u64; 5] = [0, 1, 2, 3, 6];
const SIZES: [u64; 3] = [1, 2, 4];
const FRAMES: u32 = 4;

const NANO: Duration = Duration::from_nanos(1);

/// One history: frames after pauses, each sent as soon as it may.
fn play(rate: Rate, mut history: usize) {
    let mut limiter = Limiter::new(&Limits { bytes: Some(rate), units: None });
    let mut now = Duration::ZERO;
    // When each frame passed, and its size.
    let mut passed: Vec<(Duration, u64)> = Vec::new();
    for _ in 0..FRAMES {
        let pause = PAUSES[history % PAUSES.len()];
        history /= PAUSES.len();
        let size = SIZES[history % SIZES.len()];
        history /= SIZES.len();
        now += Duration::from_secs(pause) / 6;
        if let Some(wait) = limiter.wait(now, size, 1) {
            assert!(!wait.is_zero());
            assert!(limiter.wait(now + wait - NANO, size, 1).is_some(), "it would have passed sooner");
            now += wait;
            assert_eq!(limiter.wait(now, size, 1), None, "it waited as long as it was told");
        }
        limiter.take(size, 1);
        passed.push((now, size));
    }
    // In any time between two frames: the rate and the burst. The last frame may be larger than the bucket, and is then
    // paid off by those after it.
    for (from, (start, _)) in passed.iter().enumerate() {
        for (end, _) in passed.iter().skip(from) {
            let within: Vec<u64> =
                passed.iter().filter(|(at, _)| at >= start && at <= end).map(|(_, size)| *size).collect();
            let beyond = within.last().map_or(0, |last| last.saturating_sub(rate.burst));
            let earned = u128::from(rate.per_second) * (*end - *start).as_nanos();
            let all = u128::from(within.iter().sum::<u64>() - beyond) * 1_000_000_000;
            assert!(all <= earned + u128::from(rate.burst) * 1_000_000_000, "{rate:?}: {passed:?}");
        }
    }
}

#[test]
fn every_short_history_keeps_the_rate() {
    let histories = (PAUSES.len() * SIZES.len()).pow(FRAMES);
    for per_second in 1..=3 {
        for burst in 1..=4 {
            (0..histories).for_each(|history| play(Rate { per_second, burst }, history));
        }
    }
}
