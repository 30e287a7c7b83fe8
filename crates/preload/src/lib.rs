//! `libcorelane_preload.so`: the C library's socket calls for an unmodified program, on the program's own lane.
//!
//! Loaded by `LD_PRELOAD`, its functions come first in symbol search order ([`interpose`]). Each looks the descriptor up in the
//! table of this process ([`table`]): a descriptor that is not ours goes to the next library unchanged. A TCP socket begins as a
//! real kernel socket, which stays behind as its placeholder; `connect` ([`connect`]) and the first wait on a listener
//! ([`listen`]) decide whether a lane carries it, and the reason is kept when the answer is no ([`reason`]).
//!
//! Our own system calls go through rustix, which makes them itself and so never comes back here.
//!
//! What does not work yet, and what happens instead: standard I/O streams on an accelerated descriptor (`fdopen`, or bash's
//! builtins redirected to /dev/tcp) fail, because the C library reads and writes them by a path of its own; a program
//! started by `posix_spawn` finds its inherited connections dead (reads fail with EINVAL or ENOTCONN); a bad pointer faults instead of giving EFAULT; a process that waits on a connection it shares with its
//! parent or child may see data up to 5 ms late; UDP stays with the kernel.
//!
//! Locks, in the order in which one thread may take them: a socket's `inner`, the process's `home`, a lane's gate and the lane lock
//! behind it, the `hub` of waits and interests. None is held while the thread sleeps or while the program's own
//! code runs.
// In unit tests the symbols are not exported, so that the test program keeps its own, and most of this is unreachable.
#![cfg_attr(test, allow(dead_code, unused_imports))]

mod address;
mod adopt;
mod ao;
mod boundary;
mod buffers;
mod calls;
mod cancel;
mod connect;
mod deferred;
mod entrust;
mod epoll;
mod errno;
mod exec;
mod explain;
mod family;
mod fast_open;
mod fork;
mod handlers;
mod home;
mod hub;
mod info;
mod interpose;
mod keys;
mod listen;
mod object;
mod owner;
mod park;
mod pool;
mod ports;
mod reason;
mod signals;
mod sock;
mod stream;
mod sysctl;
mod table;
mod twins;
mod urgent;
mod user;
mod view;
mod waiting;
mod wires;
mod zerocopy;

/// Runs when the library is loaded: finds the functions we stand in front of while no other thread exists.
extern "C" fn loaded() {
    boundary::guard((), || {
        interpose::resolve_all();
        table::reserve_high();
        fork::watch();
        handlers::begin();
        adopt::inherited();
    });
}

/// The dynamic loader calls every function in this section once, before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

/// Runs when the program exits.
extern "C" fn unloaded() {
    fork::at_exit();
}

/// The dynamic loader calls every function in this section after the program's own exit handlers.
#[used]
#[unsafe(link_section = ".fini_array")]
static UNLOADED: extern "C" fn() = unloaded;
