//! Datagrams and their echoes.

use base::{Duration, Instant, Port};
use engine::{Engine, UdpOptions, UdpRecvError, UdpSendError, UdpTo};
use state::{Endpoint, SockRef};

use crate::host::route;
use crate::ip::{address, host_of};
use crate::pattern;
use crate::scenario::Scenario;

/// The port of every host's echo server.
pub(crate) const ECHO_PORT: Port = Port(7);
/// Bytes in front of a datagram's pattern: number of the plan, number of the datagram.
const HEADER: usize = 8;
/// How long a client waits for the last echo.
const PATIENCE: Duration = Duration::from_secs(3);

/// One client of an echo server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatagramPlan {
    /// Host that sends.
    pub client: usize,
    /// Host that echoes.
    pub server: usize,
    /// When it begins.
    pub start: Instant,
    /// Datagrams.
    pub count: u32,
    /// Bytes of each: this and less.
    pub bytes: usize,
    /// Time between two.
    pub interval: Duration,
}

/// A client at work.
pub(crate) struct Client {
    pub(crate) sock: SockRef,
    plan: usize,
    sent: u32,
    pub(crate) echoes: u32,
    next_at: Instant,
    pub(crate) done: bool,
}

impl Client {
    /// Opens the socket of plan number `at`.
    pub(crate) fn open(
        e: &mut Engine<'_>,
        at: usize,
        plan: &DatagramPlan,
        scenario: &Scenario,
    ) -> Result<Self, String> {
        let local = Endpoint { addr: address(plan.client, scenario.six), port: Port(30_000 + at as u16) };
        let sock =
            e.udp_bind(local, &UdpOptions::default()).map_err(|error| format!("udp_bind: {error:?}"))?;
        let remote = Endpoint { addr: address(plan.server, scenario.six), port: ECHO_PORT };
        e.udp_connect(sock, local.addr, remote, &route(plan.client, plan.server, scenario))
            .map_err(|error| format!("udp_connect: {error:?}"))?;
        Ok(Self { sock, plan: at, sent: 0, echoes: 0, next_at: plan.start, done: false })
    }

    /// One whose program has died.
    pub(crate) fn dead() -> Self {
        Self { sock: SockRef::NONE, plan: 0, sent: 0, echoes: 0, next_at: Instant::NEVER, done: true }
    }

    pub(crate) fn wakes_at(&self) -> Instant {
        if self.done { Instant::NEVER } else { self.next_at }
    }

    /// Reads echoes, and sends what is due.
    pub(crate) fn drive(
        &mut self,
        e: &mut Engine<'_>,
        plan: &DatagramPlan,
        now: Instant,
    ) -> Result<(), String> {
        if self.done {
            return Ok(());
        }
        let mut buf = vec![0; 65_536];
        loop {
            match e.udp_recv_from(self.sock, &mut buf, false) {
                Ok(got) => {
                    self.check(buf.get(..got.copied).unwrap_or(&[]))?;
                    self.echoes += 1;
                }
                Err(UdpRecvError::WouldBlock) => break,
                Err(error) => return Err(format!("udp_recv_from: {error:?}")),
            }
        }
        while now >= self.next_at && self.sent < plan.count {
            let len = HEADER + plan.bytes.saturating_sub((self.sent as usize * 97) % 1000);
            let mut bytes = vec![0; len];
            let header = u64::from(self.sent) << 32 | self.plan as u64;
            let (front, rest) = bytes.split_at_mut(HEADER);
            front.copy_from_slice(&header.to_le_bytes());
            pattern::fill(!header, 0, rest);
            match e.udp_send_to(self.sock, &bytes, None) {
                Ok(_) | Err(UdpSendError::WouldBlock | UdpSendError::NoFrames) => {}
                Err(error) => return Err(format!("udp_send_to: {error:?}")),
            }
            self.sent += 1;
            self.next_at = if self.sent < plan.count { now.plus(plan.interval) } else { now.plus(PATIENCE) };
        }
        if now >= self.next_at && self.sent >= plan.count {
            self.done = true;
            e.close(self.sock);
        }
        Ok(())
    }

    /// Is the datagram one that was sent, whole and unchanged?
    fn check(&self, bytes: &[u8]) -> Result<(), String> {
        let Some((front, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(format!("an echo of {} bytes", bytes.len()));
        };
        let header = u64::from_le_bytes(*front);
        let number = (header >> 32) as u32;
        if header as u32 as usize != self.plan || number >= self.sent {
            return Err(format!("client {} got an echo of {header:#x}", self.plan));
        }
        match pattern::first_difference(!header, 0, rest) {
            Some(at) => Err(format!("byte {at} of echo {number} of client {} is wrong", self.plan)),
            None => Ok(()),
        }
    }
}

/// Opens the echo server of a host.
pub(crate) fn open_server(e: &mut Engine<'_>) -> Result<SockRef, String> {
    let local = Endpoint { addr: base::IpAddress::ANY, port: ECHO_PORT };
    e.udp_bind(local, &UdpOptions::default()).map_err(|error| format!("udp_bind: {error:?}"))
}

/// Sends everything that has come back.
pub(crate) fn serve(e: &mut Engine<'_>, host: usize, sock: SockRef, plan: &Scenario) -> Result<(), String> {
    let mut buf = vec![0; 65_536];
    loop {
        let got = match e.udp_recv_from(sock, &mut buf, false) {
            Ok(got) => got,
            Err(UdpRecvError::WouldBlock) => return Ok(()),
            Err(error) => return Err(format!("udp_recv_from: {error:?}")),
        };
        let peer = host_of(got.from.addr).unwrap_or(0);
        let to = UdpTo { remote: got.from, local: got.to, route: route(host, peer, plan) };
        match e.udp_send_to(sock, buf.get(..got.copied).unwrap_or(&[]), Some(&to)) {
            Ok(_) | Err(UdpSendError::WouldBlock | UdpSendError::NoFrames) => {}
            Err(error) => return Err(format!("udp_send_to: {error:?}")),
        }
    }
}
