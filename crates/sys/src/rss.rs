//! How a device spreads packets over its receive queues: ETHTOOL_GRSSH and ETHTOOL_GRXFH (linux/ethtool.h). Anybody may ask.

use rustix::io::Errno;

use crate::{Result, links};

const ETHTOOL_GRXFH: u32 = 0x29;
const ETHTOOL_GRSSH: u32 = 0x46;
const TCP_V4_FLOW: u32 = 1;
const TCP_V6_FLOW: u32 = 5;
/// RXH_IP_SRC, RXH_IP_DST, RXH_L4_B_0_1 and RXH_L4_B_2_3: both addresses and both ports.
const ADDRESSES_AND_PORTS: u64 = 0xf0;
/// ETH_RSS_HASH_TOP.
const TOEPLITZ: u8 = 1;
/// Words of the kernel's ethtool_rxfh in front of table and key: command, context, entries of the table, bytes of the key, function and transformation
/// (a byte each, two unused), an unused one.
const HEADER_WORDS: usize = 6;
/// Words of the kernel's ethtool_rxnfc, without rules behind it.
const FIELDS_WORDS: usize = 48;
/// Largest table and key that are believed.
const ENTRIES_MAX: u32 = 65_536;
const KEY_BYTES_MAX: u32 = 256;

/// How a device chooses the queue for a packet of TCP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rss {
    /// Key of the Toeplitz hash.
    pub key: Vec<u8>,
    /// Queue by the hash's low bits.
    pub table: Vec<u32>,
}

impl Rss {
    /// Of interface `name`. `None`: it has one queue only, another hash than Toeplitz's over addresses and ports, or does not say.
    ///
    /// # Errors
    /// ENODEV.
    pub fn of(name: &str) -> Result<Option<Self>> {
        let unknown = |errno| if errno == Errno::NODEV { Err(errno) } else { Ok(None) };
        for kind in [TCP_V4_FLOW, TCP_V6_FLOW] {
            match hashed_fields(name, kind) {
                Ok(ADDRESSES_AND_PORTS) => {}
                Ok(_) => return Ok(None),
                Err(errno) => return unknown(errno),
            }
        }
        let mut words = vec![ETHTOOL_GRSSH];
        words.resize(HEADER_WORDS, 0);
        // SAFETY: with sizes of 0 the command reads and writes the words in front of the table alone.
        if let Err(errno) = unsafe { links::ethtool(name, &mut words) } {
            return unknown(errno);
        }
        let Some(len) = sizes(&words).map(|(entries, key)| HEADER_WORDS + entries + key.div_ceil(4)) else {
            return Ok(None);
        };
        words.resize(len, 0);
        // SAFETY: the sizes that `words` say are those of the room behind; a device whose own differ by now gets EINVAL.
        match unsafe { links::ethtool(name, &mut words) } {
            Ok(()) => Ok(Self::read(&words)),
            Err(errno) => unknown(errno),
        }
    }

    /// Reads an ethtool_rxfh with table and key.
    fn read(words: &[u32]) -> Option<Self> {
        let (entries, key_bytes) = sizes(words)?;
        let [function, transformation, ..] = words.get(4)?.to_ne_bytes();
        if function != TOEPLITZ || transformation != 0 {
            return None;
        }
        let (table, key) = words.get(HEADER_WORDS..)?.split_at_checked(entries)?;
        let key: Vec<u8> = key.iter().flat_map(|word| word.to_ne_bytes()).take(key_bytes).collect();
        let found = Self { key, table: table.to_vec() };
        (found.key.len() == key_bytes && found.queues() > 1).then_some(found)
    }

    /// Receive queues in use.
    #[must_use]
    pub fn queues(&self) -> u32 {
        self.table.iter().max().map_or(0, |last| last.saturating_add(1))
    }

    /// The queue of a packet with this hash.
    #[must_use]
    pub fn queue(&self, hash: u32) -> Option<u32> {
        self.table.get(hash as usize % self.table.len().max(1)).copied()
    }
}

/// Entries of the table and bytes of the key, if there are any and they can be.
fn sizes(words: &[u32]) -> Option<(usize, usize)> {
    let (entries, key) = (*words.get(2)?, *words.get(3)?);
    let good = (1..=ENTRIES_MAX).contains(&entries) && (1..=KEY_BYTES_MAX).contains(&key);
    good.then_some((entries as usize, key as usize))
}

fn hashed_fields(name: &str, kind: u32) -> Result<u64> {
    let mut words = [0_u32; FIELDS_WORDS];
    if let [command, flow, ..] = words.as_mut_slice() {
        (*command, *flow) = (ETHTOOL_GRXFH, kind);
    }
    // SAFETY: the command reads and writes one ethtool_rxnfc, which is as long as `words`, and of a flow's fields nothing behind it.
    unsafe { links::ethtool(name, &mut words) }?;
    let [_, _, low, high, ..] = words;
    Ok(u64::from(low) | u64::from(high) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of four entries and a key of six bytes.
    fn answer() -> Vec<u32> {
        let function = u32::from_ne_bytes([TOEPLITZ, 0, 0, 0]);
        let key = [[1, 2, 3, 4], [5, 6, 0, 0]].map(u32::from_ne_bytes);
        [[ETHTOOL_GRSSH, 0, 4, 6, function, 0].as_slice(), &[0, 1, 2, 1], &key].concat()
    }

    #[test]
    fn table_and_key_are_read() {
        let rss = Rss::read(&answer()).expect("a good answer");
        assert_eq!(rss, Rss { key: vec![1, 2, 3, 4, 5, 6], table: vec![0, 1, 2, 1] });
        assert_eq!((rss.queues(), rss.queue(6), rss.queue(0xffff_fffc)), (3, Some(2), Some(0)));
    }

    #[test]
    fn what_cannot_be_computed_is_unknown() {
        let changed = |at: usize, word: u32| {
            let mut words = answer();
            words[at] = word;
            Rss::read(&words)
        };
        assert_eq!(changed(2, 0), None);
        assert_eq!(changed(2, u32::MAX), None);
        assert_eq!(changed(3, 9), None);
        assert_eq!(changed(4, u32::from_ne_bytes([2, 0, 0, 0])), None, "another function");
        assert_eq!(changed(4, u32::from_ne_bytes([TOEPLITZ, 1, 0, 0])), None, "symmetric");
        assert_eq!(Rss::read(&answer()[..9]), None);
        let one_queue = [&answer()[..6], &[0; 4], &answer()[10..]].concat();
        assert_eq!(Rss::read(&one_queue), None);
    }

    #[test]
    fn loopback_does_not_say() {
        assert_eq!(Rss::of("lo"), Ok(None));
        assert_eq!(Rss::of("no-such-device"), Err(Errno::NODEV));
    }
}
