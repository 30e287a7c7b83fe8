//! Windows, small segments and small ACKs: zero-window probes, silly windows, Nagle, cork, delayed ACKs, keepalive, and
//! running out of frames (RFC 9293 3.8.4, 3.8.6, RFC 1122 4.2.3).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::Duration;
use engine::{RecvError, SendError, SockError, State};
use net::{Faults, Net, Packet, Setup, pattern};
use state::{DropReason, Ready, SockRef, TcpOptions};
use wire::TcpFlags;

const S: Setup = Setup::USUAL;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn set(net: &mut Net, host: usize, s: SockRef, opts: TcpOptions) {
    assert!(net.on(host, |e| e.set_tcp_options(s, &opts)));
}

/// Queues as much as goes.
fn fill(net: &mut Net, host: usize, s: SockRef) -> usize {
    let data = pattern(3, 1 << 20);
    let mut sent = 0;
    while let Ok(n) = net.send(host, s, &data[sent % 1000..]) {
        sent += n;
        net.run(ms(1));
        if sent > 64 << 20 {
            panic!("no end");
        }
    }
    sent
}

#[test]
fn a_closed_window_is_probed_and_opens_when_the_program_reads() {
    let mut net = Net::new(1, &S);
    let (_, a, b) = net.open();
    let total = fill(&mut net, 0, a);
    net.run(ms(300));
    assert_eq!(net.on(0, |e| e.tcp_info(a)).unwrap().snd_wnd_bytes, 0);
    net.keep_trace = true;
    net.run(Duration::from_secs(20));
    let probes: Vec<_> = net.segments().into_iter().filter(|s| s.from == 0).collect();
    assert!(probes.len() >= 4 && probes.len() <= 8, "{}", probes.len());
    assert!(probes.iter().all(|p| p.len == 0));
    let gaps: Vec<u64> = probes.windows(2).map(|w| w[1].at.since(w[0].at).as_millis()).collect();
    assert!(gaps.windows(2).all(|g| g[1] >= 2 * g[0] - 5), "{gaps:?}");
    // Window probes that are answered go on for ever (RFC 1122 4.2.2.17).
    net.run(Duration::from_secs(3600));
    assert_eq!(net.state(0, a), Some(State::Established));
    let mut got = 0;
    while got < total {
        match net.recv(1, b, 1 << 20) {
            Ok(bytes) => got += bytes.len(),
            Err(RecvError::WouldBlock) => net.run(ms(1)),
            Err(e) => panic!("{e:?}"),
        }
    }
}

#[test]
fn unanswered_window_probes_end_the_connection() {
    let mut net = Net::new(2, &S);
    let (_, a, _) = net.open();
    fill(&mut net, 0, a);
    net.run(ms(100));
    net.filter = Some(Box::new(|_, _| true));
    net.run(Duration::from_secs(2000));
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::TimedOut));
}

#[test]
fn a_lost_window_update_does_not_stop_the_stream() {
    let mut net = Net::new(3, &S);
    let (_, a, b) = net.open();
    fill(&mut net, 0, a);
    net.run(ms(100));
    net.filter = Some(Box::new(|from, _| from == 1));
    while net.recv(1, b, 1 << 20).is_ok() {}
    net.filter = None;
    net.run(Duration::from_secs(2));
    assert!(net.on(1, |e| e.unread_bytes(b)) > 0, "the probe found the window open");
}

#[test]
fn a_reader_of_single_bytes_makes_no_small_windows() {
    let mut net = Net::new(4, &S);
    let (_, a, b) = net.open();
    fill(&mut net, 0, a);
    net.run(ms(100));
    net.keep_trace = true;
    for _ in 0..2000 {
        net.recv(1, b, 1).unwrap();
    }
    net.run(ms(1));
    let windows = net.segments().iter().filter(|s| s.from == 1).count();
    assert!(windows <= 2, "{windows} window updates");
    assert!(
        net.segments().iter().filter(|s| s.from == 0 && s.len > 0).all(|s| s.len >= usize::from(net::MSS))
    );
}

#[test]
fn small_writes_wait_for_the_ack_of_the_first_unless_nodelay() {
    for nodelay in [0, 1] {
        let mut net = Net::new(5, &S);
        let (_, a, b) = net.open();
        set(&mut net, 0, a, TcpOptions { nodelay, ..TcpOptions::default() });
        net.keep_trace = true;
        for _ in 0..5 {
            net.send(0, a, b"0123456789").unwrap();
        }
        net.run(ms(1));
        let sent: Vec<usize> =
            net.segments().iter().filter(|s| s.from == 0 && s.len > 0).map(|s| s.len).collect();
        assert_eq!(sent, if nodelay == 1 { vec![10; 5] } else { vec![10, 40] });
        assert_eq!(net.recv(1, b, 100).unwrap().len(), 50);
    }
}

#[test]
fn a_large_write_ends_with_a_small_segment_at_once() {
    let mut net = Net::new(6, &Setup { super_segment_max: 0, ..S });
    let (_, a, _) = net.open();
    net.keep_trace = true;
    net.send(0, a, &pattern(1, 2000)).unwrap();
    let sent: Vec<usize> =
        net.segments().iter().filter(|s| s.from == 0 && s.len > 0).map(|s| s.len).collect();
    assert_eq!(sent, vec![usize::from(net::MSS), 2000 - usize::from(net::MSS)]);
}

#[test]
fn more_to_come_gathers_small_writes_for_a_while() {
    let mut net = Net::new(7, &S);
    let (_, a, b) = net.open();
    net.keep_trace = true;
    let more = |net: &mut Net, data: &[u8], more: bool| {
        assert_eq!(net.on(0, |e| e.tcp_send(a, data, more)), Ok(data.len()));
        net.flush(0);
    };
    more(&mut net, b"HTTP/1.1 200 OK", true);
    net.run(ms(10));
    assert_eq!(net.segments().iter().filter(|s| s.len > 0).count(), 0);
    more(&mut net, b" body", false);
    net.run(ms(1));
    assert_eq!(net.recv(1, b, 100).unwrap(), b"HTTP/1.1 200 OK body");
    assert_eq!(net.segments().iter().filter(|s| s.len > 0).count(), 1);
    // Nobody keeps the promise: it goes after 200 ms.
    more(&mut net, b"alone", true);
    net.run(ms(190));
    assert_eq!(net.on(1, |e| e.unread_bytes(b)), 0);
    net.run(ms(15));
    assert_eq!(net.recv(1, b, 100).unwrap(), b"alone");
}

#[test]
fn a_request_and_its_answer_need_no_acks_of_their_own() {
    let mut net = Net::new(8, &S);
    let (_, a, b) = net.open();
    let mut before = [0; 2];
    for round in 0..50 {
        if round == 10 {
            before = [0, 1].map(|h| net.on(h, |e| e.counters().tcp.segments_out));
        }
        net.on(0, |e| e.tcp_send(a, b"request", false)).unwrap();
        net.run(Duration::from_micros(60));
        let mut buf = [0; 100];
        // The program answers before the lane sends.
        net.on(1, |e| {
            assert_eq!(e.tcp_recv(b, &mut buf, false), Ok(7));
            e.tcp_send(b, b"answer", false).unwrap();
        });
        net.run(Duration::from_micros(60));
        assert_eq!(net.recv(0, a, 100).unwrap(), b"answer");
    }
    let after = [0, 1].map(|h| net.on(h, |e| e.counters().tcp.segments_out));
    assert_eq!([after[0] - before[0], after[1] - before[1]], [40, 40]);
    let c = net.on(1, |e| e.counters().tcp);
    assert!(c.predicted >= 40);
}

#[test]
fn a_lone_segment_is_acknowledged_after_40_ms() {
    let mut net = Net::new(9, &S);
    let (_, a, b) = net.open();
    // Past the quick ACKs of the beginning.
    for _ in 0..20 {
        net.send(0, a, b"x").unwrap();
        net.run(ms(1));
    }
    net.run(ms(500));
    net.keep_trace = true;
    net.send(0, a, b"ping").unwrap();
    net.run(ms(100));
    let seen = net.segments();
    assert_eq!(seen.len(), 2);
    let delay = seen[1].at.since(seen[0].at).as_millis();
    assert!((40..=42).contains(&delay), "{delay}");
    assert_eq!(net.on(1, |e| e.unread_bytes(b)), 24);
}

#[test]
fn an_idle_peer_is_probed_and_given_up_when_it_is_gone() {
    let mut net = Net::new(10, &S);
    let (_, a, b) = net.open();
    let opts = TcpOptions {
        keepalive: 1,
        keep_idle_s: 10,
        keep_interval_s: 2,
        keep_probes: 3,
        ..TcpOptions::default()
    };
    set(&mut net, 0, a, opts);
    net.keep_trace = true;
    net.run(Duration::from_secs(35));
    let probes = net.segments().iter().filter(|s| s.from == 0).count();
    assert_eq!(probes, 3, "one each 10 s, all answered");
    net.filter = Some(Box::new(|_, _| true));
    net.run(Duration::from_secs(10 + 3 * 2 + 2));
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::TimedOut));
    assert_eq!(net.segments().last().unwrap().flags, TcpFlags::RST | TcpFlags::ACK);
    assert_eq!(net.state(1, b), Some(State::Established));
}

#[test]
fn senders_leave_frames_for_everybody_else() {
    let setup = Setup { frames: 600, ..S };
    let mut net = Net::new(11, &setup);
    let listener = net.listen(1, 80, 32);
    let pairs: Vec<_> = (0..10).map(|n| net.open_to(listener, 40_000 + n)).collect();
    net.filter = Some(Box::new(|_, p: &Packet| p.tcp().is_some_and(|t| !t.payload().is_empty())));
    let wants: Vec<usize> =
        pairs.iter().map(|(a, _)| net.send(0, *a, &pattern(1, 1 << 20)).unwrap_or(0)).collect();
    assert!(net.free_frames(0) >= 32, "{}", net.free_frames(0));
    // Nothing gets through, but connections can still be opened and answered.
    let late = net.connect(0, 50_000, 80).unwrap();
    net.run(ms(10));
    assert_eq!(net.state(0, late), Some(State::Established));
    // Then everything flows again, in order.
    net.filter = None;
    for (n, (_, b)) in pairs.iter().enumerate() {
        let want = wants[n];
        let mut got = Vec::new();
        for _ in 0..20_000 {
            while let Ok(bytes) = net.recv(1, *b, 1 << 20) {
                got.extend_from_slice(&bytes);
            }
            if got.len() >= want {
                break;
            }
            net.run(ms(50));
        }
        assert!(got == pattern(1, 1 << 20)[..want], "pair {n}: {} of {want}", got.len());
    }
}

#[test]
fn peers_that_take_nothing_leave_others_their_share() {
    let setup = Setup { frames: 4000, ..S };
    let mut net = Net::new(15, &setup);
    let listener = net.listen(1, 80, 32);
    let stuck: Vec<_> = (0..20).map(|n| net.open_to(listener, 40_000 + n)).collect();
    let (a, b) = net.open_to(listener, 41_000);
    net.filter = Some(Box::new(|_, p: &Packet| {
        p.tcp().is_some_and(|t| t.src_port().0 < 41_000 && !t.payload().is_empty())
    }));
    let data = pattern(1, 4 << 20);
    for _ in 0..100 {
        for (s, _) in &stuck {
            let _ = net.send(0, *s, &data);
        }
        net.run(ms(1));
    }
    let (mut sent, mut got) = (0, Vec::new());
    for _ in 0..200 {
        sent += net.send(0, a, &data[sent..]).unwrap_or(0);
        net.run(ms(2));
        while let Ok(bytes) = net.recv(1, b, 1 << 20) {
            got.extend_from_slice(&bytes);
        }
        if got.len() == data.len() {
            break;
        }
    }
    assert_eq!(got.len(), data.len());
    assert!(got == data);
}

#[test]
fn a_program_that_finds_no_frames_is_told_when_there_are_some() {
    let setup = Setup { frames: 300, ..S };
    let mut net = Net::new(12, &setup);
    let (_, a, _) = net.open();
    net.on(0, |e| e.set_event_queue(a, 1, 77));
    while net.on(0, |e| e.poll_event(1)).is_some() {}
    let hoard: Vec<_> = net.on(0, |e| {
        let frames = &mut e.mem().frames;
        std::iter::from_fn(|| frames.alloc()).collect()
    });
    assert_eq!(net.send(0, a, b"data"), Err(SendError::WouldBlock));
    net.run(ms(100));
    assert_eq!(net.on(0, |e| e.poll_event(1)), None);
    net.on(0, |e| hoard.iter().for_each(|f| e.mem().frames.release(*f)));
    net.run(ms(20));
    let event = net.on(0, |e| e.poll_event(1)).unwrap();
    assert_eq!((event.token, event.ready), (77, Ready::OUT));
    assert_eq!(net.send(0, a, b"data"), Ok(4));
}

#[test]
fn received_data_does_not_wedge_a_lane_without_frames() {
    let setup = Setup { frames: 300, ..S };
    let mut net = Net::new(13, &setup);
    let listener = net.listen(1, 80, 32);
    let pairs: Vec<_> = (0..6).map(|n| net.open_to(listener, 40_000 + n)).collect();
    // Everybody sends and nobody reads until nothing moves any more.
    let data = pattern(1, 100_000);
    let mut sent = vec![0; pairs.len()];
    for _ in 0..50 {
        for (n, (a, _)) in pairs.iter().enumerate() {
            if let Ok(k) = net.send(0, *a, &data[sent[n]..]) {
                sent[n] += k;
            }
        }
        net.run(ms(20));
    }
    let mut got = vec![Vec::new(); pairs.len()];
    for _ in 0..20_000 {
        for (n, (a, b)) in pairs.iter().enumerate() {
            while let Ok(bytes) = net.recv(1, *b, 1 << 20) {
                got[n].extend_from_slice(&bytes);
            }
            if let Ok(k) = net.send(0, *a, &data[sent[n]..]) {
                sent[n] += k;
            }
        }
        if got.iter().all(|g| g.len() == data.len()) {
            break;
        }
        net.run(ms(20));
    }
    assert!(got.iter().all(|g| *g == data), "{:?} {:?}", got.iter().map(Vec::len).collect::<Vec<_>>(), sent);
}

#[test]
fn many_tiny_segments_do_not_pin_a_frame_each() {
    let mut net = Net::new(14, &S);
    let (_, a, b) = net.open();
    set(&mut net, 0, a, TcpOptions { nodelay: 1, ..TcpOptions::default() });
    let before = net.free_frames(1);
    for _ in 0..1000 {
        net.send(0, a, b"tiny").unwrap();
        net.run(Duration::from_micros(200));
    }
    assert_eq!(net.on(1, |e| e.unread_bytes(b)), 4000);
    assert!(before - net.free_frames(1) <= 3);
    let c = net.on(1, |e| e.counters().tcp.compacted);
    assert!(c > 900);
    assert_eq!(net.recv(1, b, 10_000).unwrap(), b"tiny".repeat(1000));
}

#[test]
fn a_port_that_takes_nothing_gets_the_same_packets_again() {
    let mut net = Net::new(15, &S);
    let (_, a, b) = net.open();
    let data = pattern(1, 100_000);
    net.on(0, |e| e.tcp_send(a, &data, false)).unwrap();
    for round in 0..10 {
        net.on(0, |e| {
            let mut out = state::TxBatch::new();
            assert!(e.poll_transmit(&mut out) > 0, "round {round}");
            e.requeue_unsent(out.items());
            assert!(e.transmit_pending());
        });
    }
    let mut got = Vec::new();
    while got.len() < data.len() {
        net.run(ms(1));
        while let Ok(bytes) = net.recv(1, b, 1 << 20) {
            got.extend_from_slice(&bytes);
        }
    }
    assert!(got == data);
    assert_eq!(net.on(0, |e| e.counters().tcp.retransmits), 0);
    net.flush(0);
    assert_eq!(net.dropped(0, DropReason::OutboxFull), 0);
    net.close(0, a);
    net.close(1, b);
}

#[test]
fn a_peer_without_options_is_served() {
    let mut net = Net::new(16, &S);
    net.faults = Faults { loss_ppm: 10_000, ..Faults::NONE };
    // The wire strips every option but the MSS from SYNs.
    let listener = net.listen(1, 80, 8);
    let a = net.connect(0, 40_000, 80).unwrap();
    net.on(0, |e| e.mem().hot.rows_mut()[0].flags &= !3);
    let strip = |p: &Packet| p.tcp().is_some_and(|t| t.flags().is_syn());
    for _ in 0..3 {
        let (now, from, mut p) = loop {
            net.keep_trace = true;
            net.filter = Some(Box::new(move |_, p| strip(p)));
            net.flush(0);
            net.flush(1);
            if let Some(i) = net.trace.iter().position(|t| strip(&t.2)) {
                break net.trace.remove(i);
            }
            if net.state(0, a) == Some(State::Established) {
                break (net.now, 9, Packet { bytes: vec![], gso_size: 0, port: 0 });
            }
            assert!(net.step());
        };
        let _ = now;
        if from == 9 {
            break;
        }
        // MSS stays; what follows becomes NOPs.
        let header = net::TCP_AT + 20;
        for byte in &mut p.bytes[header + 4..] {
            *byte = 1;
        }
        net::finish_checksum(&mut p.bytes);
        net.put(1 - from, p);
        net.run(Duration::from_micros(60));
    }
    net.filter = None;
    net.trace.clear();
    net.keep_trace = false;
    net.run(ms(1500));
    let b = net.accept(1, listener).unwrap();
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    assert!(!info.timestamps && !info.sack && info.snd_shift == 0 && info.rcv_shift == 0, "{info:?}");
    assert_eq!(info.snd_mss, 1500 - net::HEADERS);
    net.transfer(a, b, 300_000, 300_000);
}
