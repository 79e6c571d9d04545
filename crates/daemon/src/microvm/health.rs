//! Health checks: a command in the container every so often, and the verdict that its results come to.
//!
//! A task beside each run whose container has checks; it ends with the run. Invariant: one check at a time; what is
//! kept of them is bounded.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hull_protocol::exec::ExecSpec;
use hull_protocol::health::{Health, HealthResult, HealthStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::exec::Execs;
use super::run::Told;
use crate::clock::rfc3339;
use crate::fleet::new_id;
use crate::plan::{HealthPlan, exec_process};

/// How many results are kept: as Docker's.
const LOG_MAX: usize = 5;

/// What is known before the first check.
pub(super) fn unknown() -> Health {
    Health { status: HealthStatus::Starting, failing_streak: 0, log: Vec::new() }
}

/// Checks from here on, and tells the actor, until what is returned is dropped.
pub(super) fn watch(
    plan: Option<HealthPlan>,
    known: Option<Health>,
    execs: Arc<Execs>,
    paused: watch::Receiver<bool>,
    told: mpsc::Sender<Told>,
) -> JoinSet<()> {
    let mut checks = JoinSet::new();
    if let Some(plan) = plan {
        checks.spawn(check_on(plan, known.unwrap_or_else(unknown), execs, paused, told));
    }
    checks
}

async fn check_on(
    plan: HealthPlan,
    mut health: Health,
    execs: Arc<Execs>,
    mut paused: watch::Receiver<bool>,
    told: mpsc::Sender<Told>,
) {
    let begun = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(plan.interval).await;
        let Some(result) = at_work(&mut paused, || check(&plan, &execs)).await else { return };
        judge(&mut health, &plan, begun.elapsed(), result);
        if told.send(Told::Health(health.clone())).await.is_err() {
            return;
        }
    }
}

/// The result of a check that no pause came into: a guest that stands still is neither healthy nor unhealthy. None: the
/// run is over.
async fn at_work<F: Future<Output = HealthResult>>(
    paused: &mut watch::Receiver<bool>,
    check: impl Fn() -> F,
) -> Option<HealthResult> {
    loop {
        paused.wait_for(|paused| !*paused).await.ok()?;
        let result = check().await;
        if !paused.has_changed().ok()? {
            return Some(result);
        }
    }
}

async fn check(plan: &HealthPlan, execs: &Arc<Execs>) -> HealthResult {
    let started_at = rfc3339(SystemTime::now());
    let spec = ExecSpec { command: plan.command.clone(), ..ExecSpec::default() };
    let outcome = match exec_process(new_id(), &spec, execs.container()) {
        Ok(process) => execs.capture(process, plan.timeout).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let (status, output) = match outcome {
        Ok((status, output)) => (status, String::from_utf8_lossy(&output).into_owned()),
        Err(why) => (-1, why),
    };
    HealthResult { started_at, finished_at: rfc3339(SystemTime::now()), status, output }
}

/// What a result makes of the verdict.
fn judge(health: &mut Health, plan: &HealthPlan, since_start: Duration, result: HealthResult) {
    let excused = health.status == HealthStatus::Starting && since_start < plan.start_period;
    if result.status == 0 {
        health.failing_streak = 0;
        health.status = HealthStatus::Healthy;
    } else if !excused {
        health.failing_streak = health.failing_streak.saturating_add(1);
        if health.failing_streak >= plan.retries {
            health.status = HealthStatus::Unhealthy;
        }
    }
    health.log.push(result);
    let too_many = health.log.len().saturating_sub(LOG_MAX);
    health.log.drain(..too_many);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(status: i32) -> HealthResult {
        HealthResult { started_at: String::new(), finished_at: String::new(), status, output: String::new() }
    }

    #[tokio::test]
    async fn a_check_that_a_pause_came_into_is_made_again() {
        let pause = watch::Sender::new(false);
        let mut paused = pause.subscribe();
        let made = std::cell::Cell::new(0);
        let check = || async {
            made.set(made.get() + 1);
            if made.get() == 1 {
                pause.send_replace(true);
                pause.send_replace(false);
            }
            result(made.get())
        };
        assert_eq!(at_work(&mut paused, check).await.map(|result| result.status), Some(2));
    }

    #[tokio::test]
    async fn nothing_is_checked_while_it_is_paused() {
        let pause = watch::Sender::new(true);
        let mut paused = pause.subscribe();
        tokio::select! {
            biased;
            _ = at_work(&mut paused, || async { result(0) }) => panic!("it was checked"),
            () = std::future::ready(()) => {}
        }
        drop(pause);
        assert!(at_work(&mut paused, || async { result(0) }).await.is_none());
    }

    /// The verdicts, by their first letters, after checks with these statuses, one a second.
    fn verdicts(start_period: u64, retries: u32, statuses: &[i32]) -> String {
        let plan = HealthPlan {
            command: Vec::new(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            start_period: Duration::from_secs(start_period),
            retries,
        };
        let mut health = unknown();
        let verdict = |(second, status): (u64, &i32)| {
            judge(&mut health, &plan, Duration::from_secs(second), result(*status));
            assert!(health.log.len() <= LOG_MAX);
            health.status.name().get(..1).unwrap_or_default().to_owned()
        };
        (1..).zip(statuses).map(verdict).collect()
    }

    #[test]
    fn it_takes_so_many_failures_in_a_row_and_one_success() {
        assert_eq!(verdicts(0, 3, &[0, 1, 1, 0, 1, 1, 1, 1, 0]), "hhhhhhuuh");
        assert_eq!(verdicts(0, 1, &[-1, 0, 2]), "uhu");
        assert_eq!(verdicts(0, 2, &[1, 1]), "su");
    }

    #[test]
    fn failures_do_not_count_while_it_starts_unless_it_has_been_healthy() {
        assert_eq!(verdicts(4, 2, &[1, 1, 1, 1, 1, 1]), "ssssuu");
        assert_eq!(verdicts(9, 2, &[1, 0, 1, 1]), "shhu");
    }
}
