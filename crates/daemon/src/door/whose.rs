//! Whose connections are: a stream ends when the one who opened it is nobody any more.
//!
//! Owner: the door; a connection holds its part, also after it has been handed over to a stream. Invariant: at most
//! [`LOOK`] after a token is removed or expires, or a user is taken from a tenant, no byte of theirs is taken or given.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::peers::Peer;
use crate::tenants::Tenants;
use crate::tenants::principal::Principal;

/// How often it is looked whether they still are.
const LOOK: Duration = Duration::from_secs(1);

/// Who is at the other end of one connection, and has asked last.
#[derive(Debug)]
pub(super) struct Whose {
    pub(super) peer: Peer,
    asked: Mutex<Option<Principal>>,
    over: CancellationToken,
}

impl Whose {
    /// From now on it is this one's.
    pub(super) fn is_of(&self, principal: &Principal) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(principal.clone());
    }
}

/// Becomes ready when a connection is to end.
#[derive(Debug)]
pub(super) struct Over(Pin<Box<WaitForCancellationFutureOwned>>);

impl Over {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Error> {
        let over = self.0.as_mut().poll(cx);
        over.map(|()| std::io::Error::new(std::io::ErrorKind::PermissionDenied, "its token or user has gone"))
    }
}

/// All connections that there are.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Vec<Weak<Whose>>>);

impl Connections {
    /// A new one, as yet nobody's.
    pub(super) fn enter(&self, peer: Peer) -> (Arc<Whose>, Over) {
        let whose = Arc::new(Whose { peer, asked: Mutex::default(), over: CancellationToken::new() });
        let over = Over(Box::pin(whose.over.clone().cancelled_owned()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&whose));
        (whose, over)
    }

    /// Ends those of nobody's, again and again.
    pub(super) async fn watch(&self, tenants: &Tenants) {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            self.look(tenants);
        }
    }

    fn look(&self, tenants: &Tenants) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|whose| {
            let Some(whose) = whose.upgrade() else { return false };
            let asked = whose.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let holds = asked.as_ref().is_none_or(|principal| tenants.still_hold(principal));
            if !holds {
                whose.over.cancel();
            }
            holds
        });
    }
}
