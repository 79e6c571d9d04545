//! Volumes as files, without anybody who uses them.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::process::Command;

use hull_protocol::api::{HOST_TENANT, Resource};

use super::*;

struct World {
    dir: tempfile::TempDir,
    state: State,
    volumes: Volumes,
    counting: Mutex<()>,
}

/// Whoever may have whatever it wants.
fn owner(counting: &Mutex<()>) -> Owner<'_> {
    Owner { tenant: HOST_TENANT, counting, judge: &|_| Ok(()) }
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(&dir.path().join("state.db")).unwrap();
    let volumes = Volumes::new(dir.path());
    World { dir, state, volumes, counting: Mutex::default() }
}

impl World {
    fn create(&self, name: &str, size: Bytes) -> Result<Volume, VolumeError> {
        let spec = VolumeSpec { name: Some(name.into()), size: Some(size), ..VolumeSpec::default() };
        self.volumes.create(&self.state, owner(&self.counting), spec, None)
    }

    fn grow(&self, name: &str, size: Bytes) -> Result<Volume, VolumeError> {
        self.volumes.grow(&self.state, owner(&self.counting), name, size)
    }

    fn find_or_make(&self, wanted: &[WantedVolume]) -> Result<Found, VolumeError> {
        self.volumes.find_or_make(&self.state, owner(&self.counting), wanted)
    }

    fn files(&self) -> usize {
        fs::read_dir(self.dir.path().join("volumes")).map_or(0, Iterator::count)
    }
}

fn usage(volume: &Volume, read_only: bool) -> VolumeUse {
    VolumeUse { id: volume.id.clone(), name: volume.name.clone(), read_only }
}

#[test]
fn a_volume_is_a_sparse_sound_file_of_whole_mebibytes_that_grows_and_never_shrinks() {
    let world = world();
    let volume = world.create("data", Bytes(Bytes::gib(2).get() - 1)).unwrap();
    assert_eq!(volume.size, Bytes::gib(2));
    let path = world.volumes.path(&volume.id);
    let checked = Command::new("e2fsck").arg("-fn").arg(&path).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    let shown = world.volumes.inspect(&world.state, HOST_TENANT, "data").unwrap();
    assert!(shown.used.unwrap() < Bytes::mib(64) && shown.users.is_empty());
    // It can be grown while it is mounted: there is room for more group descriptors.
    let header = Command::new("dumpe2fs").arg("-h").arg(&path).output().unwrap();
    assert!(String::from_utf8_lossy(&header.stdout).contains("resize_inode"));
    let grown = world.grow(&volume.id, Bytes::gib(3)).unwrap();
    assert_eq!((grown.size, path.metadata().unwrap().len()), (Bytes::gib(3), 3 << 30));
    assert_eq!(world.grow("data", Bytes::gib(3)).unwrap(), grown);
    let refused = world.grow("data", Bytes::gib(1)).unwrap_err();
    assert!(matches!(refused, VolumeError::Shrinks { .. }), "{refused}");
    for size in [Bytes(u64::MAX), Bytes::gib(1 << 20)] {
        assert!(matches!(world.grow("data", size), Err(VolumeError::Disk(DiskError::Size(_)))));
    }
}

#[test]
fn what_cannot_be_leaves_nothing_behind() {
    let world = world();
    for size in [Bytes(0), Bytes::mib(15), Bytes(u64::MAX)] {
        let refused = world.create("data", size).unwrap_err();
        assert!(matches!(refused, VolumeError::Disk(DiskError::Size(_))), "{refused}");
    }
    assert!(matches!(world.create("../up", Bytes::mib(16)), Err(VolumeError::Name(_))));
    world.create("data", Bytes::mib(16)).unwrap();
    let taken = world.create("data", Bytes::mib(16)).unwrap_err();
    assert!(matches!(taken, VolumeError::State(StateError::VolumeTaken(_))), "{taken}");
    assert_eq!(world.files(), 1);
    let wish = |name: &str, size| WantedVolume { name: name.into(), read_only: false, size };
    let wanted = [wish("new", Some(Bytes::mib(16))), wish("bad", Some(Bytes(1)))];
    world.find_or_make(&wanted).unwrap_err();
    assert_eq!((world.files(), world.state.volumes().unwrap().len()), (1, 1));
    let found = world.find_or_make(&[wish("data", None), wanted[0].clone()]).unwrap();
    assert_eq!((found.uses.len(), found.made.len()), (2, 1));
    assert!(found.made[0].name == "new" && found.uses[0].name == "data");
    let (pruned, _) = world.volumes.prune(&world.state, HOST_TENANT).unwrap();
    assert_eq!((pruned.volumes, world.files()), (vec!["data".to_owned(), "new".to_owned()], 0));
    assert!(matches!(
        world.volumes.remove(&world.state, HOST_TENANT, "data"),
        Err(VolumeError::State(StateError::NoVolume(_)))
    ));
}

#[test]
fn a_file_is_locked_whoever_asks() {
    let world = world();
    let volume = world.create("data", Bytes::mib(16)).unwrap();
    // Another daemon on the same files.
    let other = Volumes::new(world.dir.path());
    let writer = world.volumes.open(&[usage(&volume, false)]).unwrap();
    for read_only in [true, false] {
        let refused = other.open(&[usage(&volume, read_only)]).unwrap_err();
        assert!(refused.to_string().contains("data is still held"), "{refused}");
    }
    drop(writer);
    let readers: Vec<_> = (0..3).map(|_| other.open(&[usage(&volume, true)]).unwrap()).collect();
    assert!(matches!(world.volumes.open(&[usage(&volume, false)]), Err(VolumeError::Locked(_))));
    let mut reader = &readers[0][0];
    io::Write::write_all(&mut reader, b"x").unwrap_err();
    // Those who are about to let go of it are waited for.
    let leaving = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(readers);
    });
    world.volumes.open(&[usage(&volume, false)]).unwrap();
    leaving.join().unwrap();
}

#[test]
fn what_a_quota_refuses_is_neither_made_nor_grown() {
    let world = world();
    let most = Bytes::mib(40).get();
    let judge = |wanted: &Amounts| {
        let used = quota::of_volumes(&world.state.volumes_of(HOST_TENANT)?);
        Ok(quota::fits(&[(Resource::Disk, most), (Resource::Volumes, 2)].into(), &used, wanted)?)
    };
    let owner = Owner { judge: &judge, ..owner(&world.counting) };
    let create = |name: &str, size| {
        let spec = VolumeSpec { name: Some(name.into()), size: Some(size), ..VolumeSpec::default() };
        world.volumes.create(&world.state, owner, spec, None)
    };
    let grow = |size| world.volumes.grow(&world.state, owner, "data", size);
    let over = |refused: Result<Volume, VolumeError>, of| {
        let refused = refused.unwrap_err();
        assert!(
            matches!(&refused, VolumeError::Quota(OverQuota { resource, .. }) if *resource == of),
            "{refused}"
        );
    };
    over(create("data", Bytes::mib(41)), Resource::Disk);
    let data = create("data", Bytes::mib(16)).unwrap();
    over(create("more", Bytes::mib(25)), Resource::Disk);
    over(grow(Bytes::mib(41)), Resource::Disk);
    assert_eq!(world.volumes.path(&data.id).metadata().unwrap().len(), 16 << 20);
    create("more", Bytes::mib(16)).unwrap();
    over(create("third", Bytes::mib(16)), Resource::Disk);
    world.volumes.remove(&world.state, HOST_TENANT, "more").unwrap();
    // What it has already does not count twice.
    assert_eq!(grow(Bytes::mib(40)).unwrap().size, Bytes::mib(40));
    assert_eq!(grow(Bytes::mib(40)).unwrap().size, Bytes::mib(40));
    assert_eq!(world.files(), 1);
}

#[test]
fn of_many_at_once_as_many_are_made_as_may_be() {
    let world = world();
    let create = |number: usize| {
        let judge = |wanted: &Amounts| {
            let used = quota::of_volumes(&world.state.volumes_of(HOST_TENANT)?);
            Ok(quota::fits(&[(Resource::Volumes, 3)].into(), &used, wanted)?)
        };
        let owner = Owner { judge: &judge, ..owner(&world.counting) };
        let size = Some(Bytes::mib(16));
        let spec = VolumeSpec { name: Some(format!("v{number}")), size, ..VolumeSpec::default() };
        world.volumes.create(&world.state, owner, spec, None).is_ok()
    };
    let made = std::thread::scope(|scope| {
        let create = &create;
        let all: Vec<_> = (0..8).map(|number| scope.spawn(move || create(number))).collect();
        all.into_iter().map(|one| one.join().unwrap()).filter(|made| *made).count()
    });
    assert_eq!((made, world.files()), (3, 3));
}
