//! The entropy device (VIRTIO 1.2, section 5.4): the host's `getrandom` in the guest's buffers.
//!
//! Owner: as every device. Invariant: a notification costs the host at most a fixed number of random bytes;
//! what is left over waits its turn.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::device::{COMMON_FEATURES, Context, Device, DeviceId, DeviceInfo, Fault};

/// The most bytes that one request gets; the driver asks again if it wants more.
const REQUEST_MAX: usize = 4096;
/// The most requests served before other devices have their turn.
const BATCH: usize = 16;

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng;

impl Rng {
    /// A new device.
    pub fn new() -> Self {
        Self
    }
}

impl Device for Rng {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { id: DeviceId::Rng, features: COMMON_FEATURES, queue_sizes: &[64] }
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn on_queue(&mut self, ctx: &mut Context<'_>, queue: usize) -> Result<bool, Fault> {
        let mut bytes = [0; REQUEST_MAX];
        for _ in 0..BATCH {
            let Some(mut chain) = ctx.pop(queue)? else {
                ctx.signal(queue)?;
                return Ok(false);
            };
            let wanted = usize::try_from(chain.writable.left()).unwrap_or(REQUEST_MAX).min(REQUEST_MAX);
            let there = match bytes.get_mut(..wanted) {
                Some(room) => getrandom(room, GetRandomFlags::empty()).map_err(std::io::Error::from)?,
                None => 0,
            };
            let written = chain
                .writable
                .write(ctx.mem, bytes.get(..there).unwrap_or_default())
                .map_err(|source| Fault::Ring { queue, source })?;
            ctx.push(queue, chain, u32::try_from(written).unwrap_or(0))?;
        }
        ctx.signal(queue)?;
        Ok(true)
    }
}
