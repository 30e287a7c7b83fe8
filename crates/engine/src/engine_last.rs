//! The end of a lane's connections when its holder may die at any moment: tell, send what that gave, then end. Who takes the lane over in between finds each
//! connection that was not told for certain, and tells its peer, maybe a second time.

use state::{FlowKey, SockKind, SockRef};

use crate::engine::Engine;
use crate::tcp::last_words;

impl Engine<'_> {
    /// Nobody will listen here any more: a SYN by a device gets no answer from now on. Its sender asks again, when packets for the address go to whoever listens
    /// then, or to the kernel, which knows whether anybody does. Over a wire it is refused, and sent by the device instead.
    pub fn listens_no_more(&mut self) {
        self.mem.globals.tcp.leaves = 1;
    }

    /// Tells the peer of connection `s` by RST that it is over; nothing changes here.
    pub fn tell_reset(&mut self, s: SockRef) {
        if s.kind() == Some(SockKind::Tcp) {
            last_words::tell(&mut self.mem, self.now, s);
        }
    }

    /// As [`Engine::abort`], after [`Engine::tell_reset`]: the peer is not told again.
    pub fn end_told(&mut self, s: SockRef) {
        match s.kind() {
            Some(SockKind::Tcp) => last_words::end(&mut self.mem, self.now, s),
            Some(SockKind::Listener | SockKind::Udp) | None => self.abort(s),
        }
    }

    /// Ends connection `s` after [`Engine::tell_reset`] for a program that goes on: that reads ECONNRESET, and the name is its own until it closes it. What it has not
    /// read is lost. False: `s` has nothing that a reset would end, and is as it was.
    pub fn fail_told(&mut self, s: SockRef) -> bool {
        s.kind() == Some(SockKind::Tcp) && last_words::fail(&mut self.mem, self.now, s)
    }

    /// As [`Engine::tell_reset`], for the connection with these ends that waits at a listener.
    pub fn tell_waiting(&mut self, ends: &FlowKey) {
        last_words::tell_waiting(&mut self.mem, ends);
    }

    /// Ends the connection with these ends that waits at a listener, after [`Engine::tell_waiting`].
    pub fn end_waiting(&mut self, ends: &FlowKey) {
        last_words::end_waiting(&mut self.mem, self.now, ends);
    }

    /// Tells at most `most` peers of connections that were closed and still have something to say or to hear; gives how many. No name leads to them.
    pub fn tell_closed(&mut self, most: u32) -> u32 {
        last_words::tell_closed(&mut self.mem, most)
    }

    /// Ends the same ones.
    pub fn end_closed(&mut self, most: u32) -> u32 {
        last_words::end_closed(&mut self.mem, self.now, most)
    }
}
