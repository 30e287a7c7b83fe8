//! The object behind a TCP socket's descriptors: one for each open file description, shared by its duplicates.

use core::any::Any;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use state::{Endpoint, SockRef, TcpOptions};

use crate::ao::Ao;
use crate::deferred::{NOTED_MAX, Noted};
use crate::keys::Key;
use crate::object::{Counted, Handle};
use crate::reason::Reason;
use crate::view::View;
use crate::zerocopy::Sends;
use crate::{family, hub};

/// Where the tag of the process begins in a token: addresses are shorter.
const TAG_SHIFT: u32 = 48;

/// What a socket has become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum State {
    /// A kernel socket that may still become a lane's.
    Undecided = 0,
    /// A kernel socket for good.
    Kernel = 1,
    /// A kernel listener; with lane listeners beside it once it was waited on.
    Listening = 2,
    /// A lane's connection, connecting or connected.
    Stream = 3,
}

/// Bits of [`Sock::has`].
pub(crate) mod flag {
    /// O_NONBLOCK.
    pub(crate) const NONBLOCK: u32 = 1;
    /// Its descriptors are dups of the placeholder, not of a kernel socket of its own.
    pub(crate) const PLACEHOLDER: u32 = 1 << 1;
    /// AF_INET6: addresses are shown as those of IPv6, IPv4 ones mapped.
    pub(crate) const V6: u32 = 1 << 2;
    /// IPV6_V6ONLY.
    pub(crate) const V6ONLY: u32 = 1 << 3;
    /// The program bound it.
    pub(crate) const BOUND: u32 = 1 << 4;
    /// Its descriptor is close-on-exec.
    pub(crate) const CLOEXEC: u32 = 1 << 5;
    /// Descriptor flags changed since: its descriptors are not parked.
    pub(crate) const ODD_FD: u32 = 1 << 6;
    /// The program reads its events from an epoll set.
    pub(crate) const WATCHED: u32 = 1 << 7;
    /// A non-blocking connect was begun and its result not told yet.
    pub(crate) const CONNECTING: u32 = 1 << 8;
    /// The lane tells this process of its events.
    pub(crate) const SUBSCRIBED: u32 = 1 << 9;
    /// A listener whose kernel socket we made non-blocking; NONBLOCK says what the program wants.
    pub(crate) const FORCED: u32 = 1 << 10;
    /// Its kernel socket is not made yet ([`crate::deferred`]).
    pub(crate) const DEFERRED: u32 = 1 << 11;
    /// TCP_FASTOPEN_CONNECT.
    pub(crate) const FAST_CONNECT: u32 = 1 << 12;
    /// Its SYN waits for the first write ([`crate::fast_open`]).
    pub(crate) const FAST_FIRST: u32 = 1 << 13;
    /// Somebody may get signals ([`crate::owner`]).
    pub(crate) const SIGNALS: u32 = 1 << 14;
    /// SO_ZEROCOPY.
    pub(crate) const ZEROCOPY: u32 = 1 << 15;
    /// The program has a notification to read ([`crate::zerocopy`]).
    pub(crate) const NOTIFIES: u32 = 1 << 16;
}

/// A socket of one lane, as this process reaches it.
#[derive(Clone, Copy)]
pub(crate) struct Seat {
    /// The lane.
    pub(crate) view: &'static View,
    /// The socket there.
    pub(crate) name: SockRef,
}

/// Room for one [`Seat`], readable without a lock.
pub(crate) struct SeatCell {
    /// Number of the view and 1; 0: empty.
    view: AtomicU8,
    name: AtomicU64,
}

impl SeatCell {
    const fn empty() -> Self {
        Self { view: AtomicU8::new(0), name: AtomicU64::new(0) }
    }

    /// The seat, if taken.
    pub(crate) fn get(&self) -> Option<Seat> {
        let number = self.view.load(Ordering::Acquire).checked_sub(1)?;
        let word = self.name.load(Ordering::Relaxed);
        let name = SockRef { raw: word as u32, generation: (word >> 32) as u32 };
        Some(Seat { view: View::numbered(number)?, name })
    }

    /// Takes or empties it. The caller holds the socket's `inner`, or is the only one to know the socket.
    pub(crate) fn set(&self, seat: Option<Seat>) {
        self.view.store(0, Ordering::Release);
        if let Some(seat) = seat {
            let word = u64::from(seat.name.raw) | u64::from(seat.name.generation) << 32;
            self.name.store(word, Ordering::Relaxed);
            self.view.store(seat.view.number() + 1, Ordering::Release);
        }
    }
}

/// What is needed rarely.
pub(crate) struct Inner {
    /// Local end of a stream; of a listener the address it was bound to.
    pub(crate) local: Endpoint,
    /// Remote end of a stream.
    pub(crate) remote: Endpoint,
    /// Options set so far that a lane knows.
    pub(crate) options: TcpOptions,
    /// An option was set that the lane does not have.
    pub(crate) foreign_option: bool,
    /// Keys that sign its segments.
    pub(crate) keys: Vec<Key>,
    /// What it has of TCP-AO.
    pub(crate) ao: Option<Box<Ao>>,
    /// Why it is a kernel socket, or the connections it accepts are.
    pub(crate) reason: Reason,
    /// Backlog of a listener.
    pub(crate) backlog: u32,
    /// Options that the kernel socket gets when it is made, and how many.
    pub(crate) noted: [Noted; NOTED_MAX],
    pub(crate) noted_used: u8,
    /// Fork generation in which getting a lane listener was last tried.
    pub(crate) tried: u32,
    /// What was sent with MSG_ZEROCOPY.
    pub(crate) sends: Sends,
    /// Inode number of the kernel's listener beside a lane's; 0: none.
    pub(crate) inode: u64,
}

/// A TCP socket of the program.
#[repr(align(64))]
pub(crate) struct Sock {
    refs: AtomicU32,
    flags: AtomicU32,
    state: AtomicU8,
    /// The stream, or this process's lane listener.
    pub(crate) seat: SeatCell,
    /// The listener on the lane of the process we were forked from.
    pub(crate) older: SeatCell,
    /// First of its interests. Under the hub.
    pub(crate) interests: AtomicU32,
    /// SO_RCVTIMEO, ns; 0: none.
    rcv_timeout: AtomicU64,
    /// SO_SNDTIMEO, ns; 0: none.
    snd_timeout: AtomicU64,
    inner: Mutex<Inner>,
}

static POOL: Mutex<Vec<&'static Sock>> = Mutex::new(Vec::new());

/// Holds what no other lock is taken under, over a fork.
pub(crate) fn freeze() -> Box<dyn Any> {
    Box::new(POOL.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Sock {
    /// A fresh socket in `state` with `flags` of [`flag`].
    pub(crate) fn new(state: State, flags: u32) -> Handle<Self> {
        let pooled = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let sock = pooled.unwrap_or_else(|| Box::leak(Box::new(Self::blank())));
        sock.flags.store(flags, Ordering::Relaxed);
        sock.state.store(state as u8, Ordering::Relaxed);
        sock.seat.set(None);
        sock.older.set(None);
        sock.interests.store(hub::NONE, Ordering::Relaxed);
        sock.rcv_timeout.store(0, Ordering::Relaxed);
        sock.snd_timeout.store(0, Ordering::Relaxed);
        *sock.inner() = Inner::blank();
        Handle::first(sock)
    }

    const fn blank() -> Self {
        Self {
            refs: AtomicU32::new(0),
            flags: AtomicU32::new(0),
            state: AtomicU8::new(0),
            seat: SeatCell::empty(),
            older: SeatCell::empty(),
            interests: AtomicU32::new(hub::NONE),
            rcv_timeout: AtomicU64::new(0),
            snd_timeout: AtomicU64::new(0),
            inner: Mutex::new(Inner::blank()),
        }
    }

    /// What it has become.
    pub(crate) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Undecided,
            2 => State::Listening,
            3 => State::Stream,
            _ => State::Kernel,
        }
    }

    /// Makes it something else. The caller holds `inner`.
    pub(crate) fn become_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// The lane's connection, if it is one.
    pub(crate) fn stream(&self) -> Option<Seat> {
        if self.state() == State::Stream { self.seat.get() } else { None }
    }

    /// Was it a lane's connection until another thread handed it over to the kernel? Waits for the end of that.
    pub(crate) fn is_entrusted(&self) -> bool {
        let _done = self.inner();
        self.state() == State::Kernel
    }

    /// Is any bit of `flags` set?
    pub(crate) fn has(&self, flags: u32) -> bool {
        self.those_of(flags) != 0
    }

    /// The bits of `flags` that are set.
    pub(crate) fn those_of(&self, flags: u32) -> u32 {
        self.flags.load(Ordering::Relaxed) & flags
    }

    /// Sets or clears `flags`.
    pub(crate) fn put(&self, flags: u32, on: bool) {
        if on {
            self.flags.fetch_or(flags, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!flags, Ordering::Relaxed);
        }
    }

    /// SO_RCVTIMEO, ns; 0: none.
    pub(crate) fn rcv_timeout_ns(&self) -> u64 {
        self.rcv_timeout.load(Ordering::Relaxed)
    }

    /// SO_SNDTIMEO, ns; 0: none.
    pub(crate) fn snd_timeout_ns(&self) -> u64 {
        self.snd_timeout.load(Ordering::Relaxed)
    }

    /// SO_RCVTIMEO.
    pub(crate) fn set_rcv_timeout_ns(&self, ns: u64) {
        self.rcv_timeout.store(ns, Ordering::Relaxed);
    }

    /// SO_SNDTIMEO.
    pub(crate) fn set_snd_timeout_ns(&self, ns: u64) {
        self.snd_timeout.store(ns, Ordering::Relaxed);
    }

    /// The rarely needed part.
    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a thread have [`Sock::inner`]?
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.inner.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Where it is, to tell sockets apart.
    pub(crate) fn address(&self) -> u64 {
        core::ptr::from_ref(self).addr() as u64
    }

    /// The number that names it in an engine's event queue.
    pub(crate) fn token(&'static self) -> u64 {
        core::ptr::from_ref(self).expose_provenance() as u64 | u64::from(family::tag()) << TAG_SHIFT
    }

    /// The socket that [`Sock::token`] named; it may have been retired and used again since. `None` for a token of a process that had our event
    /// queue before us.
    pub(crate) fn from_token(token: u64) -> Option<&'static Self> {
        let (tag, token) = (token >> TAG_SHIFT, token & !(u64::MAX << TAG_SHIFT));
        if token == 0 || tag != u64::from(family::tag()) {
            return None;
        }
        let sock = core::ptr::with_exposed_provenance::<Self>(token as usize);
        // SAFETY: tokens are made by `token` only and reach no other process's queue; the memory is never given back.
        Some(unsafe { &*sock })
    }
}

impl Inner {
    const fn blank() -> Self {
        let nowhere = Endpoint { addr: base::IpAddress::ANY, port: base::Port(0) };
        let zero = TcpOptions {
            nodelay: 0,
            cork: 0,
            keepalive: 0,
            linger: 0,
            keep_probes: 0,
            ttl: 0,
            tos: 0,
            syn_retries: 0,
            linger_s: 0,
            keep_idle_s: 0,
            keep_interval_s: 0,
            user_timeout_ms: 0,
            rcv_buf_bytes: 0,
            snd_buf_bytes: 0,
            rcv_low_bytes: 0,
            notsent_low_bytes: 0,
            defer_accept: 0,
            fast_open_bare: 0,
            mss_max: 0,
            congestion: 0,
            switches: 0,
            pacing_limit: 0,
        };
        Self {
            local: nowhere,
            remote: nowhere,
            options: zero,
            foreign_option: false,
            keys: Vec::new(),
            ao: None,
            reason: Reason::NotConnected,
            backlog: 0,
            noted: [Noted::NONE; NOTED_MAX],
            noted_used: 0,
            tried: u32::MAX,
            sends: Sends::NONE,
            inode: 0,
        }
    }
}

impl Counted for Sock {
    fn refs(&self) -> &AtomicU32 {
        &self.refs
    }

    fn retire(&'static self) {
        hub::forget_sock(self);
        for cell in [&self.seat, &self.older] {
            if let Some(seat) = cell.get() {
                seat.view.end(seat.name, self);
                cell.set(None);
            }
        }
        POOL.lock().unwrap_or_else(PoisonError::into_inner).push(self);
    }
}
