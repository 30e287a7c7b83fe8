//! Paths that swallow long segments in silence (RFC 4821, RFC 8899), and what is forgotten again (RFC 1191 6.3, RFC 8201 4).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use std::cell::Cell;
use std::rc::Rc;

use base::{Duration, Instant};
use engine::{RecvError, SendError, SockError};
use net::{Bottleneck, Faults, Net, Packet, Setup, pattern};
use state::{PathSettings, SockRef};
use wire::icmp4::unreachable;
use wire::{EthHeader, EtherType, Icmp4Header, IpProtocol, Ipv4Header};

const S: Setup = Setup { super_segment_max: 0, ..Setup::USUAL };
const MERGED: Setup = Setup::USUAL;
/// Bytes of IP and TCP headers with timestamps.
const HEADERS: u16 = 52;
const FULL: u16 = 1500 - HEADERS;
/// Slow, so that not too much is to be looked at, and with a queue that is never full.
const LINK: Bottleneck = Bottleneck { bits_per_s: 5_000_000, queue_bytes: 4_000_000, mark_bytes: u64::MAX };

/// A path that drops IP packets longer than what the cell says, and tells nobody.
struct Path {
    net: Net,
    mtu: Rc<Cell<usize>>,
    a: SockRef,
    b: SockRef,
    sent: u64,
    read: u64,
}

impl Path {
    fn new(seed: u64, setup: &Setup, settings: PathSettings) -> Self {
        let mut net = Net::new(seed, setup);
        net.faults = Faults { delay: Duration::from_millis(5), bottleneck: Some(LINK), ..Faults::NONE };
        net.on(0, |e| e.set_path_search(&settings));
        let (_, a, b) = net.open();
        let mtu = Rc::new(Cell::new(usize::MAX));
        let limit = Rc::clone(&mtu);
        net.filter = Some(Box::new(move |from, p: &Packet| from == 0 && p.bytes.len() - 14 > limit.get()));
        Self { net, mtu, a, b, sent: 0, read: 0 }
    }

    /// Sends for as long as `d` as much as goes, and looks at every byte that arrives.
    fn pour(&mut self, d: Duration) {
        let end = self.net.now.plus(d);
        while self.net.now < end {
            loop {
                let data: Vec<u8> = (0..8192).map(|n| byte(self.sent + n)).collect();
                match self.net.on(0, |e| e.tcp_send(self.a, &data, false)) {
                    Ok(n) => self.sent += n as u64,
                    Err(SendError::WouldBlock) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
            self.net.flush(0);
            self.read_all();
            self.net.flush(1);
            let next = self.net.next();
            assert!(next != Instant::NEVER, "nothing will ever happen");
            self.net.go_to(next.min(end).max(self.net.now));
        }
    }

    fn read_all(&mut self) {
        while let Ok(got) = self.net.recv(1, self.b, 65_536) {
            assert!(got.iter().zip(self.read..).all(|(found, at)| *found == byte(at)), "at {}", self.read);
            self.read += got.len() as u64;
        }
    }

    fn mss(&mut self) -> u16 {
        self.net.on(0, |e| e.tcp_info(self.a)).unwrap().snd_mss
    }

    fn counters(&mut self) -> state::TcpCounters {
        self.net.on(0, |e| e.mem().counters.tcp)
    }

    fn report(&mut self, mtu: u16) {
        let last = self.net.trace.iter().rev().find(|t| t.1 == 0 && t.2.tcp().is_some()).unwrap().2.clone();
        let header = Icmp4Header::Unreachable { code: unreachable::FRAGMENTATION_NEEDED, next_hop_mtu: mtu };
        let p = error(&self.net, &last, header);
        self.net.deliver(0, &p);
    }
}

fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 7) as u8
}

/// An ICMP error to host 0 about `packet`.
fn error(net: &Net, packet: &Packet, header: Icmp4Header) -> Packet {
    let mut icmp = vec![0; 8];
    header.emit(&mut icmp).unwrap();
    icmp.extend_from_slice(&packet.bytes[14..packet.bytes.len().min(14 + 28)]);
    wire::icmp4::fill_checksum(&mut icmp).unwrap();
    let mut bytes = vec![0; 34];
    EthHeader { dst: net.hosts[0].mac, src: net.hosts[1].mac, ethertype: EtherType::IPV4 }
        .emit(&mut bytes)
        .unwrap();
    let ip = Ipv4Header {
        traffic_class: 0,
        payload_len: icmp.len() as u16,
        ident: 0,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: IpProtocol::ICMP4,
        src: net.hosts[1].addr.as_v4().unwrap(),
        dst: net.hosts[0].addr.as_v4().unwrap(),
    };
    ip.emit(&mut bytes[14..]).unwrap();
    bytes.extend_from_slice(&icmp);
    Packet { bytes, gso_size: 0, port: 0 }
}

#[test]
fn a_connection_finds_its_way_through_a_black_hole() {
    for setup in [&S, &MERGED] {
        for mtu in [1400_usize, 1100, 700, 400] {
            let mut path = Path::new(31, setup, PathSettings::DEFAULT);
            path.pour(Duration::from_millis(500));
            let before = path.read;
            path.mtu.set(mtu);
            path.pour(Duration::from_secs(15));
            let (mss, counters) = (path.mss(), path.counters());
            println!("{mtu}: {mss}, {} bytes, {counters:?}", path.read - before);
            assert!(path.read > before + 1_000_000, "{mtu}: {} bytes came through", path.read - before);
            let most = mtu as u16 - HEADERS;
            assert!(mss <= most && mss + PathSettings::DEFAULT.threshold > most, "{mtu}: {mss}");
        }
    }
}

#[test]
fn without_the_search_such_a_connection_ends() {
    let mut path = Path::new(32, &S, PathSettings { when: 0, ..PathSettings::DEFAULT });
    path.mtu.set(1400);
    path.net.send(0, path.a, &pattern(1, 5000)).unwrap();
    path.net.run(Duration::from_secs(2000));
    assert_eq!(path.net.on(0, |e| e.take_error(path.a)), Some(SockError::TimedOut));
    assert_eq!(path.net.recv(1, path.b, 10), Err(RecvError::WouldBlock));
}

#[test]
fn short_segments_that_time_out_were_not_too_long() {
    let mut path = Path::new(33, &S, PathSettings::DEFAULT);
    path.mtu.set(0);
    path.net.send(0, path.a, &[7; 250]).unwrap();
    path.net.run(Duration::from_secs(20));
    assert_eq!((path.mss(), path.counters().black_holes), (FULL, 0));
    path.mtu.set(1500);
    path.net.run(Duration::from_secs(60));
    assert_eq!(path.net.recv(1, path.b, 5000).unwrap().len(), 250);
}

#[test]
fn the_last_bytes_get_through_although_they_are_no_full_segment() {
    let mut path = Path::new(35, &S, PathSettings::DEFAULT);
    path.mtu.set(591);
    path.net.send(0, path.a, &[7; 907]).unwrap();
    path.net.run(Duration::from_secs(60));
    assert_eq!(path.net.recv(1, path.b, 5000).unwrap().len(), 907);
}

#[test]
fn the_search_begins_at_the_base_if_told_so_and_ends_at_the_full_size() {
    let mut path = Path::new(34, &S, PathSettings { when: 2, ..PathSettings::DEFAULT });
    assert_eq!(path.mss(), 1024);
    path.net.keep_trace = true;
    path.pour(Duration::from_secs(2));
    let probes = path.counters().path_probes;
    assert!(path.mss() > FULL - PathSettings::DEFAULT.threshold && path.mss() <= FULL, "{}", path.mss());
    assert!((3..8).contains(&probes), "{probes}");
    // Nothing is longer than the link takes, and nothing was lost.
    assert!(path.net.segments().iter().all(|s| s.len <= usize::from(FULL)));
    assert_eq!(path.counters().retransmits, 0);
}

#[test]
fn a_lost_probe_is_no_congestion() {
    let mut path = Path::new(35, &S, PathSettings { when: 2, ..PathSettings::DEFAULT });
    path.mtu.set(1024 + usize::from(HEADERS) + 40);
    // No queue, so nothing but the probes tells of the path.
    path.net.faults.bottleneck = None;
    path.pour(Duration::from_millis(500));
    let (info, counters) = (path.net.on(0, |e| e.tcp_info(path.a)).unwrap(), path.counters());
    assert!((1025..=1064).contains(&info.snd_mss), "{info:?}");
    assert!(counters.path_probes >= 4 && counters.retransmits >= 3, "{counters:?}");
    assert!(info.cwnd_bytes < 1 << 24, "{info:?}");
    // Each probe that was lost went again, and neither window nor threshold came down for it.
    assert_eq!((counters.recoveries, counters.timeouts, info.ssthresh_bytes), (0, 0, 1 << 30), "{info:?}");
}

#[test]
fn other_losses_while_it_searches_are_congestion() {
    let mut path = Path::new(36, &S, PathSettings { when: 2, ..PathSettings::DEFAULT });
    path.mtu.set(1300);
    path.net.faults.loss_ppm = 20_000;
    path.pour(Duration::from_secs(10));
    let counters = path.counters();
    assert!(counters.recoveries > 10, "{counters:?}");
    let mss = path.mss();
    assert!(path.read > 1_000_000 && mss <= 1300 - HEADERS, "{} {mss}", path.read);
}

#[test]
fn probes_are_made_of_data_that_are_there_anyway() {
    let mut path = Path::new(37, &S, PathSettings { when: 2, ..PathSettings::DEFAULT });
    for _ in 0..50 {
        path.net.send(0, path.a, &[5; 3000]).unwrap();
        path.net.run(Duration::from_millis(50));
    }
    assert_eq!((path.mss(), path.counters().path_probes), (1024, 0));
}

#[test]
fn a_path_that_grows_is_found_out_after_ten_minutes() {
    let mut path = Path::new(38, &S, PathSettings::DEFAULT);
    path.pour(Duration::from_millis(200));
    path.mtu.set(1200);
    path.pour(Duration::from_secs(8));
    assert!(path.mss() <= 1200 - HEADERS);
    path.mtu.set(1500);
    path.net.run(Duration::from_secs(500));
    path.pour(Duration::from_secs(5));
    assert!(path.mss() <= 1200 - HEADERS, "too early");
    path.net.run(Duration::from_secs(120));
    path.pour(Duration::from_secs(5));
    assert!(path.mss() > FULL - PathSettings::DEFAULT.threshold, "{}", path.mss());
}

#[test]
fn what_a_router_said_is_forgotten_after_ten_minutes() {
    let mut path = Path::new(39, &S, PathSettings { when: 0, ..PathSettings::DEFAULT });
    path.net.keep_trace = true;
    path.mtu.set(1000);
    path.net.send(0, path.a, &pattern(3, 5000)).unwrap();
    path.report(1000);
    path.net.run(Duration::from_secs(1));
    assert_eq!(path.mss(), 1000 - HEADERS);
    path.net.run(Duration::from_secs(590));
    assert_eq!(path.mss(), 1000 - HEADERS);
    // Told again, it counts anew.
    path.net.send(0, path.a, &pattern(3, 5000)).unwrap();
    path.report(900);
    path.net.run(Duration::from_secs(300));
    assert_eq!(path.mss(), 900 - HEADERS);
    path.mtu.set(1500);
    path.net.run(Duration::from_secs(320));
    assert_eq!(path.mss(), FULL);
    path.net.recv(1, path.b, 65_536).unwrap();
    path.net.send(0, path.a, &pattern(4, 50_000)).unwrap();
    path.net.run(Duration::from_secs(1));
    assert_eq!(path.net.recv(1, path.b, 65_536).unwrap(), pattern(4, 50_000));
}

#[test]
fn a_router_that_speaks_up_ends_the_guessing_above() {
    let mut path = Path::new(40, &S, PathSettings { when: 2, ..PathSettings::DEFAULT });
    path.net.keep_trace = true;
    path.mtu.set(1100);
    path.net.send(0, path.a, &pattern(3, 3000)).unwrap();
    path.report(1100);
    path.pour_from_pattern();
    assert!(path.counters().path_probes <= 3, "{:?}", path.counters());
    assert!((1024..=1048).contains(&path.mss()), "{}", path.mss());
}

impl Path {
    /// Sends 500 KB more and throws away what arrives.
    fn pour_from_pattern(&mut self) {
        let data = pattern(9, 500_000);
        let (mut sent, end) = (0, self.net.now.plus(Duration::from_secs(30)));
        while sent < data.len() && self.net.now < end {
            sent += self.net.send(0, self.a, &data[sent..]).unwrap_or(0);
            self.net.run(Duration::from_millis(5));
            while self.net.recv(1, self.b, 65_536).is_ok() {}
        }
        assert_eq!(sent, data.len());
    }
}

#[test]
fn a_smaller_path_does_not_open_the_window() {
    let mut path = Path::new(41, &S, PathSettings::DEFAULT);
    path.net.keep_trace = true;
    // No queue, so nothing ends slow start: the threshold is as high as it can be.
    path.net.faults.bottleneck = None;
    path.pour(Duration::from_millis(200));
    let before = path.net.on(0, |e| e.tcp_info(path.a)).unwrap();
    path.mtu.set(1000);
    path.net.flush(0);
    assert!(path.net.on(0, |e| e.tcp_info(path.a)).unwrap().unacked_bytes > 10_000);
    path.report(1000);
    path.pour(Duration::from_millis(100));
    let after = path.net.on(0, |e| e.tcp_info(path.a)).unwrap();
    assert!(after.cwnd_bytes < 8 * before.cwnd_bytes, "{before:?} {after:?}");
    assert!(after.cwnd_bytes >= before.cwnd_bytes, "{before:?} {after:?}");
}
