//! The TCP options of signatures: MD5 (RFC 2385 3.0) and TCP-AO (RFC 5925 2.2). Where they are and how long, not what they are made of.

use core::ops::Range;

use crate::tcp_options::{END, NOP};

pub(crate) const MD5: u8 = 19;
pub(crate) const AO: u8 = 29;

/// How a segment is signed. The signature itself is not in it: of what was received [`signature_at`] says where it is, and what is sent has
/// zeros there ([`SIGNATURE_AT`]) until somebody signs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sign {
    /// Not at all.
    #[default]
    None,
    /// By MD5 (RFC 2385 3.0).
    Md5,
    /// By TCP-AO (RFC 5925 2.2).
    Ao {
        /// KeyID: the key that signed it.
        key_id: u8,
        /// RNextKeyID: the key that the sender would have the peer sign with.
        next_key_id: u8,
        /// Bytes of the signature.
        mac_len: u8,
    },
    /// More than once, or by an option of a length that it cannot have. Never emitted.
    Bad,
}

/// Bytes of an MD5 signature.
pub const MD5_LEN: usize = 16;
/// Bytes of a TCP-AO option in front of the signature.
const AO_HEAD_LEN: usize = 4;
/// Where the signature begins in the options of a segment that [`TcpOptions::emit`](crate::TcpOptions::emit) wrote.
pub const SIGNATURE_AT: usize = 4;

impl Sign {
    /// Bytes that its option takes in a segment, aligned.
    #[inline]
    #[must_use]
    pub const fn len_bytes(self) -> usize {
        if matches!(self, Self::None) { 0 } else { self.len_signed() }
    }

    #[cold]
    const fn len_signed(self) -> usize {
        match self {
            Self::None | Self::Bad => 0,
            Self::Md5 => SIGNATURE_AT + MD5_LEN,
            Self::Ao { mac_len, .. } => (AO_HEAD_LEN + mac_len as usize).next_multiple_of(4),
        }
    }

    /// What an option of a signature with `data` says, when `self` came before it.
    #[cold]
    pub(crate) fn after(self, kind: u8, data: &[u8]) -> Self {
        match (self, kind, data) {
            (Self::None, MD5, data) if data.len() == MD5_LEN => Self::Md5,
            (Self::None, AO, &[key_id, next_key_id, ref mac @ ..]) if !mac.is_empty() => {
                Self::Ao { key_id, next_key_id, mac_len: mac.len() as u8 }
            }
            _ => Self::Bad,
        }
    }

    /// Writes the option to the next of `words`, the signature all zero.
    #[cold]
    pub(crate) fn emit(self, words: &mut core::slice::IterMut<'_, [u8; 4]>) {
        let mut put = |word: [u8; 4]| {
            if let Some(to) = words.next() {
                *to = word;
            }
        };
        match self {
            Self::None | Self::Bad => {}
            Self::Md5 => {
                put([NOP, NOP, MD5, 2 + MD5_LEN as u8]);
                (0..MD5_LEN / 4).for_each(|_| put([0; 4]));
            }
            Self::Ao { key_id, next_key_id, mac_len } => {
                put([AO, mac_len.saturating_add(AO_HEAD_LEN as u8), key_id, next_key_id]);
                for done in (0..mac_len).step_by(4) {
                    put([0, 1, 2, 3].map(|n| if done + n < mac_len { 0 } else { NOP }));
                }
            }
        }
    }
}

/// Where in `options`, the option bytes of one segment, the signature is. `None`: there is no option of a signature.
#[must_use]
pub fn signature_at(options: &[u8]) -> Option<Range<usize>> {
    let mut at = 0;
    loop {
        match (*options.get(at)?, options.get(at + 1)) {
            (END, _) => return None,
            (NOP, _) => at += 1,
            (MD5, Some(&len)) => return Some(at + 2..at + usize::from(len)),
            (AO, Some(&len)) => return Some(at + AO_HEAD_LEN..at + usize::from(len)),
            (_, Some(&len)) if len >= 2 => at += usize::from(len),
            _ => return None,
        }
    }
}
