//! The work of each end.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::ControlFlow;
use std::time::Instant;

use hdrhistogram::Histogram;
use lane::native::{ConnectError, Event, How, Native, Ready, RecvError, SendError, SockRef};

use super::{MESSAGE, Part};
use crate::rows::Trouble;

pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// Services of the server, by port; also the tokens of their connections.
const ECHO: u16 = 7;
const DISCARD: u16 = 9;
/// Discards what lies in frames, and checks the stamps in them.
const DISCARD_FRAMES: u16 = 10;
const SERVICES: [u16; 3] = [ECHO, DISCARD, DISCARD_FRAMES];
/// In frames, the first bytes of each block of so many say where it is in the stream.
const BLOCK: usize = base::limits::FRAME_BYTES;
/// The most a bulk sender writes at once, and a receiver reads.
const CHUNK: usize = 64 << 10;

fn connect(lane: &mut Native, service: u16, token: u64) -> Result<SockRef, Trouble> {
    let to = SocketAddrV4::new(SERVER, service);
    lane.connect(to, token).map_err(|e: ConnectError| Trouble::failed("connect", e))
}

fn send(lane: &mut Native, sock: SockRef, bytes: &[u8]) -> Result<(), Trouble> {
    match lane.send(sock, bytes) {
        Ok(n) if n == bytes.len() => Ok(()),
        other => Err(Trouble::failed("send", format!("{other:?}"))),
    }
}

/// All services.
pub(super) struct Server {
    listeners: [SockRef; SERVICES.len()],
    buffer: Box<[u8; CHUNK]>,
    /// Bytes of the stream in frames so far.
    offset: u64,
}

impl Server {
    pub(super) fn new() -> Self {
        Self { listeners: [SockRef::NONE; SERVICES.len()], buffer: Box::new([0; CHUNK]), offset: 0 }
    }

    /// Reads `event`'s socket empty; true: the stream is at its end.
    fn serve(&mut self, lane: &mut Native, event: &Event) -> Result<bool, Trouble> {
        let sock = event.sock;
        loop {
            let got = match event.token as u16 {
                ECHO => lane.recv(sock, &mut self.buffer[..4 * MESSAGE]),
                DISCARD => lane.recv(sock, &mut self.buffer[..]),
                _ => self.look(lane, sock),
            };
            match got {
                Ok(0) => return Ok(true),
                Ok(n) if event.token as u16 == ECHO => {
                    send(lane, sock, &self.buffer[..n])?;
                    if n < 4 * MESSAGE {
                        return Ok(false);
                    }
                }
                Ok(_) => {}
                Err(RecvError::WouldBlock | RecvError::Gone) => return Ok(false),
                Err(error) => return Err(Trouble::failed("receive", format!("{error:?}"))),
            }
        }
    }

    /// Takes what arrived in frames, and checks each block's stamp.
    fn look(&mut self, lane: &mut Native, sock: SockRef) -> Result<usize, RecvError> {
        let offset = &mut self.offset;
        lane.recv_with(sock, |piece| {
            let first = (offset.next_multiple_of(BLOCK as u64) - *offset) as usize;
            for at in (first..piece.len()).step_by(BLOCK) {
                if let Some(stamp) = piece.get(at..).and_then(<[u8]>::first_chunk) {
                    assert_eq!(u64::from_le_bytes(*stamp), *offset + at as u64, "bytes out of place");
                }
            }
            *offset += piece.len() as u64;
            piece.len()
        })
    }
}

impl Part for Server {
    fn begin(&mut self, lane: &mut Native) -> Result<(), Trouble> {
        for (service, slot) in SERVICES.into_iter().zip(&mut self.listeners) {
            let at = SocketAddrV4::new(SERVER, service);
            *slot = lane
                .listen(at, 4096, u64::from(service))
                .map_err(|e| Trouble::failed("listen", format!("{e:?}")))?;
        }
        Ok(())
    }

    fn event(&mut self, lane: &mut Native, event: &Event) -> Result<ControlFlow<()>, Trouble> {
        if self.listeners.contains(&event.sock) {
            lane.accept(event.sock, |_| event.token);
        } else if self.serve(lane, event)? {
            lane.close(event.sock);
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Connect, a message there and back, close; so many at a time.
pub(super) struct Short {
    concurrent: u64,
    count: u64,
    started: u64,
    done: u64,
    since: Instant,
    seconds: f64,
}

impl Short {
    pub(super) fn new(concurrent: u64, count: u64) -> Self {
        Self {
            concurrent: concurrent.min(count),
            count,
            started: 0,
            done: 0,
            since: Instant::now(),
            seconds: 0.0,
        }
    }

    pub(super) fn per_second(&self) -> f64 {
        self.count as f64 / self.seconds
    }

    fn start(&mut self, lane: &mut Native) -> Result<(), Trouble> {
        if self.started < self.count {
            self.started += 1;
            connect(lane, ECHO, 0)?;
        }
        Ok(())
    }
}

impl Part for Short {
    fn begin(&mut self, lane: &mut Native) -> Result<(), Trouble> {
        self.since = Instant::now();
        (0..self.concurrent).try_for_each(|_| self.start(lane))
    }

    fn event(&mut self, lane: &mut Native, event: &Event) -> Result<ControlFlow<()>, Trouble> {
        if event.ready.any(Ready::ERR) {
            return Err(Trouble::failed("connection", format!("{:?}", lane.take_error(event.sock))));
        }
        if event.ready.any(Ready::IN) {
            let mut buffer = [0; MESSAGE];
            match lane.recv(event.sock, &mut buffer) {
                Ok(MESSAGE) => {}
                other => return Err(Trouble::failed("answer", format!("{other:?}"))),
            }
            lane.close(event.sock);
            self.done += 1;
            if self.done == self.count {
                self.seconds = self.since.elapsed().as_secs_f64();
                return Ok(ControlFlow::Break(()));
            }
            self.start(lane)?;
        } else if event.ready.any(Ready::OUT) {
            send(lane, event.sock, &[7; MESSAGE])?;
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// A message there and back, again and again on so many connections.
pub(super) struct Exchanges {
    connections: u64,
    count: u64,
    /// Exchanges before the clock starts.
    warm: u64,
    done: u64,
    since: Instant,
    seconds: f64,
    /// With one connection: when its last request left, and what each exchange took.
    asked: base::Instant,
    times_ns: Histogram<u64>,
}

impl Exchanges {
    pub(super) fn new(connections: u64, count: u64) -> Self {
        let times_ns =
            Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("up to a minute, three digits");
        let (since, asked) = (Instant::now(), sys::clock::now());
        let warm = connections + count / 10;
        Self { connections, count, warm, done: 0, since, seconds: 0.0, asked, times_ns }
    }

    pub(super) fn per_second(&self) -> f64 {
        self.count as f64 / self.seconds
    }

    pub(super) fn times_ns(&self) -> &Histogram<u64> {
        &self.times_ns
    }

    fn answered(&mut self) -> ControlFlow<()> {
        self.done += 1;
        if self.connections == 1 {
            let now = sys::clock::now();
            if self.done > self.warm {
                self.times_ns.saturating_record(now.since(self.asked).0);
            }
            self.asked = now;
        }
        if self.done == self.warm {
            self.since = Instant::now();
        }
        if self.done == self.warm + self.count {
            self.seconds = self.since.elapsed().as_secs_f64();
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

impl Part for Exchanges {
    fn begin(&mut self, lane: &mut Native) -> Result<(), Trouble> {
        (0..self.connections).try_for_each(|token| connect(lane, ECHO, token).map(drop))
    }

    fn event(&mut self, lane: &mut Native, event: &Event) -> Result<ControlFlow<()>, Trouble> {
        if event.ready.any(Ready::IN) {
            let mut buffer = [0; MESSAGE];
            match lane.recv(event.sock, &mut buffer) {
                Ok(MESSAGE) => {}
                other => return Err(Trouble::failed("answer", format!("{other:?}"))),
            }
            if self.answered().is_break() {
                return Ok(ControlFlow::Break(()));
            }
        } else if event.ready != Ready::OUT {
            return Err(Trouble::failed("connection", format!("{:?}", lane.take_error(event.sock))));
        }
        send(lane, event.sock, &[7; MESSAGE])?;
        Ok(ControlFlow::Continue(()))
    }
}

/// One stream to the server.
pub(super) struct Bulk {
    in_frames: bool,
    bytes: u64,
    sent: u64,
    since: Instant,
    seconds: f64,
    data: Vec<u8>,
}

impl Bulk {
    pub(super) fn new(in_frames: bool, bytes: u64) -> Self {
        let bytes = bytes.next_multiple_of(BLOCK as u64);
        Self { in_frames, bytes, sent: 0, since: Instant::now(), seconds: 0.0, data: vec![7; CHUNK] }
    }

    pub(super) fn gbit(&self) -> f64 {
        self.bytes as f64 * 8e-9 / self.seconds
    }

    fn write(&mut self, lane: &mut Native, sock: SockRef) -> Result<usize, SendError> {
        let len = CHUNK.min((self.bytes - self.sent) as usize);
        if !self.in_frames {
            return lane.send(sock, self.data.get(..len).unwrap_or(&[]));
        }
        let mut at = self.sent;
        // Whatever else is in the frame is what the program has to say: only the stamp is new. Whole blocks only.
        let queued = lane.send_with(sock, len, |room| {
            if room.len() < BLOCK {
                return 0;
            }
            if let Some(stamp) = room.first_chunk_mut() {
                *stamp = at.to_le_bytes();
            }
            at += BLOCK as u64;
            BLOCK
        })?;
        if queued == 0 { Err(SendError::WouldBlock) } else { Ok(queued) }
    }
}

impl Part for Bulk {
    fn begin(&mut self, lane: &mut Native) -> Result<(), Trouble> {
        connect(lane, if self.in_frames { DISCARD_FRAMES } else { DISCARD }, 0).map(drop)
    }

    fn event(&mut self, lane: &mut Native, event: &Event) -> Result<ControlFlow<()>, Trouble> {
        if event.ready.any(Ready::IN) {
            // Nothing comes but the end, once the server has read all.
            self.seconds = self.since.elapsed().as_secs_f64();
            return match lane.recv(event.sock, &mut [0; 8]) {
                Ok(0) if self.sent == self.bytes => Ok(ControlFlow::Break(())),
                other => Err(Trouble::failed("end of stream", format!("{other:?}"))),
            };
        }
        if self.sent == 0 {
            self.since = Instant::now();
        }
        while self.sent < self.bytes {
            match self.write(lane, event.sock) {
                Ok(n) => self.sent += n as u64,
                Err(SendError::WouldBlock) => return Ok(ControlFlow::Continue(())),
                Err(error) => return Err(Trouble::failed("send", format!("{error:?}"))),
            }
        }
        // Said once only: later events find it said.
        let _ = lane.shutdown(event.sock, How::Write);
        Ok(ControlFlow::Continue(()))
    }
}
