//! The native API: a program written for Corelane owns its lane, and speaks to it in batches.
//!
//! A worker thread makes one [`Native`] and keeps it for as long as it works: the lane is locked once, its tables are taken in
//! hand once, and no operation locks, allocates or makes a system call. The loop of such a thread is
//!
//! ```no_run
//! # fn serve(mut lane: lane::native::Native) {
//! use lane::native::{Event, Ready};
//! # let listener = lane.listen("198.18.0.2:80".parse().unwrap(), 1024, 0).unwrap();
//! let mut events = [Event::NONE; 64];
//! loop {
//!     let count = lane.wait(&mut events, None);
//!     for event in &events[..count] {
//!         if event.sock == listener {
//!             lane.accept(listener, |_connection| 0);
//!         } else if event.ready.any(Ready::IN) {
//!             // read, write, close: gathered, and sent together after 32 writes or by the next `wait`
//!         }
//!     }
//! }
//! # }
//! ```
//!
//! The memory is the program's own ([`Memory`]): anonymous, or a memfd that several processes map, each with lanes of its
//! own in it. The ports are whatever the program opens: a memif wire, a hand-over wire between two lanes of one region, TAP, the
//! simulator's cable. No keeper is needed.
//!
//! Events are edges: one comes when something became ready, so read until [`RecvError::WouldBlock`], and write until
//! [`SendError::WouldBlock`]. What the program sends gathers, and leaves together with its 32nd write or its
//! next [`Native::poll`], [`Native::wait`] or [`Native::flush`].

mod config;
mod memory;
mod route;
mod step;

use std::marker::PhantomData;
use std::net::{SocketAddr, SocketAddrV4};

use base::Instant;
use engine::Engine;
use region::{FrameArea, LaneGuard, LaneRef, Owner};
use state::{Endpoint, LaneMem, LaneShape, SockKind};

pub use config::{Config, ConnectError, Link, MEMIF_MTU, StartError, Wait};
pub use engine::{Accepted, How, ListenError, RecvError, SendError, ShutdownError, SockError};
pub use memory::{Memory, Shape};
pub use state::{Event, Ready, SockRef, TcpOptions};

use crate::lane::{Held, me};
use crate::resolve::port_info;
use route::Routes;

/// The event queue of the one program that a native lane has.
const QUEUE: u16 = 1;

/// A lane in the hands of the thread that made this.
pub struct Native {
    /// `None` only while this is being dropped.
    engine: Option<Engine<'static>>,
    held: Held,
    routes: Routes,
    lane: LaneRef,
    owner: Owner,
    options: TcpOptions,
    wait: Wait,
    /// When timers were last looked at.
    timers_at: Instant,
    /// Polls in a row that found nothing.
    idle: u32,
    /// Writes since packets were last sent.
    writes: u32,
    /// The lane lock names this thread: the value stays with it.
    thread: PhantomData<*const ()>,
}

impl Native {
    /// Takes the lane that `config` names for this thread, and makes it anew: what an earlier holder had in it is gone.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(config: Config) -> Result<Self, StartError> {
        let owner = me();
        let lane = config.memory.region().lane(config.lane).ok_or(StartError::NoLane)?;
        let mut guard = take(lane, owner)?;
        let now = sys::clock::now();
        LaneMem::format(&mut guard, &LaneShape::for_socks(config.sockets), memory::secret()?, now)
            .map_err(|_| StartError::TooSmall)?;
        let signals = lane.signals();
        signals.poisoned.store(0, std::sync::atomic::Ordering::Release);
        // The tables stay in hand until the value is dropped, which takes the lock anew to give it back.
        let guard: &'static mut LaneGuard = Box::leak(Box::new(guard));
        let area: &'static FrameArea = Box::leak(Box::new(guard.frame_area()));
        let mem = LaneMem::carve(guard.carver(), area).map_err(|_| StartError::TooSmall)?;
        let mut engine = Engine::new(mem, now);
        let (routes, ports) = Routes::of(config.links, config.local_ports)?;
        for (at, (port, addr)) in (0..).zip(ports.iter().zip(routes.addresses())) {
            let mut info = port_info(port);
            if let Some(first) = info.addrs.first_mut() {
                *first = addr;
                info.addr_count = 1;
            }
            if !engine.set_port(at, &info) {
                return Err(StartError::TooManyLinks);
            }
        }
        Ok(Self {
            engine: Some(engine),
            // A thread that polls anyway finds out for itself when there is room again.
            held: Held { retry: base::Duration::ZERO, ..Held::new(ports, None) },
            routes,
            lane,
            owner,
            options: config.options,
            wait: config.wait,
            timers_at: now,
            idle: 0,
            writes: 0,
            thread: PhantomData,
        })
    }

    /// Listens at `local`; address 0.0.0.0 is every address of the lane. Connections to accept make events with `token`.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn listen(&mut self, local: SocketAddrV4, backlog: u32, token: u64) -> Result<SockRef, ListenError> {
        let options = self.options;
        let engine = self.engine();
        let listener = engine.tcp_listen(endpoint(local), backlog, &options)?;
        engine.set_event_queue(listener, QUEUE, token);
        Ok(listener)
    }

    /// Takes every connection that waits at `listener`. `token_of` is told of each and gives the token of its events. Gives
    /// their number.
    pub fn accept(&mut self, listener: SockRef, mut token_of: impl FnMut(Accepted) -> u64) -> usize {
        let engine = self.engine();
        let mut count = 0;
        while let Ok(accepted) = engine.tcp_accept(listener) {
            engine.set_event_queue(accepted.sock, QUEUE, token_of(accepted));
            count += 1;
        }
        count
    }

    /// Begins to connect to `remote`. An event with `token` and [`Ready::OUT`] says that the connection stands, one with
    /// [`Ready::ERR`] that it failed ([`Native::take_error`] says how).
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(&mut self, remote: SocketAddrV4, token: u64) -> Result<SockRef, ConnectError> {
        let options = self.options;
        let Self { engine: Some(engine), routes, .. } = self else { return Err(ConnectError::NoRoom) };
        let sock = routes.connect(engine, endpoint(remote), &options)?;
        engine.set_event_queue(sock, QUEUE, token);
        Ok(sock)
    }

    /// Copies received bytes to `buf` and gives their number; 0 is the end of the stream.
    ///
    /// # Errors
    /// [`RecvError`].
    #[inline]
    pub fn recv(&mut self, sock: SockRef, buf: &mut [u8]) -> Result<usize, RecvError> {
        self.engine().tcp_recv(sock, buf, false)
    }

    /// Hands `take` the received bytes where they lie, piece by piece, until it takes less than a piece (it gives the number) or
    /// there are no more. Gives the number of bytes taken; 0 without a call of `take` is the end of the stream.
    ///
    /// # Errors
    /// [`RecvError`].
    #[inline]
    pub fn recv_with(&mut self, sock: SockRef, take: impl FnMut(&[u8]) -> usize) -> Result<usize, RecvError> {
        self.engine().tcp_recv_with(sock, take)
    }

    /// Queues a copy of as much of `data` as fits, and gives the number of bytes.
    ///
    /// # Errors
    /// [`SendError`].
    #[inline]
    pub fn send(&mut self, sock: SockRef, data: &[u8]) -> Result<usize, SendError> {
        let sent = self.engine().tcp_send(sock, data, false);
        self.wrote();
        sent
    }

    /// Hands `fill` room for up to `len` bytes in the frames that will be sent, frame by frame, until it fills less than it was
    /// given (it gives the number). What is in the room before is undefined. Gives the number of bytes queued.
    ///
    /// # Errors
    /// [`SendError`].
    #[inline]
    pub fn send_with(
        &mut self,
        sock: SockRef,
        len: usize,
        fill: impl FnMut(&mut [u8]) -> usize,
    ) -> Result<usize, SendError> {
        let sent = self.engine().tcp_send_with(sock, len, fill);
        self.wrote();
        sent
    }

    /// Closes one direction or both.
    ///
    /// # Errors
    /// [`ShutdownError`].
    pub fn shutdown(&mut self, sock: SockRef, how: How) -> Result<(), ShutdownError> {
        self.engine().shutdown(sock, how)
    }

    /// Gives the socket up; its name is dead afterwards. What is queued is still sent.
    #[inline]
    pub fn close(&mut self, sock: SockRef) {
        self.engine().close(sock);
    }

    /// Ends the connection by RST at once; its name is dead afterwards.
    pub fn abort(&mut self, sock: SockRef) {
        self.engine().abort(sock);
    }

    /// From now on events of `sock` carry `token`. What is ready now makes an event. False: no such socket.
    pub fn set_token(&mut self, sock: SockRef, token: u64) -> bool {
        self.engine().set_event_queue(sock, QUEUE, token)
    }

    /// Readiness now, whatever events were given.
    #[must_use]
    pub fn ready(&mut self, sock: SockRef) -> Ready {
        self.engine().ready(sock)
    }

    /// What happened to the connection; told once.
    pub fn take_error(&mut self, sock: SockRef) -> Option<SockError> {
        self.engine().take_error(sock)
    }

    /// The options of a connection or listener.
    #[must_use]
    pub fn options(&mut self, sock: SockRef) -> Option<TcpOptions> {
        self.engine().tcp_options(sock)
    }

    /// Replaces the options of a connection or listener. False: no such socket.
    pub fn set_options(&mut self, sock: SockRef, options: &TcpOptions) -> bool {
        self.engine().set_tcp_options(sock, options)
    }

    /// Our end and the peer's.
    #[must_use]
    pub fn names(&mut self, sock: SockRef) -> Option<(SocketAddr, SocketAddr)> {
        let (local, remote) = self.engine().names(sock)?;
        Some((address(local)?, address(remote)?))
    }

    /// The engine itself, for what has no verb here (TCP_INFO, counters, UDP). Sockets that it makes give events only after
    /// [`Native::set_token`].
    ///
    /// # Panics
    /// Never: the engine is there until the value is dropped.
    #[inline]
    pub fn engine(&mut self) -> &mut Engine<'static> {
        match &mut self.engine {
            Some(engine) => engine,
            None => unreachable!("only `drop` takes the engine"),
        }
    }
}

impl Drop for Native {
    /// Closes every socket as the kernel would at process exit, sends what can be sent at once, and gives the lane up.
    fn drop(&mut self) {
        let Some(mut engine) = self.engine.take() else { return };
        if std::thread::panicking() {
            self.lane.signals().poisoned.store(1, std::sync::atomic::Ordering::Release);
            return;
        }
        for sock in open_sockets(&mut engine) {
            engine.close(sock);
        }
        crate::session::transmit(&mut engine, &mut self.held, self.timers_at);
        for port in &mut self.held.ports {
            port.port.release(&mut engine.mem().frames);
        }
        // The guard that was taken at the start is kept by nobody, and the engine over its tables is not used any more: its
        // successor gives the lock back.
        if let Some(guard) = self.lane.take_over(self.owner, self.owner) {
            let mut guard = Some(guard);
            while let Some(held) = guard.take() {
                if let Err(mut again) = held.unlock(crate::lane::wake_one) {
                    while again.next_request().is_some() {}
                    guard = Some(again);
                }
            }
        }
    }
}

/// The lock of `lane`, from a holder that is gone if need be.
fn take(lane: LaneRef, owner: Owner) -> Result<LaneGuard, StartError> {
    if let Some(guard) = lane.try_lock(owner) {
        return Ok(guard);
    }
    let dead = lane.holder().filter(|holder| sys::process::is_gone(holder.pid, holder.tid));
    dead.and_then(|dead| lane.take_over(dead, owner)).ok_or(StartError::Taken)
}

/// Every socket of the lane that has a name.
fn open_sockets(engine: &mut Engine<'_>) -> Vec<SockRef> {
    let mem = engine.mem();
    let listeners = mem.listeners.rows().iter().enumerate();
    let listeners = listeners.map(|(row, l)| SockRef::new(SockKind::Listener, row as u32, l.generation));
    let connections = mem.hot.rows().iter().enumerate();
    let connections = connections.map(|(row, c)| SockRef::new(SockKind::Tcp, row as u32, c.generation));
    let all: Vec<SockRef> = listeners.chain(connections).collect();
    all.into_iter().filter(|&sock| engine.exists(sock)).collect()
}

fn endpoint(at: SocketAddrV4) -> Endpoint {
    Endpoint { addr: base::IpAddress::from_v4(*at.ip()), port: base::Port(at.port()) }
}

fn address(end: Endpoint) -> Option<SocketAddr> {
    Some(SocketAddr::V4(SocketAddrV4::new(end.addr.as_v4()?, end.port.0)))
}

#[cfg(doctest)]
#[doc = include_str!("../../../../README.md")]
struct Readme;
