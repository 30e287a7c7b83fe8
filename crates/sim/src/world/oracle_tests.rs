//! Each oracle fires when what it watches is broken in a running world.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

use base::{Duration, Instant, SeqNum};
use engine::{Engine, State};
use state::TcbHot;

use super::World;
use crate::scenario::Scenario;

/// Slow ends: queues are full, windows close, something is always in flight.
const SLOW: u64 = 12;
/// Many losses.
const BAD: u64 = 10;

/// Plays a world in which `spoil` runs after each step from half a second on; gives the first complaint.
fn complaint(seed: u64, spoil: fn(&mut Engine<'_>)) -> Option<String> {
    let scenario = Scenario::of_seed(seed);
    let mut world = World::new(&scenario).expect("a world");
    world.spoil = Some((Instant(0).plus(Duration::from_millis(500)), spoil));
    world.play().err()
}

/// The first connection that is open, if any.
fn open<'e>(e: &'e mut Engine<'_>, test: fn(&TcbHot) -> bool) -> Option<&'e mut TcbHot> {
    let rows = e.mem().hot.rows_mut();
    rows.iter_mut().find(|row| row.state == State::Established as u8 && test(row))
}

fn in_flight(row: &TcbHot) -> bool {
    row.snd.una != row.snd.nxt
}

fn expect(what: &str, spoil: fn(&mut Engine<'_>)) {
    expect_with(SLOW, what, spoil);
}

fn expect_with(seed: u64, what: &str, spoil: fn(&mut Engine<'_>)) {
    let found = complaint(seed, spoil).unwrap_or_else(|| panic!("nothing was found; expected: {what}"));
    let first = found.lines().next().unwrap_or_default();
    assert!(first.contains(what), "expected {what:?}, found {first:?}");
}

#[test]
fn a_world_that_is_not_spoiled_has_nothing_to_complain_of() {
    assert_eq!(complaint(SLOW, |_| ()), None);
    assert_eq!(complaint(BAD, |_| ()), None);
}

#[test]
fn a_timer_that_is_not_armed_is_found() {
    expect("no timer runs", |e| {
        if let Some(row) = open(e, in_flight) {
            row.rexmit_at = Instant::NEVER;
        }
    });
}

#[test]
fn a_deadline_that_the_wheel_does_not_know_is_found() {
    expect("before the moment the wheel is armed for", |e| {
        if let Some(row) = open(e, in_flight) {
            row.armed_at = Instant::NEVER;
        }
    });
    expect("the wheel has no entry", |e| {
        let rows = e.mem().hot.rows();
        if let Some(at) = rows.iter().position(|r| r.state == State::Established as u8 && in_flight(r)) {
            e.mem().wheel.cancel(at as u32);
        }
    });
}

#[test]
fn sequence_numbers_out_of_order_are_found() {
    expect("SND.UNA is beyond SND.NXT", |e| {
        if let Some(row) = open(e, in_flight) {
            row.snd.una = row.snd.nxt.plus(1);
        }
    });
    expect("SND.NXT is beyond what was queued", |e| {
        if let Some(row) = open(e, in_flight) {
            row.snd.nxt = row.snd.end.plus(1);
        }
    });
    expect("SND.UNA went back", |e| {
        if let Some(row) = open(e, in_flight) {
            row.snd.una = row.snd.una.minus(1);
        }
    });
}

#[test]
fn a_window_that_shrinks_is_found() {
    expect("the receive window's right edge went back", |e| {
        if let Some(row) = open(e, |row| row.rcv.edge.since(row.rcv.nxt) > 1000) {
            row.rcv.edge = row.rcv.edge.minus(500);
        }
    });
    expect("RCV.NXT is beyond the window", |e| {
        if let Some(row) = open(e, |_| true) {
            row.rcv.edge = row.rcv.nxt.minus(2);
        }
    });
}

#[test]
fn an_illegal_arc_is_found() {
    expect("went from", |e| {
        if let Some(row) = open(e, |_| true) {
            row.state = State::SynRcvd as u8;
        }
    });
}

#[test]
fn a_leaked_frame_is_found() {
    expect("frames of host", |e| {
        let _leaked = e.mem().frames.alloc();
    });
}

#[test]
fn a_leaked_row_is_found() {
    expect("never end", |e| e.mem().globals.tcp.used = e.mem().globals.tcp.used.max(1));
}

#[test]
fn a_row_that_is_not_counted_is_found() {
    expect("more rows are in use than are counted", |e| e.mem().globals.tcp.used = 0);
}

#[test]
fn a_scoreboard_that_lies_is_found() {
    expect_with(BAD, "scoreboard", |e| {
        for board in e.mem().boards.rows_mut() {
            if board.count > 0 {
                board.bytes = board.bytes.wrapping_add(1);
            }
        }
    });
}

#[test]
fn a_queue_with_a_gap_is_found() {
    expect("the send queue", |e| {
        let head = open(e, |row| row.snd_queue.head != row.snd_queue.tail).map(|row| row.snd_queue.head);
        if let Some(meta) = head.and_then(|head| e.mem().frames.meta_mut(head)) {
            meta.seq = SeqNum(meta.seq).minus(1).0;
        }
    });
    expect("the receive queue", |e| {
        if let Some(row) = open(e, |row| row.rcv_bytes > 0) {
            row.rcv_bytes += 1;
        }
    });
}

#[test]
fn a_changed_byte_is_found() {
    expect("is wrong", |e| {
        let heads: Vec<_> = e.mem().hot.rows().iter().map(|row| row.rcv_queue.head).collect();
        for head in heads {
            if let Some(byte) = e.mem().frames.data_mut(head).first_mut() {
                *byte ^= 0x10;
            }
        }
    });
}

#[test]
fn a_ring_that_lost_an_entry_is_found() {
    expect("has lost count", |e| {
        if let Some(ring) = e.mem().globals.tcp.rings.first_mut() {
            ring.tail = ring.tail.wrapping_add(1);
        }
    });
}
