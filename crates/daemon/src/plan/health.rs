//! How a container's health is checked, from what the user and the image say. Pure.

use std::time::Duration;

use hull_protocol::health::{HealthSpec, HealthTest};

use super::PlanError;

/// What counts where neither the user nor the image says: as Docker's.
const INTERVAL_MS: u64 = 30_000;
const TIMEOUT_MS: u64 = 30_000;
const RETRIES: u32 = 3;
/// Checks more often than this would be most of what the guest does.
const INTERVAL_MIN_MS: u64 = 100;
/// The longest of each time: a year.
const TIME_MAX_MS: u64 = 366 * 24 * 60 * 60 * 1000;

/// Health checks, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPlan {
    /// What is run.
    pub command: Vec<String>,
    /// Between the end of one and the next.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// How long after the start failures do not count.
    pub start_period: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

/// Resolves the checks; none where nobody asks for any.
pub(super) fn health(
    user: Option<&HealthSpec>,
    image: Option<&HealthSpec>,
) -> Result<Option<HealthPlan>, PlanError> {
    let nothing = HealthSpec::default();
    let (user, image) = (user.unwrap_or(&nothing), image.unwrap_or(&nothing));
    let command = match user.test.as_ref().or(image.test.as_ref()) {
        None if *user != nothing => {
            return Err(PlanError::Invalid(
                "there is no health check to time: the image has none, so give one with --health-cmd".into(),
            ));
        }
        None | Some(HealthTest::None) => return Ok(None),
        Some(HealthTest::Command(command)) => command.clone(),
        Some(HealthTest::Shell(line)) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
    };
    if command.iter().all(String::is_empty) {
        return Err(PlanError::Invalid("the health check has no command".into()));
    }
    // As Docker has it, nought stands for the default, but for the start period.
    let time = |user: Option<u64>, image: Option<u64>, default: u64| {
        user.or(image).filter(|ms| *ms > 0).unwrap_or(default).min(TIME_MAX_MS)
    };
    let interval = time(user.interval_ms, image.interval_ms, INTERVAL_MS).max(INTERVAL_MIN_MS);
    Ok(Some(HealthPlan {
        command,
        interval: Duration::from_millis(interval),
        timeout: Duration::from_millis(time(user.timeout_ms, image.timeout_ms, TIMEOUT_MS)),
        start_period: Duration::from_millis(time(user.start_period_ms, image.start_period_ms, 0)),
        retries: user.retries.or(image.retries).filter(|retries| *retries > 0).unwrap_or(RETRIES),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn shell(line: &str) -> HealthSpec {
        HealthSpec { test: Some(HealthTest::Shell(line.into())), ..HealthSpec::default() }
    }

    #[test]
    fn the_users_word_is_over_the_images_and_that_over_the_default() {
        assert_eq!(health(None, None), Ok(None));
        let image = HealthSpec { retries: Some(5), timeout_ms: Some(7000), ..shell("image") };
        let user = HealthSpec { timeout_ms: Some(9000), interval_ms: Some(1), ..HealthSpec::default() };
        let plan = health(Some(&user), Some(&image)).unwrap().unwrap();
        assert_eq!(plan.command, ["/bin/sh", "-c", "image"]);
        assert_eq!((plan.timeout, plan.retries), (Duration::from_secs(9), 5));
        assert_eq!((plan.interval, plan.start_period), (Duration::from_millis(100), Duration::ZERO));
        let plan = health(None, Some(&image)).unwrap().unwrap();
        assert_eq!((plan.interval, plan.timeout), (Duration::from_secs(30), Duration::from_secs(7)));
    }

    #[test]
    fn a_check_can_be_left_out_and_one_without_a_command_is_refused() {
        let none = HealthSpec { test: Some(HealthTest::None), ..HealthSpec::default() };
        assert_eq!(health(Some(&none), Some(&shell("image"))), Ok(None));
        let empty = HealthSpec { test: Some(HealthTest::Command(Vec::new())), ..HealthSpec::default() };
        assert!(health(Some(&empty), None).is_err());
        let times = HealthSpec { retries: Some(1), ..HealthSpec::default() };
        assert!(health(Some(&times), None).unwrap_err().to_string().contains("--health-cmd"));
    }
}
