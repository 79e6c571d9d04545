//! Cards for plain VMs, which their users boot themselves, beside the daemon.
//!
//! Owner: [`HostNetworks`], behind its lock. Invariants: a lease lasts as long as somebody has its tap open, which is asked of
//! the kernel, whoever dies; until it has been opened, for [`GRACE`].

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use hull_protocol::api::{Card, Network, PlainCard, PlainCardSpec};
use hull_protocol::network::Attachment;
use hull_tap::TapError;

use super::host::{Active, Inner};
use super::{HostNetworks, NetworkError, Owner, catalog};
use crate::state::{State, StateError};

/// How long a tap that was lent waits to be opened.
const GRACE: Duration = Duration::from_secs(60);

impl HostNetworks {
    /// Lends a card of a network, with a tap that waits to be opened. Needs the runtime.
    ///
    /// # Errors
    /// When the host or the network cannot have it; nothing is left of it then.
    pub async fn lend(
        &self,
        state: &State,
        owner: Owner<'_>,
        network: &str,
        spec: &PlainCardSpec,
    ) -> Result<PlainCard, NetworkError> {
        let PlainCardSpec { ip, ip6, mac } = *spec;
        let attachment = Attachment { network: network.to_owned(), ip, ip6, mac, ..Attachment::default() };
        let mut inner = self.lock().await;
        let (wish, network) = catalog::wish(&mut inner, state, owner, &attachment).await?;
        let card = state.lend(&wish)?;
        match inner.lend(state, &card, &network).await {
            Ok(()) => Ok(PlainCard { card, network }),
            Err(error) => {
                inner.disconnect(&card.tap).await;
                state.give_back(&card)?;
                Err(error)
            }
        }
    }

    /// Takes back a card that was lent.
    ///
    /// # Errors
    /// When there is none, or it is still in use.
    pub async fn give_back(
        &self,
        state: &State,
        tenant: &str,
        network: &str,
        tap: &str,
    ) -> Result<(), NetworkError> {
        let network = catalog::find(state, tenant, network)?;
        let mut inner = self.lock().await;
        let lent = state.lent()?;
        let Some(card) = lent.iter().find(|card| card.network_id == network.id && card.tap == tap) else {
            return Err(StateError::NoCard(tap.to_owned()).into());
        };
        if is_open(card) {
            return Err(StateError::CardInUse(tap.to_owned()).into());
        }
        inner.forget(state, card).await
    }

    /// Whether a plain VM has a card of a network's. Where it cannot be known, one may have.
    pub async fn lends(&self, state: &State) -> bool {
        let mut inner = self.lock().await;
        if inner.tools().is_none() {
            return false;
        }
        inner.take_back(state).await.is_err() || state.lent().map_or(true, |lent| !lent.is_empty())
    }
}

impl Inner {
    async fn lend(&mut self, state: &State, card: &Card, network: &Network) -> Result<(), NetworkError> {
        let active = Active::plain(card, network)?;
        let taps = self.connect(state, &card.tap, active, std::slice::from_ref(network)).await?;
        let failed = |error| NetworkError::Parameter(format!("of the tap {}", card.tap), error);
        // It outlives this process's hold of it, until somebody else has it.
        taps.iter().try_for_each(|tap| hull_tap::set_persistent(tap.as_fd(), true)).map_err(failed)?;
        self.lent.insert(card.tap.clone(), Instant::now());
        Ok(())
    }

    /// Takes back what plain VMs had that have ended.
    pub(super) async fn take_back(&mut self, state: &State) -> Result<(), NetworkError> {
        if self.tools().is_none() {
            // Whose taps these are is another daemon's to say.
            return Ok(());
        }
        self.lent.retain(|_, since| since.elapsed() < GRACE);
        for card in state.lent()? {
            if !self.lent.contains_key(&card.tap) && !is_open(&card) {
                tracing::info!("nobody has {} of the network {} any more", card.tap, card.network);
                self.forget(state, &card).await?;
            }
        }
        Ok(())
    }

    async fn forget(&mut self, state: &State, card: &Card) -> Result<(), NetworkError> {
        self.lent.remove(&card.tap);
        self.disconnect(&card.tap).await;
        Ok(state.give_back(card)?)
    }

    /// Takes up the plain VMs that run since an earlier daemon; the others are taken back in time.
    pub(super) fn take_up_plain(&mut self, state: &State) -> Result<(), NetworkError> {
        let networks = state.networks()?;
        for card in state.lent()?.iter().filter(|card| is_open(card)) {
            if let Some(network) = networks.iter().find(|network| network.id == card.network_id) {
                self.take_up(&card.tap, Active::plain(card, network)?);
            }
        }
        Ok(())
    }
}

/// Whether somebody has a card's tap open. Where it cannot be known, somebody may have.
fn is_open(card: &Card) -> bool {
    // One that is not there is made by this, and goes again at once.
    !matches!(hull_tap::open(&card.tap, false), Ok(_) | Err(TapError::Missing(_)))
}
