//! Packets gathered from and scattered into one window of memory: sendmmsg, recvmmsg, readv and writev with a
//! virtio_net_hdr in front of each packet (linux/virtio_net.h).

use core::sync::atomic::AtomicU64;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::{Result, raw};

/// What a packet's sender left undone and its receiver may know: the kernel's virtio_net_hdr, 10 bytes, native order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`VnetHeader::NEEDS_CSUM`], [`VnetHeader::DATA_VALID`].
    pub flags: u8,
    /// One of `GSO_*`, perhaps with [`VnetHeader::GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of all headers of a super-frame.
    pub hdr_len: u16,
    /// Payload bytes of each of its segments.
    pub gso_size: u16,
    /// Where the sum begins, bytes from the packet's start.
    pub csum_start: u16,
    /// Where it is to be stored, bytes from `csum_start`.
    pub csum_offset: u16,
}
const _: () = assert!(size_of::<VnetHeader>() == 10);

impl VnetHeader {
    /// The checksum from `csum_start` on is yet to be completed.
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum has been verified.
    pub const DATA_VALID: u8 = 2;
    /// No super-frame.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP datagrams of equal size.
    pub const GSO_UDP_L4: u8 = 5;
    /// TCP with CWR set: on the first segment only.
    pub const GSO_ECN: u8 = 0x80;
}

/// What became of one message of [`Messages::receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The header in front of it.
    pub header: VnetHeader,
    /// Bytes of the packet that were stored.
    pub bytes: usize,
    /// Was the packet longer than the message's parts?
    pub truncated: bool,
}

/// A fixed number of messages; each is a [`VnetHeader`] and up to a fixed number of parts, which are spans of one
/// window of shared memory (named by byte offset, as AF_XDP does) or the message's own overflow buffer.
///
/// The kernel reads and writes the window as any other process that shares it may; no message can reach outside it.
pub struct Messages {
    window: &'static [AtomicU64],
    messages: Box<[libc::mmsghdr]>,
    parts: Box<[libc::iovec]>,
    headers: Box<[VnetHeader]>,
    overflow: Box<[Vec<u8>]>,
    stride: usize,
}

// SAFETY: the raw pointers inside are rebuilt before each call from memory that this value owns or that is 'static.
unsafe impl Send for Messages {}

impl Messages {
    /// Room for `messages` packets of up to `parts` parts each, in `window`.
    #[must_use]
    pub fn new(window: &'static [AtomicU64], messages: usize, parts: usize) -> Self {
        let stride = parts + 1;
        let header = libc::msghdr {
            msg_name: core::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: core::ptr::null_mut(),
            msg_iovlen: 0,
            msg_control: core::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        let none = libc::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 };
        Self {
            window,
            messages: vec![libc::mmsghdr { msg_hdr: header, msg_len: 0 }; messages].into(),
            parts: vec![none; messages * stride].into(),
            headers: vec![VnetHeader::default(); messages].into(),
            overflow: vec![Vec::new(); messages].into(),
            stride,
        }
    }

    /// Most messages in one call.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.messages.len()
    }

    /// Begins message `index` anew, with `header` and no parts. False when there is no such message.
    pub fn begin(&mut self, index: usize, header: VnetHeader) -> bool {
        let Some(slot) = self.headers.get_mut(index) else { return false };
        *slot = header;
        // `aim` says where the header lies.
        let part = libc::iovec { iov_base: core::ptr::null_mut(), iov_len: size_of::<VnetHeader>() };
        self.set_part(index, 0, part)
    }

    /// Adds `len` bytes at byte `offset` of the window to message `index`, which was begun. False when they are not
    /// inside the window or the message has no room for a part more.
    #[inline]
    pub fn push_span(&mut self, index: usize, offset: u64, len: usize) -> bool {
        let Ok(offset) = usize::try_from(offset) else { return false };
        if offset.checked_add(len).is_none_or(|end| end > self.window.len() * 8) {
            return false;
        }
        let start = self.window.as_ptr().cast::<u8>().cast_mut().wrapping_add(offset);
        self.push(index, libc::iovec { iov_base: start.cast(), iov_len: len })
    }

    /// Adds a buffer of `len` bytes, owned by message `index`, as its last part; [`Messages::overflow`] reads it. False
    /// when the message was not begun, has no room for a part more, or has the buffer already and it would have to grow.
    pub fn push_overflow(&mut self, index: usize, len: usize) -> bool {
        let used = self.parts_used(index);
        let Some(buffer) = self.overflow.get_mut(index) else { return false };
        if buffer.len() < len {
            // Growing moves the buffer, so no part of the message may name it.
            let mut parts = self.parts.iter().skip(index * self.stride).take(used);
            if parts.any(|part| part.iov_base.cast_const() == buffer.as_ptr().cast()) {
                return false;
            }
            buffer.resize(len, 0);
        }
        let at = buffer.as_mut_ptr().cast();
        self.push(index, libc::iovec { iov_base: at, iov_len: len })
    }

    /// Adds a part behind the header, without which there is none: what comes first is taken for the header's place.
    #[inline]
    fn push(&mut self, index: usize, part: libc::iovec) -> bool {
        let used = self.parts_used(index);
        used > 0 && self.set_part(index, used, part)
    }

    fn parts_used(&self, index: usize) -> usize {
        self.messages.get(index).map_or(0, |m| m.msg_hdr.msg_iovlen)
    }

    /// Makes `part` the last one of message `index`, with `before` parts in front of it.
    #[inline]
    fn set_part(&mut self, index: usize, before: usize, part: libc::iovec) -> bool {
        let Some(message) = self.messages.get_mut(index).filter(|_| before < self.stride) else {
            return false;
        };
        let Some(slot) = self.parts.get_mut(index * self.stride + before) else { return false };
        *slot = part;
        message.msg_hdr.msg_iovlen = before + 1;
        true
    }

    /// The overflow buffer of message `index`.
    #[must_use]
    pub fn overflow(&self, index: usize) -> &[u8] {
        self.overflow.get(index).map_or(&[], Vec::as_slice)
    }

    /// Points the messages at their parts, and the first parts at the headers; done before each call, so that no
    /// reference made in between has put an end to what the pointers may do.
    fn aim(&mut self, from: usize, count: usize) -> (usize, usize) {
        let end = from.saturating_add(count).min(self.messages.len());
        let from = from.min(end);
        let headers = self.headers.as_mut_ptr();
        for (index, part) in self.parts.iter_mut().step_by(self.stride).enumerate().take(end).skip(from) {
            part.iov_base = headers.wrapping_add(index).cast();
        }
        let parts = self.parts.as_mut_ptr();
        for (index, message) in self.messages.iter_mut().enumerate().take(end).skip(from) {
            message.msg_hdr.msg_iov = parts.wrapping_add(index * self.stride);
        }
        (from, end - from)
    }

    /// Receives up to `count` packets into messages `0..`, without blocking; gives how many.
    ///
    /// # Errors
    /// EAGAIN when there is none; else what recvmmsg gives.
    pub fn receive(&mut self, fd: &impl AsFd, count: usize) -> Result<usize> {
        let (_, count) = self.aim(0, count);
        let args = [
            fd.as_fd().as_raw_fd() as usize,
            self.messages.as_mut_ptr() as usize,
            count,
            libc::MSG_DONTWAIT as usize,
            0,
            0,
        ];
        // SAFETY: `count` messages exist; each names its own parts, which lie in memory that this value owns or in
        // the window, which is shared memory that is only seen as atomics or by the frame's one owner.
        unsafe { raw::syscall(libc::SYS_recvmmsg, args) }
    }

    /// Sends messages `from .. from + count` in order, without blocking; gives how many.
    ///
    /// # Errors
    /// Why the first one was not sent: EAGAIN, ENOBUFS, EMSGSIZE, ENETDOWN ...
    pub fn send(&mut self, fd: &impl AsFd, from: usize, count: usize) -> Result<usize> {
        let (from, count) = self.aim(from, count);
        let args = [
            fd.as_fd().as_raw_fd() as usize,
            self.messages.as_mut_ptr().wrapping_add(from) as usize,
            count,
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as usize,
            0,
            0,
        ];
        // SAFETY: as for `receive`; the kernel only reads the parts.
        unsafe { raw::syscall(libc::SYS_sendmmsg, args) }
    }

    /// Reads one packet into message `index` (for a TAP, which has no recvmmsg).
    ///
    /// # Errors
    /// EAGAIN when there is none; else what readv gives.
    pub fn read(&mut self, fd: &impl AsFd, index: usize) -> Result<()> {
        let bytes = self.vector(libc::SYS_readv, fd, index)?;
        if let Some(message) = self.messages.get_mut(index) {
            message.msg_len = bytes as u32;
            message.msg_hdr.msg_flags = 0;
        }
        Ok(())
    }

    /// Writes message `index` as one packet.
    ///
    /// # Errors
    /// What writev gives.
    pub fn write(&mut self, fd: &impl AsFd, index: usize) -> Result<()> {
        self.vector(libc::SYS_writev, fd, index).map(|_| ())
    }

    fn vector(&mut self, number: libc::c_long, fd: &impl AsFd, index: usize) -> Result<usize> {
        let (index, found) = self.aim(index, 1);
        if found == 0 {
            return Err(Errno::INVAL);
        }
        let parts = self.parts_used(index);
        let at = self.parts.as_mut_ptr().wrapping_add(index * self.stride) as usize;
        let args = [fd.as_fd().as_raw_fd() as usize, at, parts, 0, 0, 0];
        // SAFETY: `parts` parts of message `index` exist and lie where `receive` says.
        unsafe { raw::syscall(number, args) }
    }

    /// What the last [`Messages::receive`] or [`Messages::read`] put into message `index`.
    #[must_use]
    pub fn arrived(&self, index: usize) -> Option<Arrived> {
        let message = self.messages.get(index)?;
        let bytes = (message.msg_len as usize).checked_sub(size_of::<VnetHeader>())?;
        let truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        Some(Arrived { header: *self.headers.get(index)?, bytes, truncated })
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use super::*;
    use crate::memory::map_anonymous;

    #[test]
    fn packets_travel_from_window_to_window_with_their_headers() {
        let (a, b) = crate::fds::pair().unwrap();
        let (from, to) = (map_anonymous(4096).unwrap(), map_anonymous(4096).unwrap());
        from[0].store(u64::from_ne_bytes(*b"abcdefgh"), Ordering::Relaxed);
        let mut tx = Messages::new(from, 2, 2);
        for index in 0..2 {
            assert!(tx.begin(index, VnetHeader { gso_size: 7 + index as u16, ..VnetHeader::default() }));
            assert!(tx.push_span(index, 0, 4));
            assert!(tx.push_span(index, 4, 4));
            assert!(!tx.push_span(index, 0, 1), "no third part");
        }
        assert!(!tx.begin(2, VnetHeader::default()));
        assert_eq!(tx.send(&a, 0, 9), Ok(2));
        let mut rx = Messages::new(to, 4, 2);
        for index in 0..4 {
            rx.begin(index, VnetHeader::default());
            rx.push_span(index, 64 * index as u64, 6);
            rx.push_overflow(index, 100);
        }
        assert_eq!(rx.receive(&b, 4), Ok(2));
        let got = rx.arrived(1).unwrap();
        assert_eq!((got.header.gso_size, got.bytes, got.truncated), (8, 8, false));
        assert_eq!(&to[8].load(Ordering::Relaxed).to_ne_bytes()[..6], b"abcdef");
        assert_eq!(&rx.overflow(1)[..2], b"gh");
        assert_eq!(rx.receive(&b, 4), Err(Errno::AGAIN));
    }

    #[test]
    fn nothing_outside_the_window_can_be_named() {
        let mut messages = Messages::new(map_anonymous(4096).unwrap(), 1, 4);
        messages.begin(0, VnetHeader::default());
        assert!(messages.push_span(0, 4095, 1));
        assert!(!messages.push_span(0, 4095, 2));
        assert!(!messages.push_span(0, u64::MAX, 2));
        assert!(!messages.push_span(1, 0, 1));
    }

    #[test]
    fn a_message_that_was_not_begun_takes_no_part_in_the_place_of_its_header() {
        let mut messages = Messages::new(map_anonymous(4096).unwrap(), 2, 4);
        assert!(!messages.push_span(0, 0, 64));
        assert!(!messages.push_overflow(0, 64));
        assert!(messages.begin(1, VnetHeader::default()));
        assert!(messages.push_span(1, 0, 64));
    }

    #[test]
    fn the_overflow_buffer_of_a_message_stays_where_its_part_says() {
        let mut messages = Messages::new(map_anonymous(4096).unwrap(), 1, 4);
        for _ in 0..2 {
            assert!(messages.begin(0, VnetHeader::default()));
            assert!(messages.push_overflow(0, 16));
            assert!(
                !messages.push_overflow(0, 1 << 20),
                "growing it would move it away from under the first part"
            );
            assert_eq!(messages.overflow(0).len(), 16);
        }
    }
}
