//! Opening and binding the sockets: the privileged part.

use core::sync::atomic::AtomicU64;

use base::limits::{FRAME_BYTES, FRAME_HEADROOM, PORT_SEND_BUFFER_BYTES, XDP_QUEUES, XDP_RING_ENTRIES};
use rustix::io::Errno;
use sys::fds::Fd;
use sys::poll::any_of;
use sys::{packet, xsk};

use super::SIZES;

/// Micro-seconds that a call may poll the driver for, with [`XdpSpec::busy_poll`].
const BUSY_POLL_MICROS: i32 = 20;
/// Packets it may take from the driver in one go.
const BUSY_POLL_BUDGET: i32 = 64;

/// Largest IP packet that fits into one frame with its Ethernet header and VLAN tag.
const JOINED_BYTES_MAX: usize = FRAME_BYTES - FRAME_HEADROOM - 18;

/// Which packets the sockets are for, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpSpec {
    /// Number of the interface, which is up.
    pub ifindex: u32,
    /// Its receive queues: at least one, at most [`XDP_QUEUES`]. The program can give a socket packets of its own queue only, so there is one for
    /// each.
    pub queues: u32,
    /// Its MTU, bytes.
    pub mtu: u16,
    /// Try zero-copy before copying: right where the XDP program runs in the driver.
    pub zero_copy: bool,
    /// Let calls run the driver's receive loop: right for real cards under load.
    pub busy_poll: bool,
}

/// AF_XDP sockets bound to the queues of a device, and what they can do.
#[derive(Debug)]
pub struct XdpSockets {
    /// The socket of each queue, in order. They share one memory.
    pub fds: Vec<Fd>,
    /// Where there are several: readable when any of them is.
    pub any: Option<Fd>,
    /// May a packet to send lie in several frames?
    pub scatter: bool,
    /// Does the kernel complete checksums? Then a packet to send lies in one frame.
    pub completes_checksums: bool,
}

/// Why there are no sockets on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpRefused {
    /// The queue at which it failed.
    pub queue: u32,
    /// What the kernel says: EPERM; EBUSY while another socket has the queue (for about 20 ms after it was closed, too); ENODEV, ENETDOWN;
    /// EOPNOTSUPP, EINVAL when kernel or driver have no AF_XDP.
    pub errno: Errno,
}

impl core::fmt::Display for XdpRefused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { queue, errno } = self;
        match *errno {
            Errno::BUSY => write!(f, "another AF_XDP socket has queue {queue}"),
            Errno::OPNOTSUPP => write!(f, "the driver has no AF_XDP on queue {queue}"),
            Errno::NOBUFS => write!(f, "its AF_XDP memory is more than may be locked (ulimit -l)"),
            _ => write!(f, "an AF_XDP socket on queue {queue}: {errno}"),
        }
    }
}

impl std::error::Error for XdpRefused {}

/// Opens an AF_XDP socket on each queue; their packets lie in `cells`, a region's frames. Needs CAP_NET_RAW, and CAP_NET_ADMIN for its
/// large send buffer and for busy polling.
///
/// # Errors
/// [`XdpRefused`]; then no socket is left.
pub fn open(spec: &XdpSpec, cells: &[AtomicU64]) -> Result<XdpSockets, XdpRefused> {
    let refused = |queue| move |errno| XdpRefused { queue, errno };
    if spec.queues == 0 || spec.queues as usize > XDP_QUEUES {
        return Err(refused(spec.queues)(Errno::INVAL));
    }
    let mut sockets = open_first(spec, cells).map_err(refused(0))?;
    for queue in 1..spec.queues {
        let further =
            sockets.fds.first().ok_or(Errno::BADF).and_then(|first| open_further(spec, queue, first));
        sockets.fds.push(further.map_err(refused(queue))?);
    }
    sockets.any = set_of(&sockets.fds)?;
    Ok(sockets)
}

/// Opens further sockets on the queues of `spec`, on which `base` are, in the order of the queues, and for the same memory: for another lane of
/// the region. The fill and completion rings are those of `base`. Privileges as for [`open`].
///
/// # Errors
/// [`XdpRefused`]; then no further socket is left.
pub fn share(spec: &XdpSpec, base: &XdpSockets) -> Result<XdpSockets, XdpRefused> {
    let mut fds = Vec::new();
    for (queue, base) in (0..).zip(&base.fds) {
        let further = xsk::socket().and_then(|fd| {
            bind(&fd, spec, queue, Rings::Shared(base))?;
            Ok(fd)
        });
        fds.push(further.map_err(|errno| XdpRefused { queue, errno })?);
    }
    let any = set_of(&fds)?;
    Ok(XdpSockets { fds, any, ..*base })
}

/// What polls readable for any of the sockets, where there are several.
fn set_of(fds: &[Fd]) -> Result<Option<Fd>, XdpRefused> {
    let several = fds.len() > 1;
    several.then(|| any_of(fds)).transpose().map_err(|errno| XdpRefused { queue: 0, errno })
}

fn open_first(spec: &XdpSpec, cells: &[AtomicU64]) -> Result<XdpSockets, Errno> {
    let zero_copy = [xsk::ZERO_COPY | xsk::SCATTER, xsk::ZERO_COPY];
    let copy = [xsk::COPY | xsk::SCATTER, xsk::COPY];
    let wanted = if spec.zero_copy { zero_copy.as_slice() } else { &[] };
    let mut last = Errno::OPNOTSUPP;
    for flags in wanted.iter().chain(&copy) {
        match bound(spec, cells, *flags) {
            Ok(socket) => return Ok(socket),
            // The next way will do no better.
            Err(errno @ (Errno::PERM | Errno::BUSY | Errno::NODEV | Errno::NETDOWN)) => return Err(errno),
            Err(errno) => last = errno,
        }
    }
    Err(last)
}

/// A failed bind leaves a socket that cannot be bound again in every kernel, so each try has its own.
fn bound(spec: &XdpSpec, cells: &[AtomicU64], flags: u16) -> Result<XdpSockets, Errno> {
    let fd = xsk::socket()?;
    // In zero-copy mode a driver that does not know the metadata would send the checksum unfinished. And with metadata
    // the kernel wants room for it in front of every part of a packet, which payload does not have.
    let metadata = flags & xsk::COPY != 0 && usize::from(spec.mtu) <= JOINED_BYTES_MAX;
    let completes_checksums = metadata && xsk::register_memory(&fd, cells, FRAME_BYTES as u32, true).is_ok();
    if !completes_checksums {
        xsk::register_memory(&fd, cells, FRAME_BYTES as u32, false)?;
    }
    bind(&fd, spec, 0, Rings::First(flags))?;
    let scatter = flags & xsk::SCATTER != 0 && !completes_checksums;
    Ok(XdpSockets { fds: vec![fd], any: None, scatter, completes_checksums })
}

/// A socket on another queue, with the memory and the abilities of the first one.
fn open_further(spec: &XdpSpec, queue: u32, first: &Fd) -> Result<Fd, Errno> {
    let fd = xsk::socket()?;
    bind(&fd, spec, queue, Rings::OfMemory(first))?;
    Ok(fd)
}

/// Which rings a socket gets beside those it receives and sends by.
#[derive(Clone, Copy)]
enum Rings<'a> {
    /// Its own; it is the first one of its memory, and bound with these flags.
    First(u16),
    /// Its own, for the memory of this socket of another queue.
    OfMemory(&'a Fd),
    /// Those of this socket of the same queue.
    Shared(&'a Fd),
}

/// Makes the rings of a socket and binds it.
fn bind(fd: &Fd, spec: &XdpSpec, queue: u32, rings: Rings<'_>) -> Result<(), Errno> {
    let (flags, memory_of) = match rings {
        Rings::First(flags) => (flags, None),
        Rings::OfMemory(other) | Rings::Shared(other) => (0, Some(other)),
    };
    if !matches!(rings, Rings::Shared(_)) {
        xsk::make_memory_rings(fd, &SIZES)?;
    }
    xsk::make_rings(fd, &SIZES)?;
    packet::set_send_buffer(fd, PORT_SEND_BUFFER_BYTES)?;
    xsk::bind(fd, spec.ifindex, queue, flags | xsk::NEED_WAKEUP, memory_of)?;
    // Without it one call sends 32 packets, which the caller sees and repeats.
    let _ = xsk::set_tx_budget(fd, XDP_RING_ENTRIES);
    if spec.busy_poll {
        xsk::set_busy_poll(fd, BUSY_POLL_MICROS, BUSY_POLL_BUDGET)?;
    }
    Ok(())
}

/// Opens a packet socket that only sends, for the super-segments of an [`XdpPort`](super::XdpPort).
///
/// # Errors
/// EPERM, ENODEV, ENETDOWN.
pub fn open_companion(ifindex: u32) -> Result<Fd, Errno> {
    let fd = packet::socket()?;
    packet::set_vnet_header(&fd)?;
    packet::set_qdisc_bypass(&fd, true)?;
    packet::set_send_buffer(&fd, PORT_SEND_BUFFER_BYTES)?;
    packet::bind_to_send(&fd, ifindex)?;
    Ok(fd)
}
