//! Event queues: which sockets have something to tell, one list a queue, one row a socket.

use base::limits::{EVENT_QUEUES, SIGNAL_ROWS};
use region::plain;

use crate::SockRef;

plain! {
    /// What one socket's owner wants to hear. Rows: TCP connections first, then listeners, then UDP sockets.
    #[derive(Debug, Default)]
    pub struct EventRow {
        /// The socket, while `queue` is not 0.
        pub name: SockRef,
        /// The owner's number for the socket.
        pub token: u64,
        /// Next row in the list of the queue, raw; `u32::MAX`: none.
        pub next: u32,
        /// Previous row, raw; `u32::MAX`: none.
        pub prev: u32,
        /// Bits gathered since the last event.
        pub ready: u32,
        /// The queue; 0: none.
        pub queue: u8,
        /// 1 while in the list.
        pub listed: u8,
        /// Number of its [`SignalRow`] and 1; 0: nobody gets signals.
        pub signals: u16,
    }
}
const _: () = assert!(EVENT_QUEUES <= 256 && SIGNAL_ROWS < 65_535);

plain! {
    /// Who gets signals when something happens to a socket, as F_SETOWN, F_SETSIG and O_ASYNC say (fcntl(2)). Zeroed: nobody.
    #[derive(PartialEq, Eq, Debug, Default)]
    pub struct Signals {
        /// The owner: its kind above, its number in the lower 32 bits; 0: nobody.
        pub owner: u64,
        /// What tells the owner from another process of that number; 0: nothing does.
        pub identity: u64,
        /// Number of the process that named the owner.
        pub named_by: u32,
        /// F_SETSIG; 0: SIGIO without further words.
        pub signal: u32,
        /// The descriptor on which O_ASYNC was set, and 1; 0: it is not set.
        pub async_fd: u32,
        /// Room.
        pub room: u32,
    }
}

plain! {
    /// A socket for whose events somebody gets signals.
    #[derive(Debug, Default)]
    pub struct SignalRow {
        /// Its event row and 1; 0: the row is free.
        pub at: u32,
        /// What happened since the last signal, as bits of `Ready`.
        pub raised: u32,
        /// Who is told.
        pub to: Signals,
    }
}

plain! {
    /// The list of one event queue.
    #[derive(Debug)]
    pub struct EventQueue {
        /// First row, raw; `u32::MAX`: empty.
        pub head: u32,
        /// Last row, raw.
        pub tail: u32,
    }
}

plain! {
    /// All event queues of a lane; number 0 is not used.
    #[derive(Debug)]
    pub struct EventGlobals {
        /// The lists.
        pub queues: [EventQueue; EVENT_QUEUES],
        /// Rows of signals that were ever in use.
        pub signals_used: u32,
        /// Not 0: some row of signals has something raised.
        pub raised: u32,
    }
}

impl EventGlobals {
    /// Nothing to tell.
    pub const EMPTY: Self = Self {
        queues: [EventQueue { head: u32::MAX, tail: u32::MAX }; EVENT_QUEUES],
        signals_used: 0,
        raised: 0,
    };
}
