//! Fork and exit: what a child may use, and what ends with a process.
//!
//! Before a fork every lock of ours is taken, in the order in which calls take them: each socket's, home, the lanes' gates, the hub, and then those
//! under which no other is taken. So the child finds all of them free and no session open. The child
//! reaches the parent's connections on the parent's lanes through ports of its own ([`View`] makes them again); for what it opens itself it gets
//! its own lane. What stays open over exec: [`crate::exec`].

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::pipe::{PipeFlags, pipe_with};
use sys::fds::Fd;

use crate::boundary::{enter, guard, leave};
use crate::calls::bulk;
use crate::family::Member;
use crate::object::Handle;
use crate::sock::{self, Inner, Seat, Sock, flag};
use crate::table::{self, Entry};
use crate::view::View;
use crate::{cancel, epoll, family, home, hub, listen, park, pool, wires};

/// A child that shares connections with this process.
struct Child {
    slot: u8,
    /// Hangs up when the child is gone, by exit or exec.
    life: Fd,
    seats: Vec<Seat>,
}

static CHILDREN: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// What is held over a fork.
struct Held {
    /// What is free first again: the others are taken before these.
    leaves: [Box<dyn Any>; 9],
    gates: Vec<MutexGuard<'static, ()>>,
    hub: hub::Frozen,
    home: home::Frozen,
    inners: Vec<MutexGuard<'static, Inner>>,
    child: Option<Child>,
    member: Option<Member>,
    /// The child's end of its `life`.
    end: Option<Fd>,
    /// The sockets of the connections.
    socks: Vec<&'static Sock>,
}

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

/// Has the C library call us around every fork.
pub(crate) fn watch() {
    // SAFETY: three functions of this library, which is never unloaded.
    unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
}

extern "C" fn before() {
    guard((), || {
        let connections = connections();
        let (child, end, member) = share(&connections);
        let inners = all_socks().into_iter().map(Sock::inner).collect();
        let socks = connections.into_iter().map(|(sock, _)| sock.object()).collect();
        let home = home::freeze();
        let gates = View::in_mask(u32::MAX).map(View::close_gate).collect();
        let hub = hub::freeze();
        let leaves = leaves();
        let held = Held { leaves, gates, hub, home, inners, child, end, member, socks };
        HELD.with(|cell| *cell.borrow_mut() = Some(held));
    });
    // Handlers wait until the locks are free again.
    enter();
}

/// Every socket of this process, once. No thread holds the `inner` of two.
fn all_socks() -> Vec<&'static Sock> {
    let mut all = BTreeMap::new();
    for fd in 0..=table::highest() {
        if let Some(sock) = table::sock_as_is(fd) {
            all.insert(sock.address(), sock.object());
        }
    }
    all.into_values().collect()
}

/// In the child: sockets that other threads of the parent made while it locked the rest, and were at work on, are nothing but what the kernel has of
/// them.
fn forget_others() {
    for fd in 0..=table::highest() {
        if let Some(sock) = table::sock_as_is(fd)
            && sock.is_held()
        {
            core::mem::forget((sock, table::replace(fd, Entry::Foreign)));
        }
    }
}

/// Takes the locks under which no other is taken.
fn leaves() -> [Box<dyn Any>; 9] {
    [
        Box::new(children()),
        pool::freeze(),
        wires::freeze(),
        listen::freeze(),
        park::freeze(),
        sock::freeze(),
        epoll::freeze(),
        bulk::freeze(),
        cancel::freeze(),
    ]
}

fn take_held() -> Option<Held> {
    HELD.with(|cell| cell.borrow_mut().take())
}

extern "C" fn in_parent() {
    guard((), || {
        let Some(held) = take_held() else { return };
        let Held { leaves, gates, hub, home, inners, child, end, .. } = held;
        drop((leaves, hub, gates, home, inners));
        if let Some(end) = end {
            table::discard(end);
        }
        if let Some(child) = child {
            children().push(child);
        }
    });
    leave();
}

extern "C" fn in_child() {
    guard((), || {
        let Some(held) = take_held() else { return };
        let Held { leaves, gates, hub, home, inners, child, end, member, socks } = held;
        drop((leaves, hub, gates, home, inners));
        forget_others();
        family::after_fork_in_child(member);
        if let Some(child) = child {
            table::discard(child.life);
        }
        // Kept open without a name: it hangs up when this process is gone.
        core::mem::forget(end);
        for other in children().drain(..) {
            table::discard(other.life);
        }
        hub::after_fork_in_child();
        home::after_fork_in_child();
        for view in View::in_mask(u32::MAX) {
            view.after_fork_in_child();
        }
        // Their events go to the parent, until this process waits for one.
        for sock in socks {
            sock.put(flag::SUBSCRIBED, false);
        }
    });
    leave();
}

fn children() -> MutexGuard<'static, Vec<Child>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every open connection of this process, once.
fn connections() -> Vec<(Handle<Sock>, Seat)> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for fd in 0..=table::highest() {
        if let Some(sock) = table::sock(fd)
            && let Some(seat) = sock.stream()
            && seen.insert(sock.address())
        {
            all.push((sock, seat));
        }
    }
    all
}

/// Gives the child to come a hold on every one of `connections`. Nothing to do when there is none.
fn share(connections: &[(Handle<Sock>, Seat)]) -> (Option<Child>, Option<Fd>, Option<Member>) {
    bury();
    let seats: Vec<Seat> = connections.iter().map(|(_, seat)| *seat).collect();
    if seats.is_empty() {
        return (None, None, family::next_member(false));
    }
    let member = family::next_member(true);
    let Some(slot) = member.and_then(Member::slot) else { return (None, None, member) };
    let Ok((life, end)) = pipe_with(PipeFlags::CLOEXEC) else {
        family::free_slot(slot);
        return (None, None, family::no_member());
    };
    for seat in &seats {
        family::share(seat.view, seat.name, slot);
    }
    let (life, end) = (table::keep(Fd::from(life)), table::keep(Fd::from(end)));
    (Some(Child { slot, life, seats }), Some(end), member)
}

/// Lets go of connections in the name of children that are gone.
pub(crate) fn bury() {
    if !family::has_children() {
        return;
    }
    let mut gone = Vec::new();
    {
        let mut children = children();
        let mut at = 0;
        while let Some(child) = children.get(at) {
            if hung_up(&child.life) {
                gone.push(children.swap_remove(at));
            } else {
                at += 1;
            }
        }
        if children.is_empty() {
            family::no_children();
        }
    }
    for child in gone {
        for seat in &child.seats {
            if family::let_go_for(seat.view, seat.name, child.slot) && !seat.view.has_moved(seat.name) {
                seat.view.enter(|session| session.engine(|engine| engine.close(seat.name)));
            }
        }
        if family::forget_taker(child.slot) {
            take_back(&child);
        }
        family::free_slot(child.slot);
        table::discard(child.life);
    }
}

/// `child`, which waited for connections of ours, is gone: their events come here again.
#[cold]
fn take_back(child: &Child) {
    for (sock, seat) in connections() {
        if child.seats.iter().any(|held| held.name == seat.name && core::ptr::eq(held.view, seat.view)) {
            sock.put(flag::SUBSCRIBED, false);
            // Who waits otherwise asks for events first.
            if sock.has(flag::WATCHED) {
                seat.view.subscribe(seat, sock.object());
            }
        }
    }
}

fn hung_up(life: &Fd) -> bool {
    let mut fds = [sys::poll::PollFd::new(life, sys::poll::PollFlags::IN)];
    sys::poll::poll(&mut fds, Some(base::Duration::ZERO)).is_ok_and(|n| n > 0)
}

/// Adds what tells that a child is gone.
pub(crate) fn add_wait_fds(fds: &mut Vec<libc::pollfd>) {
    if !family::has_children() {
        return;
    }
    fds.extend(children().iter().map(|child| libc::pollfd {
        fd: child.life.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }));
}

/// The process ends: lets go of its connections, which the kernel cannot do for it.
pub(crate) fn at_exit() {
    guard((), || {
        for fd in 0..=table::highest() {
            if let Some(sock) = table::sock_as_is(fd)
                && sock.stream().is_some()
            {
                let sock: Handle<Sock> = sock;
                drop(table::replace(fd, Entry::Parked));
                drop(sock);
            }
        }
    });
}
