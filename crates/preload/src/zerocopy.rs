//! MSG_ZEROCOPY (the kernel's `Documentation/networking/msg_zerocopy.rst`).
//!
//! A lane copies what is sent, so a buffer is its program's again when the call returns. The notification says what the kernel's says where that had to
//! copy (`SO_EE_CODE_ZEROCOPY_COPIED`), and is there at once. Sends are numbered from 0 on; as no notification can overtake another here, those that nobody
//! has read are always one range. Number and range are a process's: one that is forked or executed begins with what there was, or at 0.

use core::ffi::c_int;

use libc::msghdr;
use state::Ready;

use crate::errno::{Errno, Outcome};
use crate::hub::{self, Wakes};
use crate::object::Handle;
use crate::sock::{Sock, flag};
use crate::user;

/// `SO_EE_ORIGIN_ZEROCOPY` and `SO_EE_CODE_ZEROCOPY_COPIED` of `linux/errqueue.h`.
const ORIGIN: u8 = 5;
const COPIED: u8 = 1;
/// A `cmsghdr`, and what its length is rounded up to for the next one.
const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
const ALIGN: usize = size_of::<usize>();
/// A `sock_extended_err`, and behind it no address of an offender: room for a `sockaddr_in` or `sockaddr_in6`.
const ERROR_BYTES: usize = 16;
const DATA_BYTES: usize = ERROR_BYTES + size_of::<libc::sockaddr_in>();
const DATA6_BYTES: usize = ERROR_BYTES + size_of::<libc::sockaddr_in6>();

/// Sends of a socket that are notified of.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Sends {
    next: u32,
    /// The first one that was not told of.
    untold: Option<u32>,
}

impl Sends {
    pub(crate) const NONE: Self = Self { next: 0, untold: None };

    fn note(&mut self) {
        self.untold.get_or_insert(self.next);
        self.next = self.next.wrapping_add(1);
    }

    /// The first and the last one that were not told of; now they are.
    fn take(&mut self) -> Option<(u32, u32)> {
        Some((self.untold.take()?, self.next.wrapping_sub(1)))
    }

    /// Was there none yet?
    pub(crate) fn is_unused(&self) -> bool {
        *self == Self::NONE
    }
}

/// A send with the MSG_* `flags` took `sent` bytes.
#[cold]
pub(crate) fn sent(sock: &Handle<Sock>, flags: c_int, sent: &Outcome<usize>) {
    if flags & libc::MSG_ZEROCOPY == 0 || !sock.has(flag::ZEROCOPY) || !matches!(sent, Ok(1..)) {
        return;
    }
    {
        let mut inner = sock.inner();
        inner.sends.note();
        sock.put(flag::NOTIFIES, true);
    }
    let mut wakes = Wakes::new();
    hub::fire(sock.object(), &mut wakes);
    wakes.send();
}

/// What `sock` is ready for because of a notification, beside what its lane says.
#[inline]
pub(crate) fn ready(sock: &Sock) -> Ready {
    if sock.has(flag::NOTIFIES) { Ready::ERR } else { Ready::NONE }
}

/// Takes the notification.
///
/// # Errors
/// EAGAIN: there is none.
pub(crate) fn take(sock: &Sock) -> Outcome<(u32, u32)> {
    let mut inner = sock.inner();
    let taken = inner.sends.take().ok_or(Errno(libc::EAGAIN))?;
    sock.put(flag::NOTIFIES, false);
    Ok(taken)
}

/// `recvmsg` with MSG_ERRQUEUE. A notification that finds no room is lost, as the kernel's is.
///
/// # Safety
/// `message` is as for `recvmsg`.
pub(crate) unsafe fn receive(sock: &Sock, message: &mut msghdr) -> Outcome<usize> {
    let range = take(sock)?;
    let (bytes, used) = control(range, sock.has(flag::V6));
    let wanted = bytes.get(..used).unwrap_or(&[]);
    let room = if message.msg_control.is_null() { 0 } else { message.msg_controllen };
    (message.msg_flags, message.msg_controllen) = (libc::MSG_ERRQUEUE, 0);
    message.msg_namelen = 0;
    if room < used {
        message.msg_flags |= libc::MSG_CTRUNC;
    }
    if room >= HEADER_BYTES {
        // SAFETY: the caller's promise.
        unsafe { user::fill(message.msg_control.cast(), room, wanted) };
        if room < used {
            // SAFETY: the length comes first, and there is room for the header.
            unsafe { user::fill(message.msg_control.cast(), room, &room.to_ne_bytes()) };
        }
        message.msg_controllen = room.min(used.next_multiple_of(ALIGN));
    }
    Ok(0)
}

/// The control message of a notification, and its length.
fn control((first, last): (u32, u32), v6: bool) -> ([u8; HEADER_BYTES + DATA6_BYTES], usize) {
    let (level, name, data) = match v6 {
        true => (libc::SOL_IPV6, libc::IPV6_RECVERR, DATA6_BYTES),
        false => (libc::SOL_IP, libc::IP_RECVERR, DATA_BYTES),
    };
    let used = HEADER_BYTES + data;
    let fields: [&[u8]; 7] = [
        &used.to_ne_bytes(),
        &level.to_ne_bytes(),
        &name.to_ne_bytes(),
        // No errno.
        &[0; 4],
        &[ORIGIN, 0, COPIED, 0],
        &first.to_ne_bytes(),
        &last.to_ne_bytes(),
    ];
    let mut bytes = [0; HEADER_BYTES + DATA6_BYTES];
    for (to, from) in bytes.iter_mut().zip(fields.iter().copied().flatten()) {
        *to = *from;
    }
    (bytes, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_was_told_of_is_one_range() {
        let mut sends = Sends::NONE;
        assert_eq!(sends.take(), None);
        sends.note();
        assert_eq!(sends.take(), Some((0, 0)));
        (0..3).for_each(|_| sends.note());
        assert_eq!((sends.take(), sends.take()), (Some((1, 3)), None));
        assert!(!sends.is_unused());
    }

    #[test]
    fn numbers_go_on_beyond_the_last_one() {
        let mut sends = Sends { next: u32::MAX, untold: None };
        (0..2).for_each(|_| sends.note());
        assert_eq!(sends.take(), Some((u32::MAX, 0)));
    }

    #[test]
    fn a_notification_is_laid_out_as_the_kernels() {
        let (bytes, used) = control((3, 5), false);
        assert_eq!(used, 48);
        assert_eq!(bytes[..8], 48_usize.to_ne_bytes());
        assert_eq!(bytes[8..20], [0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[20..32], [5, 0, 1, 0, 3, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(bytes[32..], [0; 28]);
        let (bytes, used) = control((3, 5), true);
        assert_eq!((used, bytes[8], bytes[12]), (60, 41, 25));
    }
}
