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
    /// The work of the row named `id`.
    pub(crate) fn from_id(id: &str) -> Option<Self> {
        let (kind, number) = id.rsplit_once('-')?;
        let number = number.parse().ok().filter(|n| *n > 0)?;
        Some(match kind {
            "short-connections" => Self::ShortConnections(number),
            "request-response" => Self::RequestResponse(number),
            "bulk" => Self::Bulk(number),
            _ => return None,
        })
    }

    /// The row's name in reports.
    pub(crate) fn id(self) -> String {
        match self {
            Self::ShortConnections(n) => format!("short-connections-{n}"),
            Self::RequestResponse(n) => format!("request-response-{n}"),
            Self::Bulk(mtu) => format!("bulk-{mtu}"),
        }
    }
}

/// CPU time of both ends for each operation, ns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) work: Work,
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

    pub(crate) fn figure(&self, work: Work, operations: u64) -> Figure {
        Figure { work, ns_per_operation: (Self::seconds() - self.0) * 1e9 / operations.max(1) as f64 }
    }
}

/// Two hosts on an in-memory wire, both in this thread.
pub(crate) trait Rig: Sized {
    /// Name in reports.
    const NAME: &'static str;
    /// [`Work::ShortConnections`], `count` in all.
    fn short_connections(self, concurrent: usize, count: u64) -> Figure;
    /// [`Work::RequestResponse`], `count` exchanges in all.
    fn request_response(self, connections: usize, count: u64) -> Figure;
    /// [`Work::Bulk`].
    fn bulk(self, mtu: usize, bytes: u64) -> Figure;
}
