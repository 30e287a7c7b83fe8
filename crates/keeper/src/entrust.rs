//! Connections of lanes that the kernel is to go on with.
//!
//! The order is what keeps the connection: the kernel's socket is whole before a segment of it comes to the kernel, and says nothing before; its lane is
//! locked, and takes nothing any more.

use std::net::IpAddr;

use base::IpAddress;
use control::proto::{Proto, Rule, Stopped};
use control::steer::{Flow, LocalEnd};
use rustix::io::Errno;
use sys::fds::Fd;
use sys::repair::{self, Repaired};

use crate::client::Refusal;
use crate::rules::steer_lane;
use crate::session::{ClientId, RegionId, Session};

/// Bytes that one connection may have in its queues.
const BYTES_MAX: u64 = 32 << 20;

impl Session {
    /// Has the kernel go on with a connection, whose bytes are in `fds`; gives its socket.
    pub(crate) fn entrust(
        &mut self,
        id: ClientId,
        rule: &Rule,
        stopped: &Stopped,
        fds: &[Fd],
    ) -> Result<Fd, Refusal> {
        let flow = self.flow_to_entrust(id, rule, stopped)?;
        let end = |ip: IpAddress, port| {
            let ip = ip.as_v4().map_or(IpAddr::V6(ip.as_v6()), IpAddr::V4);
            repair::address(ip, port, stopped.v6, stopped.scope)
        };
        let words = repair::Stopped {
            local: end(rule.addr, rule.port.0),
            remote: end(stopped.remote, stopped.remote_port.0),
            snd_una: stopped.snd_una,
            rcv_nxt: stopped.rcv_nxt,
            unread_bytes: stopped.unread_bytes,
            unacked_bytes: stopped.unacked_bytes,
            unsent_bytes: stopped.unsent_bytes,
            snd_wl1: stopped.snd_wl1,
            snd_wnd: stopped.snd_wnd,
            snd_wnd_max: stopped.snd_wnd_max,
            rcv_wnd: stopped.rcv_wnd,
            mss: stopped.mss,
            scales: stopped.scales,
            sack: stopped.sack,
            timestamp: stopped.timestamp,
        };
        let read = |buffer: &mut [u8], at: u64| {
            let memory = fds.first().ok_or(Errno::NODATA)?;
            rustix::io::pread(memory, buffer, at)
        };
        let failed =
            |errno: Errno| Refusal::new(errno, format!("the kernel does not take the connection: {errno}"));
        let made = Repaired::make(&words, read).map_err(failed)?;
        if stopped.fin_received {
            made.close_for_peer(&words).map_err(failed)?;
        }
        let steering = self.devices.steering().ok_or_else(not_the_kernels)?;
        steering.entrust(flow).map_err(|e| Refusal::new(Errno::NOBUFS, e.to_string()))?;
        self.unsettle();
        made.release(&words, stopped.fin_sent, read).map_err(failed)
    }

    /// The connection, if the process may speak for it and the kernel can have it.
    fn flow_to_entrust(&mut self, id: ClientId, rule: &Rule, stopped: &Stopped) -> Result<Flow, Refusal> {
        let refused = |text: &str| Refusal::new(Errno::ACCESS, text);
        let bytes = [stopped.unread_bytes, stopped.unacked_bytes, stopped.unsent_bytes].map(u64::from);
        if bytes.into_iter().sum::<u64>() > BYTES_MAX {
            return Err(Refusal::new(Errno::NOBUFS, "entrust: the connection holds too many bytes"));
        }
        let region = self.region_of_family(id, RegionId(rule.region));
        let region = region.ok_or_else(|| refused("entrust: the region is another user's"))?;
        let lanes: Vec<_> = region.lanes.values().filter_map(|lane| steer_lane(lane.slot).ok()).collect();
        let local = LocalEnd { proto: Proto::Tcp, addr: rule.addr, port: rule.port };
        let flow = Flow { local, remote: stopped.remote, remote_port: stopped.remote_port };
        if rule.proto != Proto::Tcp || self.mirror.is_own(rule.addr) {
            return Err(not_the_kernels());
        }
        let steering = self.devices.steering().ok_or_else(not_the_kernels)?;
        let theirs = steering.may_be_of(&flow, |lane| lanes.contains(&lane));
        if theirs {
            Ok(flow)
        } else {
            Err(refused("entrust: the connection is not one of the region's lanes"))
        }
    }
}

fn not_the_kernels() -> Refusal {
    Refusal::new(Errno::ADDRNOTAVAIL, "entrust: the address is the lane's alone; the kernel has no way to it")
}
