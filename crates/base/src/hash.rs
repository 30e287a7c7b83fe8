//! The keyed table hash: frozen, because two versions of the library may share one region.

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

#[cfg(test)]
mod tests {
    use super::flow_hash;

    #[test]
    fn the_hash_is_frozen() {
        let h = flow_hash([1, 2], [3; 16], [4; 16], 0x0050_1f90);
        assert_eq!(h, flow_hash([1, 2], [3; 16], [4; 16], 0x0050_1f90));
        assert_ne!(h, flow_hash([1, 3], [3; 16], [4; 16], 0x0050_1f90));
        assert_ne!(h, flow_hash([1, 2], [3; 16], [4; 16], 0x0050_1f91));
    }
}
