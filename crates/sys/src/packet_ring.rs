//! The receive ring of an AF_PACKET socket (TPACKET_V2): packets come into memory that the kernel shares with us, and no system
//! call is needed to take or to look for one. A packet longer than a slot waits in the socket's queue as well, for `recvmsg`.
//!
//! Several processes may map the ring and read it in turn, one at a time. The position, and who read last, lie in bytes of the first slot
//! that the kernel leaves alone (PACKET_RESERVE). Whoever reads stores the position before it gives a slot back, so
//! a reader that died between the two is found by the next one ([`PacketRing::read_as`]).

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicU32, Ordering};
use std::os::fd::AsFd;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::messages::VnetHeader;
use crate::{Errno, Result, sockopt};

const PACKET_RX_RING: i32 = 5;
const PACKET_COPY_THRESH: i32 = 7;
const PACKET_VERSION: i32 = 10;
const PACKET_RESERVE: i32 = 12;
const TPACKET_V2: i32 = 1;

/// The slot is ours to read.
const STATUS_USER: u32 = 1;
/// The whole packet waits in the queue.
const STATUS_COPY: u32 = 2;

/// Bytes of a slot: a packet of the usual MTU with everything in front of it fits.
const SLOT_BYTES: usize = 2_048;
/// Slots: what may arrive while nobody looks.
const SLOTS: u32 = 1_024;
const BLOCK_BYTES: usize = 64 << 10;
const RING_BYTES: usize = SLOT_BYTES * SLOTS as usize;
/// Bytes of a slot that the kernel leaves alone, in front of the packet's headers.
const RESERVE: i32 = 64;

/// Words of tpacket2_hdr (linux/if_packet.h): status, length of the packet, bytes of it in the slot, offsets of the link and network headers.
const STATUS: usize = 0;
const LENGTH: usize = 1;
const STORED: usize = 2;
const OFFSETS: usize = 3;
/// Bytes of tpacket2_hdr and sockaddr_ll, which the kernel writes; ours follow, in the first slot.
const HEADERS_BYTES: usize = 32 + 20;
const POSITION: usize = 16;
const READER: usize = 17;
const _: () = assert!(POSITION * 4 >= HEADERS_BYTES && READER * 4 + 4 <= HEADERS_BYTES + RESERVE as usize);
const _: () = assert!(SLOTS.is_power_of_two() && RING_BYTES.is_multiple_of(BLOCK_BYTES));

/// Gives the socket a receive ring, before it is bound and after PACKET_VNET_HDR. Needs no privilege.
///
/// # Errors
/// ENOMEM; what setsockopt gives.
pub fn make(fd: &impl AsFd) -> Result<()> {
    sockopt::set(fd, libc::SOL_PACKET, PACKET_VERSION, &TPACKET_V2)?;
    sockopt::set(fd, libc::SOL_PACKET, PACKET_RESERVE, &RESERVE)?;
    sockopt::set(fd, libc::SOL_PACKET, PACKET_COPY_THRESH, &1_i32)?;
    // struct tpacket_req: bytes of a block, blocks, bytes of a slot, slots.
    let request = [BLOCK_BYTES as u32, (RING_BYTES / BLOCK_BYTES) as u32, SLOT_BYTES as u32, SLOTS];
    sockopt::set(fd, libc::SOL_PACKET, PACKET_RX_RING, &request)
}

/// A packet at the front of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InSlot {
    /// Bytes of the packet.
    pub bytes: usize,
    /// What the kernel says of its checksum and segments.
    pub header: VnetHeader,
    /// Where its first byte lies in the ring; `None`: it is longer than the slot, or makes no sense.
    at: Option<usize>,
    /// It is in the socket's queue, whole.
    pub queued: bool,
}

/// A mapped ring.
pub struct PacketRing {
    at: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value alone, and unmapping works from any thread.
unsafe impl Send for PacketRing {}

impl PacketRing {
    /// Maps the ring that [`make`] gave the socket, here or in another process.
    ///
    /// # Errors
    /// EINVAL when it has none of this shape.
    pub fn map(fd: &impl AsFd) -> Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel picks a free address, and refuses when the ring has another size.
        let at = unsafe { mmap(null_mut(), RING_BYTES, protection, flags, fd, 0) }?;
        NonNull::new(at.cast()).map(|at| Self { at }).ok_or(Errno::NOMEM)
    }

    /// A word of slot `slot`, counted modulo their number.
    fn word(&self, slot: u32, word: usize) -> &AtomicU32 {
        let offset = (slot % SLOTS) as usize * SLOT_BYTES + (word * 4) % SLOT_BYTES;
        let at = self.at.as_ptr().wrapping_add(offset).cast::<AtomicU32>();
        // SAFETY: inside the mapping and aligned, as slots are multiples of 4 bytes; reached as atomics only.
        unsafe { &*at }
    }

    fn position(&self) -> u32 {
        self.word(0, POSITION).load(Ordering::Relaxed)
    }

    /// Before reading, as the process that `pid` gives: if another read last, it may have died while it gave a slot back. False:
    /// nothing is there to read. Then `pid`, which asks the kernel, is not called: a thread that spins looks here all the time.
    pub fn read_as(&self, pid: impl FnOnce() -> u32) -> bool {
        if !self.has_packet() {
            return false;
        }
        let (reader, pid) = (self.word(0, READER), pid());
        if reader.load(Ordering::Relaxed) == pid {
            return true;
        }
        reader.store(pid, Ordering::Relaxed);
        // The slot before the position was read. It is full only then, or when the whole ring is: a packet is lost.
        let before = self.word(self.position().wrapping_sub(1), STATUS);
        if before.load(Ordering::Acquire) & STATUS_USER != 0 {
            before.store(0, Ordering::Release);
        }
        true
    }

    /// Is a packet there?
    #[must_use]
    pub fn has_packet(&self) -> bool {
        self.word(self.position(), STATUS).load(Ordering::Acquire) & STATUS_USER != 0
    }

    /// The packet `ahead` places behind the first one, if those before it are there too.
    #[must_use]
    pub fn peek(&self, ahead: u32) -> Option<InSlot> {
        let slot = self.position().wrapping_add(ahead);
        let status = self.word(slot, STATUS).load(Ordering::Acquire);
        if ahead >= SLOTS || status & STATUS_USER == 0 {
            return None;
        }
        let bytes = self.word(slot, LENGTH).load(Ordering::Relaxed) as usize;
        let stored = self.word(slot, STORED).load(Ordering::Relaxed) as usize;
        let offset = (self.word(slot, OFFSETS).load(Ordering::Relaxed) & 0xffff) as usize;
        let queued = status & STATUS_COPY != 0;
        let start = (slot % SLOTS) as usize * SLOT_BYTES;
        // Whoever shares the ring could have written anything into it.
        let whole = stored == bytes && offset >= size_of::<VnetHeader>() && offset + bytes <= SLOT_BYTES;
        let mut header = VnetHeader::default();
        if whole {
            header = self.header(start + offset - size_of::<VnetHeader>());
        }
        Some(InSlot { bytes, header, at: whole.then_some(start + offset), queued })
    }

    fn header(&self, at: usize) -> VnetHeader {
        let mut bytes = [0; size_of::<VnetHeader>()];
        self.copy_out(at, &mut bytes);
        let [flags, gso_type, a, b, c, d, e, f, g, h] = bytes;
        let word = |low, high| u16::from_ne_bytes([low, high]);
        VnetHeader {
            flags,
            gso_type,
            hdr_len: word(a, b),
            gso_size: word(c, d),
            csum_start: word(e, f),
            csum_offset: word(g, h),
        }
    }

    fn copy_out(&self, at: usize, to: &mut [u8]) {
        if at + to.len() > RING_BYTES {
            return;
        }
        let from = self.at.as_ptr().wrapping_add(at);
        // SAFETY: inside the mapping; the kernel writes to no slot that is ours, and `to` is memory of this process.
        unsafe { core::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
    }

    /// Copies the packet into `to`. False: it has another length, or is not in the slot.
    #[must_use]
    pub fn copy(&self, packet: &InSlot, to: &mut [u8]) -> bool {
        let at = packet.at.filter(|_| to.len() == packet.bytes);
        if let Some(at) = at {
            self.copy_out(at, to);
        }
        at.is_some()
    }

    /// Gives the slot of the first packet back to the kernel.
    pub fn release(&self) {
        let position = self.position();
        self.word(0, POSITION).store(position.wrapping_add(1), Ordering::Relaxed);
        self.word(position, STATUS).store(0, Ordering::Release);
    }
}

impl Drop for PacketRing {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and no reference into it outlives it.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), RING_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring without a kernel behind it, in whose place [`fill`] acts.
    fn ring() -> PacketRing {
        let flags = MapFlags::PRIVATE;
        // SAFETY: the kernel picks a free address.
        let at = unsafe {
            rustix::mm::mmap_anonymous(null_mut(), RING_BYTES, ProtFlags::READ | ProtFlags::WRITE, flags)
        };
        PacketRing { at: NonNull::new(at.unwrap().cast()).unwrap() }
    }

    /// Puts a packet that says `number` into slot `number`. False: the slot is not free.
    fn fill(ring: &PacketRing, number: u32) -> bool {
        if ring.word(number, STATUS).load(Ordering::Acquire) != 0 {
            return false;
        }
        for (word, value) in [(LENGTH, 16), (STORED, 16), (OFFSETS, 140), (35, number)] {
            ring.word(number, word).store(value, Ordering::Relaxed);
        }
        ring.word(number, STATUS).store(STATUS_USER, Ordering::Release);
        true
    }

    fn take(ring: &PacketRing) -> Option<u32> {
        let packet = ring.peek(0)?;
        let mut bytes = [0; 16];
        assert!(ring.copy(&packet, &mut bytes));
        ring.release();
        Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    #[test]
    fn packets_come_in_order_round_and_round() {
        let ring = ring();
        for number in 0..3 * SLOTS {
            assert_eq!((ring.has_packet(), ring.peek(0)), (false, None));
            assert!(fill(&ring, number));
            assert_eq!(take(&ring), Some(number));
        }
        assert!((0..SLOTS).all(|number| fill(&ring, number)), "all slots are free again");
        assert_eq!(ring.peek(SLOTS), None);
    }

    #[test]
    fn a_look_at_an_empty_ring_does_not_ask_the_kernel_who_looks() {
        let ring = ring();
        assert!(!ring.read_as(|| panic!("asked")));
        assert!(fill(&ring, 0));
        assert!(ring.read_as(|| 1));
        assert_eq!(take(&ring), Some(0));
        assert!(!ring.read_as(|| panic!("asked")));
    }

    #[test]
    fn a_reader_that_died_while_it_gave_a_slot_back_does_not_stop_the_ring() {
        let ring = ring();
        for number in 0..10 {
            assert!(fill(&ring, number));
        }
        assert!(ring.read_as(|| 1));
        assert_eq!(take(&ring), Some(0));
        // The position moved, the slot stayed.
        ring.word(0, POSITION).store(2, Ordering::Relaxed);
        assert!(ring.read_as(|| 2));
        assert_eq!(take(&ring), Some(2));
        let left: Vec<u32> = std::iter::from_fn(|| take(&ring)).collect();
        assert_eq!(left, [3, 4, 5, 6, 7, 8, 9]);
        assert!((10..10 + SLOTS).all(|number| fill(&ring, number)), "no slot is left behind");
    }

    #[test]
    fn nonsense_in_a_slot_is_no_packet_but_is_passed_over() {
        let ring = ring();
        for (stored, offset) in [(17, 140), (16, 5), (16, 2_040), (16, 0xffff), (u32::MAX, 140)] {
            let slot = ring.position();
            assert!(fill(&ring, slot));
            ring.word(slot, STORED).store(stored, Ordering::Relaxed);
            ring.word(slot, OFFSETS).store(offset, Ordering::Relaxed);
            let packet = ring.peek(0).unwrap();
            assert!(!ring.copy(&packet, &mut [0; 16]));
            ring.release();
        }
    }
}
