//! One microVM: built from a plan in numbered steps, run, paused, resumed, ended.
//!
//! Owner: the main thread. Invariant: the order of [`Machine::pause`] is the only order: vCPUs park, then the
//! devices drain; [`Machine::resume`] goes the other way.

use std::fs::File;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use hull_jail::seccomp::Role;
use hull_protocol::exit::ExitReason;
use hull_protocol::plan::{BootPlan, Slot};
use hull_protocol::units::Bytes;
use hull_virtio::block::BlockError;
use hull_virtio::device::{Device, Interrupt, Memory};
use hull_virtio::mmio::{INTERRUPT_ACK, MmioTransport, QUEUE_NOTIFY, USED_BUFFER};
use hull_virtio::net::backend::TapError;
use hull_virtio::net::counters::Counters;
use hull_virtio::window::{Window, Windows};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip,
};
use kvm_ioctls::{IoEventAddress, Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::arch::{cpuid, registers};
use crate::boot::{Entry, acpi, firmware, linux};
use crate::bus::Bus;
use crate::confine;
use crate::devices::Devices;
use crate::gate::Gate;
use crate::inherit::{InheritError, Slots};
use crate::io_loop::{IoHandle, IoLoop, Seat};
use crate::layout::{self, Layout};
use crate::memory;
use crate::serial::{Console, SerialPort};
use crate::vcpu::Vcpu;

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A descriptor of the plan is not usable.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// The plan does not fit an address space.
    #[error(transparent)]
    Layout(#[from] layout::LayoutError),
    /// Guest memory could not be had.
    #[error(transparent)]
    Memory(#[from] memory::MemoryError),
    /// The guest cannot be loaded.
    #[error(transparent)]
    Load(#[from] linux::LoadError),
    /// The processor model cannot be had.
    #[error(transparent)]
    Cpuid(#[from] cpuid::CpuidError),
    /// A disk cannot be offered.
    #[error(transparent)]
    Disk(#[from] BlockError),
    /// A network card cannot be offered.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A processor could not be set up.
    #[error(transparent)]
    Registers(#[from] registers::RegisterError),
    /// KVM refused a step.
    #[error("KVM could not {step}")]
    Kvm {
        /// What was tried.
        step: &'static str,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The host refused a step.
    #[error("the host could not {step}")]
    Host {
        /// What was tried.
        step: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

fn kvm_refused(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> BuildError {
    move |source| BuildError::Kvm { step, source }
}

pub(crate) fn host_refused(step: &'static str) -> impl Fn(io::Error) -> BuildError {
    move |source| BuildError::Host { step, source }
}

/// A running microVM.
pub struct Machine {
    gate: Arc<Gate>,
    io: IoHandle,
    console: Console,
    vcpus: Vec<JoinHandle<()>>,
    io_thread: Option<JoinHandle<()>>,
    ended: Receiver<ExitReason>,
    power_button: EventFd,
    paused: bool,
    nets: Vec<Arc<Counters>>,
    bus: Arc<Bus>,
    /// How many disks there are: the first devices.
    disks: usize,
    // KVM's view of memory lives as long as the machine.
    _vm: VmFd,
    _memory: Memory,
}

impl Machine {
    /// Builds the machine of a plan; its first instruction comes with [`Machine::start`]'s threads, which run
    /// when this returns. `woken` is written when the VM has ended.
    ///
    /// # Errors
    /// When the host or KVM refuses a step; nothing has run then.
    pub fn build(plan: &BootPlan, slots: &mut Slots, woken: EventFd) -> Result<Self, BuildError> {
        // 1. The address space, and the memory in it.
        let Devices { all: devices, nets } = Devices::open(plan, slots)?;
        let layout = Layout::of(plan.memory, devices.len())?;
        let memory = memory::allocate(&layout)?;
        // 2. What the guest starts with, and meanwhile the VM with its interrupt controllers: most of the time that
        //    KVM takes for a VM it waits, and most of the time that the kernel takes is a copy.
        let kvm = slots.take(plan.kvm)?;
        let (created, loaded) = thread::scope(|scope| {
            let loader = scope.spawn(|| {
                confine::to(Role::Loader);
                load(plan, slots, &layout, &memory)
            });
            // On this thread: KVM names a VM's statistics after it.
            (create_vm(kvm), loader.join())
        });
        let (kvm, vm) = created?;
        // A panic ends the process before it could be seen here.
        let entry = loaded.map_err(|_| host_refused("load the kernel")(io::ErrorKind::Other.into()))??;
        // 3. The memory becomes the VM's.
        memory::register(&vm, &memory)?;
        // 4. Devices: a seat in the event loop and a transport on the bus for each.
        let output = plan.console.output.map(|slot| slots.stream(slot)).transpose()?;
        let input = plan.console.input.map(|slot| slots.stream(slot)).transpose()?;
        let console = Console::start(output, plan.console.limit.map(|limit| limit.get()))
            .map_err(host_refused("start the console"))?;
        let (seats, transports) = connect(&vm, &layout, devices)?;
        let (io_loop, io) =
            IoLoop::new(memory.clone(), seats, input).map_err(host_refused("set up the event loop"))?;
        let serial = SerialPort::new(irq_line(&vm, layout::SERIAL_GSI)?, &console);
        let power_button = irq_line(&vm, layout::EVENT_GSI)?;
        let bus = Arc::new(Bus::new(serial, transports, io.clone()));
        // 5. Processors.
        let vcpus = create_vcpus(plan, &kvm, &vm, entry)?;
        // 6. Threads.
        let gate = Arc::new(Gate::new(vcpus.len()));
        let (reasons, ended) = channel();
        let io_thread =
            spawn_io(io_loop, bus.clone(), Ending { reasons: reasons.clone(), woken: clone(&woken)? })?;
        let mut machine = Self {
            gate,
            io,
            console,
            vcpus: Vec::with_capacity(vcpus.len()),
            io_thread: Some(io_thread),
            ended,
            power_button,
            paused: false,
            nets,
            bus: bus.clone(),
            disks: plan.disks.len(),
            _vm: vm,
            _memory: memory,
        };
        for vcpu in vcpus {
            let ending = Ending { reasons: reasons.clone(), woken: clone(&woken)? };
            machine.spawn_vcpu(vcpu, bus.clone(), ending)?;
        }
        Ok(machine)
    }

    /// The reason for the end, once there is one.
    pub fn ended(&self) -> Option<ExitReason> {
        self.ended.try_recv().ok()
    }

    /// Stops the guest in place. Pausing what is paused does nothing.
    pub fn pause(&mut self) {
        if !self.paused {
            self.gate.close(|| self.kick());
            self.io.pause();
            self.paused = true;
        }
    }

    /// Lets the guest go on. Resuming what runs does nothing.
    pub fn resume(&mut self) {
        if self.paused {
            self.io.resume();
            self.gate.open();
            self.paused = false;
        }
    }

    /// Whether the guest is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// What a network card has counted; none if there is no such card.
    pub fn net(&self, index: u8) -> Option<&Counters> {
        self.nets.get(usize::from(index)).map(Arc::as_ref)
    }

    /// Has a disk be of this size, which its file has by now; whether there is such a disk. It never shrinks.
    pub fn grow_disk(&mut self, index: u8, size: Bytes) -> bool {
        let slot = usize::from(index);
        if slot >= self.disks {
            return false;
        }
        let paused = self.paused;
        self.pause();
        self.bus.grow(slot, size.get());
        if !paused {
            self.resume();
        }
        true
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// When the interrupt cannot be raised.
    pub fn press_power_button(&self) -> io::Result<()> {
        self.power_button.write(1)
    }

    /// Ends all threads: vCPUs leave, devices drain and make their disks durable, the console is flushed.
    pub fn finish(mut self) {
        self.gate.end(|| self.kick());
        for vcpu in self.vcpus.drain(..) {
            let _left = vcpu.join();
        }
        self.io.end();
        if let Some(thread) = self.io_thread.take() {
            let _left = thread.join();
        }
        self.console.finish();
    }

    /// Makes every vCPU leave the guest. A thread that has ended is not signalled: it is joined last.
    #[expect(unsafe_code, reason = "signalling a thread by its handle has no safe interface")]
    fn kick(&self) {
        for vcpu in &self.vcpus {
            // SAFETY: the handle is not joined yet, so the thread's id is valid even if it has ended.
            unsafe { libc::pthread_kill(vcpu.as_pthread_t(), kick_signal()) };
        }
    }

    fn spawn_vcpu(&mut self, mut vcpu: Vcpu, bus: Arc<Bus>, ending: Ending) -> Result<(), BuildError> {
        let gate = self.gate.clone();
        let thread = thread::Builder::new()
            .name(format!("vcpu{}", self.vcpus.len()))
            .stack_size(128 << 10)
            .spawn(move || {
                confine::to(Role::Vcpu);
                if let Some(reason) = vcpu.run_all(&bus, &gate) {
                    ending.end(reason);
                    // Stay until the machine sends every vCPU away, so that the gate's count is right.
                    while gate.pass() != crate::gate::Pass::Leave {
                        thread::park_timeout(std::time::Duration::from_millis(1));
                    }
                }
            })
            .map_err(host_refused("start a processor's thread"))?;
        self.vcpus.push(thread);
        Ok(())
    }
}

/// How a thread tells that the VM has ended.
struct Ending {
    reasons: Sender<ExitReason>,
    woken: EventFd,
}

impl Ending {
    fn end(&self, reason: ExitReason) {
        let _first_reason_counts = self.reasons.send(reason);
        let _main_is_awake = self.woken.write(1);
    }
}

fn clone(event: &EventFd) -> Result<EventFd, BuildError> {
    event.try_clone().map_err(host_refused("copy a descriptor"))
}

/// The signal that makes a vCPU leave the guest; its handler does nothing.
pub fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

#[expect(unsafe_code, reason = "a KVM handle is made from an inherited descriptor")]
fn create_vm(file: File) -> Result<(Kvm, VmFd), BuildError> {
    use std::os::fd::{FromRawFd, IntoRawFd};
    // SAFETY: the descriptor is open and owned by `file`, which gives it up here.
    let kvm = unsafe { Kvm::from_raw_fd(file.into_raw_fd()) };
    if kvm.get_api_version() != 12 {
        let source =
            io::Error::new(io::ErrorKind::Unsupported, "the descriptor given as /dev/kvm is not KVM");
        return Err(BuildError::Host { step: "use KVM", source });
    }
    let vm = kvm.create_vm().map_err(kvm_refused("create a VM"))?;
    vm.set_tss_address(layout::KVM_TSS as usize).map_err(kvm_refused("place its task state segment"))?;
    vm.create_irq_chip().map_err(kvm_refused("create the interrupt controllers"))?;
    route_interrupts(&vm)?;
    Ok((kvm, vm))
}

/// Connects every interrupt to the IOAPIC alone. KVM's default also feeds the legacy controller, which a kernel
/// on hardware-reduced ACPI never programs: it would deliver devices' interrupts as processor exceptions.
fn route_interrupts(vm: &VmFd) -> Result<(), BuildError> {
    let entries: Vec<kvm_irq_routing_entry> = (0..=layout::LAST_GSI)
        .map(|gsi| kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            u: kvm_irq_routing_entry__bindgen_ty_1 {
                irqchip: kvm_irq_routing_irqchip { irqchip: KVM_IRQCHIP_IOAPIC, pin: gsi },
            },
            ..Default::default()
        })
        .collect();
    let routing = KvmIrqRouting::from_entries(&entries).map_err(|_| BuildError::Host {
        step: "list the interrupts",
        source: io::ErrorKind::OutOfMemory.into(),
    })?;
    vm.set_gsi_routing(&routing).map_err(kvm_refused("connect the interrupts"))
}

fn load(plan: &BootPlan, slots: &mut Slots, layout: &Layout, memory: &Memory) -> Result<Entry, BuildError> {
    let kernel = slots.take(plan.kernel.image)?;
    let initrd = plan.kernel.initrd.map(|slot: Slot| slots.take(slot)).transpose()?;
    let kernel = linux::Kernel {
        image: &kernel,
        initrd: initrd.as_ref(),
        cmdline: &plan.kernel.cmdline,
        entry: plan.kernel.entry,
    };
    let entry = linux::load(memory, layout, kernel)?;
    acpi::write(memory, layout, plan.cpus)?;
    firmware::write(memory)?;
    registers::write_tables(memory)?;
    Ok(entry)
}

fn irq_line(vm: &VmFd, gsi: u32) -> Result<EventFd, BuildError> {
    let line =
        EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(host_refused("make an interrupt"))?;
    vm.register_irqfd(&line, gsi).map_err(kvm_refused("connect an interrupt"))?;
    Ok(line)
}

/// A device's interrupt: the bit in its status register, then the line.
struct Line {
    window: Window,
    line: EventFd,
}

impl Line {
    fn raise(&self) {
        if let Err(error) = self.line.write(1) {
            log::error!("an interrupt cannot be raised: {error}");
        }
    }
}

impl Interrupt for Line {
    fn queue(&self, _index: usize) {
        self.window.raise_queue();
        self.raise();
    }

    fn config(&self) {
        self.window.raise_config();
        self.raise();
    }

    fn config_field(&self, offset: u64, field: u16) {
        self.window.set_config(offset, field);
        self.config();
    }
}

/// Connects each device's registers, notifications and interrupt to KVM, so that none of them needs an exit to user space
/// once a driver has set it up.
fn connect(
    vm: &VmFd,
    layout: &Layout,
    devices: Vec<Box<dyn Device>>,
) -> Result<(Vec<Seat>, Vec<MmioTransport>), BuildError> {
    let mut seats = Vec::new();
    let mut transports = Vec::new();
    let windows = Windows::new(devices.len());
    memory::register_windows(vm, layout, windows.clone())?;
    let event =
        || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(host_refused("make a notification"));
    // Nobody listens: there is nothing to do.
    let acknowledged = event()?;
    for (index, (device, place)) in devices.into_iter().zip(&layout.devices).enumerate() {
        let connect = |event: &EventFd, offset, value: u32| {
            vm.register_ioevent(event, &IoEventAddress::Mmio(place.base + offset), value)
                .map_err(kvm_refused("connect a notification"))
        };
        connect(&acknowledged, INTERRUPT_ACK, USED_BUFFER)?;
        let mut kicks = Vec::new();
        for queue in (0..).take(device.info().queue_sizes.len()) {
            let kick = event()?;
            connect(&kick, QUEUE_NOTIFY, queue)?;
            kicks.push(kick);
        }
        let window = windows.window(index);
        let interrupt = Line { window: window.clone(), line: irq_line(vm, place.gsi)? };
        let transport = MmioTransport::new(device, window);
        seats.push(Seat { kicks, interrupt: Box::new(interrupt), broken: transport.broken() });
        transports.push(transport);
    }
    Ok((seats, transports))
}

fn create_vcpus(plan: &BootPlan, kvm: &Kvm, vm: &VmFd, entry: Entry) -> Result<Vec<Vcpu>, BuildError> {
    let model = cpuid::model(kvm, plan.cpu)?;
    (0..plan.cpus)
        .map(|index| {
            let fd = vm.create_vcpu(u64::from(index)).map_err(kvm_refused("create a processor"))?;
            let cpuid = cpuid::for_vcpu(&model, index, plan.cpus)?;
            fd.set_cpuid2(&cpuid).map_err(kvm_refused("set a processor's features"))?;
            registers::set_up(&fd, index, entry)?;
            Ok(Vcpu::new(fd, index))
        })
        .collect()
}

fn spawn_io(io_loop: IoLoop, bus: Arc<Bus>, ending: Ending) -> Result<JoinHandle<()>, BuildError> {
    thread::Builder::new()
        .name("io".into())
        .stack_size(256 << 10)
        .spawn(move || {
            confine::to(Role::Io);
            if let Err(error) = io_loop.run(&bus) {
                log::error!("the event loop failed: {error}");
                ending.end(ExitReason::HostError);
            }
        })
        .map_err(host_refused("start the event loop"))
}
