//! The MD5 signature of a segment (RFC 2385 2.0).

use base::IpAddress;
use md5::{Digest, Md5};
use wire::{IpProtocol, tcp};

/// Bytes of a signature.
pub(super) const LEN: usize = wire::tcp_options::MD5_LEN;

/// A signature on its way: over the pseudo-header, the TCP header without options and with checksum 0, the data, and the key, in this order.
pub(super) struct Signature(Md5);

impl Signature {
    /// Begins with a segment from `src` to `dst` of `len` bytes, options counted, whose header is at the front of `header`.
    pub(super) fn begin(src: IpAddress, dst: IpAddress, header: &[u8], len: u32) -> Self {
        let mut sum = Md5::new();
        match (src.as_v4(), dst.as_v4()) {
            (Some(src), Some(dst)) => {
                sum.update(src.octets());
                sum.update(dst.octets());
                sum.update([0, IpProtocol::TCP.0]);
                sum.update((len as u16).to_be_bytes());
            }
            // The pseudo-header of IPv6 (RFC 8200 8.1).
            _ => {
                sum.update(src.0);
                sum.update(dst.0);
                sum.update(len.to_be_bytes());
                sum.update(u32::from(IpProtocol::TCP.0).to_be_bytes());
            }
        }
        let mut plain = [0; tcp::HEADER_LEN];
        for (to, from) in plain.iter_mut().zip(header) {
            *to = *from;
        }
        let _ = tcp::set_checksum(&mut plain, 0);
        sum.update(plain);
        Self(sum)
    }

    /// Goes on with bytes of the data.
    pub(super) fn add(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The signature by `key`.
    pub(super) fn end(mut self, key: &[u8]) -> [u8; LEN] {
        self.0.update(key);
        self.0.finalize().into()
    }
}
