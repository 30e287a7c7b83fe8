//! Which link leads where, and from which local port.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use base::{IpAddress, MacAddr, Port};
use engine::{Engine, RouteTo};
use state::{Endpoint, SockRef, TcpOptions};

use super::config::{ConnectError, Link, StartError};
use crate::LanePort;

/// One link without its port.
struct Way {
    mac: MacAddr,
    addr: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
    peer: Option<MacAddr>,
}

/// All ways of a lane.
pub(super) struct Routes {
    ways: Vec<Way>,
    first_port: u16,
    ports: u16,
    /// Connections opened so far, from a start that peers do not know (RFC 6056 3.3.5 without the hash: increments of one).
    opened: u16,
}

impl Routes {
    pub(super) fn of(
        links: Vec<Link>,
        local: RangeInclusive<u16>,
    ) -> Result<(Self, Vec<LanePort>), StartError> {
        let (first_port, last) = local.into_inner();
        let ports = last.checked_sub(first_port).filter(|_| first_port > 0).ok_or(StartError::LocalPorts)?;
        let [random, _] = super::memory::secret()?;
        let mut ways = Vec::with_capacity(links.len());
        let mut handles = Vec::with_capacity(links.len());
        for Link { port, mac, addr, prefix, gateway, peer } in links {
            ways.push(Way { mac, addr, prefix, gateway, peer });
            handles.push(LanePort { port, ifindex: 0, mac, wire: None });
        }
        Ok((Self { ways, first_port, ports: ports.saturating_add(1), opened: random as u16 }, handles))
    }

    /// Our address on each link.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddress> {
        self.ways.iter().map(|way| IpAddress::from_v4(way.addr))
    }

    /// Opens a connection to `remote` from the next local port that has none to it.
    pub(super) fn connect(
        &mut self,
        engine: &mut Engine<'_>,
        remote: Endpoint,
        options: &TcpOptions,
    ) -> Result<SockRef, ConnectError> {
        let to = remote.addr.as_v4().ok_or(ConnectError::Invalid)?;
        let (local, route) = self.route(to).ok_or(ConnectError::NoRoute)?;
        for _ in 0..self.ports {
            self.opened = self.opened.wrapping_add(1);
            let port = Port(self.first_port + self.opened % self.ports);
            match engine.tcp_connect(Endpoint { addr: local, port }, remote, &route, options) {
                Ok(sock) => return Ok(sock),
                Err(engine::ConnectError::InUse) => {}
                Err(engine::ConnectError::Invalid) => return Err(ConnectError::Invalid),
                Err(engine::ConnectError::NoRoom) => return Err(ConnectError::NoRoom),
                Err(engine::ConnectError::HostUnreachable) => return Err(ConnectError::HostUnreachable),
            }
        }
        Err(ConnectError::NoPort)
    }

    /// The longest prefix that holds `to`, else the first gateway.
    fn route(&self, to: Ipv4Addr) -> Option<(IpAddress, RouteTo)> {
        let ways = || (0..).zip(&self.ways);
        let near = ways().filter(|(_, way)| way.holds(to)).max_by_key(|(_, way)| way.prefix);
        let far = || ways().find(|(_, way)| way.gateway.is_some());
        let (port, way) = near.or_else(far)?;
        let next_hop = if way.holds(to) { to } else { way.gateway? };
        let route = RouteTo {
            port,
            next_hop: IpAddress::from_v4(next_hop),
            local_mac: way.mac,
            mac: way.peer,
            mtu: 0,
        };
        Some((IpAddress::from_v4(way.addr), route))
    }
}

impl Way {
    fn holds(&self, to: Ipv4Addr) -> bool {
        let differing = u32::from(self.addr) ^ u32::from(to);
        differing.leading_zeros() >= u32::from(self.prefix.min(32))
    }
}

#[cfg(test)]
mod tests {
    use super::{Routes, Way};
    use base::MacAddr;
    use std::net::Ipv4Addr;

    fn way(addr: [u8; 4], prefix: u8, gateway: Option<[u8; 4]>) -> Way {
        let (mac, gateway) = (MacAddr([2; 6]), gateway.map(Ipv4Addr::from));
        Way { mac, addr: Ipv4Addr::from(addr), prefix, gateway, peer: None }
    }

    #[test]
    fn the_longest_prefix_wins_and_the_gateway_has_the_rest() {
        let ways = vec![
            way([10, 0, 0, 1], 8, None),
            way([10, 1, 0, 1], 16, None),
            way([192, 168, 0, 1], 24, Some([192, 168, 0, 254])),
        ];
        let routes = Routes { ways, first_port: 1, ports: 1, opened: 0 };
        let by = |to: [u8; 4]| {
            routes.route(to.into()).map(|(_, r)| (r.port, r.next_hop.as_v4().map(|a| a.octets())))
        };
        assert_eq!(by([10, 1, 2, 3]), Some((1, Some([10, 1, 2, 3]))));
        assert_eq!(by([10, 2, 2, 3]), Some((0, Some([10, 2, 2, 3]))));
        assert_eq!(by([8, 8, 8, 8]), Some((2, Some([192, 168, 0, 254]))));
    }

    #[test]
    fn a_wire_leads_everywhere() {
        let routes = Routes { ways: vec![way([10, 0, 0, 1], 0, None)], first_port: 1, ports: 1, opened: 0 };
        assert!(routes.route(Ipv4Addr::new(198, 18, 0, 1)).is_some());
    }
}
