//! What lies behind a veth device: the number of its other end and the network namespace where that is.

use std::os::fd::{AsFd, AsRawFd};

use sys::Errno;

use super::codec::{self, Request};
use super::{Asker, GET, LINK};

/// Attributes and messages of linux/if_link.h and linux/net_namespace.h.
mod number {
    pub(super) const IFLA_LINK: u16 = 5;
    pub(super) const IFLA_LINK_NETNSID: u16 = 37;
    pub(super) const RTM_NEWNSID: u16 = 88;
    pub(super) const RTM_GETNSID: u16 = 90;
    pub(super) const NETNSA_NSID: u16 = 1;
    pub(super) const NETNSA_FD: u16 = 3;
}

/// Bytes of ifinfomsg, and of rtgenmsg with its padding.
const LINK_BYTES: usize = 16;
const GENERAL_BYTES: usize = 4;

/// The other end of a device that is one of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FarEnd {
    /// Its number in its own network namespace.
    pub ifindex: u32,
    /// Our namespace's number for that namespace ([`namespace_number`]).
    pub namespace: i32,
}

/// The other end of device `ifindex` of this thread's namespace. `None`: it has none in another namespace.
///
/// # Errors
/// ENODEV, or what the socket gives.
pub fn far_end(ifindex: u32) -> Result<Option<FarEnd>, Errno> {
    let mut body = [0; LINK_BYTES];
    if let Some(room) = body.get_mut(4..8) {
        room.copy_from_slice(&ifindex.to_ne_bytes());
    }
    let request = Request::new(LINK + GET, codec::REQUEST | codec::ACK).put(&body);
    let (mut far, mut namespace) = (None, None);
    Asker::open()?.ask(request, |message| {
        for (kind, value) in message.attributes(LINK_BYTES).filter(|_| message.kind == LINK) {
            match kind {
                number::IFLA_LINK => far = codec::u32_at(value, 0),
                number::IFLA_LINK_NETNSID => namespace = codec::u32_at(value, 0),
                _ => {}
            }
        }
    })?;
    let end = far.zip(namespace).map(|(ifindex, n)| FarEnd { ifindex, namespace: n.cast_signed() });
    Ok(end.filter(|end| end.namespace >= 0))
}

/// The number that this thread's namespace has for the network namespace behind `namespace`. `None`: it has none, so no device here
/// leads there.
///
/// # Errors
/// What the socket gives.
pub fn namespace_number(namespace: &impl AsFd) -> Result<Option<i32>, Errno> {
    let fd = namespace.as_fd().as_raw_fd().cast_unsigned();
    let request = Request::new(number::RTM_GETNSID, codec::REQUEST | codec::ACK).put(&[0; GENERAL_BYTES]);
    let mut found = None;
    Asker::open()?.ask(request.attribute(number::NETNSA_FD, &fd.to_ne_bytes()), |message| {
        let own = message.attributes(GENERAL_BYTES).filter(|_| message.kind == number::RTM_NEWNSID);
        for (_, value) in own.filter(|(kind, _)| *kind == number::NETNSA_NSID) {
            found = codec::u32_at(value, 0).map(u32::cast_signed);
        }
    })?;
    Ok(found.filter(|number| *number >= 0))
}
