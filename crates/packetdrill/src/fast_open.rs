//! TCP Fast Open (RFC 7413) as programs see it: TCP_FASTOPEN and its relatives, and MSG_FASTOPEN. What it does is the engine's.

use state::Endpoint;

use crate::conn;
use crate::errno::{AGAIN, Errno, Outcome};
use crate::fds::Role;
use crate::machine::Machine;
use crate::world::Attempt;

/// Bytes of a key.
const KEY_BYTES: usize = 16;

/// What a program set of fast open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FastOpen {
    /// TCP_FASTOPEN: connections before their handshakes are complete.
    pub(crate) max: u32,
    /// TCP_FASTOPEN_KEY: the first makes cookies, both are taken.
    keys: Vec<[u8; KEY_BYTES]>,
    /// TCP_FASTOPEN_CONNECT.
    pub(crate) connect: bool,
}

impl FastOpen {
    /// TCP_FASTOPEN_KEY: one key or two.
    pub(crate) fn set_keys(&mut self, value: &[u8]) -> Outcome<()> {
        let (keys, rest) = value.as_chunks::<KEY_BYTES>();
        if !rest.is_empty() || !(1..=2).contains(&keys.len()) {
            return Err(Errno(libc::EINVAL));
        }
        self.keys = keys.to_vec();
        Ok(())
    }

    /// The keys as TCP_FASTOPEN_KEY gives them.
    pub(crate) fn keys(&self) -> Vec<u8> {
        self.keys.concat()
    }
}

/// Tells the engine of what is set of listener `fd`.
pub(crate) fn tell(machine: &mut Machine, fd: i32) -> Outcome<()> {
    let sock = conn::tcp(machine, fd)?;
    let Role::Listener(name) = sock.role else { return Ok(()) };
    let fast = sock.fast.clone();
    machine.stack.with(|engine| engine.tcp_set_fast_open(name, fast.max, &fast.keys)).map(|_| ())
}

/// `sendto` with MSG_FASTOPEN on a socket that is not connected: connects, with as much of `data` in the SYN as fits if there is a cookie.
pub(crate) fn send(
    machine: &mut Machine,
    fd: i32,
    data: &[u8],
    flags: i32,
    to: Option<Endpoint>,
    done: &mut usize,
) -> Attempt<usize> {
    let Some(to) = to else { return Attempt::Done(Err(Errno(libc::EINVAL))) };
    match conn::begin(machine, fd, to, true) {
        Err(errno) => Attempt::Done(Err(errno)),
        Ok(_) => match conn::send(machine, fd, data, flags, done) {
            // The SYN asks for a cookie, and the data wait for the answer.
            Attempt::Done(Err(AGAIN)) => Attempt::Done(Err(Errno(libc::EINPROGRESS))),
            other => other,
        },
    }
}
