//! Segments signed by TCP-AO (RFC 5925), whose signatures themselves are tested by the vectors of RFC 9235: which keys sign what, which segments are
//! refused, and how keys are changed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, Instant, Port, SeqNum};
use engine::{AoAlgorithm, AoCounters, AoKey, KeyError, KeyPeer, SockError, State};
use net::{MSS, Net, Packet, Setup, TCP_AT, finish_checksum, forged_with, pattern};
use state::{DropReason, SockRef};
use wire::tcp_options::signature_at;
use wire::{Sign, TcpFlags, TcpHeader, TcpOptions};

const S: Setup = Setup { super_segment_max: 61_440, ..Setup::USUAL };
const KINDS: [(AoAlgorithm, bool); 4] = [
    (AoAlgorithm::HmacSha1, true),
    (AoAlgorithm::HmacSha1, false),
    (AoAlgorithm::AesCmac, true),
    (AoAlgorithm::AesCmac, false),
];

/// A key of host `host` for the other one: its SendID and RecvID there are those of host 0, and the other way round for host 1.
fn key(net: &Net, host: usize, ids: (u8, u8), key: &'static [u8]) -> AoKey<'static> {
    let (send_id, recv_id) = if host == 0 { ids } else { (ids.1, ids.0) };
    AoKey {
        peer: KeyPeer { addr: net.hosts[1 - host].addr, prefix: 128 },
        send_id,
        recv_id,
        algorithm: AoAlgorithm::HmacSha1,
        mac_len: 12,
        covers_options: true,
        key,
    }
}

fn add(net: &mut Net, host: usize, sock: SockRef, key: &AoKey<'_>) -> Result<(), KeyError> {
    net.on(host, |e| e.tcp_add_ao_key(sock, key))
}

/// The usual key of [`open`].
const IDS: (u8, u8) = (61, 84);
const SECRET: &[u8] = b"testvector";

/// An open connection between two ends with a key: (listener, host 0's end, host 1's end).
fn open(net: &mut Net, change: impl Fn(&mut AoKey<'_>)) -> (SockRef, SockRef, Option<SockRef>) {
    let listener = net.listen(1, 80, 16);
    let mut there = key(net, 1, IDS, SECRET);
    change(&mut there);
    add(net, 1, listener, &there).unwrap();
    let a = net.connect(0, 40_000, 80).unwrap();
    let mut here = key(net, 0, IDS, SECRET);
    change(&mut here);
    add(net, 0, a, &here).unwrap();
    net.run(Duration::from_millis(10));
    (listener, a, net.accept(1, listener).ok())
}

/// The KeyID and RNextKeyID of a segment.
fn ids(packet: &Packet) -> Option<(u8, u8)> {
    match TcpOptions::parse(packet.tcp()?.options()).sign {
        Sign::Ao { key_id, next_key_id, mac_len: 12 } => Some((key_id, next_key_id)),
        _ => None,
    }
}

/// Carries some bytes from one end to the other.
fn carry(net: &mut Net, (from, a): (usize, SockRef), (to, b): (usize, SockRef)) {
    let data = pattern(7, 5000);
    net.send(from, a, &data).unwrap();
    net.run(Duration::from_millis(500));
    assert_eq!(net.recv(to, b, 5000), Ok(data));
}

fn refused(net: &mut Net) -> u64 {
    let all = [
        DropReason::TcpAoNotFound,
        DropReason::TcpAoKeyNotFound,
        DropReason::TcpAoFailure,
        DropReason::TcpAoUnexpected,
        DropReason::TcpMd5NotFound,
        DropReason::TcpMd5Unexpected,
        DropReason::TcpAuthBad,
    ];
    (0..2).map(|host| all.iter().map(|reason| net.dropped(host, *reason)).sum::<u64>()).sum()
}

#[test]
fn a_connection_with_each_algorithm_is_signed_from_its_syn_to_its_last_ack() {
    for (n, (algorithm, covers_options)) in (0..).zip(KINDS) {
        for loss_ppm in [0, 30_000] {
            let mut net = Net::new(n, &S);
            net.keep_trace = true;
            net.faults.split = false;
            let (listener, a, b) = open(&mut net, |key| {
                (key.algorithm, key.covers_options) = (algorithm, covers_options);
            });
            let b = b.unwrap();
            net.faults.loss_ppm = loss_ppm;
            net.transfer(a, b, 200_000, 100_000);
            net.faults.loss_ppm = 0;
            net.close(0, a);
            net.run(Duration::from_millis(200));
            net.close(1, b);
            net.run(Duration::from_secs(70));
            net.close(1, listener);
            let mut longest = 0;
            for (_, from, packet) in net.trace.iter().filter(|(_, _, p)| p.tcp().is_some()) {
                let wanted = if *from == 0 { (61, 84) } else { (84, 61) };
                assert_eq!(ids(packet), Some(wanted), "{:?}", packet.tcp());
                assert_eq!(packet.gso_size, 0);
                longest = longest.max(packet.tcp().unwrap().payload().len());
            }
            assert_eq!((longest, refused(&mut net)), (usize::from(MSS) - 16, 0));
            for host in 0..2 {
                assert_eq!(net.on(host, |e| e.mem().globals.keys.used), 0, "no key outlives its socket");
            }
            net.assert_clean(&S);
        }
    }
}

/// Makes another key of one.
type Change = fn(&mut AoKey<'_>);

#[test]
fn another_key_number_or_none_opens_nothing_and_is_counted() {
    let tries: [(DropReason, Change); 4] = [
        (DropReason::TcpAoFailure, |key| key.key = b"another"),
        (DropReason::TcpAoFailure, |key| key.covers_options = false),
        (DropReason::TcpAoFailure, |key| key.mac_len = 16),
        (DropReason::TcpAoKeyNotFound, |key| key.send_id = 7),
    ];
    let mut net = Net::new(3, &S);
    let listener = net.listen(1, 80, 16);
    let there = key(&net, 1, IDS, SECRET);
    add(&mut net, 1, listener, &there).unwrap();
    for (n, (reason, change)) in (0..).zip(tries) {
        let before = net.dropped(1, reason);
        let a = net.connect(0, 40_000 + n, 80).unwrap();
        let mut here = key(&net, 0, IDS, SECRET);
        change(&mut here);
        add(&mut net, 0, a, &here).unwrap();
        net.run(Duration::from_secs(150));
        assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::TimedOut));
        assert_eq!(net.dropped(1, reason), before + 7, "{n}");
    }
    let a = net.connect(0, 41_000, 80).unwrap();
    net.run(Duration::from_secs(150));
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::TimedOut));
    assert_eq!(net.dropped(1, DropReason::TcpAoNotFound), 7);
    assert_eq!(net.on(1, |e| e.counters().tcp.resets_out), 0, "all in silence");
}

#[test]
fn without_a_key_what_is_signed_is_taken_as_if_it_were_not_unless_that_is_unwanted() {
    let mut net = Net::new(4, &S);
    let listener = net.listen(1, 80, 16);
    let header = |seq| TcpHeader {
        src_port: Port(40_000),
        dst_port: Port(80),
        seq: SeqNum(seq),
        ack: SeqNum(0),
        flags: TcpFlags::SYN,
        window: 60_000,
        urgent: 0,
    };
    let options =
        TcpOptions { sign: Sign::Ao { key_id: 1, next_key_id: 2, mac_len: 12 }, ..TcpOptions::NONE };
    net.on(1, |e| e.set_ao_without_key(false));
    for (taken, half_open) in [(false, 0), (true, 1)] {
        net.on(1, |e| e.set_ao_without_key(taken));
        let syn = forged_with(&net.hosts[0], &net.hosts[1], &header(5), &options, b"");
        net.deliver(1, &syn);
        assert_eq!(net.on(1, |e| e.mem().globals.tcp.used), half_open);
        assert_eq!(net.dropped(1, DropReason::TcpAoUnexpected), 1);
    }
    net.close(1, listener);
}

#[test]
fn one_changed_bit_anywhere_is_found_but_not_in_options_that_are_left_out() {
    for (algorithm, covers_options) in KINDS {
        let mut net = Net::new(5, &S);
        let (_, a, b) =
            open(&mut net, |key| (key.algorithm, key.covers_options) = (algorithm, covers_options));
        let b = b.unwrap();
        carry(&mut net, (0, a), (1, b));
        net.keep_trace = true;
        net.send(0, a, b"!").unwrap();
        net.filter = Some(Box::new(|_, _| true));
        net.flush(0);
        let real = net.trace[0].2.clone();
        let options = real.tcp().unwrap().options().to_vec();
        let place = signature_at(&options).unwrap();
        for at in TCP_AT..real.bytes.len() {
            let mut changed = real.clone();
            changed.bytes[at] ^= 1;
            finish_checksum(&mut changed.bytes);
            let in_options = (TCP_AT + 20..TCP_AT + 20 + options.len()).contains(&at);
            let of_another = in_options && at - TCP_AT - 20 >= place.end;
            if changed.tcp().is_none()
                || at == TCP_AT + 16
                || at == TCP_AT + 17
                || (of_another && !covers_options)
            {
                continue;
            }
            net.deliver(1, &changed);
            assert!(net.recv(1, b, 10).is_err(), "byte {at}");
        }
        if !covers_options {
            // A box on the way changes a timestamp.
            let mut changed = real.clone();
            changed.bytes[TCP_AT + 20 + options.len() - 1] ^= 1;
            finish_checksum(&mut changed.bytes);
            net.deliver(1, &changed);
            assert_eq!(net.recv(1, b, 10), Ok(b"!".to_vec()));
            continue;
        }
        net.deliver(1, &real);
        assert_eq!(net.recv(1, b, 10), Ok(b"!".to_vec()));
    }
}

#[test]
fn both_ends_go_over_to_another_key_without_a_pause() {
    let mut net = Net::new(6, &S);
    let (_, a, b) = open(&mut net, |_| {});
    let b = b.unwrap();
    let next: [AoKey<'_>; 2] = [0, 1].map(|host| AoKey {
        algorithm: AoAlgorithm::AesCmac,
        mac_len: 16,
        ..key(&net, host, (5, 6), b"the next")
    });
    add(&mut net, 0, a, &next[0]).unwrap();
    // The other end does not have it yet: what asks for it changes nothing.
    net.on(0, |e| e.tcp_use_ao_keys(a, None, Some(6))).unwrap();
    carry(&mut net, (0, a), (1, b));
    assert_eq!(net.on(1, |e| e.tcp_ao_keys(b)), Some((84, 61)));
    add(&mut net, 1, b, &next[1]).unwrap();
    carry(&mut net, (0, a), (1, b));
    carry(&mut net, (1, b), (0, a));
    // Now host 1 signs with it, as it was asked to; host 0 goes on with its own until it is asked.
    assert_eq!(
        (net.on(0, |e| e.tcp_ao_keys(a)), net.on(1, |e| e.tcp_ao_keys(b))),
        (Some((61, 6)), Some((6, 61)))
    );
    net.on(1, |e| e.tcp_use_ao_keys(b, None, Some(5))).unwrap();
    net.run(Duration::from_millis(10));
    assert_eq!(net.on(0, |e| e.tcp_ao_keys(a)), Some((5, 6)));
    carry(&mut net, (0, a), (1, b));
    // With longer signatures segments are shorter.
    assert_eq!(net.on(0, |e| e.tcp_info(a)).unwrap().snd_mss, MSS - 20);
    let (peer, old) = (next[0].peer, (IDS.0, IDS.1));
    assert_eq!(net.on(0, |e| e.tcp_remove_ao_key(a, peer, 5, 6)), Err(KeyError::InUse));
    assert_eq!(net.on(0, |e| e.tcp_remove_ao_key(a, peer, old.0, old.1)), Ok(()));
    assert_eq!(net.on(0, |e| e.tcp_remove_ao_key(a, peer, old.0, old.1)), Err(KeyError::NoSuchKey));
    assert_eq!(net.on(0, |e| e.tcp_use_ao_keys(a, Some(61), None)), Err(KeyError::NoSuchKey));
    carry(&mut net, (1, b), (0, a));
    assert_eq!(refused(&mut net), 0);
}

#[test]
fn a_syn_chooses_among_the_keys_of_a_listener() {
    let mut net = Net::new(7, &S);
    let listener = net.listen(1, 80, 16);
    for (ids, secret) in [((1, 2), &b"one"[..]), ((3, 4), b"two")] {
        let there = key(&net, 1, ids, secret);
        add(&mut net, 1, listener, &there).unwrap();
    }
    let a = net.connect(0, 40_000, 80).unwrap();
    for (ids, secret) in [((3, 4), &b"two"[..]), ((1, 2), b"one")] {
        let here = key(&net, 0, ids, secret);
        add(&mut net, 0, a, &here).unwrap();
    }
    net.run(Duration::from_millis(10));
    let b = net.accept(1, listener).unwrap();
    assert_eq!(
        (net.on(0, |e| e.tcp_ao_keys(a)), net.on(1, |e| e.tcp_ao_keys(b))),
        (Some((3, 4)), Some((4, 3)))
    );
    // It has the listener's other key, too.
    net.on(1, |e| e.tcp_use_ao_keys(b, Some(2), Some(1))).unwrap();
    carry(&mut net, (1, b), (0, a));
    carry(&mut net, (0, a), (1, b));
    assert_eq!((net.on(0, |e| e.tcp_ao_keys(a)), refused(&mut net)), (Some((1, 4)), 0));
}

#[test]
fn keys_that_cannot_be_are_refused() {
    let mut net = Net::new(8, &S);
    let listener = net.listen(1, 80, 16);
    let good = key(&net, 1, IDS, SECRET);
    for mac_len in [3, 17, 255] {
        assert_eq!(add(&mut net, 1, listener, &AoKey { mac_len, ..good }), Err(KeyError::Invalid));
    }
    assert_eq!(add(&mut net, 1, listener, &AoKey { key: &[1; 81], ..good }), Err(KeyError::Invalid));
    add(&mut net, 1, listener, &good).unwrap();
    assert_eq!(add(&mut net, 1, listener, &good), Err(KeyError::Exists));
    assert_eq!(net.on(1, |e| e.tcp_set_md5_key(listener, good.peer, b"k")), Err(KeyError::OtherKind));
    let other = net.listen(1, 81, 16);
    net.on(1, |e| e.tcp_set_md5_key(other, good.peer, b"k")).unwrap();
    assert_eq!(add(&mut net, 1, other, &good), Err(KeyError::OtherKind));
    // A connection that began without is not signed later.
    let plain = net.listen(1, 82, 16);
    let a = net.connect(0, 40_000, 82).unwrap();
    net.run(Duration::from_millis(10));
    let b = net.accept(1, plain).unwrap();
    assert_eq!(add(&mut net, 1, b, &good), Err(KeyError::Invalid));
    assert_eq!((net.state(0, a), net.state(1, b)), (Some(State::Established), Some(State::Established)));
}

#[test]
fn a_socket_counts_what_came_and_its_connections_begin_anew() {
    let mut net = Net::new(21, &S);
    let (listener, a, b) = open(&mut net, |_| {});
    let b = b.unwrap();
    carry(&mut net, (0, a), (1, b));
    let of = |net: &mut Net, host, s| net.on(host, |e| e.tcp_ao(s)).unwrap();
    let (here, there) = (of(&mut net, 0, a), of(&mut net, 1, b));
    assert_eq!(
        (here.current, here.next, there.current, there.next),
        (Some(61), Some(84), Some(84), Some(61))
    );
    assert!(here.counters.good > 0 && there.counters.good > 0);
    assert_eq!((here.counters.bad, there.counters.bad, there.counters.no_key), (0, 0, 0));
    assert_eq!(of(&mut net, 1, listener).counters, AoCounters { good: 1, ..AoCounters::default() });
    // One with another secret, one with another number, and one without a signature.
    for (port, ids, secret) in
        [(40_001, IDS, Some(&b"other"[..])), (40_002, (1, 2), Some(SECRET)), (40_003, IDS, None)]
    {
        let c = net.connect(0, port, 80).unwrap();
        if let Some(secret) = secret {
            let key = key(&net, 0, ids, secret);
            add(&mut net, 0, c, &key).unwrap();
        }
        net.run(Duration::from_millis(10));
        net.on(0, |e| e.abort(c));
    }
    let wanted = AoCounters { good: 1, bad: 1, no_key: 1, unsigned: 1, icmp: 0 };
    assert_eq!(of(&mut net, 1, listener).counters, wanted);
    let mut keys = Vec::new();
    net.on(1, |e| {
        e.tcp_each_ao_key(listener, |k| keys.push((k.key.send_id, k.key.key.to_vec(), k.good, k.bad)))
    });
    assert_eq!(keys, [(84, SECRET.to_vec(), 1, 1)]);
    let set = AoCounters { good: 5, bad: 6, no_key: 7, unsigned: 8, icmp: 9 };
    net.on(1, |e| e.tcp_set_ao(listener, true, true, Some(set))).unwrap();
    let now = of(&mut net, 1, listener);
    assert_eq!((now.required, now.hears_icmp, now.counters), (true, true, set));
    net.on(1, |e| e.tcp_set_ao(listener, false, false, None)).unwrap();
    assert_eq!(of(&mut net, 1, listener).counters, set);
}

#[test]
fn a_listener_that_requires_signatures_takes_nobody_without() {
    let mut net = Net::new(22, &S);
    let listener = net.listen(1, 80, 16);
    net.on(1, |e| e.tcp_set_ao(listener, true, true, None)).unwrap();
    let elsewhere = KeyPeer { addr: net.hosts[1].addr, prefix: 128 };
    let there = key(&net, 1, IDS, SECRET);
    add(&mut net, 1, listener, &AoKey { peer: elsewhere, ..there }).unwrap();
    // Neither unsigned nor signed: it has no key for this peer.
    let plain = net.connect(0, 40_000, 80).unwrap();
    let signed = net.connect(0, 40_001, 80).unwrap();
    let here = key(&net, 0, IDS, SECRET);
    add(&mut net, 0, signed, &here).unwrap();
    net.run(Duration::from_millis(10));
    assert_eq!((net.state(0, plain), net.state(0, signed)), (Some(State::SynSent), Some(State::SynSent)));
    let counters = net.on(1, |e| e.tcp_ao(listener)).unwrap().counters;
    assert_eq!((counters.unsigned, counters.no_key), (1, 1));
    assert_eq!(net.on(1, |e| e.tcp_set_md5_key(listener, elsewhere, b"k")), Err(KeyError::OtherKind));
    // With the key the connection goes on, and has what its listener has.
    let there = key(&net, 1, (1, 2), SECRET);
    add(&mut net, 1, listener, &there).unwrap();
    let good = net.connect(0, 40_002, 80).unwrap();
    let here = key(&net, 0, (1, 2), SECRET);
    add(&mut net, 0, good, &here).unwrap();
    net.run(Duration::from_millis(10));
    let heir = net.accept(1, listener).unwrap();
    let state = net.on(1, |e| e.tcp_ao(heir)).unwrap();
    assert!(state.required && state.hears_icmp);
    assert_eq!((state.counters.unsigned, state.counters.bad), (0, 0));
}

#[test]
fn keys_for_peers_in_common_have_numbers_of_their_own() {
    let mut net = Net::new(23, &S);
    let listener = net.listen(1, 80, 16);
    let one = key(&net, 1, IDS, SECRET);
    add(&mut net, 1, listener, &one).unwrap();
    let wide = KeyPeer { prefix: 104, ..one.peer };
    assert_eq!(add(&mut net, 1, listener, &AoKey { peer: wide, ..one }), Err(KeyError::Exists));
    add(&mut net, 1, listener, &AoKey { peer: wide, send_id: 1, recv_id: 2, ..one }).unwrap();
}

#[test]
fn a_connection_whose_numbers_wrap_goes_on() {
    let mut net = Net::new(9, &S);
    net.keep_trace = true;
    // The initial number goes up by one each 4 us: waits until it is just below the end.
    let (listener, a, b) = open(&mut net, |_| {});
    let iss = net.segments()[0].seq.0;
    for (host, sock) in [(0, a), (1, b.unwrap())] {
        net.on(host, |e| e.abort(sock));
    }
    net.run(Duration::from_millis(10));
    let begun = net.trace[0].0;
    let wait_us = u64::from(0xffff_8000 - iss) * 4;
    net.go_to(Instant(begun.0 + wait_us * 1000));
    net.trace.clear();
    let a = net.connect(0, 40_000, 80).unwrap();
    let here = key(&net, 0, IDS, SECRET);
    add(&mut net, 0, a, &here).unwrap();
    net.run(Duration::from_millis(10));
    let b = net.accept(1, listener).unwrap();
    assert!(net.segments()[0].seq.0 > 0xffff_0000);
    net.faults.loss_ppm = 20_000;
    net.transfer(a, b, 200_000, 1000);
    assert!(net.segments().iter().any(|s| s.from == 0 && s.seq.0 < 0x10_0000 && s.len > 0));
    assert_eq!(refused(&mut net), 0);
}

#[test]
fn a_reset_of_the_peer_is_signed_and_counts() {
    let mut net = Net::new(10, &S);
    let (_, a, b) = open(&mut net, |_| {});
    let b = b.unwrap();
    carry(&mut net, (0, a), (1, b));
    net.on(1, |e| e.abort(b));
    net.run(Duration::from_millis(10));
    // The RST of its peer is signed, so it counts.
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::Reset));
    assert_eq!(refused(&mut net), 0);
}
