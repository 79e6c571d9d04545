//! Cards that the daemon lends to `hull boot`, given back at its end.
//!
//! Owner: the verb. Invariant: a card that could not be given back is taken back by the daemon, which sees that nobody has its
//! tap open any more.

use std::process::ExitCode;

use anyhow::{Context, Result};
use hull_protocol::api::PlainCard;
use ipnet::IpNet;

use super::net::Net;
use crate::cli::{block_on, complain};
use crate::client::{Client, Host, escape};

/// The cards that were lent, for each `--net` one or none.
#[derive(Default)]
pub(super) struct Borrowed {
    client: Option<Client>,
    cards: Vec<Option<PlainCard>>,
}

impl Borrowed {
    /// Asks for what these wish, and says what was lent: a plain guest has to be told its addresses by its user.
    pub(super) fn of(nets: &[Net], host: &Host) -> Result<Self> {
        let mut borrowed = Self { client: None, cards: nets.iter().map(|_| None).collect() };
        if nets.iter().all(|net| net.wish().is_none()) {
            return Ok(borrowed);
        }
        block_on(async {
            let client = Client::connect(host).await?;
            borrowed.client = Some(client.clone());
            for (net, place) in nets.iter().zip(&mut borrowed.cards) {
                let Some((name, spec)) = net.wish() else { continue };
                let path = format!("/v1/networks/{}/cards", escape(name));
                let lent: PlainCard = client.post(&path, &spec).await?;
                eprintln!("hull: {}", described(&lent));
                *place = Some(lent);
            }
            Ok(ExitCode::SUCCESS)
        })?;
        Ok(borrowed)
    }

    /// For each `--net`, what was lent.
    pub(super) fn cards(&self) -> impl Iterator<Item = Option<&PlainCard>> {
        self.cards.iter().map(Option::as_ref)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        let given_back = block_on(async {
            for PlainCard { card, network } in self.cards.iter().flatten() {
                let path = format!("/v1/networks/{}/cards/{}", escape(&network.name), escape(&card.tap));
                client.delete(&path).await.with_context(|| format!("giving back the card {}", card.tap))?;
            }
            Ok(ExitCode::SUCCESS)
        });
        if let Err(error) = given_back {
            complain(&error);
        }
    }
}

/// What the guest is to be told.
fn described(lent: &PlainCard) -> String {
    let PlainCard { card, network } = lent;
    let prefix = |subnet: &str| subnet.parse().map_or(0, |subnet: IpNet| subnet.prefix_len());
    let (four, six) = (prefix(&network.subnet), prefix(&network.subnet6));
    format!(
        "network {}: card {}, addresses {}/{four} and {}/{six}, gateway and name server {} and {}",
        network.name, card.mac, card.ip, card.ip6, network.gateway, network.gateway6
    )
}
