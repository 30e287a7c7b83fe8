//! Keys that sign segments: those that a program set, for peers, at a listener or a connection.

use base::{Idx, IpAddress};
use region::plain;

/// Bytes of a key, at most (Linux's TCP_MD5SIG_MAXKEYLEN).
pub const KEY_BYTES: usize = 80;
/// Buckets of the table of keys; those of one owner are in one.
pub const KEY_BUCKETS: usize = 64;
/// In [`KeyRow::owner`]: the rest is a listener's row, else it is a connection's.
pub const OF_LISTENER: u32 = 1 << 31;

plain! {
    /// One key of one socket. A free row is all zero but for `next`.
    #[derive(Debug)]
    pub struct KeyRow {
        /// The peers it is for: those whose addresses begin with the first `prefix` bits of this.
        pub peer: IpAddress,
        /// Whose it is.
        pub owner: u32,
        /// Next in the bucket; next free row.
        pub next: Idx<KeyRow>,
        /// Bits of `peer` that count, of 128.
        pub prefix: u8,
        /// What it signs with, as the engine numbers it; 0: the row is free.
        pub kind: u8,
        /// Bytes of `key`.
        pub key_len: u8,
        /// Flags, as the engine numbers them.
        pub flags: u8,
        /// KeyID of what is sent (TCP-AO).
        pub send_id: u8,
        /// KeyID of what is received (TCP-AO).
        pub recv_id: u8,
        /// Bytes of a signature (TCP-AO).
        pub mac_len: u8,
        /// Room.
        pub room: u8,
        /// The key.
        pub key: [u8; KEY_BYTES],
        /// Segments that it signed rightly (TCP-AO).
        pub good: u64,
        /// Segments that name it and are signed wrongly (TCP-AO).
        pub bad: u64,
    }
}

plain! {
    /// What the table of keys has one of.
    #[derive(Debug)]
    pub struct KeyGlobals {
        /// First key of each bucket.
        pub buckets: [Idx<KeyRow>; KEY_BUCKETS],
        /// First free row that was used before.
        pub free: Idx<KeyRow>,
        /// Rows from here on were never used.
        pub fresh: u32,
        /// Keys in use.
        pub used: u32,
        /// 1: what TCP-AO signs for nobody is dropped.
        pub strict: u32,
    }
}

impl KeyGlobals {
    /// No key.
    pub const EMPTY: Self =
        Self { buckets: [Idx::NONE; KEY_BUCKETS], free: Idx::NONE, fresh: 0, used: 0, strict: 0 };
}
