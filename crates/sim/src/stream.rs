//! One TCP connection and the programs at its ends, driven by events as a program with an edge-triggered epoll is: an end
//! acts only when an event comes or its own pause is over, so a wake-up that is missing shows as a stuck connection.

use base::{Duration, Instant};
use engine::{Engine, How, RecvError, SendError, SockError};
use state::SockRef;

use crate::pattern;

/// The calls that a program makes on a stack.
pub(crate) trait Calls {
    /// Reads.
    fn recv(&mut self, sock: SockRef, to: &mut [u8]) -> Result<usize, RecvError>;
    /// Writes; `urgent`: the last byte is.
    fn send(&mut self, sock: SockRef, data: &[u8], urgent: bool) -> Result<usize, SendError>;
    /// Says that nothing more will be written.
    fn finish(&mut self, sock: SockRef);
    /// Gives the socket up; what was written is still sent.
    fn close(&mut self, sock: SockRef);
    /// Breaks the connection off.
    fn abort(&mut self, sock: SockRef);
}

impl Calls for Engine<'_> {
    fn recv(&mut self, sock: SockRef, to: &mut [u8]) -> Result<usize, RecvError> {
        self.tcp_recv(sock, to, false)
    }

    fn send(&mut self, sock: SockRef, data: &[u8], urgent: bool) -> Result<usize, SendError> {
        if urgent { self.tcp_send_urgent(sock, data, false) } else { self.tcp_send(sock, data, false) }
    }

    fn finish(&mut self, sock: SockRef) {
        // The peer may have ended the connection meanwhile; the next read says so.
        let _ = self.shutdown(sock, How::Write);
    }

    fn close(&mut self, sock: SockRef) {
        Engine::close(self, sock);
    }

    fn abort(&mut self, sock: SockRef) {
        Engine::abort(self, sock);
    }
}

/// Bytes in front of what the client sends: the number of the plan.
const HEADER: u64 = 8;

/// How an end gives its socket up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// Shuts its sending side when all is sent, and closes when the other end has too.
    Shutdown,
    /// Closes when all is sent and all that is due was read, without waiting for the other end's FIN.
    Close,
    /// Aborts when it has sent this many bytes.
    AbortAfter(u64),
    /// Closes when it has read this many bytes, whatever else comes.
    CloseAfterReading(u64),
}

/// What one end does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SidePlan {
    /// Bytes it sends, the header not counted.
    pub bytes: u64,
    /// Largest write, bytes.
    pub write: usize,
    /// Largest read, bytes.
    pub read: usize,
    /// Pause after each read.
    pub read_pause: Duration,
    /// Pause after each write.
    pub write_pause: Duration,
    /// Its last act.
    pub close: Close,
    /// Send only when everything from the other end has been read.
    pub answer: bool,
    /// Of so many writes one ends with an urgent byte; 0: none does. For sockets that read urgent bytes in line.
    pub urgent: u32,
}

/// One connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamPlan {
    /// Host that connects.
    pub client: usize,
    /// Host that listens.
    pub server: usize,
    /// When it connects.
    pub start: Instant,
    /// The one who connects.
    pub up: SidePlan,
    /// The one who accepts.
    pub down: SidePlan,
}

impl StreamPlan {
    /// Does neither end throw data away, so that both must read every byte and the end of the stream?
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let clean = |side: &SidePlan| matches!(side.close, Close::Shutdown | Close::Close);
        clean(&self.up) && clean(&self.down)
    }
}

/// Which end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Client,
    Server,
}

/// How an end's part was over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// Everything sent and read as planned.
    Finished,
    /// It broke the connection off itself, as planned.
    BrokeOff,
    /// The connection failed.
    Failed(SockError),
}

/// One end at work.
pub(crate) struct Side {
    pub(crate) sock: SockRef,
    pub(crate) role: Role,
    /// Number of the plan; a server knows it when it has read the header.
    pub(crate) plan: Option<usize>,
    header: Vec<u8>,
    sent: u64,
    received: u64,
    writes: u32,
    shut: bool,
    eof: bool,
    read_at: Instant,
    write_at: Instant,
    pub(crate) outcome: Option<Outcome>,
    /// When its part was over.
    pub(crate) ended_at: Instant,
}

impl Side {
    pub(crate) fn new(sock: SockRef, role: Role, plan: Option<usize>) -> Self {
        Self {
            sock,
            role,
            plan,
            header: Vec::new(),
            sent: 0,
            received: 0,
            writes: 0,
            shut: false,
            eof: false,
            read_at: Instant(0),
            write_at: Instant(0),
            outcome: None,
            ended_at: Instant::NEVER,
        }
    }

    /// When it goes on by itself.
    pub(crate) fn wakes_at(&self) -> Instant {
        if self.outcome.is_some() {
            return Instant::NEVER;
        }
        let pause = |at: Instant| if at == Instant(0) { Instant::NEVER } else { at };
        pause(self.read_at).min(pause(self.write_at))
    }

    /// Is a pause over, so that it must go on without an event?
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let due = |at: &mut Instant| {
            let over = *at > Instant(0) && *at <= now;
            if over {
                *at = Instant(0);
            }
            over
        };
        let (read, write) = (due(&mut self.read_at), due(&mut self.write_at));
        self.outcome.is_none() && (read || write)
    }

    /// Bytes read, the header not counted.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn progress(&self) -> String {
        format!(
            "{:?} of stream {:?}: sent {}, received {}, shut {}, eof {}, {:?}",
            self.role, self.plan, self.sent, self.received, self.shut, self.eof, self.outcome
        )
    }

    /// Does what can be done now.
    pub(crate) fn drive(
        &mut self,
        e: &mut impl Calls,
        plans: &[StreamPlan],
        now: Instant,
    ) -> Result<(), String> {
        self.act(e, plans, now)?;
        if self.outcome.is_some() {
            self.ended_at = self.ended_at.min(now);
        }
        Ok(())
    }

    fn act(&mut self, e: &mut impl Calls, plans: &[StreamPlan], now: Instant) -> Result<(), String> {
        if self.outcome.is_some() {
            return Ok(());
        }
        if self.plan.is_none() && !self.read_header(e, plans)? {
            return Ok(());
        }
        let Some(plan) = self.plan.and_then(|at| plans.get(at)) else {
            return Err(format!("a server was told of stream {:?}, which is not planned", self.plan));
        };
        let (mine, other) = match self.role {
            Role::Client => (&plan.up, &plan.down),
            Role::Server => (&plan.down, &plan.up),
        };
        // Writing may wait for reading (an answer), and reading for nothing; so read, write, read.
        for _ in 0..2 {
            self.read(e, mine, other, now)?;
            if self.outcome.is_none() {
                self.write(e, mine, other, now)?;
            }
            if self.outcome.is_some() {
                return Ok(());
            }
        }
        self.finish(e, mine, other);
        Ok(())
    }

    /// Reads the number of the plan. True: it is known.
    fn read_header(&mut self, e: &mut impl Calls, plans: &[StreamPlan]) -> Result<bool, String> {
        let mut buf = [0; HEADER as usize];
        while self.header.len() < buf.len() {
            let room = buf.len() - self.header.len();
            let Some(to) = buf.get_mut(..room) else { return Ok(false) };
            match e.recv(self.sock, to) {
                Ok(0) => {
                    // A client may give up before it has sent anything.
                    e.close(self.sock);
                    self.outcome = Some(Outcome::BrokeOff);
                    return Ok(false);
                }
                Ok(n) => self.header.extend_from_slice(to.get(..n).unwrap_or(&[])),
                Err(RecvError::WouldBlock) => return Ok(false),
                Err(error) => {
                    self.fail(e, error_of(error)?);
                    return Ok(false);
                }
            }
        }
        let number = self.header.first_chunk::<8>().map_or(u64::MAX, |b| u64::from_le_bytes(*b));
        if number >= plans.len() as u64 {
            return Err(format!("the header of a stream came as {number:#x}"));
        }
        self.plan = Some(number as usize);
        Ok(true)
    }

    /// Number of the byte sequence that this end (or the other) sends.
    fn pattern(&self, own: bool) -> u64 {
        let number = self.plan.unwrap_or(0) as u64 * 2;
        number + u64::from((self.role == Role::Server) == own)
    }

    fn read(
        &mut self,
        e: &mut impl Calls,
        mine: &SidePlan,
        other: &SidePlan,
        now: Instant,
    ) -> Result<(), String> {
        let mut buf = vec![0; mine.read];
        while now >= self.read_at && !self.eof && self.outcome.is_none() {
            match e.recv(self.sock, &mut buf) {
                Ok(0) => self.eof = true,
                Ok(n) => self.took(buf.get(..n).unwrap_or(&[]), other)?,
                Err(RecvError::WouldBlock) => return Ok(()),
                Err(error) => self.fail(e, error_of(error)?),
            }
            if mine.read_pause > Duration::ZERO && !self.eof {
                self.read_at = now.plus(mine.read_pause);
            }
            if let Close::CloseAfterReading(limit) = mine.close
                && self.received >= limit
                && self.outcome.is_none()
            {
                e.close(self.sock);
                self.outcome = Some(Outcome::BrokeOff);
            }
        }
        if self.eof && self.outcome.is_none() && self.received < other.bytes && !may_stop(other) {
            return Err(format!(
                "{}: the stream ended {} bytes early",
                self.progress(),
                other.bytes - self.received
            ));
        }
        Ok(())
    }

    /// Checks received bytes.
    fn took(&mut self, bytes: &[u8], other: &SidePlan) -> Result<(), String> {
        if let Some(at) = pattern::first_difference(self.pattern(false), self.received, bytes) {
            return Err(format!("{}: byte {at} is wrong", self.progress()));
        }
        self.received += bytes.len() as u64;
        if self.received > other.bytes {
            return Err(format!("{}: more than the {} bytes sent", self.progress(), other.bytes));
        }
        Ok(())
    }

    fn write(
        &mut self,
        e: &mut impl Calls,
        mine: &SidePlan,
        other: &SidePlan,
        now: Instant,
    ) -> Result<(), String> {
        let header = if self.role == Role::Client { HEADER } else { 0 };
        let total = mine.bytes + header;
        while now >= self.write_at && self.sent < total {
            if mine.answer && self.sent >= header && self.received < other.bytes {
                return Ok(());
            }
            let chunk = self.chunk(mine.write.min((total - self.sent) as usize), header);
            let urgent = self.writes.checked_rem(mine.urgent) == Some(0);
            match e.send(self.sock, &chunk, urgent) {
                Ok(n) => {
                    self.sent += n as u64;
                    self.writes = self.writes.wrapping_add(1);
                }
                Err(SendError::WouldBlock) => return Ok(()),
                Err(error) => {
                    self.fail(e, send_error_of(error)?);
                    return Ok(());
                }
            }
            if let Close::AbortAfter(limit) = mine.close
                && self.sent >= limit
            {
                e.abort(self.sock);
                self.outcome = Some(Outcome::BrokeOff);
                return Ok(());
            }
            if mine.write_pause > Duration::ZERO {
                self.write_at = now.plus(mine.write_pause);
            }
        }
        Ok(())
    }

    /// The next `len` bytes to send.
    fn chunk(&self, len: usize, header: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        if self.sent < header {
            let number = (self.plan.unwrap_or(0) as u64).to_le_bytes();
            let rest = number.get(self.sent as usize..).unwrap_or(&[]);
            let n = rest.len().min(len);
            bytes.truncate(n);
            bytes.copy_from_slice(rest.get(..n).unwrap_or(&[]));
        } else {
            pattern::fill(self.pattern(true), self.sent - header, &mut bytes);
        }
        bytes
    }

    fn finish(&mut self, e: &mut impl Calls, mine: &SidePlan, other: &SidePlan) {
        let header = if self.role == Role::Client { HEADER } else { 0 };
        if self.sent < mine.bytes + header {
            return;
        }
        match mine.close {
            Close::Close if self.received >= other.bytes || self.eof => {
                e.close(self.sock);
                self.outcome = Some(Outcome::Finished);
            }
            Close::Shutdown | Close::CloseAfterReading(_) | Close::AbortAfter(_) => {
                if !self.shut {
                    self.shut = true;
                    e.finish(self.sock);
                }
                if self.eof {
                    e.close(self.sock);
                    self.outcome = Some(Outcome::Finished);
                }
            }
            Close::Close => {}
        }
    }

    fn fail(&mut self, e: &mut impl Calls, error: SockError) {
        e.close(self.sock);
        self.outcome = Some(Outcome::Failed(error));
    }
}

/// May the sender of this plan end early?
fn may_stop(plan: &SidePlan) -> bool {
    matches!(plan.close, Close::AbortAfter(_) | Close::CloseAfterReading(_))
}

fn error_of(error: RecvError) -> Result<SockError, String> {
    match error {
        RecvError::Failed(error) => Ok(error),
        RecvError::WouldBlock | RecvError::NotConnected | RecvError::Gone => {
            Err(format!("recv of an open socket says {error:?}"))
        }
    }
}

fn send_error_of(error: SendError) -> Result<SockError, String> {
    match error {
        SendError::Failed(error) => Ok(error),
        SendError::Pipe => Ok(SockError::Pipe),
        SendError::WouldBlock | SendError::NotConnected | SendError::Gone => {
            Err(format!("send of an open socket says {error:?}"))
        }
    }
}
