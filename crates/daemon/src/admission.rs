//! What may be asked of a microVM in which state. Pure, and tested over every pair.

use hull_protocol::api::State;

/// What is asked of a microVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Start it.
    Start,
    /// Stop it, with grace.
    Stop,
    /// Send its process a signal.
    Signal,
    /// Attach to its streams.
    Attach,
    /// Set its terminal's size.
    Resize,
    /// Reach into it: start a further process, copy files, list processes.
    Exec,
    /// Remove it, `true`: even if it runs.
    Delete(bool),
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Go,
    /// It is so already: say yes, do nothing.
    Done,
    /// Not in this state; what the user can do instead.
    Refuse(&'static str),
}

/// Judges a command.
pub fn admit(state: State, ask: Ask) -> Verdict {
    use State::{Created, Failed, Paused, Running, Starting, Stopped, Stopping};
    let alive = matches!(state, Starting | Running | Paused | Stopping);
    match (ask, state) {
        (Ask::Start, Created | Stopped | Failed) => Verdict::Go,
        (Ask::Start, Starting | Running) => Verdict::Done,
        (Ask::Start, Paused) => Verdict::Refuse("it is paused: resume it"),
        (Ask::Start, Stopping) => Verdict::Refuse("it is stopping: wait for it, then start it"),
        (Ask::Stop, _) if alive => Verdict::Go,
        (Ask::Stop, _) => Verdict::Done,
        (Ask::Signal, Running | Stopping) => Verdict::Go,
        (Ask::Signal, _) => Verdict::Refuse("it does not run: start it first"),
        (Ask::Attach, Created | Starting | Running | Paused) => Verdict::Go,
        (Ask::Attach, _) => Verdict::Refuse("it does not run: start it first, or read its logs"),
        (Ask::Resize, Starting | Running | Stopping) => Verdict::Go,
        (Ask::Resize, _) => Verdict::Refuse("it does not run"),
        (Ask::Exec, Running | Stopping) => Verdict::Go,
        (Ask::Exec, Paused) => Verdict::Refuse("it is paused: resume it"),
        (Ask::Exec, _) => Verdict::Refuse("it does not run: start it first"),
        (Ask::Delete(force), _) if alive && !force => {
            Verdict::Refuse("it runs: stop it first, or remove it by force")
        }
        (Ask::Delete(_), _) => Verdict::Go,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 7] = [
        State::Created,
        State::Starting,
        State::Running,
        State::Paused,
        State::Stopping,
        State::Stopped,
        State::Failed,
    ];

    /// One letter for each state, in the order above: go, done, refuse.
    fn row(ask: Ask) -> String {
        let letter = |state| match admit(state, ask) {
            Verdict::Go => 'g',
            Verdict::Done => 'd',
            Verdict::Refuse(_) => 'r',
        };
        STATES.into_iter().map(letter).collect()
    }

    #[test]
    fn every_pair_is_decided() {
        assert_eq!(row(Ask::Start), "gddrrgg");
        assert_eq!(row(Ask::Stop), "dggggdd");
        assert_eq!(row(Ask::Signal), "rrgrgrr");
        assert_eq!(row(Ask::Attach), "ggggrrr");
        assert_eq!(row(Ask::Resize), "rggrgrr");
        assert_eq!(row(Ask::Exec), "rrgrgrr");
        assert_eq!(row(Ask::Delete(false)), "grrrrgg");
        assert_eq!(row(Ask::Delete(true)), "ggggggg");
    }
}
