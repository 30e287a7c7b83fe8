//! Receive side scaling: the hash by which a device with several receive queues chooses one for a packet, as Microsoft's NDIS specification has it
//! ("RSS hashing functions", "Verifying the RSS hash calculation"). Only TCP over IPv4 and IPv6 with both addresses and both ports.

use base::{IpAddress, Port};

/// Bits of the key that one bit of the input takes.
const WINDOW: usize = 32;

/// The hash of a packet from `source` to `target`. `None`: the key is too short for it, or the two are of different families.
#[must_use]
pub fn toeplitz(key: &[u8], source: (IpAddress, Port), target: (IpAddress, Port)) -> Option<u32> {
    let mut input = [0; 36];
    let len = match (source.0.as_v4(), target.0.as_v4()) {
        (Some(from), Some(to)) => {
            input.get_mut(..4)?.copy_from_slice(&from.octets());
            input.get_mut(4..8)?.copy_from_slice(&to.octets());
            8
        }
        (None, None) => {
            input.get_mut(..16)?.copy_from_slice(&source.0.0);
            input.get_mut(16..32)?.copy_from_slice(&target.0.0);
            32
        }
        (Some(_), None) | (None, Some(_)) => return None,
    };
    input.get_mut(len..len + 2)?.copy_from_slice(&source.1.0.to_be_bytes());
    input.get_mut(len + 2..len + 4)?.copy_from_slice(&target.1.0.to_be_bytes());
    hash(key, input.get(..len + 4)?)
}

/// For each bit of the input that is 1, from the first on, the 32 bits of the key that begin at its number.
fn hash(key: &[u8], input: &[u8]) -> Option<u32> {
    let (first, rest) = key.split_first_chunk::<4>()?;
    if rest.len() < input.len() {
        return None;
    }
    let mut window = u64::from(u32::from_be_bytes(*first)) << WINDOW;
    let mut sum = 0;
    for (byte, next) in input.iter().zip(rest) {
        window |= u64::from(*next) << (WINDOW - 8);
        for bit in (0..8).rev() {
            if byte >> bit & 1 == 1 {
                sum ^= (window >> WINDOW) as u32;
            }
            window <<= 1;
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of the published vectors.
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn of(source: (&str, u16), target: (&str, u16)) -> Option<u32> {
        let address = |text: &str| match text.parse().unwrap() {
            core::net::IpAddr::V4(v4) => IpAddress::from_v4(v4),
            core::net::IpAddr::V6(v6) => IpAddress::from_v6(v6),
        };
        toeplitz(&KEY, (address(source.0), Port(source.1)), (address(target.0), Port(target.1)))
    }

    #[test]
    fn hashes_are_those_of_microsofts_vectors() {
        let vectors = [
            (("66.9.149.187", 2794), ("161.142.100.80", 1766), 0x51cc_c178),
            (("199.92.111.2", 14230), ("65.69.140.83", 4739), 0xc626_b0ea),
            (("24.19.198.95", 12898), ("12.22.207.184", 38024), 0x5c2b_394a),
            (("38.27.205.30", 48228), ("209.142.163.6", 2217), 0xafc7_327f),
            (("153.39.163.191", 44251), ("202.188.127.2", 1303), 0x10e8_28a2),
            (("3ffe:2501:200:1fff::7", 2794), ("3ffe:2501:200:3::1", 1766), 0x4020_7d3d),
            (("3ffe:501:8::260:97ff:fe40:efab", 14230), ("ff02::1", 4739), 0xdde5_1bbf),
            (
                ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251),
                ("fe80::200:f8ff:fe21:67cf", 38024),
                0x02d1_feef,
            ),
        ];
        for (source, target, wanted) in vectors {
            assert_eq!(of(source, target), Some(wanted), "{source:?} to {target:?}");
        }
    }

    #[test]
    fn a_key_that_is_too_short_gives_no_hash() {
        let (v4, v6) = (IpAddress::from_v4([10, 0, 0, 1].into()), IpAddress([7; 16]));
        let hash = |bytes: usize, from, to| toeplitz(&KEY[..bytes], (from, Port(1)), (to, Port(2)));
        assert_eq!(hash(15, v4, v4), None);
        assert!(hash(16, v4, v4).is_some());
        assert_eq!(hash(39, v6, v6), None);
        assert!(hash(40, v6, v6).is_some());
        assert_eq!(hash(40, v4, v6), None);
        assert_eq!(toeplitz(&[], (v4, Port(1)), (v4, Port(2))), None);
    }
}
