//! Event queues: which sockets have something to tell, one list a queue, one row a socket.

use base::limits::EVENT_QUEUES;
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
        pub queue: u16,
        /// 1 while in the list.
        pub listed: u16,
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
    }
}
