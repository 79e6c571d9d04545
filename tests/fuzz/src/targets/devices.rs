//! Each device over its rings and registers: whatever the guest does, it works after a reset.

use std::fs::File;
use std::io::{Seek, Write};

use hull_virtio::block::{Block, BlockOptions};
use hull_virtio::device::{Context, Device, DeviceId, DeviceInfo, Ready};
use hull_virtio::fault::Fault;
use hull_virtio::registers::F_COMMON;
use hull_virtio::rng::Rng;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::guest::{DATA, Guest, Program, WRITE, act, ring};
use crate::input::{Input, Script};

/// Does what an input says, with nothing happening on the host.
fn play(guest: &mut Guest, data: &[u8]) {
    let mut input = Input(data);
    while input.more() {
        guest.step(&mut input, &mut |_, _| ());
    }
}

/// A nameless file with this content.
pub(crate) fn file(content: &[u8]) -> File {
    let mut file: File = memfd_create("input", MemfdFlags::CLOEXEC).expect("a file in memory").into();
    file.write_all(content).expect("room in memory");
    file.rewind().expect("a file in memory");
    file
}

/// The disk's size in bytes.
const DISK: usize = 64 << 10;

/// The block device.
pub(crate) fn block(data: &[u8]) {
    let read_only = data.first().is_some_and(|byte| byte & 0x80 != 0);
    let options = BlockOptions { read_only, id: "disk0".to_owned(), ..BlockOptions::default() };
    let disk = file(&[0x5a; DISK]);
    let device = Block::open(disk.try_clone().expect("a descriptor"), &options).expect("a disk");
    let mut guest = Guest::new(Box::new(device));
    play(&mut guest, data);
    assert_eq!(disk.metadata().expect("a file").len(), DISK as u64, "the disk changed its size");
    if read_only {
        let mut now = [0; DISK];
        std::os::unix::fs::FileExt::read_exact_at(&disk, &mut now, 0).expect("a file in memory");
        assert!(now.iter().all(|byte| *byte == 0x5a), "a disk that is read-only changed");
    }
    // A proper driver reads the identifier.
    guest.set_up(0);
    guest.put(DATA, &request(8, 0));
    guest.put(DATA + 0x100, &[0xff; 32]);
    guest.offer(0, &[(DATA, 16, 0), (DATA + 0x100, 20, WRITE), (DATA + 0x120, 1, WRITE)]);
    guest.notify(0);
    assert_eq!(guest.used(0), Some(21), "the disk does not work after a reset");
}

fn request(kind: u32, sector: u64) -> Vec<u8> {
    Script::default().u32(kind).u32(0).u64(sector).0
}

/// Every kind of request as a driver makes it, and a few no driver makes.
pub(crate) fn block_seeds() -> Vec<Vec<u8>> {
    let one = |kind: u32, sector: u64, data: u16, flags: u16| {
        let program = Program::set_up(u64::MAX).put(DATA, &request(kind, sector));
        program.offer(0, &[(0, 16, 0), (0x400, data, flags), (0x300, 1, WRITE)]).notify(0)
    };
    let range = Script::default().u64(1).u32(4).u32(1).0;
    vec![
        one(0, 1, 1024, WRITE).end(),
        one(1, 1, 1024, 0).end(),
        one(1, 127, 1024, 0).then(act::RESET).end(),
        one(8, 0, 20, WRITE).then(act::DRAIN).end(),
        one(4, 0, 0, 0).end(),
        one(11, 0, 16, 0).put(DATA + 0x400, &range).notify(0).end(),
        Program::set_up(0)
            .put(DATA + 0x400, &range)
            .put(DATA, &request(13, 0))
            .offer(0, &[(0, 16, 0), (0x400, 16, 0), (0x300, 1, WRITE)])
            .notify(0)
            .end(),
    ]
}

/// The entropy device.
pub(crate) fn rng(data: &[u8]) {
    let mut guest = Guest::new(Box::new(Rng::new()));
    play(&mut guest, data);
    // Its share may be used up: a proper driver is served at once or told later.
    guest.set_up(0);
    guest.offer(0, &[(DATA, 8, WRITE)]);
    guest.notify(0);
    assert!(matches!(guest.used(0), None | Some(8)), "another length than was asked for");
}

/// Requests of several sizes.
pub(crate) fn rng_seeds() -> Vec<Vec<u8>> {
    vec![
        Program::set_up(0).offer(0, &[(0, 64, WRITE)]).notify(0).end(),
        Program::set_up(u64::MAX)
            .offer(0, &[(0, 0x7fff, WRITE), (0x7fff, 0x7fff, WRITE)])
            .notify(0)
            .then(act::DRAIN)
            .end(),
    ]
}

/// A device that is nothing but a queue, and does with its chains what its input says.
struct Rings {
    script: Vec<u8>,
}

impl Device for Rings {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { id: DeviceId::Rng, features: F_COMMON, queue_sizes: &[32] }
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn start(&mut self, _: &mut Context<'_>) -> Result<(), Fault> {
        Ok(())
    }

    fn on_queue(&mut self, ctx: &mut Context<'_>, _: usize) -> Result<(), Fault> {
        let script = std::mem::take(&mut self.script);
        let mut input = Input(&script);
        let done = handle(ctx, &mut input);
        self.script = input.0.to_vec();
        done
    }

    fn on_source(&mut self, _: &mut Context<'_>, _: u32, _: Ready) -> Result<(), Fault> {
        Ok(())
    }

    fn drain(&mut self, _: &mut Context<'_>) {}

    fn reset(&mut self) {}
}

/// Takes chains, reads and writes them by cursors, uses or undoes them.
fn handle(ctx: &mut Context<'_>, input: &mut Input<'_>) -> Result<(), Fault> {
    let Some(queue) = ctx.queues.first_mut() else { return Ok(()) };
    let mut held = Vec::new();
    for _ in 0..64 {
        let Some(chain) = queue.pop(ctx.mem)? else { break };
        let mut reader = chain.reader(ctx.mem);
        let mut writer = chain.writer(ctx.mem);
        assert_eq!((reader.remaining(), writer.remaining()), (chain.read_len(), chain.write_len()));
        assert!(chain.read_len().checked_add(chain.write_len()).is_some(), "a chain of 4 GiB or more");
        for _ in 0..input.u8() % 8 {
            let mut buffer = vec![0xa5; usize::from(input.u16())];
            let (before, length) = (reader.remaining(), u32::try_from(buffer.len()).unwrap_or(0));
            let got = reader.read(&mut buffer);
            assert_eq!(got.is_ok(), length <= before, "a reader's end is where it says");
            assert_eq!(reader.remaining(), if got.is_ok() { before - length } else { before });
            let before = writer.remaining();
            let put = writer.write(&buffer);
            assert_eq!(put.is_ok(), length <= before, "a writer's end is where it says");
        }
        if input.u8() & 1 != 0 {
            let left = reader.remaining();
            let part = reader.take(left / 2)?;
            assert_eq!((part.remaining(), reader.remaining()), (left / 2, left - left / 2));
            let mut vecs = hull_virtio::iovec::IoVecs::with_capacity(4);
            part.gather(&mut vecs)?;
            chain.gather_writable(ctx.mem, &mut vecs)?;
            assert_eq!(vecs.remaining() as u64, u64::from(left / 2) + u64::from(chain.write_len()));
            vecs.advance(usize::from(input.u16()));
        }
        held.push(chain);
    }
    if input.u8() & 1 != 0
        && let Some(last) = held.pop()
    {
        queue.undo(last);
    }
    let used = held.into_iter().map(|chain| {
        let length = chain.write_len();
        (chain, length)
    });
    queue.push_all(ctx.mem, used)?;
    queue.should_notify(ctx.mem)?;
    Ok(())
}

/// The queue and its chains.
pub(crate) fn queue(data: &[u8]) {
    let mut input = Input(data);
    let script = input.block().to_vec();
    let mut guest = Guest::new(Box::new(Rings { script }));
    play(&mut guest, input.0);
    guest.set_up(0);
    guest.offer(0, &[(DATA, 8, WRITE)]);
    guest.notify(0);
}

/// Chains of all kinds, the indirect one too.
pub(crate) fn queue_seeds() -> Vec<Vec<u8>> {
    let script = |program: Program| {
        let how = Script::default().u8(2).u16(100).u16(2000).u8(1).u16(30).u8(0).u8(3).u16(1).0;
        Script::default().block(&how.repeat(3)).bytes(&program.end()).0
    };
    let indirect = Script::default().u64(DATA).u32(64).u16(1).u16(1).u64(DATA + 64).u32(64).u16(2).u16(0).0;
    let entry = Script::default().u64(DATA + 0x1000).u32(32).u16(4).u16(0).0;
    vec![
        script(Program::set_up(0).offer(0, &[(0, 100, 0), (200, 3000, WRITE)]).notify(0)),
        script(
            Program::set_up(u64::MAX)
                .offer(0, &[(0, 1, 0)])
                .offer(0, &[(0, 9, WRITE), (9, 0, WRITE)])
                .notify(0),
        ),
        script(
            Program::set_up(u64::MAX)
                .put(DATA + 0x1000, &indirect)
                .offer(0, &[(0, 0, 0)])
                .put(ring(0, 0), &entry)
                .notify(0),
        ),
    ]
}
