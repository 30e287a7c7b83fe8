//! Urgent data (RFC 9293 3.8.5), in rows beside the TCB rows. Only connections that have some touch theirs.

use base::SeqNum;
use region::plain;

plain! {
    /// Where the urgent data of one connection are. What of it counts, `OutOfOrder::urgent` says.
    #[derive(PartialEq, Eq, Debug, Default)]
    pub struct Urgent {
        /// SND.UP: one past the last urgent byte that was queued.
        pub snd_up: SeqNum,
        /// The mark: the number of the urgent byte that the peer announced (RCV.UP, less one).
        pub mark: SeqNum,
        /// That byte.
        pub byte: u8,
        /// Room.
        pub room: [u8; 3],
    }
}
