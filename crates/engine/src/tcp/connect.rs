//! Active open.

use base::Instant;
use state::{Endpoint, LaneMem, SockRef, TcpOptions};

use crate::errors::ConnectError;
use crate::types::RouteTo;

pub(crate) struct Ends {
    pub(crate) local: Endpoint,
    pub(crate) remote: Endpoint,
}

pub(crate) fn open(
    _mem: &mut LaneMem<'_>,
    _now: Instant,
    ends: &Ends,
    _route: &RouteTo,
    _opts: &TcpOptions,
) -> Result<SockRef, ConnectError> {
    if ends.local.addr.is_any() || ends.remote.addr.is_any() {
        return Err(ConnectError::Invalid);
    }
    Err(ConnectError::NoRoom)
}
