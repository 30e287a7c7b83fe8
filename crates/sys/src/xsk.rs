//! AF_XDP sockets and their four rings (Documentation/networking/af_xdp.rst, linux/if_xdp.h).
//!
//! Invariant: the indices of a ring live in the ring only, never beside it, so that several processes can use one
//! socket in turn (under the lane lock) and a survivor can go on where another one died.

use core::marker::PhantomData;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::fds::Fd;
use crate::sockopt::{self, KernelPlain};
use crate::{Result, raw};

const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;
const XDP_UMEM_TX_METADATA_LEN: u32 = 1 << 2;
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_BUSY_POLL_BUDGET: i32 = 70;
const PAGE_RX_RING: u64 = 0;
const PAGE_TX_RING: u64 = 0x8000_0000;
const PAGE_FILL_RING: u64 = 0x1_0000_0000;
const PAGE_COMPLETION_RING: u64 = 0x1_8000_0000;

/// Bytes in front of a packet to send for [`TxMetadata`].
pub const TX_METADATA_BYTES: usize = 24;
/// Bind flag: the driver reads and writes the frames itself.
pub const ZERO_COPY: u16 = libc::XDP_ZEROCOPY;
/// Bind flag: the kernel copies.
pub const COPY: u16 = libc::XDP_COPY;
/// Bind flag: packets may lie in several frames.
pub const SCATTER: u16 = libc::XDP_USE_SG;
/// Bind flag: the rings say when the kernel waits for a call.
pub const NEED_WAKEUP: u16 = libc::XDP_USE_NEED_WAKEUP;
/// Descriptor option: the packet goes on in the next descriptor.
pub const CONTINUED: u32 = libc::XDP_PKT_CONTD;
/// Descriptor option: a [`TxMetadata`] lies in front of the packet.
pub const HAS_METADATA: u32 = libc::XDP_TX_METADATA;

/// xdp_umem_reg of Linux 6.8.
#[repr(C)]
#[derive(Clone, Copy)]
struct UmemReg {
    address: u64,
    bytes: u64,
    chunk_bytes: u32,
    headroom: u32,
    flags: u32,
    tx_metadata_bytes: u32,
}
// SAFETY: integers without padding.
unsafe impl KernelPlain for UmemReg {}

/// A request to complete a checksum, as the bytes in front of the packet (xsk_tx_metadata).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxMetadata {
    /// Where the sum begins, bytes from the packet's start.
    pub csum_start: u16,
    /// Where it is stored, bytes from `csum_start`.
    pub csum_offset: u16,
}

impl TxMetadata {
    /// The bytes for the kernel.
    #[must_use]
    pub fn to_bytes(self) -> [u8; TX_METADATA_BYTES] {
        let mut bytes = [0; TX_METADATA_BYTES];
        let flags = u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes();
        let fields =
            flags.into_iter().chain(self.csum_start.to_ne_bytes()).chain(self.csum_offset.to_ne_bytes());
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        bytes
    }
}

/// Number of entries of each ring: powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// Received packets.
    pub rx: u32,
    /// Packets to send.
    pub tx: u32,
    /// Empty frames for the kernel.
    pub fill: u32,
    /// Frames sent.
    pub completion: u32,
}

/// Makes an AF_XDP socket. Needs CAP_NET_RAW. CLOEXEC.
///
/// # Errors
/// EPERM, EAFNOSUPPORT.
pub fn socket() -> Result<Fd> {
    let family = AddressFamily::from_raw(libc::AF_XDP as u16);
    socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None).map(Fd::from)
}

/// Makes `cells`, in chunks of `chunk_bytes`, the memory of the socket's packets. They lie in a mapping, not in memory of an
/// allocator: the kernel pins the pages, so it does not matter how long they stay mapped here, but it writes to them for
/// as long as the socket lives. With `tx_metadata`, [`TxMetadata`] may lie in front of packets.
///
/// # Errors
/// EINVAL for impossible sizes or, with `tx_metadata`, a kernel before 6.8; ENOBUFS beyond RLIMIT_MEMLOCK.
pub fn register_memory(
    fd: &impl AsFd,
    cells: &[AtomicU64],
    chunk_bytes: u32,
    tx_metadata: bool,
) -> Result<()> {
    let reg = UmemReg {
        address: cells.as_ptr() as u64,
        bytes: size_of_val(cells) as u64,
        chunk_bytes,
        headroom: 0,
        flags: if tx_metadata { XDP_UMEM_TX_METADATA_LEN } else { 0 },
        tx_metadata_bytes: if tx_metadata { TX_METADATA_BYTES as u32 } else { 0 },
    };
    sockopt::set(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &reg)
}

/// Makes the receive and transmit rings.
///
/// # Errors
/// EINVAL for a size that is no power of two.
pub fn make_rings(fd: &impl AsFd, sizes: &RingSizes) -> Result<()> {
    sockopt::set(fd, libc::SOL_XDP, libc::XDP_RX_RING, &sizes.rx)?;
    sockopt::set(fd, libc::SOL_XDP, libc::XDP_TX_RING, &sizes.tx)
}

/// Makes the fill and completion rings of the socket's memory.
///
/// # Errors
/// EINVAL for a size that is no power of two.
pub fn make_memory_rings(fd: &impl AsFd, sizes: &RingSizes) -> Result<()> {
    sockopt::set(fd, libc::SOL_XDP, libc::XDP_UMEM_FILL_RING, &sizes.fill)?;
    sockopt::set(fd, libc::SOL_XDP, libc::XDP_UMEM_COMPLETION_RING, &sizes.completion)
}

/// Binds to `queue` of `ifindex`; `flags` of this module's bind flags. With `memory_of`, shares that socket's memory.
///
/// # Errors
/// EBUSY while another socket has the queue (for about 20 ms after its last fd was closed, too); EOPNOTSUPP when the
/// driver cannot do what `flags` ask; ENETDOWN, ENODEV.
pub fn bind(fd: &impl AsFd, ifindex: u32, queue: u32, flags: u16, memory_of: Option<&Fd>) -> Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        // The kernel wants no other flag beside it.
        sxdp_flags: if memory_of.is_some() { libc::XDP_SHARED_UMEM } else { flags },
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: memory_of.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    let at = core::ptr::from_ref(&address) as usize;
    let args = [fd.as_fd().as_raw_fd() as usize, at, size_of::<libc::sockaddr_xdp>(), 0, 0, 0];
    // SAFETY: the kernel reads one live sockaddr_xdp.
    unsafe { raw::syscall(libc::SYS_bind, args) }.map(|_| ())
}

/// Does the driver of a bound socket read and write the frames itself?
///
/// # Errors
/// What getsockopt gives.
pub fn is_zero_copy(fd: &impl AsFd) -> Result<bool> {
    let mut options = 0_u32;
    sockopt::get(fd, libc::SOL_XDP, libc::XDP_OPTIONS, &mut options)?;
    Ok(options & XDP_OPTIONS_ZEROCOPY != 0)
}

/// Lets one call send up to `packets` packets in copy mode.
///
/// # Errors
/// ENOPROTOOPT before Linux 6.17.
pub fn set_tx_budget(fd: &impl AsFd, packets: u32) -> Result<()> {
    sockopt::set(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &packets)
}

/// Lets calls on the socket run the driver's receive loop in place of its interrupt. Needs CAP_NET_ADMIN.
///
/// # Errors
/// EPERM, ENOPROTOOPT.
pub fn set_busy_poll(fd: &impl AsFd, micros: i32, budget: i32) -> Result<()> {
    sockopt::set(fd, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, &1_i32)?;
    sockopt::set(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &micros)?;
    sockopt::set(fd, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, &budget)
}

/// Packets lost since the socket was made: for want of ring space, of frames, or for being malformed.
///
/// # Errors
/// What getsockopt gives.
pub fn drops(fd: &impl AsFd) -> Result<u64> {
    let mut counts = [0_u64; 6];
    sockopt::get(fd, libc::SOL_XDP, libc::XDP_STATISTICS, &mut counts)?;
    let [dropped, _bad_rx, _bad_tx, ring_full, _no_fill, _no_tx] = counts;
    Ok(dropped + ring_full)
}

/// Makes the kernel send what is in the transmit ring.
///
/// # Errors
/// EAGAIN and EBUSY when more is left; ENETDOWN, ENXIO when the device is gone.
pub fn kick_tx(fd: &impl AsFd) -> Result<()> {
    let args = [fd.as_fd().as_raw_fd() as usize, 0, 0, libc::MSG_DONTWAIT as usize, 0, 0];
    // SAFETY: no buffer and no address are given.
    unsafe { raw::syscall(libc::SYS_sendto, args) }.map(|_| ())
}

/// Makes the driver look at the fill ring.
///
/// # Errors
/// As [`kick_tx`].
pub fn kick_rx(fd: &impl AsFd) -> Result<()> {
    let args = [fd.as_fd().as_raw_fd() as usize, 0, 0, libc::MSG_DONTWAIT as usize, 0, 0];
    // SAFETY: no buffer and no address are given.
    unsafe { raw::syscall(libc::SYS_recvfrom, args) }.map(|_| ())
}

/// A packet, or a part of one, in a receive or transmit ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Byte offset in the socket's memory.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// [`CONTINUED`], [`HAS_METADATA`].
    pub options: u32,
}

/// What a ring holds.
pub trait Entry: Copy {
    /// 64-bit words of one entry.
    const WORDS: usize;
    /// Reads an entry from its words.
    fn load(words: &[AtomicU64]) -> Self;
    /// Writes it.
    fn store(self, words: &[AtomicU64]);
}

impl Entry for u64 {
    const WORDS: usize = 1;
    fn load(words: &[AtomicU64]) -> Self {
        words.first().map_or(0, |w| w.load(Ordering::Relaxed))
    }
    fn store(self, words: &[AtomicU64]) {
        if let Some(word) = words.first() {
            word.store(self, Ordering::Relaxed);
        }
    }
}

impl Entry for Descriptor {
    const WORDS: usize = 2;
    fn load(words: &[AtomicU64]) -> Self {
        let word = |at: usize| words.get(at).map_or(0, |w| w.load(Ordering::Relaxed));
        let [a, b, c, d, e, f, g, h] = word(1).to_ne_bytes();
        let len = u32::from_ne_bytes([a, b, c, d]);
        Self { address: word(0), len, options: u32::from_ne_bytes([e, f, g, h]) }
    }
    fn store(self, words: &[AtomicU64]) {
        let ([a, b, c, d], [e, f, g, h]) = (self.len.to_ne_bytes(), self.options.to_ne_bytes());
        if let [address, rest] = words {
            address.store(self.address, Ordering::Relaxed);
            rest.store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]), Ordering::Relaxed);
        }
    }
}

/// One mapped ring of entries `E`.
struct Ring<E> {
    at: NonNull<u8>,
    bytes: usize,
    offsets: libc::xdp_ring_offset,
    size: u32,
    kind: PhantomData<fn(E)>,
}

// SAFETY: the mapping is reached as atomics only, and unmapping works from any thread.
unsafe impl<E> Send for Ring<E> {}

impl<E: Entry> Ring<E> {
    fn map(fd: &impl AsFd, page: u64, offsets: libc::xdp_ring_offset, size: u32) -> Result<Self> {
        if !size.is_power_of_two() {
            return Err(Errno::INVAL);
        }
        let bytes = offsets.desc as usize + size as usize * E::WORDS * 8;
        let inside = |at: u64| at.is_multiple_of(4) && at as usize + 4 <= bytes;
        let indices = [offsets.producer, offsets.consumer, offsets.flags];
        if !offsets.desc.is_multiple_of(8) || !indices.into_iter().all(inside) {
            return Err(Errno::PROTO);
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: the kernel picks a free address, and refuses when its ring is smaller.
        let at = unsafe { mmap(null_mut(), bytes, protection, flags, fd, page) }?;
        let at = NonNull::new(at.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { at, bytes, offsets, size, kind: PhantomData })
    }

    fn index(&self, offset: u64) -> &AtomicU32 {
        let at = self.at.as_ptr().wrapping_add(offset as usize).cast::<AtomicU32>();
        // SAFETY: `map` checked that the word lies in the mapping, aligned; the kernel writes it atomically.
        unsafe { &*at }
    }

    fn producer(&self) -> &AtomicU32 {
        self.index(self.offsets.producer)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.index(self.offsets.consumer)
    }

    fn needs_wakeup(&self) -> bool {
        self.index(self.offsets.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn entry(&self, index: u32) -> &[AtomicU64] {
        let slot = (index & (self.size - 1)) as usize;
        let at = self.at.as_ptr().wrapping_add(self.offsets.desc as usize + slot * E::WORDS * 8);
        // SAFETY: the slot number is below the size, so `map` made the mapping long enough; aligned to 8.
        unsafe { core::slice::from_raw_parts(at.cast::<AtomicU64>(), E::WORDS) }
    }
}

impl<E> Drop for Ring<E> {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and no reference into it outlives it.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}

/// A ring that we fill and the kernel empties.
pub struct Producer<E> {
    ring: Ring<E>,
}

impl<E: Entry> Producer<E> {
    /// Entries that can be put now.
    #[must_use]
    pub fn room(&self) -> u32 {
        let used = self.ring.producer().load(Ordering::Relaxed);
        let used = used.wrapping_sub(self.ring.consumer().load(Ordering::Acquire));
        self.ring.size.saturating_sub(used)
    }

    /// Writes the entry `ahead` places behind the last submitted one; `ahead` below [`Producer::room`].
    pub fn put(&self, ahead: u32, entry: E) {
        let index = self.ring.producer().load(Ordering::Relaxed).wrapping_add(ahead);
        entry.store(self.ring.entry(index));
    }

    /// Hands the next `count` entries, which have been put, to the kernel.
    pub fn submit(&self, count: u32) {
        let index = self.ring.producer().load(Ordering::Relaxed);
        self.ring.producer().store(index.wrapping_add(count), Ordering::Release);
    }

    /// Index of the place behind the last submitted entry, wrapping.
    #[must_use]
    pub fn position(&self) -> u32 {
        self.ring.producer().load(Ordering::Acquire)
    }

    /// What was put at the place with this index, if nothing was put there since.
    #[must_use]
    pub fn at(&self, index: u32) -> E {
        E::load(self.ring.entry(index))
    }

    /// Does the kernel wait for a call before it looks at this ring?
    #[must_use]
    pub fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that the kernel fills and we empty.
pub struct Consumer<E> {
    ring: Ring<E>,
}

impl<E: Entry> Consumer<E> {
    /// Entries that can be taken now.
    #[must_use]
    pub fn ready(&self) -> u32 {
        let produced = self.ring.producer().load(Ordering::Acquire);
        produced.wrapping_sub(self.ring.consumer().load(Ordering::Relaxed)).min(self.ring.size)
    }

    /// The entry `ahead` places behind the last one taken; `ahead` below [`Consumer::ready`].
    #[must_use]
    pub fn get(&self, ahead: u32) -> E {
        let index = self.ring.consumer().load(Ordering::Relaxed).wrapping_add(ahead);
        E::load(self.ring.entry(index))
    }

    /// Gives the next `count` entries back to the kernel.
    pub fn consume(&self, count: u32) {
        let index = self.ring.consumer().load(Ordering::Relaxed);
        self.ring.consumer().store(index.wrapping_add(count), Ordering::Release);
    }
}

/// The receive and transmit rings of a socket.
pub struct Rings {
    /// Received packets.
    pub rx: Consumer<Descriptor>,
    /// Packets to send.
    pub tx: Producer<Descriptor>,
}

/// The fill and completion rings of a socket's memory.
pub struct MemoryRings {
    /// Empty frames for the kernel, by byte offset.
    pub fill: Producer<u64>,
    /// Frames that were sent, by byte offset.
    pub completion: Consumer<u64>,
}

fn offsets(fd: &impl AsFd) -> Result<libc::xdp_mmap_offsets> {
    let mut words = [0_u64; 16];
    if sockopt::get(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, &mut words)? != size_of_val(&words) {
        return Err(Errno::NOSYS); // before Linux 5.4: no flags
    }
    let [a, b, c, d] = *words.as_chunks::<4>().0 else { return Err(Errno::PROTO) };
    let ring = |[producer, consumer, desc, flags]: [u64; 4]| libc::xdp_ring_offset {
        producer,
        consumer,
        desc,
        flags,
    };
    Ok(libc::xdp_mmap_offsets { rx: ring(a), tx: ring(b), fr: ring(c), cr: ring(d) })
}

/// Maps the rings that [`make_rings`] made, here or in another process.
///
/// # Errors
/// EINVAL when they are smaller than `sizes` says.
pub fn map_rings(fd: &impl AsFd, sizes: &RingSizes) -> Result<Rings> {
    let at = offsets(fd)?;
    Ok(Rings {
        rx: Consumer { ring: Ring::map(fd, PAGE_RX_RING, at.rx, sizes.rx)? },
        tx: Producer { ring: Ring::map(fd, PAGE_TX_RING, at.tx, sizes.tx)? },
    })
}

/// Maps the rings that [`make_memory_rings`] made, here or in another process.
///
/// # Errors
/// EINVAL when they are smaller than `sizes` says.
pub fn map_memory_rings(fd: &impl AsFd, sizes: &RingSizes) -> Result<MemoryRings> {
    let at = offsets(fd)?;
    Ok(MemoryRings {
        fill: Producer { ring: Ring::map(fd, PAGE_FILL_RING, at.fr, sizes.fill)? },
        completion: Consumer { ring: Ring::map(fd, PAGE_COMPLETION_RING, at.cr, sizes.completion)? },
    })
}
