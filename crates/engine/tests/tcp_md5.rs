//! Segments signed by MD5 (RFC 2385): what goes out is signed, whatever it is, and what comes in unsigned, signed wrongly or signed for nobody goes
//! no further.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, IpAddress, Port, SeqNum};
use engine::{KeyError, KeyPeer, SendError, SockError, State};
use md5::{Digest, Md5};
use net::{MSS, Net, Packet, Setup, TCP_AT, V6, finish_checksum, forged_with, pattern};
use state::{DropReason, SockRef};
use wire::tcp_options::signature_at;
use wire::{IpProtocol, Sign, TcpFlags, TcpHeader, TcpOptions};

const S: Setup = Setup { super_segment_max: 61_440, ..Setup::USUAL };
const KEY: &[u8] = b"a secret of two";

fn only(addr: IpAddress) -> KeyPeer {
    KeyPeer { addr, prefix: 128 }
}

/// Gives `sock` of `host` a key for the other host; an empty one takes it away.
fn key_for(net: &mut Net, host: usize, sock: SockRef, key: &[u8]) -> Result<(), KeyError> {
    let peer = only(net.hosts[1 - host].addr);
    net.on(host, |e| e.tcp_set_md5_key(sock, peer, key))
}

/// The signature that the segment in `packet` ought to have, made of its bytes alone.
fn signature(packet: &Packet, key: &[u8]) -> [u8; 16] {
    let segment = &packet.bytes[TCP_AT..];
    let len = segment.len();
    let mut sum = Md5::new();
    if V6 {
        sum.update(&packet.bytes[22..54]);
        sum.update([(len as u32).to_be_bytes(), [0, 0, 0, IpProtocol::TCP.0]].concat());
    } else {
        sum.update(&packet.bytes[26..34]);
        sum.update([0, IpProtocol::TCP.0, (len >> 8) as u8, len as u8]);
    }
    sum.update(&segment[..16]);
    sum.update([0, 0]);
    sum.update(&segment[18..20]);
    sum.update(&segment[usize::from(segment[12] >> 4) * 4..]);
    sum.update(key);
    sum.finalize().into()
}

/// Where in `packet` its signature is.
fn place(packet: &Packet) -> Option<std::ops::Range<usize>> {
    let at = signature_at(packet.tcp()?.options())?;
    Some(TCP_AT + 20 + at.start..TCP_AT + 20 + at.end)
}

fn is_signed(packet: &Packet, key: &[u8]) -> bool {
    place(packet).is_some_and(|at| packet.bytes[at] == signature(packet, key))
}

/// Signs what was forged with room for it.
fn sign(packet: &mut Packet, key: &[u8]) {
    let at = place(packet).unwrap();
    let bytes = signature(packet, key);
    packet.bytes[at].copy_from_slice(&bytes);
    finish_checksum(&mut packet.bytes);
}

/// A segment from host 0, signed with `key` if there is one.
fn from_peer(
    net: &Net,
    ports: (u16, u16),
    numbers: (SeqNum, SeqNum),
    flags: TcpFlags,
    key: Option<&[u8]>,
) -> Packet {
    let header = TcpHeader {
        src_port: Port(ports.0),
        dst_port: Port(ports.1),
        seq: numbers.0,
        ack: numbers.1,
        flags,
        window: 60_000,
        urgent: 0,
    };
    let options = TcpOptions { sign: if key.is_some() { Sign::Md5 } else { Sign::None }, ..TcpOptions::NONE };
    let mut packet = forged_with(&net.hosts[0], &net.hosts[1], &header, &options, b"x");
    if let Some(key) = key {
        sign(&mut packet, key);
    }
    packet
}

/// An open connection between two ends with keys: (listener, host 0's end, host 1's end).
fn open(net: &mut Net, keys: [&[u8]; 2]) -> (SockRef, SockRef, Option<SockRef>) {
    let listener = net.listen(1, 80, 16);
    key_for(net, 1, listener, keys[1]).unwrap();
    let a = net.connect(0, 40_000, 80).unwrap();
    key_for(net, 0, a, keys[0]).unwrap();
    net.run(Duration::from_millis(10));
    (listener, a, net.accept(1, listener).ok())
}

/// Carries some bytes from one end to the other.
fn carry(net: &mut Net, (from, a): (usize, SockRef), (to, b): (usize, SockRef)) {
    let data = pattern(7, 5000);
    net.send(from, a, &data).unwrap();
    net.run(Duration::from_millis(500));
    assert_eq!(net.recv(to, b, 5000), Ok(data));
}

#[test]
fn every_segment_of_a_connection_is_signed_and_as_long_as_one_may_be() {
    for (seed, loss_ppm) in [(1, 0), (2, 30_000)] {
        let mut net = Net::new(seed, &S);
        net.keep_trace = true;
        net.faults.split = false;
        let (listener, a, b) = open(&mut net, [KEY, KEY]);
        let b = b.unwrap();
        net.faults.loss_ppm = loss_ppm;
        net.transfer(a, b, 300_000, 200_000);
        net.faults.loss_ppm = 0;
        net.close(0, a);
        net.run(Duration::from_millis(200));
        net.close(1, b);
        net.run(Duration::from_secs(70));
        net.close(1, listener);
        let mut longest = 0;
        for (_, _, packet) in net.trace.iter().filter(|(_, _, p)| p.tcp().is_some()) {
            assert!(is_signed(packet, KEY), "{:?}", packet.tcp());
            assert_eq!(packet.gso_size, 0);
            longest = longest.max(packet.tcp().unwrap().payload().len());
        }
        // Without timestamps, which the signature takes the place of.
        assert_eq!(longest, usize::from(MSS) + 12 - 20);
        let refused = [DropReason::TcpMd5NotFound, DropReason::TcpMd5Unexpected, DropReason::TcpMd5Failure];
        for host in 0..2 {
            assert!(refused.iter().all(|reason| net.dropped(host, *reason) == 0));
            assert_eq!(net.on(host, |e| e.mem().globals.keys.used), 0, "no key outlives its socket");
            assert!(net.on(host, |e| e.mem().keys.rows().iter().all(|row| row.key == [0; 80])));
        }
        net.assert_clean(&S);
    }
}

#[test]
fn another_key_or_none_opens_nothing_and_is_counted() {
    let times_out = |net: &mut Net, a: SockRef| {
        net.run(Duration::from_secs(150));
        assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::TimedOut));
    };
    let mut net = Net::new(3, &S);
    let (listener, a, b) = open(&mut net, [b"another", KEY]);
    assert_eq!(b, None);
    times_out(&mut net, a);
    assert_eq!(net.dropped(1, DropReason::TcpMd5Failure), 7);
    // No signature where there is a key.
    let a = net.connect(0, 40_001, 80).unwrap();
    times_out(&mut net, a);
    assert_eq!(net.dropped(1, DropReason::TcpMd5NotFound), 7);
    // A signature where there is no key.
    key_for(&mut net, 1, listener, b"").unwrap();
    let a = net.connect(0, 40_002, 80).unwrap();
    key_for(&mut net, 0, a, KEY).unwrap();
    times_out(&mut net, a);
    assert_eq!(net.dropped(1, DropReason::TcpMd5Unexpected), 7);
    assert_eq!(net.on(1, |e| e.counters().tcp.resets_out), 0, "all in silence");
}

#[test]
fn what_is_unsigned_or_signed_wrongly_does_nothing_to_an_open_connection() {
    let mut net = Net::new(4, &S);
    let (_, a, b) = open(&mut net, [KEY, KEY]);
    let b = b.unwrap();
    net.send(0, a, b"hello").unwrap();
    net.run(Duration::from_millis(100));
    assert_eq!(net.recv(1, b, 10), Ok(b"hello".to_vec()));
    let (there, here) = (net.on(0, |e| e.tcp_info(a)).unwrap(), net.on(1, |e| e.tcp_info(b)).unwrap());
    assert_eq!((there.timestamps, here.timestamps, here.sack), (false, false, true));
    net.keep_trace = true;
    net.send(0, a, b"!").unwrap();
    net.filter = Some(Box::new(|_, _| true));
    net.flush(0);
    let real = net.trace[0].2.clone();
    let t = real.tcp().unwrap();
    let (numbers, ports) = ((t.seq(), t.ack()), (40_000, 80));
    net.keep_trace = false;
    for flags in [
        TcpFlags::ACK,
        TcpFlags::RST,
        TcpFlags::RST | TcpFlags::ACK,
        TcpFlags::SYN,
        TcpFlags::FIN | TcpFlags::ACK,
    ] {
        for key in [None, Some(&b"another"[..])] {
            let packet = from_peer(&net, ports, numbers, flags, key);
            net.deliver(1, &packet);
        }
    }
    // Timestamps alone, as most segments have: the way of usual segments.
    let header = TcpHeader { flags: TcpFlags::ACK, ..t.header() };
    let timestamps = Some(wire::Timestamps { value: 1, echo: 1 });
    let usual = forged_with(
        &net.hosts[0],
        &net.hosts[1],
        &header,
        &TcpOptions { timestamps, ..TcpOptions::NONE },
        b"!",
    );
    net.deliver(1, &usual);
    assert_eq!(net.dropped(1, DropReason::TcpMd5NotFound), 6);
    assert_eq!(net.dropped(1, DropReason::TcpMd5Failure), 5);
    assert_eq!((net.state(1, b), net.recv(1, b, 10).is_err()), (Some(State::Established), true));
    // One bit of each byte of the real one changed: whatever it is, it is not taken.
    for at in TCP_AT..real.bytes.len() {
        let mut changed = real.clone();
        changed.bytes[at] ^= 0x10;
        finish_checksum(&mut changed.bytes);
        if changed.tcp().is_some() && at != TCP_AT + 16 && at != TCP_AT + 17 {
            net.deliver(1, &changed);
            assert!(net.recv(1, b, 10).is_err(), "byte {at}");
        }
    }
    net.deliver(1, &real);
    assert_eq!(net.recv(1, b, 10), Ok(b"!".to_vec()));
}

#[test]
fn two_signatures_or_one_of_a_wrong_length_are_dropped() {
    let mut net = Net::new(5, &S);
    let listener = net.listen(1, 80, 4);
    let good = [&[19, 18][..], &[7; 16]].concat();
    for options in [
        [&good[..], &good].concat(),
        [&good[..], &[29, 16, 1, 1], &[9; 12]].concat(),
        [&[19, 17][..], &[7; 15], &[1, 1, 1]].concat(),
        vec![19, 2, 1, 1],
        vec![29, 4, 1, 1],
    ] {
        for keyed in [false, true] {
            if keyed {
                key_for(&mut net, 1, listener, KEY).unwrap();
            }
            let before = net.dropped(1, DropReason::TcpAuthBad);
            let mut packet = from_peer(&net, (40_000, 80), (SeqNum(5), SeqNum(0)), TcpFlags::SYN, None);
            packet.bytes.truncate(TCP_AT + 20);
            let mut options = options.clone();
            options.resize(options.len().next_multiple_of(4), 1);
            packet.bytes[TCP_AT + 12] = ((20 + options.len()) as u8 / 4) << 4;
            packet.bytes.extend(options);
            let len = packet.bytes.len() - TCP_AT;
            net::emit_ip(&mut packet.bytes, net.hosts[0].addr, net.hosts[1].addr, len);
            finish_checksum(&mut packet.bytes);
            net.deliver(1, &packet);
            assert_eq!(net.dropped(1, DropReason::TcpAuthBad), before + 1);
            if keyed {
                key_for(&mut net, 1, listener, b"").unwrap();
            }
        }
    }
    assert_eq!(net.on(1, |e| e.mem().globals.tcp.used), 0);
}

#[test]
fn a_listener_takes_the_key_with_the_longest_prefix_and_its_connections_keep_it() {
    let mut net = Net::new(6, &S);
    let listener = net.listen(1, 80, 16);
    let peer = net.hosts[0].addr;
    let all = KeyPeer { addr: peer, prefix: 128 - 16 };
    for (key, prefix) in [(all, &b"of the net"[..]), (only(peer), KEY)] {
        net.on(1, |e| e.tcp_set_md5_key(listener, key, prefix)).unwrap();
    }
    let a = net.connect(0, 40_000, 80).unwrap();
    key_for(&mut net, 0, a, KEY).unwrap();
    net.run(Duration::from_millis(10));
    let b = net.accept(1, listener).unwrap();
    // What the listener does later is nothing to connections that it made.
    assert_eq!(key_for(&mut net, 1, listener, b""), Ok(()));
    assert_eq!(key_for(&mut net, 1, listener, b""), Err(KeyError::NoSuchKey));
    carry(&mut net, (0, a), (1, b));
    let c = net.connect(0, 40_001, 80).unwrap();
    key_for(&mut net, 0, c, b"of the net").unwrap();
    net.run(Duration::from_millis(10));
    assert!(net.accept(1, listener).is_ok());
    // Both ends change to another key, and then to none.
    for key in [&b"the next"[..], b""] {
        key_for(&mut net, 0, a, key).unwrap();
        key_for(&mut net, 1, b, key).unwrap();
        carry(&mut net, (0, a), (1, b));
        carry(&mut net, (1, b), (0, a));
    }
    assert_eq!(net.on(0, |e| e.tcp_info(a)).unwrap().snd_mss, MSS + 12);
    assert_eq!(net.on(1, |e| e.tcp_set_md5_key(listener, all, &[1; 81])), Err(KeyError::Invalid));
}

#[test]
fn a_row_of_keys_short_opens_nothing() {
    let mut net = Net::new(7, &S);
    let listener = net.listen(1, 80, 16);
    key_for(&mut net, 1, listener, KEY).unwrap();
    let mut taken = 1;
    let full = loop {
        let peer =
            only(IpAddress([taken as u8, (taken >> 8) as u8, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]));
        match net.on(1, |e| e.tcp_set_md5_key(listener, peer, b"x")) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((full, taken), (KeyError::NoRoom, 64 + 256));
    let a = net.connect(0, 40_000, 80).unwrap();
    key_for(&mut net, 0, a, KEY).unwrap();
    net.run(Duration::from_secs(2));
    assert_eq!((net.state(0, a), net.dropped(1, DropReason::TcpNoTcb) > 0), (Some(State::SynSent), true));
    net.on(1, |e| e.close(listener));
    assert_eq!(net.on(1, |e| e.mem().globals.keys.used), 0);
}

#[test]
fn a_reset_is_signed_with_the_key_that_the_peer_knows() {
    let mut net = Net::new(8, &S);
    net.keep_trace = true;
    let (listener, a, b) = open(&mut net, [KEY, KEY]);
    // Of a connection that ends.
    net.on(1, |e| e.abort(b.unwrap()));
    net.run(Duration::from_millis(10));
    assert_eq!(net.send(0, a, b"x"), Err(SendError::Failed(SockError::Reset)));
    // Of a listener that knows no connection.
    let stray = from_peer(&net, (40_000, 80), (SeqNum(77), SeqNum(88)), TcpFlags::ACK, Some(KEY));
    net.deliver(1, &stray);
    net.flush(1);
    let resets: Vec<&Packet> =
        net.trace.iter().map(|t| &t.2).filter(|p| p.tcp().is_some_and(|t| t.flags().is_rst())).collect();
    assert_eq!(resets.len(), 2);
    assert!(resets.iter().all(|p| is_signed(p, KEY)));
    // For a port where nobody listens: only if a listener at the peer's own port has the key.
    let (sent, stray) = (net.on(1, |e| e.counters().tcp.resets_out), |net: &mut Net, port| {
        let packet = from_peer(net, (port, 81), (SeqNum(77), SeqNum(88)), TcpFlags::ACK, Some(KEY));
        net.deliver(1, &packet);
        net.flush(1);
    });
    stray(&mut net, 40_000);
    assert_eq!(net.on(1, |e| e.counters().tcp.resets_out), sent);
    stray(&mut net, 80);
    assert_eq!(net.on(1, |e| e.counters().tcp.resets_out), sent + 1);
    assert!(is_signed(&net.trace.last().unwrap().2, KEY));
    net.close(1, listener);
}

#[test]
fn time_wait_acknowledges_signed_and_a_signed_syn_opens_anew() {
    let mut net = Net::new(9, &S);
    let (listener, a, b) = open(&mut net, [KEY, KEY]);
    let b = b.unwrap();
    net.close(1, b);
    net.run(Duration::from_millis(100));
    net.keep_trace = true;
    net.close(0, a);
    let mut lost = 0;
    net.filter = Some(Box::new(move |from, _| {
        lost += u32::from(from == 1);
        from == 1 && lost == 1
    }));
    net.run(Duration::from_secs(2));
    assert!(net.trace.iter().filter(|t| t.1 == 1).count() >= 2, "the ACK of the FIN was sent again");
    assert!(net.trace.iter().all(|(_, _, p)| is_signed(p, KEY)));
    // The same ends once more, while one of them is in TIME-WAIT: without a signature nothing, with one a connection.
    let c = net.connect(0, 40_000, 80).unwrap();
    net.run(Duration::from_millis(500));
    assert_eq!(net.state(0, c), Some(State::SynSent));
    key_for(&mut net, 0, c, KEY).unwrap();
    net.run(Duration::from_secs(2));
    let d = net.accept(1, listener).unwrap();
    net.transfer(c, d, 3000, 3000);
}

#[test]
fn a_cookie_goes_out_signed_and_comes_back_signed() {
    const ROWS: u32 = 64;
    let mut net = Net::new(10, &Setup { socks: ROWS, ..S });
    let listener = net.listen(1, 80, 4);
    key_for(&mut net, 1, listener, KEY).unwrap();
    net.filter = Some(Box::new(|_, p| {
        p.tcp().is_some_and(|t| t.dst_port().0 < 40_000 && t.flags().is_ack() && t.dst_port().0 != 80)
    }));
    for n in 0..20 {
        let syn = from_peer(&net, (30_000 + n, 80), (SeqNum(5), SeqNum(0)), TcpFlags::SYN, Some(KEY));
        net.deliver(1, &syn);
        net.flush(1);
    }
    assert!(net.on(1, |e| e.counters().tcp.cookies_out) > 0);
    net.keep_trace = true;
    let a = net.connect(0, 40_000, 80).unwrap();
    key_for(&mut net, 0, a, KEY).unwrap();
    net.run(Duration::from_millis(10));
    let b = net.accept(1, listener).unwrap();
    assert_eq!(net.on(1, |e| e.counters().tcp.cookies_in), 1);
    net.send(0, a, &pattern(1, 5000)).unwrap();
    net.run(Duration::from_millis(100));
    assert_eq!(net.recv(1, b, 5000), Ok(pattern(1, 5000)));
    assert!(net.trace.iter().filter(|(_, _, p)| p.tcp().is_some()).all(|(_, _, p)| is_signed(p, KEY)));
}
