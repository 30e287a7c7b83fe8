//! Memory and rings of a memif wire (memif 2.0, the shared-memory packet interface of VPP and DPDK).
//!
//! A wire has two rings, one a direction, in memory that both ends map. In the client-to-server ring (memif: S2M) the client
//! puts descriptors of packets and moves `head`; the server takes them and moves `tail`. In the server-to-client ring (M2S) the
//! client puts descriptors of empty buffers and moves `head`; the server fills them and moves `tail`. Each ring has an
//! eventfd, signalled by the sender of its packets unless the receiver has masked it.
//!
//! Invariant: the indices of a ring live in the ring only, so that several processes of one family can use an end in turn
//! (under the lane lock) and a survivor can go on where another one died.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::io::Errno;

use crate::Result;
use crate::fds::{self, Fd};
use crate::memory;
use crate::window::Window;

/// In every ring's first word.
pub const COOKIE: u32 = 0x03E3_1F20;
/// Descriptor flag: the packet goes on in the next descriptor.
pub const NEXT: u16 = 1;
/// Largest ring, as a power of two: indices are 16 bits wide and must tell full from empty.
pub const LOG2_RING_MAX: u32 = 14;
/// Bytes of a ring before its descriptors.
pub const RING_HEADER_BYTES: usize = 128;
/// Bytes of one descriptor.
pub const DESCRIPTOR_BYTES: usize = 16;

const FLAGS_AT: usize = 4;
const HEAD_AT: usize = 6;
/// Not memif's: in bytes that its ring header leaves unused.
const CLOSED_AT: usize = 8;
const TAIL_AT: usize = 64;
const MASK_INT: u16 = 1;
/// Buffers begin this much apart beyond their size, so that they do not all fall on the same sets of the caches.
const STAGGER_BYTES: u32 = 64;
const PAGE_BYTES: u32 = 4096;

/// Which end of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Owns the memory (memif: slave).
    Client,
    /// Maps what the client shows it (memif: master).
    Server,
}

/// Direction of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// memif's S2M.
    ToServer,
    /// memif's M2S.
    ToClient,
}

/// How a wire between two lanes lies in its memory: all that its ends must know beside the descriptors. Plain numbers, to be sent
/// in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireShape {
    /// Descriptors of each ring, as a power of two, at most [`LOG2_RING_MAX`].
    pub log2_ring: u32,
    /// Bytes of one buffer, a multiple of 64.
    pub buffer_bytes: u32,
}

impl Default for WireShape {
    /// 512 buffers of 2 KiB each way.
    fn default() -> Self {
        Self { log2_ring: 9, buffer_bytes: 2048 }
    }
}

impl WireShape {
    /// Is it one that a wire can have?
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let sane = (64..=1 << 16).contains(&self.buffer_bytes) && self.buffer_bytes.is_multiple_of(64);
        sane && (1..=LOG2_RING_MAX).contains(&self.log2_ring)
    }

    /// Descriptors of each ring.
    #[inline]
    #[must_use]
    pub const fn ring_size(&self) -> u32 {
        1 << self.log2_ring
    }

    /// Where the ring lies, bytes from the start of the memory.
    #[inline]
    #[must_use]
    pub const fn ring_at(&self, way: Way) -> u32 {
        let bytes = RING_HEADER_BYTES as u32 + DESCRIPTOR_BYTES as u32 * self.ring_size();
        match way {
            Way::ToServer => 0,
            Way::ToClient => bytes.next_multiple_of(PAGE_BYTES),
        }
    }

    /// Where the buffer that belongs to `slot` of the ring lies.
    #[inline]
    #[must_use]
    pub const fn buffer_at(&self, way: Way, slot: u16) -> u32 {
        let first = 2 * self.ring_at(Way::ToClient);
        let row = match way {
            Way::ToServer => 0,
            Way::ToClient => self.ring_size(),
        };
        let slot = slot as u32 & (self.ring_size() - 1);
        first + (row + slot) * self.stride()
    }

    /// Bytes from the start of one buffer to that of the next.
    #[inline]
    #[must_use]
    pub const fn stride(&self) -> u32 {
        self.buffer_bytes + STAGGER_BYTES
    }

    /// Size of a client's ledger: a few indices, and a number for each place of both rings.
    #[must_use]
    pub const fn ledger_bytes(&self) -> u64 {
        (64 + 8 * self.ring_size() as u64).next_multiple_of(PAGE_BYTES as u64)
    }

    /// Size of the memory.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        let buffers = 2 * self.ring_size() as u64 * self.stride() as u64;
        (2 * self.ring_at(Way::ToClient) as u64 + buffers).next_multiple_of(PAGE_BYTES as u64)
    }
}

/// Which part of its region a client lends to its server, so that packets are copied once only: its frame area. Plain numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lending {
    /// Where it begins in the region's memory, a multiple of the page size.
    pub offset: u64,
    /// Its bytes, at most 4 GiB.
    pub bytes: u64,
}

/// One end of a wire as fds, to be used here or sent to another process.
#[derive(Debug)]
pub struct MemifParts {
    /// Which end.
    pub role: Role,
    /// How the memory is laid out.
    pub shape: WireShape,
    /// The memory.
    pub memory: Fd,
    /// The eventfd of the ring to the server: the client writes it, the server waits for it.
    pub to_server: Fd,
    /// The eventfd of the ring to the client.
    pub to_client: Fd,
    /// On a wire that [`pair_lending`] made: what is lent, and for the server the region's memory, for the client its ledger of
    /// the frames that are lent out, which only its own processes see.
    pub lent: Option<(Lending, Fd)>,
}

impl MemifParts {
    /// Descriptors of one end, without that of what is lent.
    pub const FDS: usize = 3;

    /// Its descriptors in the order in which [`MemifParts::from_fds`] wants them. On a wire that lends there is one more in
    /// [`MemifParts::lent`].
    #[must_use]
    pub fn fds(&self) -> [BorrowedFd<'_>; Self::FDS] {
        [self.memory.as_fd(), self.to_server.as_fd(), self.to_client.as_fd()]
    }

    /// An end from what was received of it; on a wire that lends the receiver sets [`MemifParts::lent`] then. `None` when there are too
    /// few descriptors.
    pub fn from_fds(role: Role, shape: WireShape, fds: &mut impl Iterator<Item = Fd>) -> Option<Self> {
        let (memory, to_server, to_client) = (fds.next()?, fds.next()?, fds.next()?);
        Some(Self { role, shape, memory, to_server, to_client, lent: None })
    }

    /// The same end once more, for another process.
    ///
    /// # Errors
    /// EMFILE.
    pub fn duplicate(&self) -> Result<Self> {
        let lent = self.lent.as_ref().map(|(lending, fd)| Ok::<_, Errno>((*lending, fd.duplicate()?)));
        Ok(Self {
            role: self.role,
            shape: self.shape,
            memory: self.memory.duplicate()?,
            to_server: self.to_server.duplicate()?,
            to_client: self.to_client.duplicate()?,
            lent: lent.transpose()?,
        })
    }

    /// The ring to the server and the ring to the client.
    ///
    /// # Errors
    /// EINVAL for an impossible shape or too small a memory; else when it cannot be mapped.
    pub fn rings(&self) -> Result<[Ring; 2]> {
        if !self.shape.is_valid() {
            return Err(Errno::INVAL);
        }
        let memory = Arc::new(Window::map(&self.memory, 0, self.shape.bytes())?);
        let ring =
            |way| Ring::over(Arc::clone(&memory), self.shape.ring_at(way) as usize, self.shape.log2_ring);
        Ok([ring(Way::ToServer)?, ring(Way::ToClient)?])
    }

    /// Empties the rings of a client's memory and posts all its buffers; both ends masked.
    ///
    /// # Errors
    /// As [`MemifParts::rings`].
    pub fn reset(&self) -> Result<()> {
        let rings = self.rings()?;
        for ring in &rings {
            ring.reset();
            ring.mask(true);
        }
        let [_, to_client] = &rings;
        for slot in 0..to_client.size() {
            let (offset, length) = (self.shape.buffer_at(Way::ToClient, slot), self.shape.buffer_bytes);
            to_client.put(slot, Descriptor { flags: 0, region: 0, length, offset, metadata: 0 });
        }
        to_client.set_head(to_client.size());
        Ok(())
    }

    /// Ends the wire for both: their ports give errors from now on, and whoever sleeps on one wakes. For the introducer, when one
    /// end's process is gone.
    ///
    /// # Errors
    /// As [`MemifParts::rings`].
    pub fn hang_up(&self) -> Result<()> {
        for ring in self.rings()? {
            ring.close();
        }
        fds::event_signal(&self.to_server)?;
        fds::event_signal(&self.to_client)
    }
}

/// A new wire between two lanes: its client end and its server end. Empty, both ends masked.
///
/// # Errors
/// EINVAL for an impossible shape; ENOMEM, EMFILE.
pub fn pair(shape: WireShape) -> Result<(MemifParts, MemifParts)> {
    if !shape.is_valid() {
        return Err(Errno::INVAL);
    }
    let memory = memory::memfd("corelane-wire", shape.bytes(), false)?.fd;
    let client = MemifParts {
        role: Role::Client,
        shape,
        memory,
        to_server: fds::event()?,
        to_client: fds::event()?,
        lent: None,
    };
    client.reset()?;
    let server = MemifParts { role: Role::Server, ..client.duplicate()? };
    Ok((client, server))
}

/// A new wire on which the client's frames themselves are the buffers. The server can then read and write all of the client's region:
/// only for two programs of one user. `region` is the client's memory.
///
/// # Errors
/// As [`pair`]; EINVAL for an impossible lending.
pub fn pair_lending(shape: WireShape, region: &Fd, lending: Lending) -> Result<(MemifParts, MemifParts)> {
    let whole = lending.bytes > 0 && lending.bytes <= 1 << 32;
    if !whole || !lending.offset.is_multiple_of(u64::from(PAGE_BYTES)) {
        return Err(Errno::INVAL);
    }
    let (mut client, mut server) = pair(shape)?;
    let [_, to_client] = client.rings()?;
    to_client.set_head(0); // the client posts its frames
    let ledger = memory::memfd("corelane-ledger", shape.ledger_bytes(), false)?.fd;
    client.lent = Some((lending, ledger));
    server.lent = Some((lending, region.duplicate()?));
    Ok((client, server))
}

/// What one place in a ring says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// [`NEXT`].
    pub flags: u16,
    /// Number of the region in which the bytes lie.
    pub region: u16,
    /// Bytes of the packet, or of the empty buffer.
    pub length: u32,
    /// Where they begin in the region.
    pub offset: u32,
    /// Not interpreted by memif.
    pub metadata: u32,
}

/// One ring in mapped memory.
#[derive(Debug)]
pub struct Ring {
    /// Its first byte.
    at: NonNull<u8>,
    size: u16,
    /// Keeps the memory mapped.
    _window: Arc<Window>,
}

// SAFETY: the memory is only reached as atomics, and stays mapped for as long as the value lives.
unsafe impl Send for Ring {}

impl Ring {
    /// The ring of 2 to the `log2_size` descriptors at byte `at` of `window`.
    ///
    /// # Errors
    /// EINVAL when it does not lie inside, aligned, or the size is impossible.
    pub fn over(window: Arc<Window>, at: usize, log2_size: u32) -> Result<Self> {
        if !(1..=LOG2_RING_MAX).contains(&log2_size) || !at.is_multiple_of(8) {
            return Err(Errno::INVAL);
        }
        let size = 1_u16 << log2_size;
        let words = (RING_HEADER_BYTES + usize::from(size) * DESCRIPTOR_BYTES) / 8;
        let ring = window.words(at, words).ok_or(Errno::INVAL)?;
        Ok(Self { at: NonNull::from(ring).cast(), size, _window: window })
    }

    /// Number of descriptors.
    #[inline]
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Makes it empty: its first word the cookie, indices and flags 0.
    pub fn reset(&self) {
        self.word32(0).store(COOKIE, Ordering::Relaxed);
        self.word32(CLOSED_AT).store(0, Ordering::Relaxed);
        self.word16(FLAGS_AT).store(0, Ordering::Relaxed);
        self.word16(HEAD_AT).store(0, Ordering::Relaxed);
        self.word16(TAIL_AT).store(0, Ordering::Release);
    }

    /// Empties it without touching flags and cookie, which are the other end's.
    pub fn rewind(&self) {
        self.word32(CLOSED_AT).store(0, Ordering::Relaxed);
        self.word16(HEAD_AT).store(0, Ordering::Relaxed);
        self.word16(TAIL_AT).store(0, Ordering::Release);
    }

    /// Is the cookie in its place?
    #[must_use]
    pub fn is_ring(&self) -> bool {
        self.word32(0).load(Ordering::Acquire) == COOKIE
    }

    /// The client's index.
    #[inline]
    #[must_use]
    pub fn head(&self) -> u16 {
        self.word16(HEAD_AT).load(Ordering::Acquire)
    }

    /// Shows the server all descriptors before `head`.
    #[inline]
    pub fn set_head(&self, head: u16) {
        self.word16(HEAD_AT).store(head, Ordering::Release);
    }

    /// The server's index.
    #[inline]
    #[must_use]
    pub fn tail(&self) -> u16 {
        self.word16(TAIL_AT).load(Ordering::Acquire)
    }

    /// Gives the client all descriptors before `tail` back.
    #[inline]
    pub fn set_tail(&self, tail: u16) {
        self.word16(TAIL_AT).store(tail, Ordering::Release);
    }

    /// Does the receiver want no signal?
    #[inline]
    #[must_use]
    pub fn is_masked(&self) -> bool {
        self.word16(FLAGS_AT).load(Ordering::Relaxed) & MASK_INT != 0
    }

    /// Says that the receiver wants no signal, or wants one. What was put before the change without a signal is seen after it: the
    /// caller looks again.
    pub fn mask(&self, masked: bool) {
        self.word16(FLAGS_AT).store(if masked { MASK_INT } else { 0 }, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Does the receiver want a signal for what was just put? Asked after the index was moved.
    #[inline]
    #[must_use]
    pub fn wants_signal(&self) -> bool {
        // Pairs with the fence in `mask`: either we see that it is not masked, or the receiver sees the index.
        fence(Ordering::SeqCst);
        !self.is_masked()
    }

    /// Has one of the ends hung up?
    #[inline]
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.word32(CLOSED_AT).load(Ordering::Relaxed) != 0
    }

    /// Tells the other end that nothing more goes this way.
    pub fn close(&self) {
        self.word32(CLOSED_AT).store(1, Ordering::Release);
    }

    /// The descriptor in place `slot` (modulo the size).
    #[inline]
    #[must_use]
    pub fn get(&self, slot: u16) -> Descriptor {
        let [first, second] = self.descriptor(slot);
        let (first, second) = (first.load(Ordering::Relaxed), second.load(Ordering::Relaxed));
        let [a, b, c, d, e, f, g, h] = first.to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = second.to_ne_bytes();
        Descriptor {
            flags: u16::from_ne_bytes([a, b]),
            region: u16::from_ne_bytes([c, d]),
            length: u32::from_ne_bytes([e, f, g, h]),
            offset: u32::from_ne_bytes([i, j, k, l]),
            metadata: u32::from_ne_bytes([m, n, o, p]),
        }
    }

    /// Writes the descriptor in place `slot` (modulo the size).
    #[inline]
    pub fn put(&self, slot: u16, descriptor: Descriptor) {
        let ([a, b], [c, d]) = (descriptor.flags.to_ne_bytes(), descriptor.region.to_ne_bytes());
        let [e, f, g, h] = descriptor.length.to_ne_bytes();
        let ([i, j, k, l], [m, n, o, p]) =
            (descriptor.offset.to_ne_bytes(), descriptor.metadata.to_ne_bytes());
        let [first, second] = self.descriptor(slot);
        first.store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]), Ordering::Relaxed);
        second.store(u64::from_ne_bytes([i, j, k, l, m, n, o, p]), Ordering::Relaxed);
    }

    // `over` checked that the header and all descriptors lie inside the window, aligned to 8.

    #[inline]
    fn word16(&self, offset: usize) -> &AtomicU16 {
        let at = self.at.as_ptr().wrapping_add(offset).cast::<AtomicU16>();
        // SAFETY: `offset` is one of the constants above, an aligned word of the header; shared memory may be seen as atomics.
        unsafe { &*at }
    }

    #[inline]
    fn word32(&self, offset: usize) -> &AtomicU32 {
        let at = self.at.as_ptr().wrapping_add(offset).cast::<AtomicU32>();
        // SAFETY: as in `word16`.
        unsafe { &*at }
    }

    #[inline]
    fn descriptor(&self, slot: u16) -> &[AtomicU64; 2] {
        let slot = usize::from(slot & (self.size - 1));
        let at = self.at.as_ptr().wrapping_add(RING_HEADER_BYTES + slot * DESCRIPTOR_BYTES);
        // SAFETY: the slot number is below the size; aligned to 8; shared memory may be seen as atomics.
        unsafe { &*at.cast::<[AtomicU64; 2]>() }
    }
}
