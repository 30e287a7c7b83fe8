//! Whether the kernel has a connection, and who listens there, by sock_diag(7).

use base::{IpAddress, Port};
use sys::Errno;
use sys::netlink::NetlinkSocket;

use super::codec::{self, Request};
use super::{AF_INET, AF_INET6, ANSWER_MS, Asker};

/// SOCK_DIAG_BY_FAMILY (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
const TCP: u8 = 6;
// States of include/net/tcp_states.h.
const TIME_WAIT: u8 = 6;
const LISTEN: u8 = 10;
/// Offset of the state in an inet_diag_msg.
const STATE: usize = 1;

/// Has the kernel, in this thread's network namespace, a TCP connection between these ends? One in TIME-WAIT does not count: it has nothing to lose.
///
/// # Errors
/// What the socket gives.
pub fn kernel_has_tcp(local: (IpAddress, Port), remote: (IpAddress, Port)) -> Result<bool, Errno> {
    let request = Request::new(BY_FAMILY, codec::REQUEST | codec::ACK).put(&question(local, remote));
    let mut found = false;
    let asked = Asker::over(NetlinkSocket::open_diag(ANSWER_MS)?).ask(request, |message| {
        let state = codec::u8_at(message.body, STATE).filter(|_| message.kind == BY_FAMILY);
        found |= state.is_some_and(|state| !matches!(state, TIME_WAIT | LISTEN));
    });
    match asked {
        Err(Errno::NOENT) => Ok(false),
        other => other.map(|_| found),
    }
}

/// An inet_diag_req_v2 (linux/inet_diag.h).
fn question(local: (IpAddress, Port), remote: (IpAddress, Port)) -> Vec<u8> {
    let family = if local.0.is_v4() { AF_INET } else { AF_INET6 };
    // Nothing besides, any state.
    let mut body = vec![family, TCP, 0, 0, 0xff, 0xff, 0xff, 0xff];
    body.extend(local.1.0.to_be_bytes());
    body.extend(remote.1.0.to_be_bytes());
    for addr in [local.0, remote.0] {
        match addr.as_v4() {
            Some(v4) => {
                body.extend(v4.octets());
                body.extend([0; 12]);
            }
            None => body.extend(addr.0),
        }
    }
    // Any device, any cookie (INET_DIAG_NOCOOKIE).
    body.extend([0; 4]);
    body.extend([0xff; 8]);
    body
}

/// A TCP listener of the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelListener {
    /// Where it listens: [`IpAddress::ANY_V4`] for any IPv4 address, [`IpAddress::ANY`] for any IPv6 one, whether it takes IPv4 or not.
    pub addr: IpAddress,
    /// Its port.
    pub port: Port,
    /// Inode number of the socket (stat(2)).
    pub inode: u64,
}

/// Every TCP listener of the kernel in this thread's network namespace but those bound to a device.
///
/// # Errors
/// What the socket gives.
pub fn tcp_listeners() -> Result<Vec<KernelListener>, Errno> {
    let mut found = Vec::new();
    let mut asker = Asker::over(NetlinkSocket::open_diag(ANSWER_MS)?);
    for family in [AF_INET, AF_INET6] {
        let states = 1_u32 << LISTEN;
        let mut body = vec![family, TCP, 0, 0];
        body.extend(states.to_ne_bytes());
        body.extend([0; ID_BYTES]);
        let request = Request::new(BY_FAMILY, codec::REQUEST | codec::DUMP).put(&body);
        let asked = asker.ask(request, |message| {
            found.extend(Some(message.body).filter(|_| message.kind == BY_FAMILY).and_then(listener));
        });
        match asked {
            // A kernel without the family.
            Err(Errno::NOENT) => {}
            other => drop(other?),
        }
    }
    Ok(found)
}

/// Bytes of an inet_diag_sockid.
const ID_BYTES: usize = 48;

/// Reads an inet_diag_msg (linux/inet_diag.h).
fn listener(body: &[u8]) -> Option<KernelListener> {
    let (sport, source, device, inode) = (4, 8, 40, 68);
    if codec::u32_at(body, device)? != 0 {
        return None;
    }
    let port = Port(u16::from_be(codec::u16_at(body, sport)?));
    let bytes: [u8; 16] = body.get(source..source + 16)?.try_into().ok()?;
    let addr = match codec::u8_at(body, 0)? {
        AF_INET => {
            let [a, b, c, d, ..] = bytes;
            IpAddress::mapped([a, b, c, d].into())
        }
        _ => IpAddress::from_v6(bytes.into()),
    };
    Some(KernelListener { addr, port, inode: codec::u32_at(body, inode)?.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    fn end(name: SocketAddr) -> (IpAddress, Port) {
        let addr = match name {
            SocketAddr::V4(v4) => IpAddress::from_v4(*v4.ip()),
            SocketAddr::V6(v6) => IpAddress::from_v6(*v6.ip()),
        };
        (addr, Port(name.port()))
    }

    #[test]
    fn a_listener_is_found_by_its_inode_number() {
        for name in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            // A machine without IPv6.
            let Ok(listener) = TcpListener::bind(name) else { continue };
            let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
            let (addr, port) = end(listener.local_addr().unwrap());
            let addr = if name == "0.0.0.0:0" { IpAddress::ANY_V4 } else { addr };
            assert!(tcp_listeners().unwrap().contains(&KernelListener { addr, port, inode }), "{name}");
            drop(listener);
            assert!(tcp_listeners().unwrap().iter().all(|other| other.inode != inode));
        }
    }

    #[test]
    fn a_connection_is_found_and_its_listener_is_not_taken_for_one() {
        for name in ["127.0.0.1:0", "[::1]:0"] {
            // A machine without IPv6.
            let Ok(listener) = TcpListener::bind(name) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (here, there) = (end(client.local_addr().unwrap()), end(client.peer_addr().unwrap()));
            assert_eq!(kernel_has_tcp(here, there), Ok(true));
            assert_eq!(kernel_has_tcp(there, here), Ok(true));
            let nobody = (here.0, Port(1));
            assert_eq!(kernel_has_tcp(there, nobody), Ok(false), "the listener");
            assert_eq!(kernel_has_tcp(nobody, there), Ok(false));
        }
    }
}
