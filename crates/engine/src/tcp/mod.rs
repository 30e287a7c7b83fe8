//! TCP (RFC 9293).

pub(crate) mod connect;
pub(crate) mod listen;
mod state;
pub(crate) mod verbs;

use ::state::{LaneMem, SockKind, SockRef, TcbHot};
use base::Idx;

pub use state::{Cause, State};

/// The connection `s` names.
pub(crate) fn lookup(mem: &LaneMem<'_>, s: SockRef) -> Option<Idx<TcbHot>> {
    if s.kind() != Some(SockKind::Tcp) {
        return None;
    }
    let at = Idx::new(s.row());
    let hot = mem.hot.get(at)?;
    (hot.generation == s.generation).then_some(at)
}
