//! RTNETLINK: what the kernel says about links, addresses, routes, rules and neighbours, mirrored into [`crate::tables`].
//!
//! An event says what is stale, a dump says what is true: links, addresses, routes and rules are few and are read anew when one of them
//! changes, which also covers what the kernel changes without an event (IPv4 routes that go with their link). Neighbours change
//! often and are followed one by one. When the kernel had to drop events, everything is read anew.

mod codec;
mod diag;
mod far;
mod mirror;
mod parse;

pub use diag::{KernelListener, kernel_has_tcp, tcp_listeners};
pub use far::{FarEnd, far_end, namespace_number};
pub use mirror::{Changes, Mirror, OwnAddress};

use codec::{Message, Request};
use sys::Errno;
use sys::netlink::{BUFFER_BYTES, NetlinkSocket};

// Message types (linux/rtnetlink.h): the NEW of each kind; DEL is one more, GET two more.
const LINK: u16 = 16;
const ADDRESS: u16 = 20;
const ROUTE: u16 = 24;
const NEIGHBOUR: u16 = 28;
const RULE: u16 = 32;
const DEL: u16 = 1;
const GET: u16 = 2;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Both, in the order in which the tables have them.
const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];

/// How long the kernel may take for an answer, ms. It answers while it is asked; this is only against waiting for ever.
const ANSWER_MS: u64 = 2000;
/// A dump that changes while it is read is read again, this often.
const DUMP_TRIES: u32 = 16;

/// Questions to the kernel and their answers, one at a time.
struct Asker {
    socket: NetlinkSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Asker {
    fn open() -> Result<Self, Errno> {
        Ok(Self::over(NetlinkSocket::open(ANSWER_MS)?))
    }

    fn over(socket: NetlinkSocket) -> Self {
        Self { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] }
    }

    /// Everything of `kind` and `family`, through `parse`. Rows that `parse` does not want are left out.
    fn dump<T>(
        &mut self,
        kind: u16,
        family: u8,
        parse: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Errno> {
        for _ in 0..DUMP_TRIES {
            let mut rows = Vec::new();
            // The body is the kind's own struct, of which a dump looks at the family alone. 16 bytes are the longest of them.
            let mut body = [0; 16];
            body[0] = family;
            let length = parse::header_bytes(kind);
            let request = Request::new(kind + GET, codec::REQUEST | codec::DUMP);
            let interrupted = self.ask(request.put(body.get(..length).unwrap_or(&body)), |message| {
                rows.extend(Some(message).filter(|message| message.kind == kind).and_then(&parse));
            })?;
            if !interrupted {
                return Ok(rows);
            }
        }
        Err(Errno::AGAIN)
    }

    /// Sends `request` and gives each message of the answer to `take`, until the last. True: the answer is not of one moment.
    fn ask(&mut self, request: Request, mut take: impl FnMut(&Message<'_>)) -> Result<bool, Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request.finish(self.sequence))?;
        let mut interrupted = false;
        loop {
            let bytes = self.socket.receive(&mut self.buffer)?;
            for message in codec::messages(bytes).filter(|message| message.sequence == self.sequence) {
                interrupted |= message.flags & codec::DUMP_INTERRUPTED != 0;
                match message.kind {
                    codec::DONE => return Ok(interrupted),
                    codec::ERROR => return message.error().map(|()| interrupted),
                    _ => take(&message),
                }
            }
        }
    }
}
