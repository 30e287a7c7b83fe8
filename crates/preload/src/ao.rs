//! Keys of TCP-AO (RFC 5925): TCP_AO_ADD_KEY, TCP_AO_DEL_KEY, TCP_AO_INFO and TCP_AO_GET_KEYS of linux/tcp.h.
//!
//! Where the kernel has TCP-AO, its socket has each key too, checks what the program gives, and carries what a lane cannot. Where it has not, such a
//! socket is for lanes only: its kernel socket takes no segment (a filter drops all), and a connect that no lane can do fails. So nothing that was to be
//! signed is ever carried unsigned. What a lane has not, other algorithms and keys for one virtual routing domain, is the kernel's, or an error
//! where that has it not either.

mod layout;

use core::ffi::{c_int, c_void};

use base::IpAddress;
use engine::{AoAlgorithm, AoKey, AoKeyState, AoSocket, Engine, KeyPeer};
use libc::{sock_filter, sock_fprog, socklen_t};
use state::SockRef;

use crate::address::Named;
use crate::errno::{self, Errno, Outcome};
use crate::interpose::{plain, real};
use crate::keys::errno_of;
use crate::object::Handle;
use crate::sock::{Inner, Seat, Sock, State, flag};
use crate::{home, keys, stream, user};
use layout::{Command, INFO_BYTES, Refusal, Select, Which};

/// TCP_AO_ADD_KEY, TCP_AO_DEL_KEY, TCP_AO_INFO, TCP_AO_GET_KEYS and TCP_AO_REPAIR.
const ADD: c_int = 38;
const DEL: c_int = 39;
const INFO: c_int = 40;
const GET: c_int = 41;
const REPAIR: c_int = 42;

/// One key of a socket.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Key {
    which: Which,
    algorithm: AoAlgorithm,
    mac_len: u8,
    covers_options: bool,
    bytes: Vec<u8>,
}

impl Key {
    fn for_engine(&self) -> AoKey<'_> {
        AoKey {
            peer: self.which.peer,
            send_id: self.which.send_id,
            recv_id: self.which.recv_id,
            algorithm: self.algorithm,
            mac_len: self.mac_len,
            covers_options: self.covers_options,
            key: &self.bytes,
        }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.bytes.fill(0);
    }
}

/// What a socket has of TCP-AO before it is a lane's stream.
#[derive(Clone, Default)]
pub(crate) struct Ao {
    /// The oldest first.
    keys: Vec<Key>,
    told: AoSocket,
    /// The kernel has no TCP-AO.
    lanes_only: bool,
}

/// Is it one of the options of TCP-AO?
pub(crate) const fn is_option(level: c_int, name: c_int) -> bool {
    level == libc::IPPROTO_TCP && matches!(name, ADD..=REPAIR)
}

fn overlap(a: KeyPeer, b: KeyPeer) -> bool {
    a.covers(b.addr) || b.covers(a.addr)
}

impl Ao {
    fn has(&self, wanted: impl Fn(&Which) -> bool) -> bool {
        self.keys.iter().any(|key| wanted(&key.which))
    }

    /// Does what the program wants, with the kernel's errors.
    fn take(&mut self, command: &Command, listens: bool) -> Outcome<()> {
        let is = |ok: bool, errno: c_int| if ok { Ok(()) } else { Err(Errno(errno)) };
        is(!listens || !command.chooses(), libc::EINVAL)?;
        let known = |ao: &Self, current: Option<u8>, next: Option<u8>| {
            let found = current.is_none_or(|id| ao.has(|key| key.send_id == id))
                && next.is_none_or(|id| ao.has(|key| key.recv_id == id));
            is(found, libc::ENOENT)
        };
        match command {
            Command::Add { key, current, next } => {
                let which = key.which;
                let clashes = |old: &Which| {
                    overlap(old.peer, which.peer)
                        && (old.send_id == which.send_id || old.recv_id == which.recv_id)
                };
                is(!self.has(clashes), libc::EEXIST)?;
                self.keys.push(key.clone());
                self.choose(current.then_some(which.send_id), next.then_some(which.recv_id));
            }
            Command::Remove { which, current, next, at_listener } => {
                known(self, *current, *next)?;
                is(listens || !*at_listener, libc::EINVAL)?;
                is(self.has(|key| key == which), libc::ENOENT)?;
                self.choose(*current, *next);
                let used = self.told.current == Some(which.send_id) || self.told.next == Some(which.recv_id);
                is(!used, libc::EBUSY)?;
                self.keys.retain(|key| key.which != *which);
            }
            Command::Tell { current, next, required, hears_icmp, counters } => {
                known(self, *current, *next)?;
                self.choose(*current, *next);
                (self.told.required, self.told.hears_icmp) = (*required, *hears_icmp);
                self.told.counters = counters.unwrap_or(self.told.counters);
            }
        }
        Ok(())
    }

    fn choose(&mut self, current: Option<u8>, next: Option<u8>) {
        self.told.current = current.or(self.told.current);
        self.told.next = next.or(self.told.next);
    }
}

/// Does a key of TCP-AO that `inner` has forbid one of MD5 for `peer`?
pub(crate) fn forbids_md5(inner: &Inner, peer: KeyPeer) -> bool {
    inner.ao.as_ref().is_some_and(|ao| ao.told.required || ao.has(|key| overlap(key.peer, peer)))
}

/// Is the socket for lanes only?
pub(crate) fn is_for_lanes_only(inner: &Inner) -> bool {
    inner.ao.as_ref().is_some_and(|ao| ao.lanes_only)
}

/// What `connect` to `named` is answered before it is tried: as the kernel, nobody without a key is connected to by a socket that has some.
pub(crate) fn refusal(sock: &Sock, named: &Named) -> Option<Errno> {
    let inner = sock.inner();
    let ao = inner.ao.as_ref()?;
    let (Named::V4(end) | Named::V6(end, _)) = named else { return None };
    let known = ao.has(|key| key.peer.covers(end.addr));
    (!known).then_some(Errno(libc::EKEYREJECTED))
}

/// Gives `name`, just made, what `inner` has: a listener every key, a connection to `remote` those for it, of which the youngest is in use if the
/// program has chosen no other. False: there was no room.
pub(crate) fn give_all(
    engine: &mut Engine<'_>,
    name: SockRef,
    inner: &Inner,
    remote: Option<IpAddress>,
) -> bool {
    let Some(ao) = &inner.ao else { return true };
    let is_wanted = |key: &&Key| remote.is_none_or(|addr| key.which.peer.covers(addr));
    let wanted = || ao.keys.iter().filter(is_wanted);
    if !wanted().all(|key| engine.tcp_add_ao_key(name, &key.for_engine()).is_ok()) {
        return false;
    }
    if let Some(youngest) = wanted().next_back().filter(|_| remote.is_some()) {
        let current = ao.told.current.filter(|id| wanted().any(|key| key.which.send_id == *id));
        let next = ao.told.next.filter(|id| wanted().any(|key| key.which.recv_id == *id));
        let current = current.unwrap_or(youngest.which.send_id);
        let next = next.unwrap_or(youngest.which.recv_id);
        if engine.tcp_use_ao_keys(name, Some(current), Some(next)).is_err() {
            return false;
        }
    }
    let told = &ao.told;
    engine.tcp_set_ao(name, told.required, told.hears_icmp, Some(told.counters)).is_ok()
}

/// Does `command` for listener or connection `name`.
fn set(engine: &mut Engine<'_>, name: SockRef, command: &Command) -> Outcome<()> {
    let choose = |engine: &mut Engine<'_>, current: Option<u8>, next: Option<u8>| {
        if current.is_none() && next.is_none() {
            return Ok(());
        }
        engine.tcp_use_ao_keys(name, current, next)
    };
    let done = match command {
        Command::Add { key, current, next } => {
            engine.tcp_add_ao_key(name, &key.for_engine()).and_then(|()| {
                choose(engine, current.then_some(key.which.send_id), next.then_some(key.which.recv_id))
            })
        }
        Command::Remove { which, current, next, .. } => choose(engine, *current, *next)
            .and_then(|()| engine.tcp_remove_ao_key(name, which.peer, which.send_id, which.recv_id)),
        Command::Tell { current, next, required, hears_icmp, counters } => choose(engine, *current, *next)
            .and_then(|()| engine.tcp_set_ao(name, *required, *hears_icmp, *counters)),
    };
    done.map_err(errno_of)
}

/// An option for a connection of a lane.
pub(crate) fn set_on_stream(sock: &Handle<Sock>, seat: Seat, name: c_int, value: &[u8]) -> Outcome<()> {
    if name == REPAIR {
        return Err(Errno(libc::EPERM));
    }
    if stream::with(sock, seat, |engine| engine.tcp_ao(seat.name))?.is_none() {
        return Err(Errno(libc::EISCONN));
    }
    let command = match layout::parse(sock.has(flag::V6), name, value) {
        Ok(command) => command,
        Err(Refusal::Wrong(errno) | Refusal::Foreign(errno)) => return Err(errno),
    };
    let remote = sock.inner().remote.addr;
    match &command {
        Command::Add { key, .. } if !key.which.peer.covers(remote) => return Err(Errno(libc::EINVAL)),
        Command::Remove { at_listener: true, .. } => return Err(Errno(libc::EINVAL)),
        Command::Add { .. } | Command::Remove { .. } | Command::Tell { .. } => {}
    }
    stream::with(sock, seat, |engine| set(engine, seat.name, &command))?
}

/// An option for a socket that is no stream yet. `by_kernel` is what the kernel said to it: the socket's listeners on lanes, or the connection
/// that it will be, do as it did; or, if it does not know TCP-AO, as it would.
pub(crate) fn set_before(
    sock: &Handle<Sock>,
    fd: c_int,
    name: c_int,
    value: &[u8],
    by_kernel: Outcome<()>,
) -> Outcome<()> {
    let lanes_only = by_kernel == Err(Errno(libc::ENOPROTOOPT)) && home::active();
    if !lanes_only {
        by_kernel?;
    }
    match (name, lanes_only) {
        (REPAIR | GET, false) => return Ok(()),
        (REPAIR, true) => return Err(Errno(libc::EPERM)),
        (GET, true) => return Err(Errno(libc::ENOPROTOOPT)),
        _ => {}
    }
    let seats = [sock.seat.get(), sock.older.get()];
    let command = match layout::parse(sock.has(flag::V6), name, value) {
        Ok(command) => command,
        // The kernel has it, and the connection shall be the kernel's; or the lane's listener goes on without, and says so.
        Err(Refusal::Foreign(_)) if !lanes_only && seats.iter().all(Option::is_none) => {
            sock.inner().foreign_option = true;
            return Ok(());
        }
        Err(Refusal::Wrong(_)) if !lanes_only => return Ok(()),
        Err(Refusal::Wrong(errno) | Refusal::Foreign(errno)) => return Err(errno),
    };
    let mut ao = {
        let inner = sock.inner();
        check_md5(&inner, &command)?;
        match (&inner.ao, &command) {
            (None, Command::Remove { .. }) => return Err(Errno(libc::ENOENT)),
            (None, _) => Ao { lanes_only, ..Ao::default() },
            (Some(ao), _) => (**ao).clone(),
        }
    };
    ao.take(&command, sock.state() == State::Listening)?;
    if lanes_only {
        take_nothing(fd)?;
    }
    for seat in seats.into_iter().flatten() {
        stream::with(sock, seat, |engine| set(engine, seat.name, &command))??;
    }
    sock.inner().ao = Some(Box::new(ao));
    keys::mark(fd);
    Ok(())
}

/// A peer has keys of one kind, as in Linux.
fn check_md5(inner: &Inner, command: &Command) -> Outcome<()> {
    let clashes = match command {
        Command::Add { key, .. } => keys::any(inner, |peer| overlap(peer, key.which.peer)),
        Command::Tell { required, .. } => *required && keys::any(inner, |_| true),
        Command::Remove { .. } => false,
    };
    if clashes { Err(Errno(libc::EKEYREJECTED)) } else { Ok(()) }
}

/// The kernel's socket drops every segment from now on: it could only take them unsigned.
fn take_nothing(fd: c_int) -> Outcome<()> {
    let mut drop_all = sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let program = sock_fprog { len: 1, filter: &raw mut drop_all };
    let at = (&raw const program).cast::<c_void>();
    let len = size_of::<sock_fprog>() as socklen_t;
    // SAFETY: a live program of one instruction, which the kernel copies.
    let done = unsafe { real::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, at, len) };
    // EPERM: it is there and locked.
    if done != 0 && errno::last() != Errno(libc::EPERM) {
        return Err(errno::last());
    }
    let on: c_int = 1;
    // SAFETY: one live int.
    unsafe { real::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, (&raw const on).cast(), 4) };
    Ok(())
}

/// `getsockopt` of an option of TCP-AO.
///
/// # Safety
/// `value` and `len` are as for `getsockopt`.
pub(crate) unsafe fn get(
    sock: &Handle<Sock>,
    fd: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    let stream = sock.stream();
    let has = sock.inner().ao.is_some();
    if stream.is_none() && !has {
        // SAFETY: the caller's promise.
        let result = unsafe { plain::getsockopt(fd, libc::IPPROTO_TCP, name, value, len) };
        let ours = result != 0 && errno::last() == Errno(libc::ENOPROTOOPT) && home::active();
        if !ours || matches!(sock.state(), State::Kernel) {
            return result;
        }
    }
    let done = match name {
        // SAFETY: the caller's promise.
        INFO => unsafe { get_info(sock, stream, value, len) },
        // SAFETY: the caller's promise.
        GET => unsafe { get_keys(sock, stream, value, len) },
        REPAIR => Err(Errno(libc::EPERM)),
        _ => Err(Errno(libc::ENOPROTOOPT)),
    };
    errno::small(done.map(|()| 0))
}

/// What the socket says of itself. `None`: it does not use TCP-AO.
fn told(sock: &Handle<Sock>, stream: Option<Seat>) -> Outcome<Option<AoSocket>> {
    match stream.or(sock.seat.get()) {
        Some(seat) => stream::with(sock, seat, |engine| engine.tcp_ao(seat.name)),
        None => Ok(sock.inner().ao.as_ref().map(|ao| ao.told)),
    }
}

/// The bytes that the program has at `value`.
///
/// # Safety
/// As for [`get`].
unsafe fn given<'a>(value: *mut c_void, len: *mut socklen_t) -> Outcome<&'a [u8]> {
    // SAFETY: the caller's promise.
    let len = unsafe { user::load(len) }.ok_or(Errno(libc::EFAULT))?;
    if len == 0 || c_int::try_from(len).is_err() {
        return Err(Errno(libc::EINVAL));
    }
    if value.is_null() {
        return Err(Errno(libc::EFAULT));
    }
    // SAFETY: the caller's promise: so many bytes are there.
    Ok(unsafe { user::slice(value.cast::<u8>().cast_const(), len as usize) })
}

/// # Safety
/// As for [`get`].
unsafe fn get_info(
    sock: &Handle<Sock>,
    stream: Option<Seat>,
    value: *mut c_void,
    len: *mut socklen_t,
) -> Outcome<()> {
    // SAFETY: the caller's promise.
    let given = unsafe { given(value, len) }?;
    let room = given.len();
    layout::check_info(given)?;
    let told = told(sock, stream)?.ok_or(Errno(libc::ENOENT))?;
    let bytes: [u8; INFO_BYTES] = layout::info(&told);
    // SAFETY: `room` bytes are there.
    unsafe { user::fill(value.cast(), room, &bytes) };
    Ok(())
}

/// # Safety
/// As for [`get`]; and there is room for as many structures as the first says.
unsafe fn get_keys(
    sock: &Handle<Sock>,
    stream: Option<Seat>,
    value: *mut c_void,
    len: *mut socklen_t,
) -> Outcome<()> {
    // SAFETY: the caller's promise.
    let given = unsafe { given(value, len) }?;
    let size = given.len();
    if told(sock, stream)?.is_none() {
        return Err(Errno(libc::ENOENT));
    }
    let select = Select::parse(given)?;
    let mut found = Vec::new();
    let mut take = |key: &AoKeyState<'_>| {
        if select.takes(key) {
            found.push(layout::key(key));
        }
    };
    match stream.or(sock.seat.get()) {
        Some(seat) => stream::with(sock, seat, |engine| engine.tcp_each_ao_key(seat.name, &mut take))?,
        None => each_before(&sock.inner(), take),
    }
    let count = found.len() as u32;
    for (n, mut bytes) in found.into_iter().take(select.room).enumerate() {
        let at = value.cast::<u8>().wrapping_add(n * size);
        // SAFETY: the caller's promise: there are so many places of that size.
        unsafe { user::fill(at, size, &bytes) };
        bytes.fill(0);
    }
    if size >= layout::COUNT_AT + 4 {
        let at = value.cast::<u8>().wrapping_add(layout::COUNT_AT);
        // SAFETY: inside the first structure.
        unsafe { user::fill(at, 4, &count.to_ne_bytes()) };
    }
    // SAFETY: the caller's promise.
    unsafe { user::store(len, layout::GET_BYTES as socklen_t) };
    Ok(())
}

/// The keys of a socket that is not on a lane, the youngest first.
fn each_before(inner: &Inner, mut take: impl FnMut(&AoKeyState<'_>)) {
    let Some(ao) = &inner.ao else { return };
    for key in ao.keys.iter().rev() {
        let is_current = ao.told.current == Some(key.which.send_id);
        let is_next = ao.told.next == Some(key.which.recv_id);
        take(&AoKeyState { key: key.for_engine(), is_current, is_next, good: 0, bad: 0 });
    }
}
