//! The keyed table hash: frozen, because two versions of the library may share one region.

use crate::IpAddress;

/// Multiply two 64-bit numbers and fold the 128-bit product.
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Keyed hash of a flow: two 16-byte addresses and two ports. `key` is secret per region, so that a peer
/// cannot choose flows that share a bucket.
#[must_use]
pub const fn flow_hash(key: [u64; 2], local: [u8; 16], remote: [u8; 16], ports: u32) -> u32 {
    let l = u128::from_le_bytes(local);
    let r = u128::from_le_bytes(remote);
    let a = fold((l as u64) ^ key[0], ((l >> 64) as u64) ^ 0xa076_1d64_78bd_642f);
    let b = fold((r as u64) ^ key[1], ((r >> 64) as u64) ^ 0xe703_7ed1_a0b4_28db);
    let c = fold(a ^ key[1] ^ (ports as u64), b ^ key[0] ^ 0x8ebc_6af0_9c88_c6e3);
    (c ^ (c >> 32)) as u32
}

/// Slots of remote ends.
pub const FLOW_SLOTS: usize = 64;
/// Multipliers of [`slot_of`].
pub const SLOT_MIX: [u32; 3] = [0x9e37_79b1, 0x85eb_ca6b, 0xc2b2_ae35];
/// Local ports of a block, which begins at a multiple of this.
pub const BLOCK_PORTS: u16 = 64;
/// Blocks of local ports.
pub const PORT_BLOCKS: usize = (1 << 16) / BLOCK_PORTS as usize;
const _: () = assert!(FLOW_SLOTS.is_power_of_two() && BLOCK_PORTS.is_power_of_two());

/// The slot of a remote end: of an IPv6 address all four words count together. The steering programs compute the same, on the words as they lie
/// in the packet; `seed` keeps remote ends from choosing their lane.
#[must_use]
pub const fn slot_of(seed: u32, remote: IpAddress, remote_port: u16) -> u8 {
    let [.., a, b, c, d] = remote.0;
    let mut addr = u32::from_ne_bytes([a, b, c, d]);
    if !remote.is_v4() {
        let all = u128::from_ne_bytes(remote.0);
        addr = (all ^ all >> 32 ^ all >> 64 ^ all >> 96) as u32;
    }
    let port = u16::from_ne_bytes(remote_port.to_be_bytes());
    let mut hash = (seed ^ addr).wrapping_mul(SLOT_MIX[0]);
    hash = (hash ^ port as u32).wrapping_mul(SLOT_MIX[1]);
    hash = (hash ^ hash >> 15).wrapping_mul(SLOT_MIX[2]);
    (hash >> (32 - FLOW_SLOTS.ilog2())) as u8
}

/// The block of a local port.
#[must_use]
pub const fn block_of(port: u16) -> u16 {
    port / BLOCK_PORTS
}

#[cfg(test)]
mod tests {
    use super::{FLOW_SLOTS, flow_hash, slot_of};
    use crate::IpAddress;

    #[test]
    fn stations_of_one_network_have_different_slots() {
        let slot =
            |last: u8| slot_of(7, IpAddress([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]), 80);
        let mut seen = [false; FLOW_SLOTS];
        (0..=255).for_each(|last| seen[usize::from(slot(last))] = true);
        assert!(seen.iter().filter(|s| **s).count() > FLOW_SLOTS / 2);
    }

    #[test]
    fn the_hash_is_frozen() {
        let h = flow_hash([1, 2], [3; 16], [4; 16], 0x0050_1f90);
        assert_eq!(h, flow_hash([1, 2], [3; 16], [4; 16], 0x0050_1f90));
        assert_ne!(h, flow_hash([1, 3], [3; 16], [4; 16], 0x0050_1f90));
        assert_ne!(h, flow_hash([1, 2], [3; 16], [4; 16], 0x0050_1f91));
    }
}
