//! The verbs of urgent data (MSG_OOB, SIOCATMARK). SO_OOBINLINE is `TcpOptions::set_urgent_inline`.

use state::SockRef;

use crate::engine::Engine;
use crate::errors::{SendError, UrgentError};
use crate::tcp::urgent;

impl Engine<'_> {
    /// As [`Engine::tcp_send`]; the last byte queued is urgent (MSG_OOB). Which peers read as an urgent byte only if no other follows before they
    /// do: there is one at a time.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn tcp_send_urgent(&mut self, s: SockRef, data: &[u8], more: bool) -> Result<usize, SendError> {
        urgent::send(&mut self.mem, self.now, s, data, more)
    }

    /// Takes the urgent byte (MSG_OOB); `peek` leaves it. `None`: the stream has ended before it.
    ///
    /// # Errors
    /// [`UrgentError`].
    pub fn tcp_recv_urgent(&mut self, s: SockRef, peek: bool) -> Result<Option<u8>, UrgentError> {
        urgent::recv(&mut self.mem, s, peek)
    }

    /// Is the next byte to be read the urgent one (SIOCATMARK)? Reads stop in front of it: who gathers one message by several must ask in between.
    #[must_use]
    pub fn tcp_at_mark(&mut self, s: SockRef) -> bool {
        urgent::at_mark(&mut self.mem, s)
    }
}
