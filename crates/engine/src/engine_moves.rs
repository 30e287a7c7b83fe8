//! Connections that go from lane to lane.

use base::{IpAddress, LaneId};
use region::Group;
use state::{Endpoint, FlowKey, SockRef};

use crate::engine::Engine;
use crate::errors::MoveError;
use crate::tcp::{bequest, entrust, listen, travel, unwire, vanished};
use crate::types::{Leaver, Stopped, Unwired};

impl Engine<'_> {
    /// Moves every connection of `group` to lane `to` of the same region, and gives their number; from then on the directory says that the
    /// group is that lane's. What was sent there follows: see [`Engine::take_moved`]. Nothing is lost and no peer sees it.
    ///
    /// # Errors
    /// [`MoveError`]: nothing moved.
    pub fn move_group(&mut self, to: &mut Engine<'_>, group: Group) -> Result<u32, MoveError> {
        let (Some(own), Some(other)) = (self.mem.frames.lane(), to.mem.frames.lane()) else {
            return Err(MoveError::NoLane);
        };
        if !own.is_beside(&other) {
            return Err(MoveError::NoLane);
        }
        let directory = own.region().directory().ok_or(MoveError::NoLane)?;
        let now = self.now.max(to.now);
        let moved = travel::move_group(&mut self.mem, &mut to.mem, now, directory, group)?;
        directory.give(group, Some(other.id()));
        Ok(moved)
    }

    /// Calls `each` with the ends of every connection that waits at listener `s`, half open or to be accepted.
    pub fn waiting_flows(&self, s: SockRef, each: impl FnMut(&FlowKey)) {
        if let Some(at) = listen::lookup(&self.mem, s) {
            bequest::flows(&self.mem, at, each);
        }
    }

    /// Calls `each` with the ends of every connection that waits at listener `s` to be accepted, oldest first.
    pub fn unaccepted_flows(&self, s: SockRef, each: impl FnMut(&FlowKey)) {
        if let Some(at) = listen::lookup(&self.mem, s) {
            bequest::unaccepted(&self.mem, at, each);
        }
    }

    /// Does connection `s` wait at a listener? Then it is no program's yet.
    #[must_use]
    pub fn is_waiting(&self, s: SockRef) -> bool {
        bequest::is_waiting(&self.mem, s)
    }

    /// Listener `s` is about to close. What comes to it is still taken, but no other lane may hand it anything: [`Engine::listens_at`] says no.
    pub fn tcp_begin_close(&mut self, s: SockRef) {
        bequest::begin_close(&mut self.mem, s);
    }

    /// Closes listener `s` unless a connection waits at it, half open or to be accepted, which no other listener of this lane takes over (see
    /// [`Engine::tcp_listen`]). True: it is closed.
    pub fn tcp_close_if_idle(&mut self, s: SockRef) -> bool {
        bequest::close_if_idle(&mut self.mem, self.now, s)
    }

    /// Has listener `s` another one of this lane beside it, which takes over what waits at it when it closes?
    #[must_use]
    pub fn tcp_has_sibling(&self, s: SockRef) -> bool {
        bequest::has_sibling(&self.mem, s)
    }

    /// Is there a listener at exactly `local` that goes on listening?
    #[must_use]
    pub fn listens_at(&self, local: Endpoint) -> bool {
        bequest::has_twin(&self.mem, local)
    }

    /// Can a connection `flow` of another lane come here, as far as its name goes? One in TIME-WAIT that has it ends.
    pub fn make_way(&mut self, flow: &FlowKey) -> bool {
        travel::make_way(&mut self.mem, self.now, flow)
    }

    /// Moves the connections of `which` that wait at listener `s` to the one at the same local end of lane `to` of the same region, and gives their
    /// number. Those that came by a wire stay, and those that `to` has no room for.
    pub fn hand_on(&mut self, to: &mut Engine<'_>, s: SockRef, which: impl Fn(&FlowKey) -> bool) -> u32 {
        let (Some(own), Some(other)) = (self.mem.frames.lane(), to.mem.frames.lane()) else { return 0 };
        let Some(at) = listen::lookup(&self.mem, s).filter(|_| own.is_beside(&other)) else { return 0 };
        let now = self.now.max(to.now);
        bequest::hand_on(&mut self.mem, &mut to.mem, (now, other.id()), at, which)
    }

    /// Moves the one connection `s` to lane `to` of the same region, and gives its name there. `None`: it stays, because `to` has no room or it came
    /// by a wire. Its name here is a note of where it went until [`Engine::take_moved`].
    pub fn move_connection(&mut self, to: &mut Engine<'_>, s: SockRef) -> Option<SockRef> {
        let (own, other) = (self.mem.frames.lane()?, to.mem.frames.lane()?);
        if !own.is_beside(&other) {
            return None;
        }
        let now = self.now.max(to.now);
        travel::move_held(&mut self.mem, &mut to.mem, (now, other.id()), s)
    }

    /// The wire by which connection `flow` goes. `None`: it goes by none, or cannot leave it: it is not open, or signed.
    pub fn wire_of(&mut self, flow: &FlowKey) -> Option<u8> {
        unwire::wire_of(&mut self.mem, self.now, flow)
    }

    /// Asks the peer of connection `flow`, over the wire by which it goes, to go on by the device that is our port `device`. Its segments must come to
    /// this lane by then. To be repeated until it is done.
    pub fn ask_off_wire(&mut self, flow: &FlowKey, device: u8) -> Unwired {
        unwire::ask(&mut self.mem, self.now, flow, device)
    }

    /// The next connection whose peer has called [`Engine::ask_off_wire`] for it; each asking is told once.
    pub fn poll_leaver(&mut self) -> Option<Leaver> {
        unwire::poll(&mut self.mem)
    }

    /// Does as the peer of `leaver` asked, by our port `device`. Segments that come by that must come to this lane by then. False: it goes by that wire no
    /// more.
    pub fn follow_off_wire(&mut self, leaver: &Leaver, device: u8) -> bool {
        unwire::follow(&mut self.mem, self.now, leaver, device)
    }

    /// Whoever looked after the programs of host `peer` is gone, perhaps with them: asks its connections, but for those by wires, whether they are still there. Gives
    /// how many were asked.
    pub fn probe_peer(&mut self, peer: IpAddress) -> u32 {
        vanished::probe(&mut self.mem, self.now, peer)
    }

    /// What the kernel has to know to go on with connection `s`. `None`: its handshake is not complete, it is over, or it came by a wire.
    pub fn tcp_stopped(&mut self, s: SockRef) -> Option<Stopped> {
        entrust::stopped(&mut self.mem, self.now, s)
    }

    /// Gives all bytes of `s` to `take`, in pieces: the unread ones, urgent ones among them, then those from SND.UNA to what was queued last.
    pub fn tcp_copy_all(&self, s: SockRef, take: impl FnMut(&[u8])) {
        entrust::copy_all(&self.mem, s, take);
    }

    /// Gives connection `s` up without a word to its peer: the kernel has it now. The name is dead afterwards; segments that still come here are
    /// dropped for a while. False: as [`Engine::tcp_stopped`].
    pub fn tcp_entrust(&mut self, s: SockRef) -> bool {
        entrust::entrust(&mut self.mem, self.now, s)
    }

    /// Where the connection `s` went that was on this lane, and its name there. A name that went is of no use to any verb; each is told
    /// once, so the caller keeps what it is told. Until then its row stays taken, whatever is called with it: whoever holds a name in a
    /// group that moves asks, and closes by the new name.
    pub fn take_moved(&mut self, s: SockRef) -> Option<(LaneId, SockRef)> {
        travel::take_moved(&mut self.mem, s)
    }
}
