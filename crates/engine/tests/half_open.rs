//! Connections in SYN-RECEIVED in small rows, where a lane has them: little memory, and the peer cannot tell.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, SeqNum};
use engine::{AcceptError, State, UdpOptions, UdpTo};
use net::{Net, Seen, Setup, forged, forged_with};
use state::{Dormant, DropReason, SockRef, TcpOptions};
use wire::{TcpFlags, TcpHeader, Timestamps};

const S: Setup = Setup { dormant: 64, ..Setup::USUAL };
/// The same lane without small rows.
const WHOLE: Setup = Setup { dormant: 0, ..S };

/// What one half-open connection costs: its row, its timer, and its part of the flow table, bytes.
const COST: usize = size_of::<Dormant>() + 16 + 11;
const _: () = assert!(COST <= 128);

/// Rows of host 1 in use: TCB rows, small rows, and half-open ones of these.
fn rows(net: &mut Net) -> (u32, u32, u32) {
    net.on(1, |e| {
        let globals = &e.mem().globals;
        (globals.tcp.used, globals.dormant.used, globals.dormant.half_open)
    })
}

fn sound(net: &mut Net) {
    assert_eq!(net.on(1, |e| e.audit(true)), Ok(()));
}

/// A net whose packets are lost, with a listener at port 80 of host 1.
fn silent(seed: u64, setup: &Setup) -> (Net, SockRef) {
    let mut net = Net::new(seed, setup);
    let listener = net.listen(1, 80, 32);
    net.keep_trace = true;
    net.filter = Some(Box::new(|_, _| true));
    (net, listener)
}

/// The options of a usual SYN.
fn offers() -> wire::TcpOptions {
    wire::TcpOptions {
        mss: Some(1400),
        window_scale: Some(5),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: 500, echo: 0 }),
        ..wire::TcpOptions::NONE
    }
}

fn deliver(
    net: &mut Net,
    (seq, ack): (u32, SeqNum),
    flags: TcpFlags,
    options: &wire::TcpOptions,
    payload: &[u8],
) {
    let header = TcpHeader {
        src_port: base::Port(40_000),
        dst_port: base::Port(80),
        seq: SeqNum(seq),
        ack,
        flags,
        window: 5000,
        urgent: 0,
    };
    let packet = forged_with(&net.hosts[0], &net.hosts[1], &header, options, payload);
    net.deliver(1, &packet);
    net.flush(1);
}

fn stamps(value: u32) -> wire::TcpOptions {
    wire::TcpOptions { timestamps: Some(Timestamps { value, echo: 0 }), ..wire::TcpOptions::NONE }
}

/// Hands host 1 the SYN 1000 from port 40000; gives its answer.
fn open(net: &mut Net, flags: TcpFlags) -> Seen {
    deliver(net, (1000, SeqNum(0)), TcpFlags::SYN | flags, &offers(), &[]);
    *net.segments().last().unwrap()
}

#[test]
fn a_handshake_that_is_not_complete_takes_a_small_row_and_the_last_ack_makes_the_whole_one() {
    let (mut net, listener) = silent(1, &S);
    let answer = open(&mut net, TcpFlags::NONE);
    assert_eq!((answer.flags, answer.ack), (TcpFlags::SYN | TcpFlags::ACK, SeqNum(1001)));
    assert_eq!(rows(&mut net), (0, 1, 1));
    let tcp = net.on(1, |e| e.counters().tcp);
    assert_eq!((tcp.open, tcp.dormant, tcp.segments_out), (1, 0, 1), "it is no hibernating connection");
    sound(&mut net);
    net.now = net.now.plus(Duration::from_millis(30));
    deliver(&mut net, (1001, answer.seq.plus(1)), TcpFlags::ACK, &stamps(501), b"early");
    assert_eq!(rows(&mut net), (1, 0, 0));
    let b = net.accept(1, listener).unwrap();
    assert_eq!(net.state(1, b), Some(State::Established));
    assert_eq!(net.recv(1, b, 10), Ok(b"early".to_vec()));
    let info = net.on(1, |e| e.tcp_info(b)).unwrap();
    assert!(info.sack && info.timestamps);
    assert_eq!((info.snd_shift, info.snd_mss, info.rtt_us), (5, 1400 - 12, 30_000));
    assert_eq!(net.on(1, |e| e.counters().tcp.open), 1);
    sound(&mut net);
}

/// What the peer says: after a pause (ms), SEG.SEQ, SEG.ACK (counted from our number), control bits, TSval, payload.
type Line = (u64, u32, u32, TcpFlags, u32, &'static [u8]);

/// Everything that host 1 says, and its counts, when it hears `script` in SYN-RECEIVED.
fn heard(setup: &Setup, opts: &TcpOptions, script: &[Line]) -> Vec<String> {
    let (mut net, listener) = silent(5, setup);
    net.on(1, |e| assert!(e.set_tcp_options(listener, opts)));
    let answer = open(&mut net, TcpFlags::ECE | TcpFlags::CWR);
    for (pause_ms, seq, ack, flags, stamp, payload) in script {
        net.run(Duration::from_millis(*pause_ms));
        let ack = if flags.is_ack() { answer.seq.plus(*ack) } else { SeqNum(0) };
        deliver(&mut net, (*seq, ack), *flags, &stamps(*stamp), payload);
    }
    net.run(Duration::from_secs(200));
    sound(&mut net);
    let mut told: Vec<_> = net.segments().iter().map(|s| format!("{s:?}")).collect();
    told.push(match net.accept(1, listener) {
        Ok(b) => format!("{:?}", (net.state(1, b), net.recv(1, b, 100), net.on(1, |e| e.tcp_info(b)))),
        Err(error) => format!("{error:?}"),
    });
    let (tcp, drops) = net.on(1, |e| (e.counters().tcp, e.counters().drops));
    told.push(format!(
        "{drops:?} {:?}",
        (
            tcp.timeouts,
            tcp.aborts_on_timeout,
            tcp.challenge_acks,
            tcp.resets_out,
            tcp.passive_opens,
            tcp.open
        )
    ));
    told
}

#[test]
fn what_comes_in_syn_received_has_the_effect_it_has_on_a_whole_row() {
    const ACK: TcpFlags = TcpFlags::ACK;
    const RST: TcpFlags = TcpFlags::RST;
    const SYN: TcpFlags = TcpFlags::SYN;
    const NONE: TcpFlags = TcpFlags::NONE;
    let scripts: [&[Line]; 17] = [
        &[],
        &[(50, 1001, 1, ACK, 501, b"")],
        &[(50, 1001, 1, ACK, 501, b"x"), (50, 1002, 1, ACK, 502, b"y")],
        &[(50, 1001, 1, ACK | TcpFlags::FIN, 501, b"x")],
        &[(1500, 1001, 1, ACK, 501, b"")],
        // The SYN again, before and after the SYN,ACK went out again.
        &[(50, 1000, 0, SYN, 501, b""), (1300, 1000, 0, SYN, 502, b""), (9, 1001, 1, ACK, 503, b"")],
        // Resets: exact, in the window, beyond it.
        &[(50, 1001, 0, RST, 501, b"")],
        &[(50, 1005, 0, RST, 501, b""), (50, 1001, 1, ACK, 501, b"")],
        &[(50, 999_000, 0, RST, 501, b""), (50, 1001, 1, ACK, 501, b"")],
        // ACKs of something else.
        &[(50, 1001, 0, ACK, 501, b""), (50, 1001, 2, ACK, 501, b""), (9, 1001, 1, ACK, 501, b"")],
        // An old timestamp, and a number far away.
        &[(50, 1001, 1, ACK, 400, b"old"), (50, 1001, 1, ACK, 501, b"new")],
        &[(50, 800_000, 1, ACK, 501, b"far"), (50, 1001, 1, ACK, 501, b"near")],
        // Another SYN, no flags, data out of order.
        &[(50, 2000, 0, SYN, 501, b""), (50, 1001, 1, ACK, 501, b"")],
        &[(50, 1001, 0, NONE, 501, b"x"), (50, 1001, 1, ACK, 501, b"")],
        &[(50, 1011, 1, ACK, 501, b"later"), (50, 1001, 1, ACK, 501, b"0123456789")],
        &[(50, 1001, 1, RST | ACK, 501, b"")],
        &[(50, 1001, 1, SYN | ACK, 501, b""), (50, 1001, 1, ACK, 501, b"")],
    ];
    let plain = TcpOptions::default();
    let all = [
        plain,
        TcpOptions { defer_accept: 3, ..plain },
        TcpOptions { syn_retries: 1, ..plain },
        TcpOptions { tos: 0x48, ttl: 9, mss_max: 1000, rcv_buf_bytes: 20_000, keepalive: 1, ..plain },
        TcpOptions { user_timeout_ms: 3000, ..plain },
    ];
    for opts in &all {
        for (n, script) in scripts.iter().enumerate() {
            assert_eq!(heard(&S, opts, script), heard(&WHOLE, opts, script), "script {n}, {opts:?}");
        }
    }
}

#[test]
fn resets_and_wrong_acks_make_no_whole_row() {
    let (mut net, _) = silent(7, &S);
    let answer = open(&mut net, TcpFlags::NONE);
    for (seq, ack, flags) in [
        (900_000, 0, TcpFlags::RST),
        (1001, 7, TcpFlags::ACK),
        (1000, 0, TcpFlags::SYN),
        (1001, 0, TcpFlags::NONE),
    ] {
        deliver(&mut net, (seq, answer.seq.plus(ack)), flags, &stamps(501), &[]);
        assert_eq!(rows(&mut net), (0, 1, 1), "{flags:?}");
    }
    deliver(&mut net, (1001, SeqNum(0)), TcpFlags::RST, &stamps(501), &[]);
    assert_eq!(rows(&mut net), (0, 0, 0));
    assert_eq!(net.on(1, |e| e.mem().hops.rows().iter().filter(|h| h.refs > 0).count()), 0);
    assert_eq!(net.on(1, |e| e.next_deadline()), base::Instant::NEVER);
}

#[test]
fn small_rows_are_a_quarter_half_open_at_most_and_further_syns_take_whole_ones() {
    let (mut net, listener) = silent(8, &S);
    for n in 0..20 {
        let syn = forged(&net, 0, (30_000 + n, 80), (SeqNum(0), SeqNum(0)), TcpFlags::SYN, &[]);
        net.deliver(1, &syn);
    }
    assert_eq!(rows(&mut net), (4, 16, 16));
    assert_eq!(net.on(1, |e| e.mem().listeners.rows()[0].half_open_count()), 20);
    sound(&mut net);
    net.close(1, listener);
    let resets = net.segments().iter().filter(|s| s.flags.is_rst()).count();
    assert_eq!((resets, rows(&mut net)), (20, (0, 0, 0)));
    net.run(Duration::from_secs(1));
    net.assert_clean(&S);
}

#[test]
fn without_a_whole_row_the_last_ack_is_dropped_and_counts_when_it_comes_again() {
    let setup = Setup { socks: 1, ..S };
    let (mut net, listener) = silent(9, &setup);
    let answer = open(&mut net, TcpFlags::NONE);
    // A connection with something in flight cannot sleep and has the only row.
    let other = net.connect(1, 41_000, 9).unwrap();
    let last = answer.seq.plus(1);
    deliver(&mut net, (1001, last), TcpFlags::ACK, &stamps(501), b"x");
    assert_eq!(net.dropped(1, DropReason::TcpNoTcb), 1);
    assert_eq!(rows(&mut net), (1, 1, 1));
    assert_eq!(net.accept(1, listener), Err(AcceptError::WouldBlock));
    sound(&mut net);
    net.on(1, |e| e.abort(other));
    deliver(&mut net, (1001, last), TcpFlags::ACK, &stamps(502), b"x");
    let b = net.accept(1, listener).unwrap();
    assert_eq!(net.recv(1, b, 10), Ok(b"x".to_vec()));
}

#[test]
fn a_port_that_goes_takes_half_open_connections_along() {
    let (mut net, _) = silent(10, &S);
    open(&mut net, TcpFlags::NONE);
    assert_eq!(net.on(1, |e| e.drop_port(0)), 1);
    assert_eq!(rows(&mut net), (0, 0, 0));
    assert_eq!(net.on(1, |e| e.counters().tcp.open), 0);
}

#[test]
fn a_syn_ack_that_found_no_frame_goes_out_as_soon_as_there_is_one() {
    let (mut net, _) = silent(11, &S);
    open(&mut net, TcpFlags::NONE);
    let held = net.on(1, |e| {
        let frames = &mut e.mem().frames;
        core::iter::from_fn(|| frames.alloc()).collect::<Vec<_>>()
    });
    net.run(Duration::from_millis(1500));
    assert_eq!(net.segments().len(), 1, "there was no frame for the second one");
    sound(&mut net);
    net.on(1, |e| held.into_iter().for_each(|frame| e.mem().frames.release(frame)));
    net.run(Duration::from_millis(20));
    assert_eq!((net.segments().len(), net.on(1, |e| e.counters().tcp.timeouts)), (2, 1));
    net.run(Duration::from_millis(1950));
    assert_eq!(net.segments().len(), 2, "the next one comes twice as late as the one before");
    net.run(Duration::from_millis(100));
    assert_eq!(net.segments().len(), 3);
}

#[test]
fn the_syn_ack_goes_before_all_datagrams_that_wait_for_the_port() {
    let (mut net, _) = silent(23, &S);
    let to = UdpTo { remote: net.hosts[0].end(9), local: net.hosts[1].addr, route: net.route(1) };
    let from = net.hosts[1].end(9);
    let datagrams = net.on(1, |e| {
        let s = e.udp_bind(from, &UdpOptions::default()).unwrap();
        (0..1000).take_while(|_| e.udp_send_to(s, b"x", Some(&to)).is_ok()).count()
    });
    assert_eq!(datagrams, base::limits::OUTBOX_PACKETS as usize);
    net.trace.clear();
    let first = open(&mut net, TcpFlags::NONE);
    // The handshake's packet is not first in the trace by chance: all are there, and none was dropped.
    assert_eq!(net.trace.len(), datagrams + 1);
    assert_eq!(net.dropped(1, DropReason::OutboxFull), 0);
    assert_eq!(net.trace[0].2.tcp().unwrap().flags(), TcpFlags::SYN | TcpFlags::ACK);
    assert_eq!(first.ack, SeqNum(1001));
    sound(&mut net);
}

#[test]
fn early_packets_go_in_their_order() {
    let (mut net, _) = silent(24, &S);
    let (client, server) = (&net.hosts[0], &net.hosts[1]);
    let syns = [40_001, 40_002, 40_003].map(|port| {
        let syn = TcpHeader {
            src_port: base::Port(port),
            dst_port: base::Port(80),
            seq: SeqNum(1000),
            ack: SeqNum(0),
            flags: TcpFlags::SYN,
            window: 5000,
            urgent: 0,
        };
        forged_with(client, server, &syn, &offers(), &[])
    });
    syns.iter().for_each(|syn| net.deliver(1, syn));
    net.flush(1);
    let ports: Vec<u16> = net.trace.iter().map(|(_, _, p)| p.tcp().unwrap().dst_port().0).collect();
    assert_eq!(ports, [40_001, 40_002, 40_003]);
}
