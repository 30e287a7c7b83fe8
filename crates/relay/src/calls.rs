//! The program's calls about its TCP sockets, answered.

use rustix::io::Errno;
use sys::fds::Fd;
use sys::notify::{Call, read_memory, write_memory};

use crate::endpoint::{self, Connecting, Endpoint, Listening, State, Waiting};
use crate::far::{Address, Far};
use crate::listening::{self, Accepted, write_name};
use crate::pump;
use crate::serve::Relay;

/// Longest option value and socket address that are carried.
const VALUE_MAX: usize = 4096;

/// How a call ends.
enum Answer {
    /// With this result.
    Is(Result<i64, Errno>),
    /// As the kernel makes it.
    Kernel,
    /// It was answered, or waits.
    None,
}

impl Relay {
    /// Answers `call`, or sees to it that it is answered later.
    pub(crate) fn call(&mut self, call: Call) {
        let answer = if call.number == libc::SYS_socket { self.socket(&call) } else { self.on_socket(&call) };
        // A thread that was killed or took a signal waits no more.
        let _ = match answer {
            Answer::Is(result) => self.supervisor.answer(call.id, result),
            Answer::Kernel => self.supervisor.go_on(call.id),
            Answer::None => Ok(()),
        };
    }

    fn socket(&mut self, call: &Call) -> Answer {
        let [family, kind, ..] = call.args.map(|arg| arg as i32);
        let made = Far::new(family)
            .and_then(|far| endpoint::new(far, family, kind & libc::SOCK_NONBLOCK != 0))
            .and_then(|(endpoint, theirs)| {
                self.supervisor.answer_with_fd(call.id, &theirs, kind & libc::SOCK_CLOEXEC != 0)?;
                Ok(endpoint)
            });
        match made {
            Ok(endpoint) => {
                self.add(endpoint);
                Answer::None
            }
            Err(errno) => Answer::Is(Err(errno)),
        }
    }

    fn on_socket(&mut self, call: &Call) -> Answer {
        let fd = call.args[0] as i32;
        let slot = crate::target::inode(call.tid, fd).and_then(|inode| self.table.slot_of(inode));
        let Some(slot) = slot else { return Answer::Kernel };
        // What was looked up may have been another thread's descriptor, if this one's was not waiting any more.
        if !self.supervisor.is_waiting(call.id) {
            return Answer::None;
        }
        let Some(endpoint) = self.table.get(slot) else { return Answer::Kernel };
        endpoint.seen = (call.tid, fd);
        match call.number {
            libc::SYS_accept | libc::SYS_accept4 => return self.accept(slot, call),
            libc::SYS_connect => return self.connect(slot, call),
            libc::SYS_listen => return self.listen(slot, call),
            libc::SYS_shutdown => return self.shutdown(slot, call),
            _ => {}
        }
        let Some(endpoint) = self.table.get(slot) else { return Answer::Kernel };
        match call.number {
            libc::SYS_bind => Answer::Is(self.bind(slot, call).map(|()| 0)),
            libc::SYS_getsockname => Answer::Is(name(endpoint, call, true).map(|()| 0)),
            libc::SYS_getpeername => Answer::Is(name(endpoint, call, false).map(|()| 0)),
            libc::SYS_setsockopt => set_option(endpoint, call),
            libc::SYS_getsockopt if is_about_calls(call.args[1] as i32, call.args[2] as i32) => {
                Answer::Kernel
            }
            libc::SYS_getsockopt => Answer::Is(option(endpoint, call).map(|()| 0)),
            // Urgent data and data with the SYN.
            libc::SYS_sendto | libc::SYS_sendmsg => Answer::Is(Err(Errno::OPNOTSUPP)),
            _ => Answer::Kernel,
        }
    }

    /// Does what may fail because a name is in use. Who has it may have been closed by the program a moment ago, which was not looked at yet.
    fn freely<T>(&mut self, act: impl Fn(&mut Self) -> Result<T, Errno>) -> Result<T, Errno> {
        match act(self) {
            Err(Errno::ADDRINUSE) => {
                self.see_all_closed();
                act(self)
            }
            done => done,
        }
    }

    fn bind(&mut self, slot: usize, call: &Call) -> Result<(), Errno> {
        let address = address(call)?;
        self.freely(|relay| {
            let far = relay.table.get(slot).and_then(|endpoint| endpoint.far.as_ref());
            far.ok_or(Errno::INVAL)?.bind(&address)
        })
    }

    fn listen(&mut self, slot: usize, call: &Call) -> Answer {
        let done = self.freely(|relay| {
            let far = relay.table.get(slot).and_then(|endpoint| endpoint.far.as_ref());
            far.ok_or(Errno::INVAL)?.listen(call.args[1] as i32)
        });
        let Some(endpoint) = self.table.get(slot) else { return Answer::Kernel };
        let Some(far) = &endpoint.far else { return Answer::Is(done.map(|()| 0)) };
        let number = far.fd();
        if done.is_ok() && matches!(endpoint.state, State::Fresh) {
            endpoint.state = State::Listening(Listening::default());
            self.watch_far(slot, number);
        }
        Answer::Is(done.map(|()| 0))
    }

    fn accept(&mut self, slot: usize, call: &Call) -> Answer {
        let flags = if call.number == libc::SYS_accept4 { call.args[3] as i32 } else { 0 };
        let waiting = Waiting { id: call.id, tid: call.tid, address: [call.args[1], call.args[2]], flags };
        let Self { table, supervisor, targets, .. } = self;
        let Some(endpoint) = table.get(slot) else { return Answer::Kernel };
        match listening::accept(endpoint, waiting, supervisor, targets) {
            Ok(Accepted::Given(new)) => {
                self.add(*new);
                return Answer::None;
            }
            Ok(Accepted::Answered) => return Answer::None,
            Err(Errno::AGAIN) => {}
            Err(errno) => return Answer::Is(Err(errno)),
        }
        let nonblocking = targets
            .borrow(call.tid, call.args[0] as i32, endpoint.inode)
            .is_none_or(|theirs| is_nonblocking(&theirs));
        let State::Listening(listening) = &mut endpoint.state else { return Answer::Is(Err(Errno::INVAL)) };
        if nonblocking {
            return Answer::Is(Err(Errno::AGAIN));
        }
        listening.waiting.retain(|other| supervisor.is_waiting(other.id));
        listening.waiting.push_back(waiting);
        Answer::None
    }

    fn connect(&mut self, slot: usize, call: &Call) -> Answer {
        let Self { table, targets, .. } = self;
        let Some(endpoint) = table.get(slot) else { return Answer::Kernel };
        let Ok(address) = address(call) else { return Answer::Is(Err(Errno::FAULT)) };
        let Some(far) = &endpoint.far else {
            return Answer::Is(Err(endpoint.error.take().unwrap_or(Errno::CONNABORTED)));
        };
        if std::mem::take(&mut endpoint.unreported) {
            return Answer::Is(Ok(0));
        }
        let theirs = targets.borrow(call.tid, call.args[0] as i32, endpoint.inode);
        let nonblocking = theirs.as_ref().is_none_or(is_nonblocking);
        if let State::Connecting(connecting) = &mut endpoint.state {
            // Made again after a signal, or by who polls by it.
            if nonblocking || connecting.stuffed.is_some() {
                return Answer::Is(Err(Errno::ALREADY));
            }
            connecting.waiting = Some(call.id);
            return Answer::None;
        }
        let number = far.fd();
        match far.connect(&address) {
            Ok(()) if matches!(endpoint.state, State::Fresh) => {
                endpoint.state = State::Streaming;
                self.watch_far(slot, number);
                Answer::Is(Ok(0))
            }
            Err(Errno::INPROGRESS) => {
                let stuffed = if nonblocking { theirs.as_ref().and_then(stuff) } else { None };
                let waiting = (!nonblocking).then_some(call.id);
                endpoint.state = State::Connecting(Connecting { waiting, stuffed });
                self.watch_far(slot, number);
                if nonblocking { Answer::Is(Err(Errno::INPROGRESS)) } else { Answer::None }
            }
            done => Answer::Is(done.map(|()| 0)),
        }
    }

    fn shutdown(&mut self, slot: usize, call: &Call) -> Answer {
        let Self { table, targets, .. } = self;
        let Some(endpoint) = table.get(slot) else { return Answer::Kernel };
        let how = call.args[1] as i32;
        if !(libc::SHUT_RD..=libc::SHUT_RDWR).contains(&how) {
            return Answer::Is(Err(Errno::INVAL));
        }
        match &mut endpoint.state {
            State::Streaming => {
                if how == libc::SHUT_WR
                    && let Some(theirs) = targets.borrow(call.tid, call.args[0] as i32, endpoint.inode)
                {
                    pump::mark_end(endpoint, &theirs);
                }
                // The near end sees it.
                Answer::Kernel
            }
            State::Listening(listening) => {
                for waiting in listening.waiting.drain(..) {
                    let _ = self.supervisor.answer(waiting.id, Err(Errno::INVAL));
                }
                Answer::Is(
                    endpoint.far.as_ref().map_or(Err(Errno::NOTCONN), |far| far.shutdown(how)).map(|()| 0),
                )
            }
            State::Fresh | State::Connecting(_) | State::Ended => Answer::Is(Err(Errno::NOTCONN)),
        }
    }
}

fn is_nonblocking(fd: &Fd) -> bool {
    rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::NONBLOCK))
}

/// Makes the program's socket not writable, by bytes of ours. Gives their number and the size of its buffer, which is made small meanwhile.
fn stuff(theirs: &Fd) -> Option<(usize, usize)> {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::net::{SendFlags, sockopt};
    const PIECES_MAX: usize = 32;
    let size = sockopt::socket_send_buffer_size(theirs).ok()?;
    sockopt::set_socket_send_buffer_size(theirs, 1).ok()?;
    let mut bytes = 0;
    for _ in 0..PIECES_MAX {
        let mut fds = [PollFd::new(theirs, PollFlags::OUT)];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        if !poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0) {
            break;
        }
        bytes += rustix::net::send(theirs, &[0; 512], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).unwrap_or(0);
    }
    // The kernel doubles what it is told, and tells the double.
    Some((bytes, size / 2))
}

/// Undoes [`stuff`]: the program's socket is writable again.
pub(crate) fn unstuff(endpoint: &Endpoint, (bytes, size): (usize, usize), theirs: Option<Fd>) {
    if let Some(theirs) = theirs {
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&theirs, size);
    }
    if let Some(near) = &endpoint.near {
        listening::eat(near, bytes);
    }
}

fn address(call: &Call) -> Result<Address, Errno> {
    let length = usize::try_from(call.args[2] as i32).map_err(|_| Errno::INVAL)?;
    memory(call.tid, call.args[1], length).map(Address)
}

fn memory(tid: u32, at: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length.min(VALUE_MAX)];
    let read = if bytes.is_empty() { 0 } else { read_memory(tid, at, &mut bytes)? };
    if read == bytes.len() { Ok(bytes) } else { Err(Errno::FAULT) }
}

fn name(endpoint: &Endpoint, call: &Call, local: bool) -> Result<(), Errno> {
    let name = match (&endpoint.far, &endpoint.last) {
        (Some(far), _) => if local { far.local() } else { far.peer() }?,
        (None, Some(last)) if local => last.local.clone(),
        (None, Some(last)) if endpoint.error.is_none() => last.peer.clone(),
        (None, _) => return Err(Errno::NOTCONN),
    };
    let at = [call.args[1], call.args[2]];
    if at[0] == 0 {
        return Err(Errno::FAULT);
    }
    write_name(call.tid, at, &name)
}

/// Options about how long the program's own calls wait, and what they are told of, are for the socket it has. That has no notifications (SO_ZEROCOPY: EOPNOTSUPP).
fn is_about_calls(level: i32, name: i32) -> bool {
    const SO_RCVTIMEO_NEW: i32 = 66;
    const SO_SNDTIMEO_NEW: i32 = 67;
    const ALL: [i32; 6] = [
        libc::SO_RCVTIMEO,
        libc::SO_SNDTIMEO,
        SO_RCVTIMEO_NEW,
        SO_SNDTIMEO_NEW,
        libc::SO_RCVLOWAT,
        libc::SO_ZEROCOPY,
    ];
    level == libc::SOL_SOCKET && ALL.contains(&name)
}

fn set_option(endpoint: &Endpoint, call: &Call) -> Answer {
    let [_, level, name, _, length, _] = call.args.map(|arg| arg as i32);
    if is_about_calls(level, name) {
        return Answer::Kernel;
    }
    let set = || {
        let length = usize::try_from(length).map_err(|_| Errno::INVAL)?;
        let value = memory(call.tid, call.args[3], length)?;
        endpoint.far.as_ref().ok_or(Errno::INVAL)?.set_option(level, name, &value)
    };
    Answer::Is(set().map(|()| 0))
}

fn option(endpoint: &mut Endpoint, call: &Call) -> Result<(), Errno> {
    let [_, level, name, ..] = call.args.map(|arg| arg as i32);
    let length = memory(call.tid, call.args[4], 4)?;
    let length = i32::from_ne_bytes(length.try_into().map_err(|_| Errno::FAULT)?);
    let room = usize::try_from(length).map_err(|_| Errno::INVAL)?.min(VALUE_MAX);
    let mut value = vec![0; room];
    let is_error = (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR);
    let used = match (&endpoint.far, is_error) {
        (far, true) => {
            let pending = endpoint.error.take().or_else(|| far.as_ref().and_then(Far::error));
            let number = pending.map_or(0, Errno::raw_os_error).to_ne_bytes();
            let used = room.min(number.len());
            value[..used].copy_from_slice(&number[..used]);
            used
        }
        (Some(far), _) => far.option(level, name, &mut value)?,
        (None, _) => {
            let asked = (level, name) == (libc::IPPROTO_TCP, libc::TCP_INFO);
            let last = endpoint.last.as_ref().filter(|_| asked).ok_or(Errno::INVAL)?;
            let used = room.min(last.info.len());
            value[..used].copy_from_slice(&last.info[..used]);
            used
        }
    };
    write_memory(call.tid, call.args[3], value.get(..used).unwrap_or_default())?;
    write_memory(call.tid, call.args[4], &(used as u32).to_ne_bytes())
}
