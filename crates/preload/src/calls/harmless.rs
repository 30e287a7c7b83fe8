//! Options that a lane's connection need not have.

use core::ffi::c_int;

use super::options::{IP, IPV6, SOCKET, TCP};

/// Options that change nothing for a lane's connection, or only what it does by itself.
pub(super) fn is_harmless(level: c_int, name: c_int) -> bool {
    match level {
        SOCKET => matches!(
            name,
            libc::SO_REUSEADDR
                | libc::SO_REUSEPORT
                | libc::SO_PRIORITY
                | libc::SO_BROADCAST
                | libc::SO_INCOMING_CPU
                | libc::SO_BUSY_POLL
                | libc::SO_PREFER_BUSY_POLL
                | libc::SO_BUSY_POLL_BUDGET
                | libc::SO_NO_CHECK
                | libc::SO_PASSCRED
        ),
        TCP => matches!(
            name,
            libc::TCP_QUICKACK
                | libc::TCP_LINGER2
                | libc::TCP_WINDOW_CLAMP
                | libc::TCP_THIN_LINEAR_TIMEOUTS
                | libc::TCP_THIN_DUPACK
                | libc::TCP_FASTOPEN
                | libc::TCP_FASTOPEN_KEY
        ),
        // Streams carry no control messages of the IP header (ip(7)).
        IP => matches!(
            name,
            libc::IP_BIND_ADDRESS_NO_PORT
                | libc::IP_MTU_DISCOVER
                | libc::IP_FREEBIND
                | libc::IP_PKTINFO
                | libc::IP_RECVTTL
                | libc::IP_RECVTOS
        ),
        IPV6 => matches!(
            name,
            libc::IPV6_MTU_DISCOVER
                | libc::IPV6_RECVPKTINFO
                | libc::IPV6_RECVTCLASS
                | libc::IPV6_RECVHOPLIMIT
        ),
        _ => false,
    }
}
