//! Epoll instances: a kernel one for kernel descriptors, and our interests beside it for sockets on lanes.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::any::Any;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::Instant;
use libc::{epoll_event, pollfd, sigset_t};
use state::{Ready, SockKind, SockRef};

use crate::errno::{self, Errno, Outcome};
use crate::hub::{self, Move, Target, Wait};
use crate::interpose::real;
use crate::object::{Counted, Handle};
use crate::signals::Held;
use crate::sock::{Sock, State, flag};
use crate::table::{self, Entry};
use crate::view::View;
use crate::{family, listen};

/// The object behind an epoll descriptor and its duplicates.
#[repr(align(64))]
pub(crate) struct Epoll {
    refs: AtomicU32,
    number: AtomicU32,
    /// Descriptors in the kernel's set, at least: those that were closed are still counted.
    kernel_members: AtomicU32,
    /// Waits in which a lane had something.
    rounds: AtomicU32,
    /// Epoll instances in this one. Their kernel's part is in ours; what lanes have for them is looked up.
    nested: Mutex<Vec<Nested>>,
    nested_count: AtomicU32,
    /// How many instances this object has been.
    serial: AtomicU32,
    /// Fork generation for which its members' events come to this process.
    made_in: AtomicU32,
    /// When members whose events go to another process were looked at.
    rechecked_ns: AtomicU64,
}

/// An epoll instance in another. Edge triggering is not imitated here: it is told as long as it is ready.
struct Nested {
    epoll: &'static Epoll,
    serial: u32,
    fd: i32,
    event: epoll_event,
}

/// In one of so many waits the kernel's members are looked at although a lane has something.
const KERNEL_EVERY: u32 = 8;

/// Stands for members that another process of the family may have put in: more than this one takes out.
const OTHERS: u32 = 1 << 30;

static POOL: Mutex<Vec<&'static Epoll>> = Mutex::new(Vec::new());

/// Holds what no other lock is taken under, over a fork.
pub(crate) fn freeze() -> Box<dyn Any> {
    Box::new(POOL.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Epoll {
    /// A fresh instance.
    pub(crate) fn new() -> Handle<Self> {
        let pooled = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let fresh = || Self {
            refs: AtomicU32::new(0),
            number: AtomicU32::new(0),
            kernel_members: AtomicU32::new(0),
            rounds: AtomicU32::new(0),
            nested: Mutex::new(Vec::new()),
            nested_count: AtomicU32::new(0),
            serial: AtomicU32::new(0),
            made_in: AtomicU32::new(0),
            rechecked_ns: AtomicU64::new(0),
        };
        let epoll = pooled.unwrap_or_else(|| Box::leak(Box::new(fresh())));
        epoll.number.store(hub::new_epoll(), Ordering::Relaxed);
        epoll.kernel_members.store(0, Ordering::Relaxed);
        epoll.nested().clear();
        epoll.nested_count.store(0, Ordering::Relaxed);
        epoll.serial.fetch_add(1, Ordering::Relaxed);
        epoll.made_in.store(family::generation(), Ordering::Relaxed);
        Handle::first(epoll)
    }

    fn nested(&self) -> MutexGuard<'_, Vec<Nested>> {
        self.nested.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `epoll_ctl` did in the kernel for the instance `inner`.
    fn note_nested(&self, inner: &Handle<Self>, fd: i32, op: i32, event: Option<epoll_event>) {
        let mut nested = self.nested();
        nested.retain(|n| n.fd != fd);
        if let (libc::EPOLL_CTL_ADD | libc::EPOLL_CTL_MOD, Some(event)) = (op, event) {
            let serial = inner.serial.load(Ordering::Relaxed);
            nested.push(Nested { epoll: inner.object(), serial, fd, event });
        }
        self.nested_count.store(nested.len() as u32, Ordering::Relaxed);
    }

    /// Adds events for the instances in this one that lanes have something for; `out[..found]` is written already.
    fn collect_nested(&self, out: &mut [epoll_event], mut found: usize) -> usize {
        if self.nested_count.load(Ordering::Relaxed) == 0 {
            return found;
        }
        // One that was closed is out of the set, whatever its object stands for now.
        let same = |n: &Nested| {
            let inner = Handle::try_new(n.epoll)?;
            (inner.serial.load(Ordering::Relaxed) == n.serial).then_some((inner, n.event))
        };
        let inner: Vec<(Handle<Self>, epoll_event)> = self.nested().iter().filter_map(same).collect();
        for (inner, event) in inner {
            let (wanted, data) = (event.events & libc::EPOLLIN as u32, event.u64);
            let told = out.get(..found).is_some_and(|told| told.iter().any(|e| { e.u64 } == data));
            if wanted != 0
                && !told
                && ready(&inner)
                && let Some(place) = out.get_mut(found)
            {
                *place = epoll_event { events: wanted, u64: data };
                found += 1;
            }
        }
        found
    }

    pub(crate) fn number(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }

    /// Before it is looked at: what other processes of the family have to do with it.
    pub(crate) fn settle(&self) {
        if self.made_in.load(Ordering::Relaxed) != family::generation() {
            self.inherit();
        }
        if family::others_take_events() {
            self.recheck();
        }
    }

    /// The first wait on an instance of the process we were forked from: events of its members come to us, too.
    #[cold]
    fn inherit(&self) {
        self.made_in.store(family::generation(), Ordering::Relaxed);
        // The other process puts descriptors into the kernel's set, too.
        self.kernel_members.fetch_max(OTHERS, Ordering::Relaxed);
        for (sock, fd) in hub::members(self.number()) {
            match sock.state() {
                State::Stream => tell_me(&sock),
                State::Listening => {
                    let same = table::sock_as_is(fd).is_some_and(|now| now.address() == sock.address());
                    if same {
                        listen::attach(&sock, fd);
                    }
                }
                State::Undecided | State::Kernel => {}
            }
        }
    }

    /// Connections whose events go to another process are looked at now and then.
    #[cold]
    fn recheck(&self) {
        let now = sys::clock::now();
        let last = self.rechecked_ns.load(Ordering::Relaxed);
        if now.0.saturating_sub(last) >= hub::FOREIGN_WAIT_NS {
            self.rechecked_ns.store(now.0, Ordering::Relaxed);
            hub::list_shared(self.number());
        }
    }
}

impl Counted for Epoll {
    fn refs(&self) -> &AtomicU32 {
        &self.refs
    }

    fn retire(&'static self) {
        hub::forget_epoll(self.number());
        POOL.lock().unwrap_or_else(PoisonError::into_inner).push(self);
    }
}

/// The kernel's part of `epoll_ctl`.
fn kernel_ctl(epoll: &Epoll, fds: &Move, op: i32, event: Option<epoll_event>) -> Outcome<()> {
    let mut event = event;
    let at = event.as_mut().map_or(core::ptr::null_mut(), core::ptr::from_mut);
    // SAFETY: `at` is null or a live local.
    errno::check(unsafe { real::epoll_ctl(fds.epfd, op, fds.fd, at) })?;
    if op == libc::EPOLL_CTL_ADD {
        epoll.kernel_members.fetch_add(1, Ordering::Relaxed);
    } else if op == libc::EPOLL_CTL_DEL {
        let _ = epoll.kernel_members.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }
    Ok(())
}

/// Watches in the kernel's set what was watched on a lane.
pub(crate) fn watch_in_kernel(watch: hub::Watch) {
    if let Entry::Epoll(epoll) = table::get_as_is(watch.fds.epfd) {
        // EEXIST and the like: the program has put the number to another use.
        let _ = kernel_ctl(&epoll, &watch.fds, libc::EPOLL_CTL_ADD, Some(watch.event));
    }
}

/// `epoll_ctl`.
pub(crate) fn ctl(epoll: &Handle<Epoll>, fds: Move, op: i32, event: Option<epoll_event>) -> Outcome<()> {
    let sock = match table::get(fds.fd) {
        Entry::Sock(sock) => sock,
        Entry::Internal | Entry::Parked => return Err(Errno(libc::EBADF)),
        Entry::Foreign | Entry::Kernel(_) => return kernel_ctl(epoll, &fds, op, event),
        Entry::Epoll(inner) => {
            kernel_ctl(epoll, &fds, op, event)?;
            epoll.note_nested(&inner, fds.fd, op, event);
            hub::wake_all();
            return Ok(());
        }
    };
    match sock.state() {
        State::Kernel => kernel_ctl(epoll, &fds, op, event),
        State::Stream => {
            ours(epoll, &sock, fds, op, event)?;
            tell_me(&sock);
            Ok(())
        }
        State::Listening => {
            if op != libc::EPOLL_CTL_DEL {
                listen::attach(&sock, fds.fd);
            }
            kernel_ctl(epoll, &fds, op, event)?;
            ours(epoll, &sock, fds, op, event)?;
            hub::wake_all();
            Ok(())
        }
        // Remembered, in case it becomes a lane's.
        State::Undecided => {
            kernel_ctl(epoll, &fds, op, event)?;
            ours(epoll, &sock, fds, op, event)
        }
    }
}

fn ours(epoll: &Epoll, sock: &Handle<Sock>, fds: Move, op: i32, event: Option<epoll_event>) -> Outcome<()> {
    match (op, event) {
        (libc::EPOLL_CTL_ADD, Some(event)) => hub::add(sock.object(), epoll.number(), fds, event),
        (libc::EPOLL_CTL_MOD, Some(event)) => hub::modify(sock, epoll.number(), fds.fd, event),
        (libc::EPOLL_CTL_DEL, _) => hub::remove(sock, epoll.number(), fds.fd),
        (libc::EPOLL_CTL_ADD | libc::EPOLL_CTL_MOD, None) => Err(Errno(libc::EFAULT)),
        _ => Err(Errno(libc::EINVAL)),
    }
}

/// Has events of a lane's connection come here, and wakes who may be waiting for it already.
fn tell_me(sock: &Handle<Sock>) {
    if let Some(seat) = sock.stream()
        && !sock.has(flag::SUBSCRIBED)
    {
        seat.view.subscribe(seat, sock.object());
    }
    hub::wake_all();
}

/// A wait on an epoll instance.
pub(crate) struct EpollWait<'a> {
    /// The instance.
    pub(crate) epoll: &'a Handle<Epoll>,
    /// Its descriptor.
    pub(crate) epfd: i32,
    /// When to give up.
    pub(crate) deadline: Instant,
    /// Signal mask meanwhile, or null.
    pub(crate) mask: *const sigset_t,
}

/// Waits for events and writes them to `out`; gives their number, 0 when time is over.
pub(crate) fn wait(wait: &EpollWait<'_>, out: &mut [epoll_event]) -> Outcome<usize> {
    let kernel = [pollfd { fd: wait.epfd, events: libc::POLLIN, revents: 0 }];
    let mut held = Held::new();
    loop {
        wait.epoll.settle();
        let mut seen = hub::seen();
        let found = poll_once(wait, out, &mut seen)?;
        if found > 0 || (wait.deadline != Instant::NEVER && sys::clock::now() >= wait.deadline) {
            return Ok(found);
        }
        let nested = wait.epoll.nested_count.load(Ordering::Relaxed) != 0;
        let target = if nested { Target::Any } else { Target::Epoll(wait.epoll.number()) };
        let mut sleep = Wait {
            target,
            views: View::in_use(),
            deadline: wait.deadline,
            accepts: hub::listens() && hub::accepts(target),
            mask: wait.mask,
            kernel: &kernel,
            held: &mut held,
        };
        hub::block(&mut sleep, seen)?;
    }
}

/// What is ready now, of lanes and kernel. `seen` becomes what [`hub::seen`] was when we looked, if one lane was all there was to look at.
fn poll_once(wait: &EpollWait<'_>, out: &mut [epoll_event], seen: &mut u64) -> Outcome<usize> {
    let epoll = wait.epoll;
    let views = View::in_use();
    let mut found = 0;
    for view in View::in_mask(views) {
        let Some(room) = out.get_mut(found..) else { break };
        let told = view.step_then(|engine| {
            let told = hub::collect(epoll.number(), view, &mut |name| engine.ready(name), &mut *room);
            (told, told.last)
        });
        if let Some((told, looked)) = told {
            if views.count_ones() == 1 {
                *seen = looked;
            }
            found += told.count;
        }
    }
    for view in View::in_mask(View::poisoned()) {
        let Some(room) = out.get_mut(found..) else { break };
        found += hub::collect(epoll.number(), view, &mut poisoned, room).count;
    }
    // While lanes keep the program busy the kernel's members wait a few rounds, each of which would cost a system call.
    let skip = found > 0 && !epoll.rounds.fetch_add(1, Ordering::Relaxed).is_multiple_of(KERNEL_EVERY);
    if let Some(room) = out.get_mut(found..)
        && !room.is_empty()
        && !skip
        && (epoll.kernel_members.load(Ordering::Relaxed) > 0 || family::has_children())
    {
        let room_len = room.len().min(i32::MAX as usize) as i32;
        // SAFETY: `room` is a live array of that length.
        found +=
            errno::check(unsafe { real::epoll_wait(wait.epfd, room.as_mut_ptr(), room_len, 0) })? as usize;
    }
    Ok(epoll.collect_nested(out, found))
}

fn poisoned(name: SockRef) -> Ready {
    match name.kind() {
        // Connections still come through the kernel.
        Some(SockKind::Listener) => Ready::NONE,
        Some(SockKind::Tcp | SockKind::Udp) | None => Ready::IN | Ready::RDHUP | Ready::ERR | Ready::HUP,
    }
}

/// Has the epoll instance an event of a lane's socket, or an instance in it? Events stay where they are.
pub(crate) fn ready(epoll: &Handle<Epoll>) -> bool {
    epoll.settle();
    let number = epoll.number();
    let mut one = [epoll_event { events: 0, u64: 0 }];
    if epoll.collect_nested(&mut one, 0) > 0 {
        return true;
    }
    View::in_mask(View::in_use()).any(|view| {
        let any = view.step_then(|engine| (hub::peek(number, view, &mut |name| engine.ready(name)), 0));
        any.is_some_and(|(any, _)| any)
    })
}
