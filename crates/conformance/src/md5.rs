//! Signatures by MD5 (RFC 2385) as scripts have them: made of the bytes of a segment alone, apart from the engine.

use md5::{Digest, Md5};
use wire::tcp_options::signature_at;

use crate::packet::Family;

/// Bytes of a TCP header without options.
const HEADER_LEN: usize = 20;

/// The key that scripts call `number`; 0: none.
#[must_use]
pub(crate) fn key(number: u32) -> Vec<u8> {
    if number == 0 { Vec::new() } else { format!("key {number}").into_bytes() }
}

/// Where in `segment` its signature is.
fn place(segment: &[u8]) -> Option<core::ops::Range<usize>> {
    let end = usize::from(segment.get(12)? >> 4) * 4;
    let at = signature_at(segment.get(HEADER_LEN..end)?)?;
    Some(at.start + HEADER_LEN..at.end + HEADER_LEN)
}

/// The signature of `segment` by key `number`; to the stack, or from it.
fn signature(family: Family, to_stack: bool, segment: &[u8], number: u32) -> [u8; 16] {
    let mut ends = [family.stack(), family.script()];
    if to_stack {
        ends.reverse();
    }
    let len = segment.len() as u32;
    let mut sum = Md5::new();
    for end in ends {
        match end.as_v4() {
            Some(v4) => sum.update(v4.octets()),
            None => sum.update(end.0),
        }
    }
    match family {
        Family::V4 => {
            sum.update([0, 6]);
            sum.update((len as u16).to_be_bytes());
        }
        Family::V6 => {
            sum.update(len.to_be_bytes());
            sum.update(6_u32.to_be_bytes());
        }
    }
    let payload_at = segment.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4);
    let checksum = 16..18;
    for (at, byte) in segment.iter().enumerate() {
        if at < HEADER_LEN || at >= payload_at {
            sum.update([if checksum.contains(&at) { 0 } else { *byte }]);
        }
    }
    sum.update(key(number));
    sum.finalize().into()
}

/// Signs a segment of the script's side, which has room for it, with key `number`.
pub(crate) fn sign(family: Family, segment: &mut [u8], number: u32) {
    let signature = signature(family, true, segment, number);
    if let Some(at) = place(segment).and_then(|at| segment.get_mut(at))
        && at.len() == signature.len()
    {
        at.copy_from_slice(&signature);
    }
}

/// Which key `segment`, from the stack, is signed with, of those that scripts use. `None`: it has no signature; 0: by none of them.
pub(crate) fn signer(family: Family, segment: &[u8]) -> Option<u32> {
    let given = segment.get(place(segment)?)?;
    Some((1..10).find(|number| signature(family, false, segment, *number) == given).unwrap_or(0))
}
