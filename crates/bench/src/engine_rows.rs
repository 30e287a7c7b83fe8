//! Rows of the engine alone: both ends in one thread on an in-memory wire.

use crate::lanes::Lanes;
use crate::rows::{Goal, Job, OURS, Outcome, Row, Sample, Unit};
use crate::smol::Smoltcp;
use crate::work::{Figure, Rig, Setting, Work};
use crate::{kernel, lwip, place};

/// Every kind of work with its peers.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = [1, 64, 1_000].map(short_connections).into();
    rows.extend([1, 64, 1_000, 10_000, 100_000, 1_000_000].map(request_response));
    rows.extend([1_500, 9_000, 65_535].map(bulk));
    for work in [Work::ShortConnections(64), Work::RequestResponse(1), Work::Bulk(1_500)] {
        let setting = Setting { checksums: false, ..Setting::of(work) };
        let row = row(work, setting, "-no-checksums", ", without checksums");
        rows.push(if matches!(work, Work::Bulk(_)) { row.count(256 << 20) } else { row.count(50_000) });
    }
    for (ppm, id, words) in kernel::LOSSES {
        for work in [Work::RequestResponse(64), Work::Bulk(1_500)] {
            let row = row(work, Setting { lost_ppm: ppm, ..Setting::of(work) }, id, words);
            rows.push(if matches!(work, Work::Bulk(_)) { row.count(256 << 20) } else { row.count(100_000) });
        }
    }
    rows
}

fn short_connections(concurrent: usize) -> Row {
    let work = Work::ShortConnections(concurrent);
    let row = row(work, Setting::of(work), "", "").count(20_000).plot("engine-conn", concurrent as f64);
    match concurrent {
        64 => row
            .counted(1_000)
            .goal(Goal::OfPeer("lwip", 1.0 / 3.0))
            .goal(Goal::Instructions(8_000.0))
            .obstacle(
                "of 17 130 instructions, by callgrind, both ends. Its program's calls are 2 750: connect 1 180, subscribing and asking what is \
                 ready 200, sending twice 400, receiving three times 450, closing twice 410, accept 110. Sending the seven packets is 3 640: SYN \
                 and SYN,ACK 470 each with their timer and a header made anew, two of data 420 each, two FINs 420 each, the last ACK 240, the \
                 queues and whether there is something 780. Taking them is 8 600: headers and sums of all seven 2 500, SYN 1 860 (its row 790, its \
                 initial numbers 155), SYN,ACK 1 010, what is short about data and FINs 1 070, what opens and ends 2 060 (the request, which opens \
                 the server's connection, 700, the FIN that comes to FIN-WAIT-1 640, the last ACK, which ends a row, 660). The wire is 1 710, the \
                 program's loop, its events and the timers 370. Wire, loop, the receivers' sums and the copies of two messages are 2 570, a third of \
                 the goal.",
            )
            .in_short(),

        1 => row.counted(1_000),
        _ => row,
    }
}

fn request_response(connections: usize) -> Row {
    const AT_ONE: &str = "engine-request-response-1";
    let work = Work::RequestResponse(connections);
    let row = row(work, Setting::of(work), "", "")
        .count(100_000)
        .plot("engine-rr", connections as f64)
        .limit_s(300);
    match connections {
        1 => {
            row.counted(2_000)
                .goal(Goal::OfBestPeer(1.0 / 3.0))
                .goal(Goal::Instructions(1_400.0))
                .obstacle(
                    "instructions of each of the two segments, by callgrind: making and sending it 500 (its header, begun from that of the last one, \
                     60, whether it is the usual case 80, the window to announce 45, timers and round-trip time 75, the rest its frame, its place in \
                     the batch and registers saved), taking it 670 (knowing it by the last one's header and its sum 225, the connection's numbers, \
                     timers and events 405, round-trip time 40), the program's write 200 and read 160, timers 40, the program's loop and its events \
                     140, the wire 280. Wire, copies, the receiver's sum and the program's loop alone are 500, seven tenths of the goal.",
                )
                .in_short()
        }

        64 | 1_000 => row.counted(2_000),
        10_000 => row
            .goal(Goal::OfRow(AT_ONE, 2.0))
            .obstacle(
                "of about 500 ns an exchange cost before the rows, events and queued frames of a batch were fetched together, 360 are \
                 left; 210 are instructions, the rest lines of rows and frames that are not in the cache when the client writes, and \
                 their pages' entries: a message that is not acknowledged has a 4 KiB frame.",
            )
            .count(100_000)
            .in_short(),
        1_000_000 => row.count(1_000_000).goal(Goal::OfRow(AT_ONE, 4.0)),
        _ => row.count(400_000),
    }
}

fn bulk(mtu: usize) -> Row {
    let work = Work::Bulk(mtu);
    let row = row(work, Setting::of(work), "", "").count(256 << 20).counted(8 << 20);
    let row = row.plot("engine-bulk", mtu as f64);
    if mtu != 1_500 {
        return row;
    }
    row.goal(Goal::OfPeer("smoltcp", 1.0 / 3.0))
        .obstacle(
            "of 2 490 instructions a segment of 1 448 bytes, by callgrind, both ends: three copies (program to frame 280, frame to frame of \
             the receiver 320, frame to program 300) are 900, the two sums by AVX2, one by the wire as a device does it and one by the \
             receiver, 570. Making and sending a segment is 200, taking it 400, the wire's own work 250, the program's writes and reads \
             without their copies 150. Copies, sums and the wire are 1 730, two thirds of all.",
        )
        .in_short()
}

/// One kind of work on every stack that can do it; its id and words end so.
fn row(work: Work, setting: Setting, id: &str, words: &str) -> Row {
    let unit = if matches!(work, Work::Bulk(_)) { Unit::CpuNsPerByte } else { Unit::CpuNs };
    let row = Row::new(format!("engine-{}{id}", work.id()), format!("{}{words}", work.words()), unit)
        .stack(OURS, move |job| run(Lanes::new(&setting), work, job));
    let row = match work {
        Work::RequestResponse(n) if n > 10_000 => {
            row.left_out("smoltcp", "it looks at every socket for each packet")
        }
        Work::RequestResponse(_) | Work::ShortConnections(_) | Work::Bulk(_) => {
            row.stack("smoltcp", move |job| run(Smoltcp::new(&setting), work, job))
        }
    };
    match work {
        Work::RequestResponse(n) if n > 10_000 => row.left_out("lwip", "it looks connections up in a list"),
        Work::Bulk(mtu) if mtu > 9_000 => row.left_out("lwip", "its packets are at most 16 KiB here"),
        Work::RequestResponse(_) | Work::ShortConnections(_) | Work::Bulk(_) => {
            row.stack("lwip", move |job| lwip::run(&setting, work, job))
        }
    }
}

/// One run in this thread, on the last processor.
fn run<R: Rig>(rig: R, work: Work, job: &Job) -> Outcome {
    place::pin();
    let Figure { ns_per_operation, .. } = match work {
        Work::ShortConnections(concurrent) => rig.short_connections(concurrent, job.count),
        Work::RequestResponse(connections) => rig.request_response(connections, job.count),
        Work::Bulk(_) => rig.bulk(job.count),
    };
    Ok(Sample::of(ns_per_operation))
}
