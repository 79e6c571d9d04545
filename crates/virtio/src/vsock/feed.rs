//! Packets to the guest: bytes straight from a client's socket into the guest's buffers (virtio 1.2, section 5.10.6).
//!
//! Works on the I/O thread whenever a connection has something for the guest. Connections take turns, one batch each.
//! Invariant: without a buffer of the guest's nothing is taken from a socket, and a buffer that could not be filled
//! is put back.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::chain::Chain;
use crate::device::{Context, Memory};
use crate::fault::Fault;
use crate::iovec::IoVecs;
use crate::vsock::packet::{HEADER, HOST_CID, Header, op};
use crate::vsock::{Budget, RX, Vsock, pop, push, signal};

/// The most bytes taken from one socket at a time.
const BATCH_BYTES: u32 = 64 * 1024;
/// The most buffers of the guest's filled by one system call.
const BATCH_CHAINS: usize = 32;
/// How long the guest has to answer that it is over.
const LINGER: Duration = Duration::from_secs(30);

/// What became of a connection's turn.
enum Fed {
    /// It has more.
    More,
    /// It has nothing more for now.
    Idle,
    /// The guest has no buffer.
    Starved,
}

/// A buffer of the guest's that is being filled.
struct Slice {
    chain: Chain,
    room: u32,
}

impl Vsock {
    /// Gives the guest what there is for it.
    pub(super) fn feed(&mut self, ctx: &mut Context<'_>, budget: &mut Budget) -> Result<(), Fault> {
        self.starved = false;
        while let Some(stray) = self.strays.front().copied() {
            let Some(chain) = pop(ctx, RX)? else {
                self.starved = true;
                return Ok(());
            };
            self.strays.pop_front();
            self.send(ctx, chain, stray)?;
            budget.spend(HEADER);
        }
        while let Some(&slot) = self.runnable.front() {
            if budget.is_spent() {
                return Ok(());
            }
            match self.feed_from(ctx, slot, budget)? {
                Fed::Starved => {
                    self.starved = true;
                    return Ok(());
                }
                fed => self.rotate(slot, matches!(fed, Fed::More)),
            }
            signal(ctx, RX)?;
        }
        Ok(())
    }

    /// Takes a connection from the front of the queue and puts it to the end if it has more.
    fn rotate(&mut self, slot: usize, more: bool) {
        // It is gone from the queue already if the connection has been forgotten.
        if self.runnable.front() == Some(&slot) {
            self.runnable.pop_front();
            if let Some(connection) = self.table.get_mut(slot) {
                connection.queued = false;
            }
        }
        if more {
            self.schedule(slot);
        }
    }

    fn feed_from(&mut self, ctx: &mut Context<'_>, slot: usize, budget: &mut Budget) -> Result<Fed, Fault> {
        let Some(connection) = self.table.get_mut(slot) else { return Ok(Fed::Idle) };
        if connection.owes_control() {
            let Some(chain) = pop(ctx, RX)? else { return Ok(Fed::Starved) };
            budget.spend(HEADER);
            return self.send_control(ctx, slot, chain);
        }
        if !connection.reads() {
            return Ok(Fed::Idle);
        }
        let credit = connection.credit();
        if credit == 0 {
            connection.wait_for_credit();
            return Ok(if connection.owes_control() { Fed::More } else { Fed::Idle });
        }
        self.send_data(ctx, slot, credit, budget)
    }

    fn send(&mut self, ctx: &mut Context<'_>, chain: Chain, header: Header) -> Result<(), Fault> {
        self.write_header(ctx.mem, &chain, header)?;
        push(ctx, RX, chain, HEADER.saturating_add(header.len))
    }

    fn write_header(&self, mem: &Memory, chain: &Chain, header: Header) -> Result<(), Fault> {
        let src_cid = if header.src_cid == 0 { HOST_CID } else { header.src_cid };
        let header = Header { src_cid, dst_cid: self.guest_cid, ..header };
        chain.writer(mem).write(&header.encode())
    }

    fn send_control(&mut self, ctx: &mut Context<'_>, slot: usize, chain: Chain) -> Result<Fed, Fault> {
        let Some(connection) = self.table.get_mut(slot) else { return Ok(Fed::Idle) };
        let Some((op, flags)) = connection.take_control() else { return Ok(Fed::Idle) };
        let header = connection.header(op, flags, 0);
        let goodbye = op == op::SHUTDOWN && connection.said_goodbye();
        self.send(ctx, chain, header)?;
        if op == op::RST {
            self.forget(ctx.watch, slot);
            return Ok(Fed::Idle);
        }
        if goodbye {
            self.table.set_deadline(slot, Some(Instant::now() + LINGER));
        }
        Ok(Fed::More)
    }

    /// Fills as many buffers as one batch takes from the client's socket.
    fn send_data(
        &mut self,
        ctx: &mut Context<'_>,
        slot: usize,
        credit: u32,
        budget: &mut Budget,
    ) -> Result<Fed, Fault> {
        let mut slices = gather_slices(ctx, credit.min(BATCH_BYTES))?;
        if slices.is_empty() {
            return Ok(Fed::Starved);
        }
        let received = self.receive(ctx.mem, slot, &slices)?;
        let mut left = *received.as_ref().unwrap_or(&0);
        let used = slices
            .iter()
            .scan(left, |left, slice| (*left > 0).then(|| *left = left.saturating_sub(slice.room)));
        let used = used.count();
        // Buffers that stay empty go back, the last one first.
        for slice in slices.drain(used..).rev() {
            if let Some(queue) = ctx.queues.get_mut(RX) {
                queue.undo(slice.chain);
            }
        }
        for slice in slices {
            let len = slice.room.min(left);
            left = left.saturating_sub(len);
            let Some(connection) = self.table.get_mut(slot) else { return Ok(Fed::Idle) };
            connection.spend(len);
            let header = connection.header(op::RW, 0, len);
            self.send(ctx, slice.chain, header)?;
            budget.spend(len);
        }
        Ok(self.after_receive(ctx, slot, received))
    }

    fn receive(&mut self, mem: &Memory, slot: usize, slices: &[Slice]) -> Result<io::Result<u32>, Fault> {
        let stream = self.table.get(slot).and_then(|connection| connection.stream.as_ref());
        let Some(stream) = stream else { return Ok(Err(ErrorKind::NotConnected.into())) };
        let mut vecs = IoVecs::with_capacity(slices.len());
        for slice in slices {
            let mut writer = slice.chain.writer(mem);
            writer.take(HEADER)?;
            writer.take(slice.room)?.gather(&mut vecs)?;
        }
        Ok(vecs.receive(stream.as_fd()).map(|count| u32::try_from(count).unwrap_or(0)))
    }

    fn after_receive(&mut self, ctx: &mut Context<'_>, slot: usize, received: io::Result<u32>) -> Fed {
        let Some(connection) = self.table.get_mut(slot) else { return Fed::Idle };
        match received {
            Ok(1..) => return Fed::More,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                connection.paused = false;
                self.rewatch(ctx.watch, slot);
                return Fed::Idle;
            }
            // An error is the end as well: what came before it has been read.
            Ok(0) | Err(_) => connection.end(),
        }
        self.rewatch(ctx.watch, slot);
        Fed::More
    }
}

/// Takes buffers of the guest's for up to `wanted` bytes of data.
fn gather_slices(ctx: &mut Context<'_>, wanted: u32) -> Result<Vec<Slice>, Fault> {
    let mut slices = Vec::with_capacity(BATCH_CHAINS);
    let mut left = wanted;
    while left > 0 && slices.len() < BATCH_CHAINS {
        let Some(chain) = pop(ctx, RX)? else { break };
        let short = Fault::Short { needed: HEADER.saturating_add(1), available: chain.write_len() };
        let room = chain.write_len().checked_sub(HEADER).filter(|&room| room > 0).ok_or(short)?.min(left);
        left = left.saturating_sub(room);
        slices.push(Slice { chain, room });
    }
    Ok(slices)
}
