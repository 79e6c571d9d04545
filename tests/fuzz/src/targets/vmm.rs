//! What `hull-vmm` reads before its guest runs: the plan, the kernel, the initial RAM disk.

use hull_protocol::life::DiskLimit;
use hull_protocol::plan::{
    BootPlan, ConsolePlan, CpuModel, DiskPlan, EntryPlan, KernelPlan, Slot, VsockPlan,
};
use hull_protocol::units::{Bytes as Size, MIB};
use hull_virtio::device::Memory;
use hull_virtio::window::WINDOW;
use hull_vmm::boot::linux::{Kernel, load};
use hull_vmm::boot::{Entry, acpi};
use hull_vmm::layout::{self, Layout};
use vm_memory::{Bytes, GuestAddress};

use super::devices::file;
use super::samples;
use crate::input::{Input, Script};

/// A guest small enough to be made for each input.
const MEMORY: u64 = 32 * MIB;

/// Layout and ACPI tables of any size of machine.
pub(crate) fn layout(data: &[u8]) {
    let mut input = Input(data);
    let (memory, devices, cpus) =
        (Size::mib(32 + u64::from(input.u32()) % (4 << 20)), input.u8(), input.u8());
    machine(memory, usize::from(devices), cpus.clamp(1, 64));
}

fn machine(memory: Size, devices: usize, cpus: u8) {
    let Ok(layout) = Layout::of(memory, devices) else {
        assert!(devices > 18, "no layout for {devices} devices");
        return;
    };
    let mut ranges = layout.ram.clone();
    ranges.extend(layout.devices.iter().map(|device| (device.base, WINDOW)));
    ranges.extend([(0xfec0_0000, 0x1000), (0xfee0_0000, 0x1000), (layout::KVM_TSS, 0x3000)]);
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "ranges overlap: {ranges:x?}");
    let map = layout.memory_map();
    assert!(map.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "the map overlaps: {map:x?}");
    assert!(!layout.to_string().is_empty());
    // The tables need the first MiB only.
    let low = Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("a MiB");
    acpi::write(&low, &layout, cpus).expect("every machine's tables fit");
    let mut rsdp = [0; 36];
    low.read_slice(&mut rsdp, GuestAddress(layout::ACPI)).expect("the tables are in memory");
    assert_eq!(rsdp.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0, "the RSDP's sum");
}

/// The smallest, the largest, and those around the gap for devices.
pub(crate) fn layout_seeds() -> Vec<Vec<u8>> {
    let one = |mib: u32, devices: u8, cpus: u8| Script::default().u32(mib).u8(devices).u8(cpus).0;
    vec![one(0, 0, 1), one(3072 - 32, 18, 64), one(3072 - 31, 4, 2), one((4 << 20) - 33, 19, 255)]
}

/// The plan, and the machine that it asks for.
pub(crate) fn plan(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(plan) = hull_vmm::acceptable_plan(text) else { return };
    let devices =
        plan.disks.len() + plan.nets.len() + usize::from(plan.vsock.is_some()) + usize::from(plan.rng);
    machine(plan.memory, devices, plan.cpus);
    let again = serde_json::to_string(&plan).expect("what was read can be written");
    assert_eq!(hull_vmm::acceptable_plan(&again), Some(plan), "a plan does not survive the wire");
}

/// Plans as the daemon makes them.
pub(crate) fn plan_seeds() -> Vec<Vec<u8>> {
    let disk = |file, read_only| DiskPlan {
        file: Slot(file),
        read_only,
        serial: "root".into(),
        limit: DiskLimit::default(),
    };
    let mut plan = BootPlan {
        id: "0123456789ab".into(),
        kvm: Slot(4),
        memory: Size::mib(256),
        cpus: 2,
        cpu: CpuModel::Host,
        kernel: KernelPlan {
            image: Slot(5),
            initrd: Some(Slot(6)),
            cmdline: "console=ttyS0 quiet".into(),
            entry: EntryPlan::Auto,
        },
        disks: vec![disk(7, true), disk(8, false)],
        vsock: Some(VsockPlan { cid: 3, listener: Slot(9) }),
        nets: Vec::new(),
        cgroups: vec![Slot(10)],
        rng: true,
        console: ConsolePlan { input: Some(Slot(0)), output: Some(Slot(11)), limit: Some(Size::mib(1)) },
        control: Some(Slot(12)),
        first_user: Some(0x7000_0000),
        trace: "4bf92f3577b34da6a3ce929d0e0e4736".parse().ok(),
    };
    let full = serde_json::to_vec(&plan).expect("plain data");
    plan.nets = serde_json::from_str(NETS).expect("a card");
    vec![full, serde_json::to_vec(&plan).expect("plain data")]
}

const NETS: &str = r#"[{"tap":13,"mac":"02:00:5e:10:00:01","mtu":1500,"guard":["10.88.0.2","fd00:88::2"],
    "receive":{"bytes":{"per_second":1000000,"burst":50000}},"transmit":{"packets":{"per_second":1000}}}]"#;

/// A kernel's file, an initial RAM disk and a command line, as `hull-vmm` loads them.
pub(crate) fn kernel(data: &[u8]) {
    let mut input = Input(data);
    let entry = input.pick(&[EntryPlan::Auto, EntryPlan::Linux64, EntryPlan::Pvh]);
    let initrd = Some(input.block()).filter(|initrd| !initrd.is_empty()).map(file);
    let cmdline = String::from_utf8_lossy(input.block()).into_owned();
    let image = file(input.0);
    let layout = Layout::of(Size(MEMORY), 2).expect("a small machine");
    let size = usize::try_from(MEMORY).expect("a small number");
    let memory = Memory::from_ranges(&[(GuestAddress(0), size)]).expect("memory for a guest");
    let kernel = Kernel { image: &image, initrd: initrd.as_ref(), cmdline: &cmdline, entry };
    let at = match load(&memory, &layout, kernel) {
        Ok(Entry::Linux64(at)) => at,
        Ok(Entry::Pvh(at)) => u64::from(at),
        Err(_) => return,
    };
    assert!((layout::HIGH_RAM_START..MEMORY).contains(&at), "the entry {at:#x} is outside of memory");
}

/// ELF files with each entry, and a bzImage.
pub(crate) fn kernel_seeds() -> Vec<Vec<u8>> {
    let script =
        |image: &[u8], initrd: &[u8]| Script::default().u8(0).block(initrd).block(b"quiet").bytes(image).0;
    let mut elf = samples::vmlinux();
    elf.truncate(0x1400);
    // Its segments as long as what is left of it, and its entry inside.
    let segments = [[1, 0x1000, 0x0100_0000, 0x400, 0x9000], [4, 0x1000, 0x0100_0000, 0x20, 0x20]];
    let mut note = [4_u32, 8, 18].map(u32::to_le_bytes).concat();
    note.extend(b"Xen\0\x10\0\0\x01\0\0\0\0");
    note.resize(0x400, 0x90);
    let mut pvh = samples::program(62, &segments, &note);
    pvh[24..32].copy_from_slice(&0x0100_0010_u64.to_le_bytes());
    let mut narrow = pvh.clone();
    narrow[4] = 1;
    let mut bzimage = samples::bzimage(&[0x90; 2048], None);
    // Loaded high, with a 64-bit entry, at its preferred address.
    bzimage[0x211] = 1;
    bzimage[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    bzimage[0x236] = 1;
    vec![script(&elf, b""), script(&pvh, b"initrd"), script(&narrow, b""), script(&bzimage, b"initrd")]
}
