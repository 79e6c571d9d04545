//! Networks, the leases of their addresses, and kernel parameters to set back, in the state.
//!
//! Owner: the state, in transactions. Invariants: an address is leased once at a time; a lease goes with its microVM's
//! row and not before; a network with leases stays.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use hull_protocol::api::{Card, Member, Network};
use hull_protocol::network::Mac;
use ipnet::IpNet;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};

use super::{State, StateError, some_of};
use crate::network::address::{pick, pool4, pool6};
use crate::network::links::TAP_PREFIX;

/// The tables. The last address that was given out is kept, so that the next is another; a lease's number, which is
/// its tap's too, is never used again.
pub(super) const TABLES: &str = "
CREATE TABLE networks (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL,
    last_ip TEXT NOT NULL DEFAULT '', last_ip6 TEXT NOT NULL DEFAULT '', UNIQUE (tenant, name)
) STRICT;
CREATE TABLE leases (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    microvm TEXT NOT NULL REFERENCES microvms (id) ON DELETE CASCADE,
    network TEXT NOT NULL REFERENCES networks (id),
    mac TEXT NOT NULL, ip TEXT NOT NULL, ip6 TEXT NOT NULL,
    UNIQUE (network, mac), UNIQUE (network, ip), UNIQUE (network, ip6)
) STRICT;
CREATE INDEX leases_of_microvm ON leases (microvm);
CREATE TABLE parameters (name TEXT PRIMARY KEY, before TEXT NOT NULL) STRICT";
/// Leases of plain VMs, which are no microVMs of this daemon's. What has been numbered stays so.
pub(super) const PLAIN_LEASES: &str = "
CREATE TABLE new_leases (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    microvm TEXT REFERENCES microvms (id) ON DELETE CASCADE,
    network TEXT NOT NULL REFERENCES networks (id),
    mac TEXT NOT NULL, ip TEXT NOT NULL, ip6 TEXT NOT NULL,
    UNIQUE (network, mac), UNIQUE (network, ip), UNIQUE (network, ip6)
) STRICT;
INSERT INTO new_leases SELECT number, microvm, network, mac, ip, ip6 FROM leases;
DELETE FROM sqlite_sequence WHERE name = 'new_leases';
INSERT INTO sqlite_sequence (name, seq) SELECT 'new_leases', seq FROM sqlite_sequence WHERE name = 'leases';
DROP TABLE leases;
ALTER TABLE new_leases RENAME TO leases;
CREATE INDEX leases_of_microvm ON leases (microvm)";

/// One card that a new microVM is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The network's id.
    pub network: String,
    /// The Ethernet address.
    pub mac: Mac,
    /// An address of its user's choice.
    pub ip: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// More names.
    pub aliases: Vec<String>,
}

impl State {
    /// Every network, in the order they were made.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn networks(&self) -> Result<Vec<Network>, StateError> {
        let connection = self.lock();
        let mut query = connection.prepare("SELECT record FROM networks ORDER BY rowid")?;
        let records: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        records.iter().map(|record| Ok(serde_json::from_str(record)?)).collect()
    }

    /// Adds a network.
    ///
    /// # Errors
    /// When its tenant has one of that name.
    pub fn insert_network(&self, network: &Network) -> Result<(), StateError> {
        let record = serde_json::to_string(network)?;
        let written = self.lock().execute(
            "INSERT INTO networks (id, tenant, name, record) \
             SELECT ?1, name, ?3, ?4 FROM tenants WHERE name = ?2",
            params![network.id, network.tenant, network.name, record],
        );
        match written {
            Ok(0) => Err(StateError::NoTenant(network.tenant.clone())),
            Ok(_) => Ok(()),
            Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == ErrorCode::ConstraintViolation => {
                Err(StateError::NetworkTaken(network.name.clone()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets a network that nobody has addresses of.
    ///
    /// # Errors
    /// When somebody has.
    pub fn remove_network(&self, network: &Network) -> Result<(), StateError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let members = members(&transaction, &network.id)?;
        if !members.is_empty() {
            let names = some_of(members.iter().map(|member| member.name.as_str()));
            return Err(StateError::NetworkInUse(network.name.clone(), names));
        }
        let plain = lent(&transaction)?.iter().filter(|card| card.network_id == network.id).count();
        if plain > 0 {
            return Err(StateError::NetworkInUse(network.name.clone(), format!("{plain} of 'hull boot'")));
        }
        transaction.execute("DELETE FROM networks WHERE id = ?1", params![network.id])?;
        Ok(transaction.commit()?)
    }

    /// Who has addresses of a network.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn members(&self, network: &str) -> Result<Vec<Member>, StateError> {
        members(&self.lock(), network)
    }

    /// Leases a card to a plain VM.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn lend(&self, wish: &Wish) -> Result<Card, StateError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let card = lease_one(&transaction, None, wish)?;
        transaction.commit()?;
        Ok(card)
    }

    /// Every card that is lent to a plain VM.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn lent(&self) -> Result<Vec<Card>, StateError> {
        lent(&self.lock())
    }

    /// Takes back a card that was lent to a plain VM.
    ///
    /// # Errors
    /// When the database fails.
    pub fn give_back(&self, card: &Card) -> Result<(), StateError> {
        self.lock().execute(
            "DELETE FROM leases WHERE microvm IS NULL AND network = ?1 AND ip = ?2",
            params![card.network_id, card.ip.to_string()],
        )?;
        Ok(())
    }

    /// Remembers what a kernel parameter was before Hull set it; what was remembered first counts.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remember_parameter(&self, name: &str, before: &str) -> Result<(), StateError> {
        self.lock().execute(
            "INSERT INTO parameters (name, before) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![name, before],
        )?;
        Ok(())
    }

    /// Every parameter that Hull has set, and what it was before.
    ///
    /// # Errors
    /// When the database fails.
    pub fn parameters(&self) -> Result<Vec<(String, String)>, StateError> {
        let connection = self.lock();
        let mut query = connection.prepare("SELECT name, before FROM parameters ORDER BY rowid")?;
        let parameters = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(parameters.collect::<Result<_, _>>()?)
    }

    /// Forgets a parameter that has been set back.
    ///
    /// # Errors
    /// When the database fails.
    pub fn forget_parameter(&self, name: &str) -> Result<(), StateError> {
        self.lock().execute("DELETE FROM parameters WHERE name = ?1", params![name])?;
        Ok(())
    }
}

fn members(connection: &Connection, network: &str) -> Result<Vec<Member>, StateError> {
    let mut query = connection.prepare(
        "SELECT m.id, m.name, c.value FROM leases AS l JOIN microvms AS m ON m.id = l.microvm, \
         json_each(m.record, '$.cards') AS c \
         WHERE l.network = ?1 AND json_extract(c.value, '$.mac') = l.mac \
         AND json_extract(c.value, '$.network_id') = l.network ORDER BY l.number",
    )?;
    let rows = query.query_map(params![network], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    })?;
    rows.map(|row| {
        let (id, name, card) = row?;
        Ok(Member { id, name, card: serde_json::from_str(&card)? })
    })
    .collect()
}

fn lent(connection: &Connection) -> Result<Vec<Card>, StateError> {
    let mut query = connection.prepare(
        "SELECT l.number, l.mac, l.ip, l.ip6, n.id, n.name FROM leases AS l JOIN networks AS n ON n.id = l.network \
         WHERE l.microvm IS NULL ORDER BY l.number",
    )?;
    let text = |row: &rusqlite::Row<'_>, at| row.get::<_, String>(at);
    let rows = query.query_map([], |row| {
        Ok((
            row.get::<_, i64>(0)?,
            [text(row, 1)?, text(row, 2)?, text(row, 3)?, text(row, 4)?, text(row, 5)?],
        ))
    })?;
    let mut cards = Vec::new();
    for row in rows {
        let (number, [mac, ip, ip6, id, name]) = row?;
        let (Ok(mac), Ok(ip), Ok(ip6)) = (mac.parse(), ip.parse(), ip6.parse()) else {
            return Err(StateError::Lease(format!("the lease {number} cannot be understood")));
        };
        cards.push(card(number, (id, name), (mac, ip, ip6)));
    }
    Ok(cards)
}

/// A lease as a card, of a network with this id and name.
fn card(number: i64, network: (String, String), addresses: (Mac, Ipv4Addr, Ipv6Addr)) -> Card {
    let ((network_id, network), (mac, ip, ip6)) = (network, addresses);
    let tap = format!("{TAP_PREFIX}{number:x}");
    Card { network_id, network, mac, ip, ip6, tap, aliases: Vec::new(), refused: None, forged: None }
}

/// Leases what a new microVM is to have, in the transaction that makes it.
pub(super) fn lease(
    transaction: &Transaction<'_>,
    microvm: &str,
    wishes: &[Wish],
) -> Result<Vec<Card>, StateError> {
    wishes.iter().map(|wish| lease_one(transaction, Some(microvm), wish)).collect()
}

fn lease_one(transaction: &Transaction<'_>, microvm: Option<&str>, wish: &Wish) -> Result<Card, StateError> {
    let found = transaction
        .query_row(
            "SELECT record, last_ip, last_ip6 FROM networks WHERE id = ?1",
            params![wish.network],
            |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?)),
        )
        .optional()?;
    let Some((record, last_ip, last_ip6)) = found else {
        return Err(StateError::NoNetwork(wish.network.clone()));
    };
    let network: Network = serde_json::from_str(&record)?;
    let (ips, ip6s) = taken(transaction, &network.id)?;
    let (pool, pool6) = pools(&network)?;
    let choose = |wanted: Option<IpAddr>, pool: &RangeInclusive<u128>, taken: &BTreeSet<u128>, last: &str| {
        choose(&network, wanted, pool, taken, last)
    };
    let bits = choose(wish.ip.map(IpAddr::V4), &pool, &ips, &last_ip)?;
    let ip = Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or_default());
    let ip6 = Ipv6Addr::from_bits(choose(wish.ip6.map(IpAddr::V6), &pool6, &ip6s, &last_ip6)?);
    let written = transaction.execute(
        "INSERT INTO leases (microvm, network, mac, ip, ip6) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![microvm, network.id, wish.mac.to_string(), ip.to_string(), ip6.to_string()],
    );
    match written {
        Ok(_) => {}
        Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == ErrorCode::ConstraintViolation => {
            return Err(StateError::Lease(format!(
                "the Ethernet address {} is in use on the network {}: choose another",
                wish.mac, network.name
            )));
        }
        Err(error) => return Err(error.into()),
    }
    let number = transaction.last_insert_rowid();
    transaction.execute(
        "UPDATE networks SET last_ip = ?2, last_ip6 = ?3 WHERE id = ?1",
        params![network.id, ip.to_string(), ip6.to_string()],
    )?;
    let card = card(number, (network.id, network.name), (wish.mac, ip, ip6));
    Ok(Card { aliases: wish.aliases.clone(), ..card })
}

/// The addresses that are leased on a network.
fn taken(
    transaction: &Transaction<'_>,
    network: &str,
) -> Result<(BTreeSet<u128>, BTreeSet<u128>), StateError> {
    let mut query = transaction.prepare_cached("SELECT ip, ip6 FROM leases WHERE network = ?1")?;
    let rows =
        query.query_map(params![network], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let (mut ips, mut ip6s) = (BTreeSet::new(), BTreeSet::new());
    for row in rows {
        let (ip, ip6) = row?;
        ips.extend(bits(&ip));
        ip6s.extend(bits(&ip6));
    }
    Ok((ips, ip6s))
}

fn bits(address: &str) -> Option<u128> {
    match address.parse().ok()? {
        IpAddr::V4(address) => Some(address.to_bits().into()),
        IpAddr::V6(address) => Some(address.to_bits()),
    }
}

fn pools(network: &Network) -> Result<(RangeInclusive<u128>, RangeInclusive<u128>), StateError> {
    match (network.subnet.parse(), network.subnet6.parse()) {
        (Ok(IpNet::V4(subnet)), Ok(IpNet::V6(subnet6))) => Ok((pool4(subnet).1, pool6(subnet6).1)),
        _ => Err(StateError::Lease(format!(
            "the network {} has no subnets that can be understood",
            network.name
        ))),
    }
}

fn choose(
    network: &Network,
    wanted: Option<IpAddr>,
    pool: &RangeInclusive<u128>,
    taken: &BTreeSet<u128>,
    last: &str,
) -> Result<u128, StateError> {
    let name = &network.name;
    let Some(wanted) = wanted else {
        return pick(pool, taken, bits(last).unwrap_or_default()).ok_or_else(|| {
            StateError::Lease(format!(
                "the network {name} has no free address left: remove microVMs, or make a network with a larger --subnet"
            ))
        });
    };
    let bits = bits(&wanted.to_string()).unwrap_or_default();
    if !pool.contains(&bits) {
        let (subnet, subnet6) = (&network.subnet, &network.subnet6);
        return Err(StateError::Lease(format!(
            "{wanted} is no address that the network {name} gives out: it has {subnet} and {subnet6}, the first and last \
             of each excepted, and of IPv6 only those whose last 32 bits tell them apart"
        )));
    }
    if taken.contains(&bits) {
        return Err(StateError::Lease(format!("{wanted} is in use on the network {name}: choose another")));
    }
    Ok(bits)
}
