//! Netlink framing (linux/netlink.h): messages and attributes, each with a length in front, padded to 4 bytes, in host byte order.
//!
//! Reading is lenient where the kernel may grow (unknown attributes, longer structs) and never goes past the bytes.

use sys::Errno;

/// Message types below the first of any family.
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;

// Flags of a message.
pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const DUMP_INTERRUPTED: u16 = 0x10;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;

const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// The two top bits of an attribute's type are flags.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

/// A message in the making.
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.splice(4..8, kind.to_ne_bytes().into_iter().chain(flags.to_ne_bytes()));
        Self { bytes }
    }

    /// Appends `body`, padded.
    pub(super) fn put(mut self, body: &[u8]) -> Self {
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn attribute(self, kind: u16, value: &[u8]) -> Self {
        let length = (ATTRIBUTE_HEADER_BYTES + value.len()) as u16;
        let header: Vec<u8> = length.to_ne_bytes().into_iter().chain(kind.to_ne_bytes()).collect();
        self.put(&header).put(value)
    }

    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes.splice(0..4, length.to_ne_bytes());
        self.bytes.splice(8..12, sequence.to_ne_bytes());
        self.bytes
    }
}

/// One message as received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The outcome that an ERROR message carries; 0 is an acknowledgement.
    pub(super) fn error(&self) -> Result<(), Errno> {
        match u32_at(self.body, 0).map(u32::cast_signed) {
            Some(0) => Ok(()),
            Some(negative) => Err(Errno::from_raw_os_error(negative.wrapping_neg())),
            None => Err(Errno::PROTO),
        }
    }

    /// The attributes after a struct of `header_bytes`.
    pub(super) fn attributes(&self, header_bytes: usize) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        attributes(self.body.get(header_bytes..).unwrap_or(&[]))
    }
}

/// The messages of one datagram; stops at the first that is cut or impossible.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            body: bytes.get(HEADER_BYTES..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// The attributes in `bytes`; stops at the first that is cut or impossible.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & ATTRIBUTE_TYPE;
        let value = bytes.get(ATTRIBUTE_HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

pub(super) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_ne_bytes(*b))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_reads_back() {
        let bytes = Request::new(28, REQUEST | CREATE).put(&[7; 12]).attribute(1, &[1, 2, 3]).finish(9);
        assert_eq!(bytes.len(), 16 + 12 + 8);
        let message = messages(&bytes).next().unwrap();
        assert_eq!((message.kind, message.flags, message.sequence), (28, 0x401, 9));
        assert_eq!(message.attributes(12).collect::<Vec<_>>(), vec![(1, &[1, 2, 3][..])]);
        assert_eq!(messages(&bytes).count(), 1);
    }

    #[test]
    fn an_error_is_an_errno_and_zero_is_an_acknowledgement() {
        fn error(body: &[u8]) -> Result<(), Errno> {
            Message { kind: ERROR, flags: 0, sequence: 0, body }.error()
        }
        assert_eq!(error(&[0; 4]), Ok(()));
        assert_eq!(error(&(-19_i32).to_ne_bytes()), Err(Errno::NODEV));
        assert_eq!(error(&[]), Err(Errno::PROTO));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_end_without_panic(bytes in proptest::collection::vec(0..40u8, 0..200)) {
            prop_assert!(messages(&bytes).count() <= bytes.len() / 16 + 1);
            prop_assert!(attributes(&bytes).count() <= bytes.len() / 4 + 1);
        }
    }
}
