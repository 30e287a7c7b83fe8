//! The work that every rig does, and the figure that comes out.

use rustix::time::{ClockId, clock_gettime};

/// One kind of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    /// Connect, 64 B, 64 B back, the client closes; so many at a time. Counted in connections.
    ShortConnections(usize),
    /// 64 B each way on so many persistent connections. Counted in exchanges.
    RequestResponse(usize),
    /// One-way stream at this MTU. Counted in bytes.
    Bulk(usize),
}

impl Work {
    /// The row's name in reports.
    pub(crate) fn id(self) -> String {
        match self {
            Self::ShortConnections(n) => format!("short-connections-{n}"),
            Self::RequestResponse(n) => format!("request-response-{n}"),
            Self::Bulk(mtu) => format!("bulk-{mtu}"),
        }
    }

    /// The work for people.
    pub(crate) fn words(self) -> String {
        match self {
            Self::ShortConnections(n) => format!("short connections, {n} at a time"),
            Self::RequestResponse(n) => format!("request/response, {n} connections"),
            Self::Bulk(mtu) => format!("bulk, MTU {mtu}"),
        }
    }

    /// Connections that have a request under way at one time. All of them, up to where a program would have that many
    /// ready at once; more take turns.
    pub(crate) fn active(connections: usize) -> usize {
        if connections > 1_000 { 64 } else { connections }
    }
}

/// Exchanges of each connection before those that count: the first are acknowledged at once, so only with the second all frames are in use.
pub(crate) const WARM_ROUNDS: u64 = 2;

/// What the hosts and the wire between them are like.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Setting {
    pub(crate) mtu: usize,
    /// Are checksums made and verified?
    pub(crate) checksums: bool,
    /// Sockets a host must have room for.
    pub(crate) sockets: u32,
    /// Connections besides that may hibernate.
    pub(crate) dormant: u32,
    /// Packets of a million that the wire loses.
    pub(crate) lost_ppm: u32,
}

impl Setting {
    /// Nothing lost, checksums on.
    pub(crate) fn of(work: Work) -> Self {
        let (mtu, sockets) = match work {
            Work::Bulk(mtu) => (mtu, 4_096),
            Work::RequestResponse(n) => (1_500, (n as u32 + 64).max(4_096)),
            // Short connections leave their client in TIME-WAIT, which wants room.
            Work::ShortConnections(_) => (1_500, 65_536),
        };
        Self { mtu, checksums: true, sockets, dormant: 0, lost_ppm: 0 }
    }
}

/// Which packets the wire loses: the same ones by count, whoever sends them.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    ppm: u32,
    rng: base::Rng,
}

impl Loss {
    pub(crate) fn new(setting: &Setting) -> Self {
        Self { ppm: setting.lost_ppm, rng: base::Rng::new(23) }
    }

    /// Is nothing ever lost?
    pub(crate) fn none(&self) -> bool {
        self.ppm == 0
    }

    /// Is the next packet lost?
    pub(crate) fn next(&mut self) -> bool {
        self.ppm > 0 && self.rng.chance_ppm(self.ppm)
    }
}

/// CPU time of both ends for each operation, ns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) ns_per_operation: f64,
}

/// This thread's CPU clock at a moment: the machine is shared, so wall time is not the figure to compare.
pub(crate) struct Cpu(f64);

impl Cpu {
    fn seconds() -> f64 {
        let t = clock_gettime(ClockId::ThreadCPUTime);
        t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
    }

    pub(crate) fn now() -> Self {
        Self(Self::seconds())
    }

    pub(crate) fn figure(&self, operations: u64) -> Figure {
        Figure { ns_per_operation: (Self::seconds() - self.0) * 1e9 / operations.max(1) as f64 }
    }
}

/// Two hosts on an in-memory wire, both in this thread.
pub(crate) trait Rig: Sized {
    /// [`Work::ShortConnections`], `count` in all.
    fn short_connections(self, concurrent: usize, count: u64) -> Figure;
    /// [`Work::RequestResponse`], `count` exchanges in all.
    fn request_response(self, connections: usize, count: u64) -> Figure;
    /// [`Work::Bulk`].
    fn bulk(self, bytes: u64) -> Figure;
}
