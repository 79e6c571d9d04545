//! When a microVM is started again. Pure, and tested over every policy.

use std::time::Duration;

use hull_protocol::api::{Microvm, State};
use hull_protocol::life::RestartPolicy;

/// The wait before the first restart in a row; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A run as long as this ends a row.
pub(super) const GOOD_RUN: Duration = Duration::from_secs(10);

/// How a run ended, as far as its restart depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// The process's status.
    pub(super) status: i32,
    /// Whether its process ran at all.
    pub(super) ran: bool,
    /// Whether it was told to stop.
    pub(super) asked: bool,
    /// How often it was restarted since somebody started it.
    pub(super) restarts: u32,
    /// How many restarts in a row had short runs.
    pub(super) row: u32,
}

/// How long to wait before it is started again; none: it stays.
pub(super) fn after_end(policy: RestartPolicy, ended: Ended) -> Option<Duration> {
    // What could not be started once will not be the next time; a restart is tried again.
    if ended.asked || !(ended.ran || ended.restarts > 0) {
        return None;
    }
    let again = match policy {
        RestartPolicy::No => false,
        RestartPolicy::OnFailure(times) => {
            ended.status != 0 && times.is_none_or(|times| ended.restarts < times)
        }
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
    };
    again.then(|| wait(ended.row))
}

/// The wait before the next restart of a row.
pub(super) fn wait(row: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << row.min(16)).min(LONGEST_WAIT)
}

/// Whether a daemon starts it when it starts itself; `stays`: it is none that leaves when idle.
pub(super) fn at_load(policy: RestartPolicy, state: State, asked: bool, stays: bool) -> bool {
    match (policy, state) {
        (_, State::Restarting) => true,
        (RestartPolicy::Always, State::Stopped | State::Failed) => stays,
        (RestartPolicy::UnlessStopped, State::Stopped | State::Failed) => stays && !asked,
        _ => false,
    }
}

/// Whether one that ended while no daemon ran is started again.
pub(super) fn after_loss(record: &Microvm) -> bool {
    let ran = matches!(record.state, State::Running | State::Paused);
    let ended = Ended { status: 125, ran, asked: record.stop_requested, restarts: record.restarts, row: 0 };
    record.state == State::Restarting || after_end(record.spec.restart, ended).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICIES: [RestartPolicy; 5] = [
        RestartPolicy::No,
        RestartPolicy::OnFailure(None),
        RestartPolicy::OnFailure(Some(2)),
        RestartPolicy::Always,
        RestartPolicy::UnlessStopped,
    ];

    fn row(ended: Ended) -> String {
        POLICIES.map(|policy| if after_end(policy, ended).is_some() { 'y' } else { '-' }).iter().collect()
    }

    #[test]
    fn every_policy_is_decided_for_every_end() {
        let ended = Ended { status: 0, ran: true, asked: false, restarts: 0, row: 0 };
        assert_eq!(row(ended), "---yy");
        assert_eq!(row(Ended { status: 3, ..ended }), "-yyyy");
        assert_eq!(row(Ended { status: 3, restarts: 1, ..ended }), "-yyyy");
        assert_eq!(row(Ended { status: 3, restarts: 2, ..ended }), "-y-yy");
        assert_eq!(row(Ended { status: 3, asked: true, ..ended }), "-----");
        assert_eq!(row(Ended { status: 125, ran: false, ..ended }), "-----");
        assert_eq!(row(Ended { status: 125, ran: false, restarts: 1, ..ended }), "-yyyy");
    }

    #[test]
    fn waits_double_up_to_a_minute() {
        let waits: Vec<u128> = [0, 1, 2, 9, 10, 40, u32::MAX].map(|row| wait(row).as_millis()).to_vec();
        assert_eq!(waits, [100, 200, 400, 51_200, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn a_daemon_starts_what_it_should() {
        let all = [State::Created, State::Running, State::Restarting, State::Stopped, State::Failed];
        let row = |policy, asked, stays| {
            let letter = |state| if at_load(policy, state, asked, stays) { 'y' } else { '-' };
            all.into_iter().map(letter).collect::<String>()
        };
        assert_eq!(row(RestartPolicy::No, false, true), "--y--");
        assert_eq!(row(RestartPolicy::OnFailure(None), false, true), "--y--");
        assert_eq!(row(RestartPolicy::Always, true, true), "--yyy");
        assert_eq!(row(RestartPolicy::Always, true, false), "--y--");
        assert_eq!(row(RestartPolicy::UnlessStopped, true, true), "--y--");
        assert_eq!(row(RestartPolicy::UnlessStopped, false, true), "--yyy");
        assert_eq!(row(RestartPolicy::UnlessStopped, false, false), "--y--");
    }
}
