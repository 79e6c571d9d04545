//! Packets from the guest (virtio 1.2, section 5.10.6).
//!
//! Works on the I/O thread when the guest kicks. Invariant: each packet is read once and answered by at most one
//! reset; what makes no sense costs the guest that connection.

use std::time::Instant;

use crate::chain::{Chain, Reader};
use crate::device::{Context, Watch};
use crate::fault::Fault;
use crate::vsock::connection::{Connection, Key, Phase};
use crate::vsock::host::{OFFER_TIME, OFFERS_MAX};
use crate::vsock::packet::{HEADER_LEN, HOST_CID, Header, TYPE_STREAM, op};
use crate::vsock::{Budget, OfferId, TX, Vsock, pop, push};

/// How many answers to stray packets may wait before no further packet is taken.
const STRAYS_MAX: usize = 128;

impl Vsock {
    /// Whether packets are not taken because their answers could not be kept.
    pub(super) fn too_many_strays(&self) -> bool {
        self.strays.len() >= STRAYS_MAX
    }

    /// Takes packets from the guest; true if there may be more that could not be taken.
    pub(super) fn take_packets(&mut self, ctx: &mut Context<'_>, budget: &mut Budget) -> Result<bool, Fault> {
        while !self.too_many_strays() && !budget.is_spent() {
            let Some(chain) = pop(ctx, TX)? else { return Ok(false) };
            budget.spend(chain.read_len());
            self.take_packet(ctx, &chain)?;
            push(ctx, TX, chain, 0)?;
        }
        Ok(true)
    }

    fn take_packet(&mut self, ctx: &mut Context<'_>, chain: &Chain) -> Result<(), Fault> {
        let mut reader = chain.reader(ctx.mem);
        let mut bytes = [0; HEADER_LEN];
        reader.read(&mut bytes)?;
        let header = Header::decode(&bytes);
        if header.src_cid != self.guest_cid {
            // It speaks for somebody else: there is nobody to answer.
            return Ok(());
        }
        if header.dst_cid != HOST_CID || header.kind != TYPE_STREAM {
            self.answer_stray(&header);
            return Ok(());
        }
        let key = Key { host_port: header.dst_port, guest_port: header.src_port };
        match (header.op, self.table.find(key)) {
            (op::REQUEST, None) => self.offer(key, &header),
            (_, Some(slot)) => self.take_for(ctx.watch, slot, &header, reader)?,
            (_, None) => self.answer_stray(&header),
        }
        if header.op == op::REQUEST {
            self.ask_all();
        }
        Ok(())
    }

    /// A packet for nobody is answered by a reset, a reset by nothing.
    fn answer_stray(&mut self, header: &Header) {
        if header.op != op::RST {
            self.strays.push_back(header.reset_for());
        }
    }

    /// The guest wants to connect to the host.
    fn offer(&mut self, key: Key, header: &Header) {
        let id = OfferId(self.next_offer);
        let offers = self.table.count(|phase| matches!(phase, Phase::Offered(_)));
        if offers >= OFFERS_MAX || self.table.is_full() || self.dialer.offer(id, key.host_port).is_err() {
            return self.answer_stray(header);
        }
        self.next_offer = self.next_offer.saturating_add(1);
        let mut connection = Connection::new(key, Phase::Offered(id), None);
        connection.learn(header);
        if let Some(slot) = self.table.insert(connection) {
            self.table.publish(slot);
            self.table.set_deadline(slot, Some(Instant::now() + OFFER_TIME));
        }
    }

    /// A packet for a connection.
    fn take_for(
        &mut self,
        watch: &mut dyn Watch,
        slot: usize,
        header: &Header,
        mut data: Reader<'_>,
    ) -> Result<(), Fault> {
        let Some(connection) = self.table.get_mut(slot) else { return Ok(()) };
        if connection.learn(header) {
            self.schedule(slot);
        }
        let Some(connection) = self.table.get_mut(slot) else { return Ok(()) };
        let open = matches!(connection.phase, Phase::Open);
        match header.op {
            op::RST => self.guest_reset(watch, slot),
            _ if matches!(connection.phase, Phase::Resetting) => {}
            op::RESPONSE if matches!(connection.phase, Phase::Held(_)) => self.accepted(watch, slot),
            op::RW if open && header.len <= data.remaining() => {
                if connection.deliver(data.take(header.len)?)? {
                    self.settle(watch, slot);
                } else {
                    self.abandon(watch, slot);
                }
            }
            op::SHUTDOWN if open => {
                connection.guest_shut(header.flags);
                self.settle(watch, slot);
            }
            op::CREDIT_UPDATE => {}
            op::CREDIT_REQUEST if open => {
                connection.owe_credit_update();
                self.schedule(slot);
            }
            _ => self.abandon(watch, slot),
        }
        Ok(())
    }

    /// The guest accepted a client.
    fn accepted(&mut self, watch: &mut dyn Watch, slot: usize) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        connection.phase = Phase::Open;
        connection.paused = false;
        if connection.greet().is_err() {
            return self.abandon(watch, slot);
        }
        self.table.set_deadline(slot, None);
        self.schedule(slot);
        self.rewatch(watch, slot);
    }

    /// The guest refused or forgot a connection.
    fn guest_reset(&mut self, watch: &mut dyn Watch, slot: usize) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        match &connection.phase {
            Phase::Held(_) => self.refused(slot),
            // What it sent before still goes to the client.
            Phase::Open if connection.has_backlog() => {
                connection.phase = Phase::Flushing;
                self.table.hide(slot);
                self.table.set_deadline(slot, None);
                self.rewatch(watch, slot);
            }
            _ => self.forget(watch, slot),
        }
    }
}
