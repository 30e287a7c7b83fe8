//! System calls and kernel structures behind small safe functions; errors are [`Errno`].
//!
//! Invariant: nothing here calls a libc function that a preloaded library may interpose (`read`, `close`, `poll`,
//! `socket`, ...). System calls go through rustix's linux_raw back-end or [`raw`]; of libc only constants and struct
//! layouts are used. So the preload library can use all of it without re-entering itself. For the same reason file
//! descriptors are owned by [`fds::Fd`], not by `std::os::fd::OwnedFd`, whose drop calls libc's `close`. Left out of this:
//! [`launch`], [`namespace`] and [`signals`], which only programs of our own use.

pub mod affinity;
pub mod bpf;
pub mod caller;
pub mod clock;
pub mod fast_open;
pub mod fds;
pub mod futex;
pub mod image;
pub mod kernel;
pub mod launch;
pub mod links;
pub mod md5;
pub mod memif;
pub mod memory;
pub mod messages;
pub mod namespace;
pub mod netlink;
pub mod notify;
pub mod owner;
pub mod pacing;
pub mod packet;
pub mod packet_ring;
pub mod poll;
pub mod process;
pub mod raw;
pub mod repair;
pub mod reports;
pub mod rss;
pub mod sandbox;
mod seccomp;
pub mod signals;
mod sockopt;
pub mod tun;
pub mod urgent;
pub mod window;
pub mod xsk;

pub use rustix::io::Errno;

/// What every call here gives.
pub type Result<T> = core::result::Result<T, Errno>;
