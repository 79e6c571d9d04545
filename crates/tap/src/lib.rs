//! Tap devices: the host's end of a guest's network card, Documentation/networking/tuntap.rst.
//!
//! One safe function for each request of the driver. Who makes networks opens taps by name, from any thread; who has
//! been handed an open one asks it what it is and sets its offloads. Invariant: every tap of Hull is opened alike:
//! Ethernet frames behind a virtio header and nothing else, without waiting, closed on exec.
#![allow(unsafe_code, reason = "the driver is configured by ioctl alone")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, netdevice, socket};

/// The longest name of an interface in bytes.
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;
/// The header before each frame: `struct virtio_net_hdr_v1` (virtio 1.2, section 5.1.6).
pub const HEADER: usize = 12;

const DRIVER: &str = "/dev/net/tun";
/// How Hull opens a tap.
const KIND: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Why a tap cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name is none that an interface can have.
    #[error("'{0}' is no name of an interface: use 1 to {NAME_MAX} bytes without '/', ':', '%' and spaces")]
    Name(String),
    /// There is no such interface.
    #[error("there is no interface '{0}': make one with 'ip tuntap add {0} mode tap vnet_hdr'")]
    Missing(String),
    /// The driver is not there.
    #[error("{DRIVER} cannot be opened: load the module with 'modprobe tun'")]
    Driver(#[source] io::Error),
    /// Not without the right to it.
    #[error(
        "the tap '{0}' may not be used by this user: run as root, or have it made with 'ip tuntap add {0} mode tap vnet_hdr user NAME'"
    )]
    Denied(String),
    /// Somebody has it open.
    #[error("the tap '{0}' is in use by another program: end that, or take another tap")]
    Busy(String),
    /// An interface of that name is something else.
    #[error("the interface '{0}' cannot be opened as a tap of this kind: remove it, or take another name")]
    Kind(String),
    /// A descriptor that was handed over is no tap as Hull opens it.
    #[error("the descriptor is no tap with virtio headers and no packet information; open it so")]
    NotATap,
    /// The host refused something else.
    #[error("the host could not {step} the tap '{name}'")]
    Host {
        /// What was tried.
        step: &'static str,
        /// The interface.
        name: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Which offloads whoever reads a tap can take, `TUNSETOFFLOAD`: frames come without checksum, or as one large frame
/// for many segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload(u32);

impl Offload {
    /// None: frames come as they are on a wire.
    pub const NONE: Self = Self(0);
    /// Checksums may be missing. All others need it.
    pub const CHECKSUM: Self = Self(libc::TUN_F_CSUM);
    /// TCP over IPv4.
    pub const TSO4: Self = Self(libc::TUN_F_TSO4);
    /// TCP over IPv6.
    pub const TSO6: Self = Self(libc::TUN_F_TSO6);
    /// With either of those, TCP with congestion marks.
    pub const ECN: Self = Self(libc::TUN_F_TSO_ECN);
    /// UDP over both, from Linux 6.2 on.
    pub const USO: Self = Self(libc::TUN_F_USO4 | libc::TUN_F_USO6);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This one if it is wanted, else none.
    #[must_use]
    pub const fn when(self, wanted: bool) -> Self {
        if wanted { self } else { Self::NONE }
    }
}

/// Opens the tap `name` in the network namespace of the calling thread; makes it where there is none, which takes
/// `CAP_NET_ADMIN`. One that was made goes with its last descriptor, unless [`set_persistent`]. With `multi_queue` it
/// can be opened several times, once for each queue.
///
/// # Errors
/// When the name is bad, or the host refuses.
pub fn open(name: &str, multi_queue: bool) -> Result<OwnedFd, TapError> {
    let queues = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    open_with(name, KIND | queues)
}

/// Opens a tap that is there.
///
/// # Errors
/// When there is none of that name, or the host refuses.
pub fn attach(name: &str, multi_queue: bool) -> Result<OwnedFd, TapError> {
    check(name)?;
    let refused =
        |source: Errno| TapError::Host { step: "look for", name: name.into(), source: source.into() };
    let asking = socket(AddressFamily::UNIX, SocketType::DGRAM, None).map_err(refused)?;
    match netdevice::name_to_index(asking, name) {
        Ok(_) => open(name, multi_queue),
        Err(Errno::NODEV) => Err(TapError::Missing(name.into())),
        Err(error) => Err(refused(error)),
    }
}

fn open_with(name: &str, flags: libc::c_int) -> Result<OwnedFd, TapError> {
    check(name)?;
    let how = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let tap = rustix::fs::open(DRIVER, how, Mode::empty()).map_err(|error| TapError::Driver(error.into()))?;
    let mut request = Request::new(name, flags);
    request.make(tap.as_fd(), libc::TUNSETIFF).map_err(|source| {
        let name = name.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM) => TapError::Denied(name),
            Some(libc::EBUSY) => TapError::Busy(name),
            Some(libc::EINVAL) => TapError::Kind(name),
            _ => TapError::Host { step: "open", name, source },
        }
    })?;
    let refused = |source| TapError::Host { step: "set the headers of", name: name.into(), source };
    set_header(tap.as_fd()).map_err(refused)?;
    Ok(tap)
}

/// Names with which the driver would do something else: a pattern, an alias, a path.
fn check(name: &str) -> Result<(), TapError> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    let good =
        (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(allowed) && !matches!(name, "." | "..");
    if good { Ok(()) } else { Err(TapError::Name(name.into())) }
}

/// Whether the tap stays when nobody has it open.
///
/// # Errors
/// The host's.
pub fn set_persistent(tap: BorrowedFd<'_>, persistent: bool) -> io::Result<()> {
    by_value(tap, libc::TUNSETPERSIST, u32::from(persistent).into())
}

/// Says which offloads the reader can take. Taps of Linux before 6.2 refuse [`Offload::USO`].
///
/// # Errors
/// The host's.
pub fn set_offload(tap: BorrowedFd<'_>, offload: Offload) -> io::Result<()> {
    by_value(tap, libc::TUNSETOFFLOAD, offload.0.into())
}

/// The name of a tap that was handed over, once it is sure that it is one as [`open`] makes them.
///
/// # Errors
/// When it is not, or is not attached to an interface.
pub fn verify(tap: BorrowedFd<'_>) -> Result<String, TapError> {
    let mut request = Request::new("", 0);
    request.make(tap, libc::TUNGETIFF).map_err(|_| TapError::NotATap)?;
    let flags = request.flags();
    let kinds = KIND | libc::IFF_TUN;
    let flags_of_file = rustix::fs::fcntl_getfl(tap).map_err(|_| TapError::NotATap)?;
    if flags & kinds != KIND || !flags_of_file.contains(OFlags::NONBLOCK) {
        return Err(TapError::NotATap);
    }
    set_header(tap).map_err(|_| TapError::NotATap)?;
    Ok(request.name())
}

fn set_header(tap: BorrowedFd<'_>) -> io::Result<()> {
    let length = libc::c_int::try_from(HEADER).unwrap_or(libc::c_int::MAX);
    // SAFETY: the request reads one int, which lives through the call.
    done(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const length) })
}

fn by_value(tap: BorrowedFd<'_>, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: these requests take their argument by value and touch no memory of this process.
    done(unsafe { libc::ioctl(tap.as_raw_fd(), request, value) })
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct ifreq` with a name and flags.
struct Request(libc::ifreq);

impl Request {
    fn new(name: &str, flags: libc::c_int) -> Self {
        // SAFETY: `ifreq` is plain data for which all zeroes are valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let (name, room) = (name.as_bytes().iter().take(NAME_MAX), &mut request.ifr_name);
        room.iter_mut().zip(name).for_each(|(to, from)| *to = from.cast_signed());
        // The flags fill the short, its sign included.
        request.ifr_ifru.ifru_flags = u16::try_from(flags & 0xffff).unwrap_or_default().cast_signed();
        Self(request)
    }

    fn make(&mut self, tap: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<()> {
        // SAFETY: the requests made here read and write one `ifreq`, which lives through the call.
        done(unsafe { libc::ioctl(tap.as_raw_fd(), request, &raw mut self.0) })
    }

    fn flags(&self) -> libc::c_int {
        // SAFETY: the flags were written by `new` or the kernel; any bits are a short.
        libc::c_int::from(unsafe { self.0.ifr_ifru.ifru_flags }) & 0xffff
    }

    fn name(&self) -> String {
        let bytes = self.0.ifr_name.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0);
        String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
    }
}

#[cfg(test)]
mod tests;
