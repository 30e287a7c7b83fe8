//! The relay: carries the TCP of programs that no preload library reaches (static executables, Go, other C libraries).
//!
//! The program runs under a seccomp filter that tells the relay of its calls about TCP sockets, and of no others. For each such socket the relay makes a
//! pair of UNIX stream sockets. One end, the *near* one's peer, is what the program gets as its descriptor: its reads, writes and polls are the kernel's,
//! at full speed. The other, the near end, stays here, beside a *far* socket: an ordinary TCP socket of this process, which itself runs under the preload
//! library, so that it is on a lane whenever it can be. Bytes move between near and far; names, options, connecting and accepting are carried out on far.
//!
//! Invariant: a byte that was read from one side and not yet taken by the other is in that direction's `pending`.
//! Invariant: a UNIX socket is reset for the program (ECONNRESET) by closing the near end while something unread lies in it; so what the program wrote
//! last is read up before an orderly end, and something is left unread at an abrupt one.
//!
//! Left out: urgent data and TCP Fast Open by sendto (EOPNOTSUPP), io_uring (ENOSYS, so that programs use epoll), a second connect(2) on a socket whose
//! first, non-blocking one failed.

mod calls;
mod endpoint;
mod far;
mod front;
mod listening;
mod pump;
mod serve;
mod spawn;
mod target;

use std::ffi::OsString;

use rustix::io::Errno;

pub use spawn::Program;

/// What stood in the way of the relay.
#[derive(Debug)]
pub struct Failure {
    /// What was being done.
    pub what: &'static str,
    /// How it failed.
    pub errno: Errno,
}

impl Failure {
    /// The program was not started because no relay can carry it here; it could run without one.
    #[must_use]
    pub fn cannot_carry(&self) -> bool {
        [spawn::NOTIFICATION, spawn::FETCHING].contains(&self.what)
    }

    pub(crate) fn in_(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self { what, errno }
    }
}

/// Runs `program` with its TCP carried. The calling process waits for the program and ends by the signal that ended it, or gets its exit status from here;
/// a child of it stays until all that the program started is gone and its connections have what was written, and gets the status then.
///
/// # Errors
/// When it could not be started so.
pub fn run(program: &Program) -> Result<u8, Failure> {
    serve::run(program)
}

/// `environment` as the program is to have it: without what brought the library into this process.
#[must_use]
pub fn cleared(environment: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let keeps = |(name, value): (OsString, OsString)| {
        let text = name.to_str().unwrap_or_default();
        if text == "LD_PRELOAD" {
            let others = value.to_str()?.split_once([' ', ':'])?.1;
            return (!others.is_empty()).then(|| (name, OsString::from(others)));
        }
        let ours = ["CORELANE_KEEPER", "CORELANE_TOKEN", "CORELANE_PORT"].contains(&text);
        (!ours).then_some((name, value))
    };
    environment.filter_map(keeps).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_does_not_see_what_brought_the_library_in() {
        let set = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let all = [
            set("LD_PRELOAD", "/ours.so /theirs.so"),
            set("CORELANE_TOKEN", "00"),
            set("HOME", "/root"),
            set("CORELANE_COLOUR", "theirs"),
        ];
        let left = [set("LD_PRELOAD", "/theirs.so"), set("HOME", "/root"), set("CORELANE_COLOUR", "theirs")];
        assert_eq!(cleared(all.into_iter()), left);
        assert_eq!(cleared([set("LD_PRELOAD", "/ours.so")].into_iter()), []);
    }
}
