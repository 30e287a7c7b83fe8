//! Urgent data: what the packet scripts (`conformance/scripts/urgent.script`) do not reach: peeks, reads without a copy, super-segments,
//! events, and what must come through whatever the network does.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, Instant};
use engine::{RecvError, SendError, UrgentError};
use net::{Faults, Net, Setup, pattern};
use proptest::prelude::*;
use state::{Event, Ready, SockRef};
use wire::TcpFlags;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn urge(net: &mut Net, s: SockRef, data: &[u8]) {
    assert_eq!(net.on(0, |e| e.tcp_send_urgent(s, data, false)), Ok(data.len()));
    net.flush(0);
    net.run(ms(100));
}

/// An open connection over which `urgent` has come, whose last byte is urgent, and what is `behind` it.
fn with_urgent(urgent: &[u8], behind: &[u8]) -> (Net, SockRef, SockRef) {
    let mut net = Net::new(1, &Setup::USUAL);
    let (_, a, b) = net.open();
    urge(&mut net, a, urgent);
    if !behind.is_empty() {
        net.send(0, a, behind).unwrap();
        net.run(ms(100));
    }
    (net, a, b)
}

fn inline(net: &mut Net, s: SockRef) {
    let mut options = net.on(1, |e| e.tcp_options(s)).unwrap();
    options.set_urgent_inline(true);
    assert!(net.on(1, |e| e.set_tcp_options(s, &options)));
}

/// Peeks into rooms of these lengths, one behind the other as the parts of one call.
fn peek(net: &mut Net, s: SockRef, rooms: &[usize]) -> Vec<u8> {
    let mut got = Vec::new();
    for room in rooms {
        let mut buf = vec![0; *room];
        let n = net.on(1, |e| e.tcp_peek_at(s, got.len(), &mut buf)).unwrap();
        got.extend_from_slice(&buf[..n]);
        if n < *room {
            break;
        }
    }
    got
}

#[test]
fn a_peek_stops_in_front_of_the_mark_and_leaves_it_where_it_is() {
    let (mut net, _, b) = with_urgent(b"abcU", b"defg");
    assert_eq!(peek(&mut net, b, &[100]), b"abc");
    assert_eq!(peek(&mut net, b, &[2, 2, 2]), b"abc");
    assert_eq!(peek(&mut net, b, &[3, 2]), b"abc");
    assert_eq!(net.recv(1, b, 3).unwrap(), b"abc");
    assert!(net.on(1, |e| e.tcp_at_mark(b)));
    assert_eq!(peek(&mut net, b, &[100]), b"defg", "a peek at the mark looks behind it");
    assert_eq!(peek(&mut net, b, &[1, 2]), b"def");
    assert!(net.on(1, |e| e.tcp_at_mark(b)), "and changes nothing");
    assert_eq!(net.on(1, |e| e.tcp_recv_urgent(b, true)), Ok(Some(b'U')));
    assert_eq!(net.recv(1, b, 100).unwrap(), b"defg");
    assert_eq!(net.on(1, |e| e.tcp_recv_urgent(b, false)), Err(UrgentError::Nothing));
}

#[test]
fn a_peek_in_line_sees_the_urgent_byte() {
    let (mut net, _, b) = with_urgent(b"abcU", b"defg");
    inline(&mut net, b);
    assert_eq!(peek(&mut net, b, &[100]), b"abc");
    assert_eq!(net.recv(1, b, 100).unwrap(), b"abc");
    assert_eq!(peek(&mut net, b, &[2, 100]), b"Udefg");
    assert_eq!(net.recv(1, b, 100).unwrap(), b"Udefg");
}

#[test]
fn a_peek_at_an_urgent_byte_with_nothing_behind_it_has_nothing() {
    let (mut net, _, b) = with_urgent(b"U", b"");
    let mut buf = [0; 8];
    assert_eq!(net.on(1, |e| e.tcp_recv(b, &mut buf, true)), Err(RecvError::WouldBlock));
    assert!(net.on(1, |e| e.tcp_at_mark(b)));
    assert_eq!(net.on(1, |e| e.tcp_recv(b, &mut [], false)), Ok(0), "a read of nothing steps over nothing");
    assert!(net.on(1, |e| e.tcp_at_mark(b)));
    assert_eq!(net.recv(1, b, 8), Err(RecvError::WouldBlock));
    assert!(!net.on(1, |e| e.tcp_at_mark(b)), "a read steps over it");
}

#[test]
fn a_read_without_a_copy_and_a_discard_keep_to_the_mark() {
    let (mut net, _, b) = with_urgent(b"abcU", b"defg");
    let mut got = Vec::new();
    let mut take = |piece: &[u8]| {
        got.extend_from_slice(piece);
        piece.len()
    };
    assert_eq!(net.on(1, |e| e.tcp_recv_with(b, &mut take)), Ok(3));
    assert_eq!(net.on(1, |e| e.tcp_recv_with(b, &mut take)), Ok(4));
    assert_eq!(net.on(1, |e| e.tcp_recv_with(b, &mut take)), Err(RecvError::WouldBlock));
    assert_eq!(got, b"abcdefg");

    let (mut net, _, b) = with_urgent(b"abcU", b"defg");
    assert_eq!(net.on(1, |e| e.tcp_recv_skip(b, 100)), Ok(3));
    assert_eq!(net.on(1, |e| e.tcp_recv_skip(b, 1)), Ok(1));
    assert_eq!(net.recv(1, b, 100).unwrap(), b"efg");
}

#[test]
fn segments_of_urgent_data_are_cut_by_us_each_with_its_own_pointer() {
    let (mut net, a, b) = with_urgent(b"x", b"");
    net.keep_trace = true;
    net.faults.split = false;
    urge(&mut net, a, &pattern(3, 9000));
    let urgent: Vec<_> = net
        .trace
        .iter()
        .filter_map(|(_, host, p)| p.tcp().filter(|_| *host == 0).map(|t| (p.gso_size, t)))
        .filter(|(_, t)| !t.payload().is_empty())
        .map(|(gso, t)| (gso, t.seq(), t.payload().len(), t.header().flags, t.urgent()))
        .collect();
    let end = urgent.last().map(|(_, seq, len, ..)| seq.plus(*len as u32)).unwrap();
    assert!(urgent.len() > 5);
    for (gso, seq, _, flags, pointer) in &urgent {
        assert_eq!((*gso, flags.intersects(TcpFlags::URG)), (0, true));
        assert_eq!(u32::from(*pointer), end.since(*seq));
    }
    // Once they are acknowledged, a device may cut again.
    net.trace.clear();
    net.send(0, a, &pattern(4, 9000)).unwrap();
    net.run(ms(100));
    assert!(net.trace.iter().any(|(_, host, p)| *host == 0 && p.gso_size != 0));
    let mut all = 0;
    while let Ok(bytes) = net.recv(1, b, 100_000) {
        all += bytes.len();
    }
    assert_eq!(
        all,
        8999 + 9000,
        "neither of the urgent bytes is data: the first was the mark when the second was announced"
    );
}

#[test]
fn a_connection_takes_the_short_way_again_when_its_urgent_data_are_through() {
    let (mut net, a, b) = with_urgent(b"abcU", b"defg");
    let predicted = |net: &mut Net| net.on(1, |e| e.counters().tcp.predicted);
    let before = predicted(&mut net);
    net.send(0, a, b"slow").unwrap();
    net.run(ms(100));
    assert_eq!(predicted(&mut net), before, "a mark is in the way");
    assert_eq!(net.recv(1, b, 100).unwrap(), b"abc");
    assert_eq!(net.recv(1, b, 100).unwrap(), b"defgslow");
    net.send(0, a, b"fast").unwrap();
    net.run(ms(100));
    assert!(predicted(&mut net) > before);
    assert_eq!(net.recv(1, b, 100).unwrap(), b"fast");
}

#[test]
fn an_urgent_byte_is_an_event() {
    let mut net = Net::new(1, &Setup::USUAL);
    let (_, a, b) = net.open();
    assert!(net.on(1, |e| e.set_event_queue(b, 1, 7)));
    let events = |net: &mut Net| -> Vec<Ready> {
        std::iter::from_fn(|| net.on(1, |e| e.poll_event(1))).map(|e: Event| e.ready).collect()
    };
    assert_eq!(events(&mut net), [Ready::OUT]);
    urge(&mut net, a, b"U");
    assert_eq!(events(&mut net), [Ready::IN | Ready::PRI]);
    assert_eq!(net.on(1, |e| e.ready(b)), Ready::OUT | Ready::PRI, "nothing but the urgent byte to be read");
    urge(&mut net, a, b"V");
    assert_eq!(events(&mut net), [Ready::IN | Ready::PRI]);
    assert_eq!(net.on(1, |e| e.tcp_recv_urgent(b, false)), Ok(Some(b'V')));
    assert_eq!(net.on(1, |e| e.ready(b)), Ready::OUT, "the byte that was the mark before is gone");
}

#[test]
fn a_connection_with_urgent_data_does_not_hibernate() {
    let mut net = Net::new(1, &Setup { dormant: 8, ..Setup::USUAL });
    let (_, a, b) = net.open();
    urge(&mut net, a, b"U");
    assert_eq!(net.on(1, |e| e.tcp_recv_urgent(b, false)), Ok(Some(b'U')));
    net.run(ms(1000));
    assert_eq!(net.sleep(), [1, 0]);
    assert!(net.on(1, |e| e.tcp_at_mark(b)));
    assert_eq!(net.on(0, |e| e.tcp_recv_urgent(a, false)), Err(UrgentError::Nothing));
    assert!(!net.on(0, |e| e.tcp_at_mark(a)));
    assert_eq!(net.recv(1, b, 8), Err(RecvError::WouldBlock));
    net.run(ms(1000));
    assert_eq!(net.sleep(), [1, 1]);
    assert_eq!(net.on(0, |e| e.tcp_send_urgent(a, b"V", false)), Ok(1), "a call wakes it");
}

#[test]
fn a_name_of_nobody_has_no_urgent_data() {
    let mut net = Net::new(1, &Setup::USUAL);
    let (_, a, b) = net.open();
    net.on(0, |e| e.abort(a));
    assert_eq!(net.on(0, |e| e.tcp_recv_urgent(a, false)), Err(UrgentError::Gone));
    assert_eq!(net.on(0, |e| e.tcp_send_urgent(a, b"x", false)), Err(SendError::Gone));
    net.flush(0);
    net.run(ms(100));
    assert_eq!(
        net.on(1, |e| e.tcp_send_urgent(b, b"x", false)),
        Err(SendError::Failed(engine::SockError::Reset))
    );
}

#[test]
fn an_urgent_byte_of_a_connection_that_was_reset_is_not_read() {
    let (mut net, a, b) = with_urgent(b"abcU", b"");
    net.on(0, |e| e.abort(a));
    net.flush(0);
    net.run(ms(100));
    assert_eq!(net.on(1, |e| e.tcp_recv_urgent(b, false)), Err(UrgentError::NotConnected));
}

/// `len` bytes below 128, of which the last one is above if it is urgent, and not the same for one that follows.
fn piece(len: usize, urgent: Option<usize>) -> Vec<u8> {
    let mut data: Vec<u8> = pattern(len as u64, len).iter().map(|byte| byte & 0x7f).collect();
    if let (Some(n), Some(last)) = (urgent, data.last_mut()) {
        *last = 0x80 | (n % 128) as u8;
    }
    data
}

/// Writes `steps` (bytes, urgent or not) and reads meanwhile. Gives what was sent, the places of urgent bytes, what was read, and the
/// urgent bytes that were read as such.
fn talk(
    net: &mut Net,
    a: SockRef,
    b: SockRef,
    steps: &[(usize, bool)],
    len: usize,
) -> (Vec<u8>, Vec<usize>, Vec<u8>, Vec<u8>) {
    let (mut sent, mut marks, mut got, mut beside) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut left = steps.iter();
    let mut todo: Option<(Vec<u8>, bool)> = None;
    let mut over = false;
    for _ in 0..200_000 {
        if todo.is_none() {
            todo = left.next().map(|(n, urgent)| (piece(*n, urgent.then_some(marks.len())), *urgent));
        }
        match todo.take() {
            Some((data, urgent)) => {
                let done = net.on(0, |e| {
                    if urgent { e.tcp_send_urgent(a, &data, false) } else { e.tcp_send(a, &data, false) }
                });
                net.flush(0);
                match done {
                    Ok(n) => {
                        sent.extend_from_slice(&data[..n]);
                        if urgent {
                            marks.push(sent.len() - 1);
                        }
                        todo = (n < data.len()).then(|| (data[n..].to_vec(), urgent));
                    }
                    Err(SendError::WouldBlock) => todo = Some((data, urgent)),
                    Err(e) => panic!("{e:?}"),
                }
            }
            None if !over => {
                net.on(0, |e| e.shutdown(a, engine::How::Write)).unwrap();
                net.flush(0);
                over = true;
            }
            None => {}
        }
        if let Ok(Some(byte)) = net.on(1, |e| e.tcp_recv_urgent(b, false)) {
            beside.push(byte);
        }
        match net.recv(1, b, len) {
            Ok(bytes) if bytes.is_empty() => return (sent, marks, got, beside),
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(RecvError::WouldBlock) => {}
            Err(e) => panic!("{e:?}"),
        }
        let at = net.next();
        assert!(at != Instant::NEVER, "stuck");
        net.go_to(at);
    }
    panic!("no end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn in_line_every_byte_comes_whatever_is_urgent(
        seed in any::<u64>(),
        loss_ppm in prop_oneof![Just(0_u32), Just(30_000)],
        reorder_ppm in prop_oneof![Just(0_u32), Just(30_000)],
        steps in prop::collection::vec((1_usize..9000, any::<bool>()), 1..40),
        len in 1_usize..9000,
    ) {
        let mut net = Net::new(seed, &Setup::USUAL);
        let (_, a, b) = net.open();
        net.faults = Faults { loss_ppm, reorder_ppm, ..Faults::NONE };
        inline(&mut net, b);
        let (sent, _, got, beside) = talk(&mut net, a, b, &steps, len);
        prop_assert!(sent == got);
        prop_assert!(beside.is_empty());
        prop_assert_eq!(net.on(1, |e| e.audit(true)), Ok(()));
    }

    #[test]
    fn beside_the_stream_nothing_is_missing_but_urgent_bytes(
        seed in any::<u64>(),
        loss_ppm in prop_oneof![Just(0_u32), Just(30_000)],
        reorder_ppm in prop_oneof![Just(0_u32), Just(30_000)],
        steps in prop::collection::vec((1_usize..9000, any::<bool>()), 1..40),
        len in 1_usize..9000,
    ) {
        let mut net = Net::new(seed, &Setup::USUAL);
        let (_, a, b) = net.open();
        net.faults = Faults { loss_ppm, reorder_ppm, ..Faults::NONE };
        let (sent, marks, got, beside) = talk(&mut net, a, b, &steps, len);
        let mut missing = Vec::new();
        let mut read = got.iter().peekable();
        for (place, byte) in sent.iter().enumerate() {
            if read.next_if_eq(&byte).is_none() {
                missing.push(place);
            }
        }
        prop_assert!(read.next().is_none());
        prop_assert!(missing.iter().all(|place| marks.contains(place)));
        prop_assert_eq!(sent.len() - got.len(), missing.len());
        prop_assert!(beside.iter().all(|byte| marks.iter().any(|mark| sent[*mark] == *byte)));
        prop_assert!(net.on(1, |e| e.audit(true)).is_ok());
    }
}
