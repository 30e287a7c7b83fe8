//! The bodies of the interposed functions, by concern. Each takes what C gives and returns what C expects.

pub(crate) mod bulk;
pub(crate) mod carried;
pub(crate) mod data;
pub(crate) mod direct;
pub(crate) mod epoll;
pub(crate) mod fds;
mod harmless;
pub(crate) mod options;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod select;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod stdio;
