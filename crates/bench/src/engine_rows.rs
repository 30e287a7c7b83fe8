//! Rows of the engine alone: both ends in one thread on an in-memory wire.

use crate::lanes::Lanes;
use crate::rows::{Goal, Job, OURS, Outcome, Row, Sample, Unit};
use crate::smol::Smoltcp;
use crate::work::{Figure, Rig, Setting, Work};

/// Every kind of work with its peers.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for concurrent in [1, 64, 1_000] {
        let work = Work::ShortConnections(concurrent);
        let row =
            row(work, Setting::of(work)).count(20_000).counted(500).plot("engine-conn", concurrent as f64);
        rows.push(match concurrent {
            64 => row.goal(Goal::OfPeer("smoltcp", 1.0 / 3.0)).goal(Goal::Instructions(8_000.0)).in_short(),
            _ => row,
        });
    }
    for connections in [1, 64, 1_000, 10_000, 100_000, 1_000_000] {
        rows.push(request_response(connections));
    }
    for mtu in [1_500, 9_000] {
        let work = Work::Bulk(mtu);
        let row =
            row(work, Setting::of(work)).count(256 << 20).counted(8 << 20).plot("engine-bulk", mtu as f64);
        rows.push(match mtu {
            1_500 => row.goal(Goal::OfPeer("smoltcp", 1.0 / 3.0)).in_short(),
            _ => row,
        });
    }
    rows
}

fn request_response(connections: usize) -> Row {
    const AT_ONE: &str = "engine-request-response-1";
    let work = Work::RequestResponse(connections);
    let row = row(work, Setting::of(work)).count(100_000).plot("engine-rr", connections as f64).limit_s(300);
    match connections {
        1 => {
            row.counted(2_000).goal(Goal::OfBestPeer(1.0 / 3.0)).goal(Goal::Instructions(1_400.0)).in_short()
        }
        64 | 1_000 => row.counted(2_000),
        10_000 => row.goal(Goal::OfRow(AT_ONE, 2.0)).in_short(),
        1_000_000 => row.count(1_000_000).goal(Goal::OfRow(AT_ONE, 4.0)),
        _ => row.count(400_000),
    }
}

/// One kind of work on every stack that can do it.
fn row(work: Work, setting: Setting) -> Row {
    let unit = if matches!(work, Work::Bulk(_)) { Unit::CpuNsPerByte } else { Unit::CpuNs };
    let row = Row::new(format!("engine-{}", work.id()), work.words(), unit)
        .stack(OURS, move |job| run(Lanes::new(&setting), work, job));
    match work {
        Work::RequestResponse(n) if n > 10_000 => {
            row.left_out("smoltcp", "looks at every socket for each packet")
        }
        Work::RequestResponse(_) | Work::ShortConnections(_) | Work::Bulk(_) => {
            row.stack("smoltcp", move |job| run(Smoltcp::new(&setting), work, job))
        }
    }
}

/// One run in this thread, on the last processor.
fn run<R: Rig>(rig: R, work: Work, job: &Job) -> Outcome {
    let cores = sys::affinity::allowed().unwrap_or_default();
    if let Some(last) = cores.last() {
        // Where it may not be pinned it runs all the same.
        let _ = sys::affinity::pin_to(*last);
    }
    let Figure { ns_per_operation, .. } = match work {
        Work::ShortConnections(concurrent) => rig.short_connections(concurrent, job.count),
        Work::RequestResponse(connections) => rig.request_response(connections, job.count),
        Work::Bulk(_) => rig.bulk(job.count),
    };
    Ok(Sample::of(ns_per_operation))
}
