#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
use std::os::unix::fs::{FileExt, MetadataExt};

use proptest::prelude::*;

use super::request::kind;
use super::*;
use crate::bucket::Rate;
use crate::iovec::IoVecs;
use crate::testing::{DATA, Guest, INDIRECT, NEXT, REGION, WRITE, ring_base};

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 64;
const BUFFER: u64 = DATA + 0x1000;

struct Disk {
    guest: Guest,
    block: Block,
    file: File,
}

impl Disk {
    fn new(sectors: u64, read_only: bool) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(sectors * SECTOR).unwrap();
        let block = Block::open(
            file.try_clone().unwrap(),
            &BlockOptions { read_only, id: "disk-7".into(), ..BlockOptions::default() },
        )
        .unwrap();
        Self { guest: Guest::new(1, 16), block, file }
    }

    fn header(&self, kind: u32, sector: u64) {
        self.guest.write(HEADER, &kind.to_le_bytes());
        self.guest.write(HEADER + 8, &sector.to_le_bytes());
        self.guest.write(STATUS, &[0xff]);
    }

    /// One request with one data buffer; returns status and bytes written.
    fn request(&mut self, kind: u32, sector: u64, length: u32, to_guest: bool) -> (u8, u32) {
        self.header(kind, sector);
        let buffers = [(HEADER, 16, false), (BUFFER, length, to_guest), (STATUS, 1, true)];
        let data = if length == 0 { vec![buffers[0], buffers[2]] } else { buffers.to_vec() };
        self.guest.offer(0, &data);
        self.guest.notify(&mut self.block, 0).unwrap();
        let written = self.guest.used(0).unwrap();
        (self.guest.read(STATUS, 1)[0], written)
    }
}

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPPORTED: u8 = 2;

#[test]
fn what_is_written_is_read_back() {
    let mut disk = Disk::new(64, false);
    disk.guest.write(BUFFER, &[0xab; 1024]);
    assert_eq!(disk.request(kind::OUT, 3, 1024, false), (OK, 1));
    disk.guest.write(BUFFER, &[0; 1024]);
    assert_eq!(disk.request(kind::IN, 3, 1024, true), (OK, 1025));
    assert_eq!(disk.guest.read(BUFFER, 1024), [0xab; 1024]);
    assert_eq!(disk.request(kind::FLUSH, 0, 0, false), (OK, 1));
    assert!(disk.guest.interrupts.0.load(std::sync::atomic::Ordering::Relaxed) >= 3);
}

#[test]
fn a_read_only_disk_is_never_written() {
    let mut disk = Disk::new(64, true);
    disk.guest.write(BUFFER, &[0xab; 512]);
    for kind in [kind::OUT, kind::DISCARD, kind::WRITE_ZEROES] {
        assert_eq!(disk.request(kind, 0, 512, false), (IOERR, 1));
    }
    let mut sector = [0xff; 512];
    disk.file.read_exact_at(&mut sector, 0).unwrap();
    assert_eq!(sector, [0; 512]);
    assert_ne!(disk.block.info().features & feature::RO, 0);
}

#[test]
fn an_image_shared_read_only_is_not_written_through_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, [0x11; 4096]).unwrap();
    // As the daemon hands an image over: nobody who has this descriptor can write.
    let file = File::open(&path).unwrap();
    let options = BlockOptions { read_only: true, ..BlockOptions::default() };
    let block = Block::open(file.try_clone().unwrap(), &options).unwrap();
    let mut disk = Disk { guest: Guest::new(1, 16), block, file };
    assert_eq!(disk.request(kind::IN, 0, 4096, true), (OK, 4097));
    assert_eq!(disk.guest.read(BUFFER, 4096), [0x11; 4096]);
    // What was read is the guest's own, to do with as it likes.
    disk.guest.write(BUFFER, &[0x22; 4096]);
    assert_eq!(disk.request(kind::OUT, 0, 4096, false), (IOERR, 1));
    assert_eq!(std::fs::read(&path).unwrap(), [0x11; 4096]);
    assert_eq!(disk.request(kind::IN, 0, 4096, true), (OK, 4097));
    assert_eq!(disk.guest.read(BUFFER, 4096), [0x11; 4096]);
}

#[test]
fn what_is_no_disk_is_never_taken_for_one() {
    let options = |read_only| BlockOptions { read_only, ..BlockOptions::default() };
    let dir = tempfile::tempdir().unwrap();
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    for other in [File::open(dir.path()).unwrap(), File::from(pipe), null] {
        assert!(matches!(Block::open(other, &options(true)), Err(BlockError::NotADisk(_))));
    }
    let path = dir.path().join("disk");
    std::fs::write(&path, [0; 512]).unwrap();
    let reads = File::open(&path).unwrap();
    let writes = File::options().write(true).open(&path).unwrap();
    assert!(matches!(Block::open(reads, &options(false)), Err(BlockError::Access { writes: true })));
    assert!(matches!(Block::open(writes, &options(true)), Err(BlockError::Access { writes: false })));
}

#[test]
fn requests_outside_the_disk_or_off_the_grid_fail() {
    let mut disk = Disk::new(64, false);
    for (sector, length) in [(64, 512), (63, 1024), (u64::MAX, 512), (u64::MAX / 512, 1024), (0, 100)] {
        assert_eq!(disk.request(kind::IN, sector, length, true), (IOERR, 1), "{sector} {length}");
        assert_eq!(disk.request(kind::OUT, sector, length, false), (IOERR, 1), "{sector} {length}");
    }
    assert_eq!(disk.request(77, 0, 512, true), (UNSUPPORTED, 1));
}

#[test]
fn the_id_is_the_serial() {
    let mut disk = Disk::new(1, false);
    assert_eq!(disk.request(kind::GET_ID, 0, 20, true), (OK, 21));
    assert_eq!(&disk.guest.read(BUFFER, 8), b"disk-7\0\0");
}

#[test]
fn discard_and_write_zeroes_give_space_back() {
    let mut disk = Disk::new(4096, false);
    disk.file.write_all_at(&vec![7; 2 << 20], 0).unwrap();
    disk.file.sync_all().unwrap();
    let before = disk.file.metadata().unwrap().blocks();
    for (kind, sector, flags) in [(kind::DISCARD, 0u64, 0u32), (kind::WRITE_ZEROES, 2048, 1)] {
        disk.guest.write(BUFFER, &sector.to_le_bytes());
        disk.guest.write(BUFFER + 8, &2048u32.to_le_bytes());
        disk.guest.write(BUFFER + 12, &flags.to_le_bytes());
        assert_eq!(disk.request(kind, 0, 16, false), (OK, 1));
    }
    let mut all = vec![1; 2 << 20];
    disk.file.read_exact_at(&mut all, 0).unwrap();
    assert!(all.iter().all(|byte| *byte == 0));
    assert!(disk.file.metadata().unwrap().blocks() < before);
    // A range outside the disk, too long a list, a flag nobody knows.
    disk.guest.write(BUFFER, &4095u64.to_le_bytes());
    disk.guest.write(BUFFER + 12, &[0]);
    assert_eq!(disk.request(kind::DISCARD, 0, 16, false), (IOERR, 1));
    assert_eq!(disk.request(kind::DISCARD, 0, 17 * 16, false), (IOERR, 1));
    disk.guest.write(BUFFER, &[0; 8]);
    disk.guest.write(BUFFER + 12, &2u32.to_le_bytes());
    assert_eq!(disk.request(kind::WRITE_ZEROES, 0, 16, false), (UNSUPPORTED, 1));
}

#[test]
fn descriptors_may_split_anywhere_even_across_regions() {
    let mut disk = Disk::new(64, false);
    let pattern: Vec<u8> = (0..1024u32).map(|n| (n % 251) as u8).collect();
    disk.file.write_all_at(&pattern, 512).unwrap();
    disk.header(kind::IN, 1);
    let cross = REGION - 300;
    // The header in two parts; data over the border of two regions; the status in the same buffer as data.
    disk.guest
        .offer(0, &[(HEADER, 5, false), (HEADER + 5, 11, false), (cross, 600, true), (BUFFER, 425, true)]);
    disk.guest.notify(&mut disk.block, 0).unwrap();
    assert_eq!(disk.guest.used(0), Some(1025));
    let mut got = disk.guest.read(cross, 600);
    got.extend(disk.guest.read(BUFFER, 424));
    assert_eq!(got, pattern);
    assert_eq!(disk.guest.read(BUFFER + 424, 1), [OK]);
}

#[test]
fn indirect_tables_work_and_nested_ones_fault() {
    let mut disk = Disk::new(64, false);
    disk.header(kind::IN, 0);
    let table = DATA + 0x8000;
    disk.guest.descriptor(table, 0, (HEADER, 16, NEXT, 1));
    disk.guest.descriptor(table, 1, (BUFFER, 512, NEXT | WRITE, 2));
    disk.guest.descriptor(table, 2, (STATUS, 1, WRITE, 0));
    disk.guest.descriptor(ring_base(0), 0, (table, 48, INDIRECT, 0));
    disk.guest.make_available(0, 0);
    disk.guest.notify(&mut disk.block, 0).unwrap();
    assert_eq!(disk.guest.used(0), Some(513));

    disk.guest.descriptor(table, 0, (table, 48, INDIRECT, 0));
    disk.guest.make_available(0, 0);
    assert!(disk.guest.notify(&mut disk.block, 0).is_err());
}

#[test]
fn rings_that_lie_fault_and_never_hang() {
    type Lie = fn(&mut Guest);
    let lies: [(&str, Lie); 7] = [
        ("a chain without end", |guest| {
            guest.descriptor(ring_base(0), 0, (DATA, 16, NEXT, 1));
            guest.descriptor(ring_base(0), 1, (DATA, 16, NEXT, 0));
            guest.make_available(0, 0);
        }),
        ("a buffer outside memory", |guest| guest.offer(0, &[(3 * REGION, 16, false)])),
        ("a buffer at the end of the address space", |guest| guest.offer(0, &[(u64::MAX - 4, 16, false)])),
        ("a readable buffer after a writable one", |guest| {
            guest.offer(0, &[(DATA, 16, true), (DATA, 16, false), (STATUS, 1, true)]);
        }),
        ("a head that does not exist", |guest| guest.make_available(0, 99)),
        ("more available than there is", |guest| guest.write(ring_base(0) + 0x1002, &500u16.to_le_bytes())),
        ("no status", |guest| guest.offer(0, &[(HEADER, 16, false)])),
    ];
    for (what, lie) in lies {
        let mut disk = Disk::new(64, false);
        lie(&mut disk.guest);
        assert!(disk.guest.notify(&mut disk.block, 0).is_err(), "{what} was believed");
    }
}

#[test]
fn a_disk_grows_and_never_shrinks() {
    let mut disk = Disk::new(64, false);
    assert_eq!(disk.request(kind::IN, 64, 512, true), (IOERR, 1));
    assert_eq!(disk.block.grow(64 * SECTOR), None);
    assert_eq!(disk.block.grow(8 * SECTOR), None);
    disk.file.set_len(128 * SECTOR).unwrap();
    let config = disk.block.grow(128 * SECTOR + 100).unwrap();
    assert_eq!((config.get(..8).unwrap(), &config), (128_u64.to_le_bytes().as_slice(), &disk.block.config()));
    assert_eq!(disk.request(kind::IN, 64, 512, true), (OK, 513));
    assert_eq!(disk.request(kind::IN, 128, 512, true), (IOERR, 1));
}

/// A disk that fails every call.
struct Broken;

impl Engine for Broken {
    fn read_at(&mut self, _: &IoVecs<'_>, _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
    fn write_at(&mut self, _: &IoVecs<'_>, _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Err(io::Error::other("gone"))
    }
    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Err(io::Error::other("gone"))
    }
    fn write_zeroes(&mut self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Err(io::Error::other("gone"))
    }
}

#[test]
fn a_failing_disk_fails_requests_and_nothing_else() {
    let mut disk = Disk::new(64, false);
    disk.block = Block::with_engine(Box::new(Broken), 64 * SECTOR, &BlockOptions::default());
    assert_eq!(disk.request(kind::IN, 0, 512, true), (IOERR, 1));
    assert_eq!(disk.request(kind::OUT, 0, 512, false), (IOERR, 1));
    assert_eq!(disk.request(kind::FLUSH, 0, 0, false), (IOERR, 1));
}

proptest! {
    /// Whatever is in the rings and the requests, the device neither panics nor hangs nor writes past the disk.
    #[test]
    fn random_rings_are_survived(
        descriptors in prop::collection::vec((0..2 * REGION + 64, 0..5000u32, 0..8u16, 0..20u16), 16),
        heads in prop::collection::vec(0..18u16, 1..16),
        header in any::<[u8; 16]>(),
        kind in prop_oneof![Just(0u32), Just(1), Just(4), Just(8), Just(11), Just(13)],
    ) {
        let mut disk = Disk::new(64, false);
        disk.guest.write(HEADER, &header);
        disk.guest.write(HEADER, &kind.to_le_bytes());
        for (index, descriptor) in descriptors.iter().enumerate() {
            let mut descriptor = *descriptor;
            if index % 4 == 0 {
                descriptor = (HEADER, 16, NEXT, descriptor.3);
            }
            disk.guest.descriptor(ring_base(0), u16::try_from(index).unwrap(), descriptor);
        }
        for head in heads {
            disk.guest.make_available(0, head);
        }
        let _fault = disk.guest.notify(&mut disk.block, 0);
        prop_assert_eq!(disk.file.metadata().unwrap().len(), 64 * SECTOR);
    }
}

#[test]
fn a_limit_holds_requests_up_and_then_lets_them_go_on() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    // Bytes of three requests at once, and some two hundred requests a second.
    let bytes = Some(Rate { per_second: 200 * 4113, burst: 3 * 4113 });
    let limits = Limits { bytes, units: Some(Rate { per_second: 200, burst: 10 }) };
    let block = Block::open(file.try_clone().unwrap(), &BlockOptions { limits, ..BlockOptions::default() });
    let mut disk = Disk { guest: Guest::new(1, 16), block: block.unwrap(), file };
    disk.header(kind::IN, 0);
    let request = [(HEADER, 16, false), (BUFFER, 4096, true), (STATUS, 1, true)];
    let (start, mut done) = (Instant::now(), 0);
    for _ in 0..5 {
        disk.guest.offer(0, &request);
    }
    disk.guest.notify(&mut disk.block, 0).unwrap();
    while disk.guest.used(0).is_some() {
        done += 1;
    }
    // A machine that is busy with others may have let some more milliseconds pass.
    assert!((3..5).contains(&done) || start.elapsed() > Duration::from_millis(10), "{done}");
    // However often the driver asks, it waits.
    while done < 5 {
        let wait = disk.guest.watch.timer.take().expect("nothing is awaited");
        assert!(wait <= Duration::from_millis(6), "{wait:?}");
        std::thread::sleep(wait);
        disk.guest.notify(&mut disk.block, 0).unwrap();
        while disk.guest.used(0).is_some() {
            done += 1;
        }
    }
    // The fourth was more than was there: the fifth has waited until that was paid off.
    assert!(start.elapsed() >= Duration::from_millis(5), "{:?}", start.elapsed());
    assert_eq!(disk.guest.read(STATUS, 1), [OK]);
}
