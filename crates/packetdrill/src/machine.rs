//! The whole state behind the interface: the stack, the descriptors, who calls and who waits.

use base::{Duration, Instant, Port};
use state::SockRef;

use crate::epoll;
use crate::errno::{Errno, Outcome};
use crate::fds::{Entry, Fds, Object};
use crate::flags::Flags;
use crate::pipes::Pipe;
use crate::stack::Stack;

/// The queue to which the engine tells events of all sockets.
pub(crate) const EVENTS: u16 = 1;
/// Local ports of sockets that bind none.
const FIRST_PORT: u16 = 49_152;

/// The least by which a tick moves the clock when something stays due.
const GRAIN: Duration = Duration::from_micros(1);

/// Everything but the lock.
pub(crate) struct Machine {
    pub(crate) stack: Stack,
    pub(crate) fds: Fds,
    pub(crate) pipes: Vec<Pipe>,
    next_port: u16,
    /// Ends of the waits that are under way.
    waits: Vec<Instant>,
    callers: Vec<u32>,
    calls: u64,
}

impl Machine {
    /// # Errors
    /// No memory for the stack.
    pub(crate) fn new(flags: Flags) -> Result<Self, String> {
        Ok(Self {
            stack: Stack::new(flags)?,
            fds: Fds::default(),
            pipes: Vec::new(),
            next_port: FIRST_PORT,
            waits: Vec::new(),
            callers: Vec::new(),
            calls: 0,
        })
    }

    pub(crate) const fn now(&self) -> Instant {
        self.stack.now()
    }

    /// Thread `tid` made a call.
    pub(crate) fn called_by(&mut self, tid: u32) {
        self.calls += 1;
        if !self.callers.contains(&tid) {
            self.callers.push(tid);
        }
    }

    /// Calls made so far.
    pub(crate) const fn calls(&self) -> u64 {
        self.calls
    }

    /// Threads other than `tid` that ever called.
    pub(crate) fn other_callers(&self, tid: u32) -> Vec<u32> {
        self.callers.iter().copied().filter(|caller| *caller != tid).collect()
    }

    pub(crate) fn begin_wait(&mut self, end: Instant) {
        self.waits.push(end);
    }

    pub(crate) fn end_wait(&mut self, end: Instant) {
        if let Some(at) = self.waits.iter().position(|wait| *wait == end) {
            self.waits.swap_remove(at);
        }
    }

    /// When something happens next without anybody's doing.
    pub(crate) fn next_due(&self) -> Instant {
        let now = self.now();
        let waits = self.waits.iter().copied().filter(|end| *end > now).min().unwrap_or(Instant::NEVER);
        self.stack.deadline().min(waits)
    }

    /// Moves the clock to what is due next and does it, but not beyond `end`. False: nothing is due until then, and it is `end` now.
    pub(crate) fn tick(&mut self, end: Instant) -> bool {
        let due = self.next_due();
        if due > end || due == Instant::NEVER {
            self.stack.set_clock(end);
            return false;
        }
        self.stack.set_clock(due);
        // A poisoned lane answers every call with EIO.
        let _ = self.stack.step();
        self.gather_events();
        if self.stack.deadline() <= self.now() {
            // Time goes on even if something stays due for ever.
            self.stack.set_clock(self.now().plus(GRAIN));
        }
        true
    }

    /// A local port that nobody asked for.
    pub(crate) fn pick_port(&mut self) -> Port {
        let port = self.next_port;
        self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
        Port(port)
    }

    /// Has the engine tell events of `sock` with the number of its descriptor.
    pub(crate) fn subscribe(&mut self, sock: SockRef, fd: i32) -> Outcome<()> {
        let token = fd as u64;
        self.stack.with(|engine| engine.set_event_queue(sock, EVENTS, token)).map(|_| ())
    }

    /// Passes what the engine has to tell on to the epoll sets.
    pub(crate) fn gather_events(&mut self) {
        while let Ok(Some(event)) = self.stack.with(|engine| engine.poll_event(EVENTS)) {
            epoll::note(&mut self.fds, event.token as i32);
        }
    }

    pub(crate) fn entry(&mut self, fd: i32) -> Outcome<&mut Entry> {
        self.fds.get_mut(fd).ok_or(Errno(libc::EBADF))
    }

    /// Is the descriptor one on which calls do not wait?
    pub(crate) fn is_nonblocking(&self, fd: i32, flags: i32) -> bool {
        flags & libc::MSG_DONTWAIT != 0 || self.fds.get(fd).is_some_and(|entry| entry.nonblocking)
    }

    pub(crate) fn close(&mut self, fd: i32) -> Outcome<i32> {
        let entry = self.fds.remove(fd).ok_or(Errno(libc::EBADF))?;
        epoll::forget(&mut self.fds, fd);
        match entry.object {
            Object::Tcp(sock) => {
                if let Some(name) = sock.name() {
                    self.stack.with(|engine| engine.close(name))?;
                }
            }
            Object::Udp(sock) => {
                if let Some(name) = sock.name {
                    self.stack.with(|engine| engine.close(name))?;
                }
            }
            Object::PipeRead(at) => self.pipe(at)?.readers -= 1,
            Object::PipeWrite(at) => self.pipe(at)?.writers -= 1,
            Object::Epoll(_) => {}
        }
        Ok(0)
    }

    pub(crate) fn pipe(&mut self, at: usize) -> Outcome<&mut Pipe> {
        self.pipes.get_mut(at).ok_or(Errno(libc::EBADF))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use base::IpAddress;
    use state::Endpoint;

    use super::*;
    use crate::{conn, verbs};

    const OURS: Ipv6Addr = Ipv6Addr::new(0xfd3d, 0xfa7b, 0xd17d, 0, 0, 0, 0, 9);
    const PEER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

    fn syn() -> Vec<u8> {
        let mut tcp =
            vec![0x9c, 0x40, 0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0x60, 2, 255, 255, 0, 0, 0, 0, 2, 4, 3, 232];
        let mut pseudo = [PEER.octets(), OURS.octets()].concat();
        pseudo.extend([0, 0, 0, 24, 0, 0, 0, 6]);
        pseudo.extend(&tcp);
        let check = wire::Sum::of(&pseudo).finish();
        tcp[16..18].copy_from_slice(&check.to_be_bytes());
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, 6, 64];
        packet.extend(PEER.octets());
        packet.extend(OURS.octets());
        packet.extend(tcp);
        packet
    }

    #[test]
    fn a_listener_answers_over_ipv6_at_the_address_it_is_asked_at() {
        let mut machine = Machine::new(Flags::DEFAULT).unwrap();
        let fd = verbs::socket(&mut machine, libc::AF_INET6, libc::SOCK_STREAM, 0).unwrap();
        let end = Endpoint { addr: IpAddress::from_v6(OURS), port: Port(8080) };
        conn::bind(&mut machine, fd, end).unwrap();
        conn::listen(&mut machine, fd, 1).unwrap();
        machine.stack.inject(&syn()).unwrap();
        let answer = machine.stack.take_outbound().unwrap().bytes;
        assert_eq!(answer[0] >> 4, 6, "{answer:02x?}");
        assert_eq!((&answer[8..24], &answer[24..40]), (&OURS.octets()[..], &PEER.octets()[..]));
        assert_eq!(answer[40 + 13], 0x12);
    }
}
