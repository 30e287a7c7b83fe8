//! The verbs of UDP programs.

use base::IpAddress;
use state::{Endpoint, SockRef};

use crate::engine::Engine;
use crate::types::RouteTo;
use crate::udp_types::{
    Datagram, UdpBindError, UdpConnectError, UdpOptions, UdpRecvError, UdpSendError, UdpTo,
};
use crate::{arp, nd, udp, udp_recv, udp_send};

impl Engine<'_> {
    /// Opens a socket at `local`: the port given, any address allowed.
    ///
    /// # Errors
    /// [`UdpBindError`].
    pub fn udp_bind(&mut self, local: Endpoint, opts: &UdpOptions) -> Result<SockRef, UdpBindError> {
        udp::bind(&mut self.mem, local, opts)
    }

    /// Fixes the remote end and the own address `local`: only datagrams from there are taken from now on.
    ///
    /// # Errors
    /// [`UdpConnectError`].
    pub fn udp_connect(
        &mut self,
        s: SockRef,
        local: IpAddress,
        remote: Endpoint,
        route: &RouteTo,
    ) -> Result<(), UdpConnectError> {
        udp::connect(&mut self.mem, self.now, s, (local, remote), route)
    }

    /// Takes the remote end away again; `local` is the address the socket was bound to. False: no such socket.
    pub fn udp_disconnect(&mut self, s: SockRef, local: IpAddress) -> bool {
        udp::disconnect(&mut self.mem, s, local)
    }

    /// Sends `data` to `to`; `None`: to the remote end of a connected socket. It goes as one datagram, or as several of the length that the socket's
    /// options name ([`UdpOptions::segment`]): then fewer bytes than `data` has may have gone, if frames ran out.
    ///
    /// # Errors
    /// [`UdpSendError`].
    pub fn udp_send_to(
        &mut self,
        s: SockRef,
        data: &[u8],
        to: Option<&UdpTo>,
    ) -> Result<usize, UdpSendError> {
        udp_send::send(&mut self.mem, self.now, s, data, to)
    }

    /// Copies the oldest datagram, or several that were merged, to `buf`; what does not fit is thrown away. `peek` leaves it in the queue.
    ///
    /// # Errors
    /// [`UdpRecvError`].
    pub fn udp_recv_from(
        &mut self,
        s: SockRef,
        buf: &mut [u8],
        peek: bool,
    ) -> Result<Datagram, UdpRecvError> {
        udp_recv::recv(&mut self.mem, s, buf, peek)
    }

    /// Payload bytes of the oldest unread datagram (FIONREAD); `None`: there is none.
    #[must_use]
    pub fn udp_next_len(&self, s: SockRef) -> Option<u32> {
        udp_recv::next_len(&self.mem, s)
    }

    /// Replaces the options. False: no such socket.
    pub fn set_udp_options(&mut self, s: SockRef, opts: &UdpOptions) -> bool {
        udp::set_options(&mut self.mem, s, opts)
    }

    /// The options.
    #[must_use]
    pub fn udp_options(&self, s: SockRef) -> Option<UdpOptions> {
        udp::options(&self.mem, s)
    }

    /// Tells the link of `port` by ARP and neighbour discovery that its addresses are ours: for a port whose addresses belong to Corelane alone,
    /// once it is up (RFC 5227 2.3, RFC 4861 7.2.6).
    pub fn announce_addresses(&mut self, port: u8) {
        let Some(info) = crate::ipv4::port_info(&self.mem, port) else { return };
        let (addrs, count) = (info.addrs, info.addr_count as usize);
        for addr in addrs.iter().take(count) {
            match addr.as_v4() {
                Some(addr) => arp::announce(&mut self.mem, port, addr),
                None => nd::announce(&mut self.mem, port, addr.as_v6()),
            }
        }
    }
}
