//! Interests: one row for each (epoll instance, descriptor) whose socket has or may get a seat on a lane.

use core::sync::atomic::{AtomicBool, Ordering};

use libc::epoll_event;
use state::{Ready, SockRef};

use super::{NONE, Target, hub};
use crate::errno::{Errno, Outcome};
use crate::family;
use crate::object::Handle;
use crate::sock::{Sock, State, flag};
use crate::view::View;
use crate::zerocopy;

/// Edge triggered.
const ET: u32 = libc::EPOLLET as u32;
/// Disabled after one event.
const ONESHOT: u32 = libc::EPOLLONESHOT as u32;
/// Told whether asked for or not.
const ALWAYS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;

struct Interest {
    sock: Option<&'static Sock>,
    epoll: u32,
    /// The epoll instance's descriptor and the socket's, as given at EPOLL_CTL_ADD.
    epfd: i32,
    fd: i32,
    events: u32,
    data: u64,
    /// False after an EPOLLONESHOT event.
    armed: bool,
    listed: bool,
    next_of_sock: u32,
    prev: u32,
    next: u32,
}

struct ReadyList {
    head: u32,
    tail: u32,
    len: u32,
    used: bool,
}

/// All rows of the process.
pub(super) struct Interests {
    rows: Vec<Interest>,
    free: Vec<u32>,
    epolls: Vec<ReadyList>,
    /// Listeners with a seat on this process's lane.
    listeners: Vec<&'static Sock>,
}

/// What a lane says of one of its sockets.
pub(crate) type ReadyOf<'a> = &'a mut dyn FnMut(SockRef) -> Ready;

/// What [`collect`] wrote.
#[derive(Clone, Copy, Default)]
pub(crate) struct Told {
    /// Number of events.
    pub(crate) count: usize,
    /// [`Sock::address`] of the last one's socket.
    pub(crate) last: u64,
}

/// An interest whose socket goes from the kernel to a lane: what is to be taken out of the kernel's epoll set.
pub(crate) struct Move {
    /// The epoll descriptor.
    pub(crate) epfd: i32,
    /// The socket's descriptor.
    pub(crate) fd: i32,
}

/// An interest whose socket goes from a lane to the kernel: what is to be put into the kernel's epoll set.
pub(crate) struct Watch {
    /// Both descriptors.
    pub(crate) fds: Move,
    /// What the program asked for; after an EPOLLONESHOT event, nothing until it asks again.
    pub(crate) event: epoll_event,
}

/// Where an interest's socket is, and what it is ready for.
enum Look {
    /// On the lane asked for.
    Here(u32),
    /// On another: kept for its turn.
    Elsewhere,
    /// On none: listed again when it gets one.
    Nowhere,
}

impl Interest {
    fn bits_on(&self, view: &View, ready: ReadyOf<'_>) -> Look {
        let seats = self.sock.map_or([None, None], |sock| [sock.seat.get(), sock.older.get()]);
        let (mut bits, mut here) = (self.sock.map_or(Ready::NONE, zerocopy::ready), false);
        for seat in seats.iter().flatten().filter(|seat| core::ptr::eq(seat.view, view)) {
            here = true;
            bits |= ready(seat.name);
        }
        if here {
            Look::Here(spread(bits) & (self.events | ALWAYS))
        } else if seats.iter().any(Option::is_some) {
            Look::Elsewhere
        } else {
            Look::Nowhere
        }
    }
}

impl Interests {
    pub(super) const fn new() -> Self {
        Self { rows: Vec::new(), free: Vec::new(), epolls: Vec::new(), listeners: Vec::new() }
    }

    fn find(&self, sock: &Sock, epoll: u32, fd: i32) -> Option<u32> {
        let mut at = sock.interests.load(Ordering::Relaxed);
        while let Some(row) = self.rows.get(at as usize) {
            if row.epoll == epoll && row.fd == fd {
                return Some(at);
            }
            at = row.next_of_sock;
        }
        None
    }

    fn push_ready(&mut self, at: u32) {
        let Some(row) = self.rows.get_mut(at as usize) else { return };
        let Some(list) = self.epolls.get_mut(row.epoll as usize) else { return };
        if row.listed {
            return;
        }
        let tail = list.tail;
        (row.listed, row.prev, row.next) = (true, tail, NONE);
        list.tail = at;
        list.len += 1;
        if tail == NONE {
            list.head = at;
        } else if let Some(last) = self.rows.get_mut(tail as usize) {
            last.next = at;
        }
    }

    fn unlist(&mut self, at: u32) {
        let Some(row) = self.rows.get_mut(at as usize) else { return };
        if !row.listed {
            return;
        }
        row.listed = false;
        let (epoll, prev, next) = (row.epoll, row.prev, row.next);
        if let Some(before) = self.rows.get_mut(prev as usize) {
            before.next = next;
        }
        if let Some(after) = self.rows.get_mut(next as usize) {
            after.prev = prev;
        }
        if let Some(list) = self.epolls.get_mut(epoll as usize) {
            list.len = list.len.saturating_sub(1);
            if list.head == at {
                list.head = next;
            }
            if list.tail == at {
                list.tail = prev;
            }
        }
    }

    /// Lists every armed interest of `sock`, and says for which epoll instance.
    pub(super) fn list_all_of(&mut self, sock: &Sock, mut listed: impl FnMut(u32)) {
        let mut at = sock.interests.load(Ordering::Relaxed);
        while let Some(row) = self.rows.get(at as usize) {
            let (epoll, next, armed) = (row.epoll, row.next_of_sock, row.armed);
            if armed {
                self.push_ready(at);
                listed(epoll);
            }
            at = next;
        }
    }

    fn unlink(&mut self, sock: &Sock, at: u32) {
        self.unlist(at);
        let next = self.rows.get(at as usize).map_or(NONE, |row| row.next_of_sock);
        let mut before = sock.interests.load(Ordering::Relaxed);
        if before == at {
            sock.interests.store(next, Ordering::Relaxed);
        } else {
            while let Some(row) = self.rows.get_mut(before as usize) {
                if row.next_of_sock == at {
                    row.next_of_sock = next;
                    break;
                }
                before = row.next_of_sock;
            }
        }
        if let Some(row) = self.rows.get_mut(at as usize) {
            row.sock = None;
            self.free.push(at);
        }
    }

    fn insert(&mut self, row: Interest) -> u32 {
        if let Some(at) = self.free.pop()
            && let Some(place) = self.rows.get_mut(at as usize)
        {
            *place = row;
            return at;
        }
        self.rows.push(row);
        (self.rows.len() - 1) as u32
    }

    /// Goes once over the ready list of `epoll`, for the sockets on `view`; see [`collect`].
    fn collect(&mut self, epoll: u32, view: &View, ready: ReadyOf<'_>, out: &mut [epoll_event]) -> Told {
        let mut left = self.epolls.get(epoll as usize).map_or(0, |list| list.len);
        let mut told = Told::default();
        while let Some(place) = out.get_mut(told.count) {
            let Some(at) = self.epolls.get(epoll as usize).map(|list| list.head) else { break };
            if left == 0 || at == NONE {
                break;
            }
            left -= 1;
            self.unlist(at);
            let Some(row) = self.rows.get_mut(at as usize) else { break };
            let Some(sock) = row.sock else { continue };
            let bits = match row.bits_on(view, ready) {
                Look::Here(0) | Look::Nowhere => continue,
                Look::Here(bits) => bits,
                Look::Elsewhere => {
                    self.push_ready(at);
                    continue;
                }
            };
            *place = epoll_event { events: bits, u64: row.data };
            told = Told { count: told.count + 1, last: sock.address() };
            if row.events & ONESHOT != 0 {
                row.armed = false;
            } else if row.events & ET == 0 {
                // Level triggered: looked at again by the next call, as the kernel does.
                self.push_ready(at);
            }
        }
        told
    }
}

/// `ready` with the bits that Linux sets beside EPOLLIN and EPOLLOUT.
pub(crate) fn spread(ready: Ready) -> u32 {
    let mut bits = ready.0;
    if ready.has(Ready::IN) {
        bits |= libc::EPOLLRDNORM as u32;
    }
    if ready.has(Ready::OUT) {
        bits |= libc::EPOLLWRNORM as u32;
    }
    bits
}

/// A number for a new epoll instance.
pub(crate) fn new_epoll() -> u32 {
    let mut hub = hub();
    let epolls = &mut hub.interests.epolls;
    let blank = ReadyList { head: NONE, tail: NONE, len: 0, used: true };
    if let Some((at, place)) = epolls.iter_mut().enumerate().find(|(_, list)| !list.used) {
        *place = blank;
        return at as u32;
    }
    epolls.push(blank);
    (epolls.len() - 1) as u32
}

/// The epoll instance is gone, its interests with it.
pub(crate) fn forget_epoll(epoll: u32) {
    let mut hub = hub();
    let interests = &mut hub.interests;
    for at in 0..interests.rows.len() {
        let Some(row) = interests.rows.get(at) else { break };
        if let Some(sock) = row.sock
            && row.epoll == epoll
        {
            interests.unlink(sock, at as u32);
        }
    }
    if let Some(list) = interests.epolls.get_mut(epoll as usize) {
        list.used = false;
    }
}

/// Is `Interests::listeners` not empty? Readable without the hub.
static LISTENS: AtomicBool = AtomicBool::new(false);

/// Does this process listen on a lane at all?
pub(crate) fn listens() -> bool {
    LISTENS.load(Ordering::Relaxed)
}

/// The listener `sock` has a seat on this process's lane.
pub(crate) fn note_listener(sock: &'static Sock) {
    let mut hub = hub();
    let listeners = &mut hub.interests.listeners;
    if !listeners.iter().any(|known| core::ptr::eq(*known, sock)) {
        listeners.push(sock);
    }
    LISTENS.store(true, Ordering::Relaxed);
}

/// Would a connection that comes to a listener end a wait for `target`?
pub(crate) fn accepts(target: Target) -> bool {
    let hub = hub();
    let Interests { rows, listeners, .. } = &hub.interests;
    let asks = |row: &Interest| {
        row.armed
            && row.events & libc::EPOLLIN as u32 != 0
            // Of several instances in one another nobody knows here which.
            && matches!(target, Target::Any) | matches!(target, Target::Epoll(epoll) if epoll == row.epoll)
    };
    listeners.iter().any(|sock| {
        let mut at = sock.interests.load(Ordering::Relaxed);
        while let Some(row) = rows.get(at as usize) {
            if asks(row) {
                return true;
            }
            at = row.next_of_sock;
        }
        false
    })
}

/// The socket is gone, its interests with it.
pub(crate) fn forget_sock(sock: &Sock) {
    let listens = sock.state() == State::Listening;
    if sock.interests.load(Ordering::Relaxed) == NONE && !listens {
        return;
    }
    let mut hub = hub();
    if listens {
        let listeners = &mut hub.interests.listeners;
        listeners.retain(|known| !core::ptr::eq(*known, sock));
        LISTENS.store(!listeners.is_empty(), Ordering::Relaxed);
    }
    loop {
        let at = sock.interests.load(Ordering::Relaxed);
        if at == NONE {
            break;
        }
        hub.interests.unlink(sock, at);
    }
}

/// Lists every interest in a socket on `view`: the lane is poisoned.
pub(crate) fn list_view(view: &View) {
    let mut hub = hub();
    for at in 0..hub.interests.rows.len() as u32 {
        let row = hub.interests.rows.get(at as usize);
        let here = row.filter(|row| row.armed).and_then(|row| row.sock).and_then(|sock| sock.seat.get());
        if here.is_some_and(|seat| core::ptr::eq(seat.view, view)) {
            hub.interests.push_ready(at);
        }
    }
}

/// The sockets of `epoll` and their descriptors, as given at EPOLL_CTL_ADD.
pub(crate) fn members(epoll: u32) -> Vec<(Handle<Sock>, i32)> {
    let hub = hub();
    let rows = hub.interests.rows.iter().filter(|row| row.epoll == epoll);
    rows.filter_map(|row| Some((Handle::try_new(row.sock?)?, row.fd))).collect()
}

/// Lists the interests of `epoll` in connections that other processes hold too.
pub(crate) fn list_shared(epoll: u32) {
    let mut hub = hub();
    for at in 0..hub.interests.rows.len() as u32 {
        let row = hub.interests.rows.get(at as usize);
        let seat = row.filter(|row| row.epoll == epoll && row.armed).and_then(|row| row.sock?.stream());
        if seat.is_some_and(|seat| family::is_shared(seat.view, seat.name)) {
            hub.interests.push_ready(at);
        }
    }
}

/// EPOLL_CTL_ADD.
pub(crate) fn add(sock: &'static Sock, epoll: u32, fds: Move, event: epoll_event) -> Outcome<()> {
    let mut hub = hub();
    let interests = &mut hub.interests;
    if interests.find(sock, epoll, fds.fd).is_some() {
        return Err(Errno(libc::EEXIST));
    }
    let row = Interest {
        sock: Some(sock),
        epoll,
        epfd: fds.epfd,
        fd: fds.fd,
        events: event.events,
        data: event.u64,
        armed: true,
        listed: false,
        next_of_sock: sock.interests.load(Ordering::Relaxed),
        prev: NONE,
        next: NONE,
    };
    let at = interests.insert(row);
    sock.interests.store(at, Ordering::Relaxed);
    sock.put(flag::WATCHED, true);
    // Looked at by the next wait: it may be ready already.
    interests.push_ready(at);
    Ok(())
}

/// EPOLL_CTL_MOD: arms it again, whatever it was.
pub(crate) fn modify(sock: &Sock, epoll: u32, fd: i32, event: epoll_event) -> Outcome<()> {
    let mut hub = hub();
    let interests = &mut hub.interests;
    let at = interests.find(sock, epoll, fd).ok_or(Errno(libc::ENOENT))?;
    if let Some(row) = interests.rows.get_mut(at as usize) {
        (row.events, row.data, row.armed) = (event.events, event.u64, true);
    }
    interests.push_ready(at);
    Ok(())
}

/// EPOLL_CTL_DEL.
pub(crate) fn remove(sock: &Sock, epoll: u32, fd: i32) -> Outcome<()> {
    let mut hub = hub();
    let interests = &mut hub.interests;
    let at = interests.find(sock, epoll, fd).ok_or(Errno(libc::ENOENT))?;
    interests.unlink(sock, at);
    if sock.interests.load(Ordering::Relaxed) == NONE {
        sock.put(flag::WATCHED, false);
    }
    Ok(())
}

/// Goes once over the ready list of `epoll`, for the sockets on `view`, and writes an event for each that is ready as `ready`
/// says. Sockets that are not ready any more leave the list; level-triggered ones that
/// are stay in it.
pub(crate) fn collect(epoll: u32, view: &View, ready: ReadyOf<'_>, out: &mut [epoll_event]) -> Told {
    hub().interests.collect(epoll, view, ready, out)
}

/// Is anything in the ready list of `epoll` ready, of the sockets on `view`?
pub(crate) fn peek(epoll: u32, view: &View, ready: ReadyOf<'_>) -> bool {
    let hub = hub();
    let interests = &hub.interests;
    let mut at = interests.epolls.get(epoll as usize).map_or(NONE, |list| list.head);
    while let Some(row) = interests.rows.get(at as usize) {
        if let Look::Here(bits) = row.bits_on(view, ready)
            && bits != 0
        {
            return true;
        }
        at = row.next;
    }
    false
}

/// The interests of `sock`, for when it leaves the kernel; each is listed to be looked at.
pub(crate) fn moves(sock: &Sock) -> Vec<Move> {
    let mut hub = hub();
    let interests = &mut hub.interests;
    interests.list_all_of(sock, |_| {});
    let mut all = Vec::new();
    let mut at = sock.interests.load(Ordering::Relaxed);
    while let Some(row) = interests.rows.get(at as usize) {
        all.push(Move { epfd: row.epfd, fd: row.fd });
        at = row.next_of_sock;
    }
    all
}

/// The interests of `sock`, which it loses, for when it goes to the kernel.
pub(crate) fn take_watches(sock: &Sock) -> Vec<Watch> {
    let mut hub = hub();
    let interests = &mut hub.interests;
    let mut all = Vec::new();
    loop {
        let at = sock.interests.load(Ordering::Relaxed);
        let Some(row) = interests.rows.get(at as usize) else { break };
        let events = if row.armed { row.events } else { row.events & (ONESHOT | ET) };
        let event = epoll_event { events, u64: row.data };
        all.push(Watch { fds: Move { epfd: row.epfd, fd: row.fd }, event });
        interests.unlink(sock, at);
    }
    sock.put(flag::WATCHED, false);
    all
}
