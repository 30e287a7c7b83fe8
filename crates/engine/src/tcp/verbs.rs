//! What programs do with connections.

use base::Instant;
use state::{Endpoint, LaneMem, Ready, SockRef, TcpOptions};

use crate::errors::{RecvError, SendError, ShutdownError, SockError};
use crate::types::{How, TcpInfo};

pub(crate) fn ready(_mem: &LaneMem<'_>, _s: SockRef) -> Ready {
    Ready::ERR | Ready::HUP
}

pub(crate) fn take_error(_mem: &mut LaneMem<'_>, _s: SockRef) -> Option<SockError> {
    None
}

pub(crate) fn send(
    _mem: &mut LaneMem<'_>,
    _now: Instant,
    _s: SockRef,
    _data: &[u8],
    _more: bool,
) -> Result<usize, SendError> {
    Err(SendError::Gone)
}

pub(crate) fn recv(
    _mem: &mut LaneMem<'_>,
    _now: Instant,
    _s: SockRef,
    _buf: &mut [u8],
    _peek: bool,
) -> Result<usize, RecvError> {
    Err(RecvError::Gone)
}

pub(crate) fn peek_at(
    _mem: &LaneMem<'_>,
    _s: SockRef,
    _skip: usize,
    _buf: &mut [u8],
) -> Result<usize, RecvError> {
    Err(RecvError::Gone)
}

pub(crate) fn skip(
    _mem: &mut LaneMem<'_>,
    _now: Instant,
    _s: SockRef,
    _len: usize,
) -> Result<usize, RecvError> {
    Err(RecvError::Gone)
}

pub(crate) fn shutdown(
    _mem: &mut LaneMem<'_>,
    _now: Instant,
    _s: SockRef,
    _how: How,
) -> Result<(), ShutdownError> {
    Err(ShutdownError::Gone)
}

pub(crate) fn close(_mem: &mut LaneMem<'_>, _now: Instant, _s: SockRef) {}

pub(crate) fn abort(_mem: &mut LaneMem<'_>, _now: Instant, _s: SockRef) {}

pub(crate) fn set_options(_mem: &mut LaneMem<'_>, _now: Instant, _s: SockRef, _opts: &TcpOptions) -> bool {
    false
}

pub(crate) fn options(_mem: &LaneMem<'_>, _s: SockRef) -> Option<TcpOptions> {
    None
}

pub(crate) fn names(_mem: &LaneMem<'_>, _s: SockRef) -> Option<(Endpoint, Endpoint)> {
    None
}

pub(crate) fn info(_mem: &LaneMem<'_>, _s: SockRef) -> Option<TcpInfo> {
    None
}
