//! A corrupted region: words of a lane with connections on it are overwritten, then everything that reads them is called. Wrong data may come
//! of it; no panic, no loop without end, no access outside.

use std::sync::atomic::Ordering;

use base::{Duration, Instant, IpAddress, MacAddr, Port};
use engine::{How, RouteTo, UdpOptions};
use region::Region;
use state::{CsumState, Endpoint, LAYOUT_VERSION, SockRef, TcpOptions};

use super::Target;
use crate::host::{Host, OWN, OWN_MAC, PEER_MAC};
use crate::input::Input;

pub(super) const TARGET: Target =
    Target { name: "region", what: "the tables of a lane, overwritten", longest: 256, play, seeds };

const START: Instant = Instant(1_000_000_000_000);
/// Words overwritten, at most.
const WORDS_MAX: usize = 24;

fn play(bytes: &[u8]) -> Result<(), String> {
    let mut input = Input::new(bytes);
    let mut host = Host::new(START)?;
    let socks = populate(&mut host)?;
    let words = host.table_words();
    for _ in 0..WORDS_MAX {
        if input.is_empty() {
            break;
        }
        overwrite(&host, words, &mut input);
    }
    // Who opens it anew sees the same.
    let _ = Region::open(host.words, LAYOUT_VERSION).map(|region| (region.shape(), region.key()));
    let mut now = START;
    for round in 0..3 {
        use_all(&mut host, now, &socks);
        for packet in super::frames::packets() {
            host.receive(now, &[packet], CsumState::Verified);
        }
        // A queue that says it is endless is sent without end, a bounded number of packets a step.
        let _ = host.send(now, true);
        now = host.pass(now, Duration::from_millis(300 << (4 * round)), 100).unwrap_or(now);
    }
    host.engine(now, |e| socks.iter().for_each(|sock| e.close(*sock)));
    let _ = host.pass(now, Duration::from_secs(300), 300);
    Ok(())
}

/// Where: mostly the header page, the lane's control page and the heads of its tables, else anywhere.
fn overwrite(host: &Host, words: usize, input: &mut Input<'_>) {
    let (kind, place) = (input.byte(), input.half());
    let at = match kind & 7 {
        0 => usize::from(place) % 512,
        1 => 1024 + usize::from(place) % 256,
        2 => 1024 + usize::from(place) % 4096,
        _ => usize::from(place) * 8 + usize::from(kind >> 5),
    } % words.max(1);
    // The lock word itself is the holder's: whoever waits for it waits.
    let Some(word) = host.words.get(at).filter(|_| !(512..1024).contains(&at)) else { return };
    let old = word.load(Ordering::Relaxed);
    let shift = u32::from(kind >> 3 & 3) * 16;
    let new = match input.byte() {
        0..=99 => old ^ u64::from(input.half()) << shift,
        100..=149 => old.wrapping_add(u64::from(input.delta())),
        150..=199 => u64::MAX,
        200..=219 => 0,
        220..=239 => u64::from(input.word()) << shift,
        240..=255 => u64::from(input.word()) << 32 | u64::from(input.word()),
    };
    word.store(new, Ordering::Relaxed);
}

/// Connections in several states, with data queued, in flight and unread.
fn populate(host: &mut Host) -> Result<Vec<SockRef>, String> {
    let local = |port| Endpoint { addr: IpAddress::ANY, port: Port(port) };
    let addr = IpAddress::from_v4([10, 0, 0, 2].into());
    let (own, remote) = (
        Endpoint { addr: IpAddress::from_v4(OWN.into()), port: Port(2000) },
        Endpoint { addr, port: Port(1001) },
    );
    let route = RouteTo {
        port: 0,
        next_hop: addr,
        local_mac: MacAddr(OWN_MAC),
        mac: Some(MacAddr(PEER_MAC)),
        mtu: 0,
    };
    let mut socks = host
        .engine(START, |e| {
            let options = TcpOptions::default();
            let connecting = e.tcp_connect(own, remote, &route, &options).ok();
            let listening = e.tcp_listen(local(80), 4, &options).ok();
            let datagrams = e.udp_bind(local(53), &UdpOptions::default()).ok();
            [connecting, listening, datagrams].into_iter().flatten().collect::<Vec<_>>()
        })
        .ok_or("no tables")?;
    for packet in super::frames::packets() {
        host.receive(START, &[packet], CsumState::Verified);
    }
    let iss = host.send(START, true)?.iter().find_map(|packet| {
        let syn_ack = packet.get(47) == Some(&0x12);
        packet.get(38..42).filter(|_| syn_ack)?.first_chunk::<4>().map(|b| u32::from_be_bytes(*b))
    });
    let iss = iss.ok_or("no SYN,ACK")?;
    let data = |seq: u32, len: usize| super::frames::segment(seq, iss.wrapping_add(1), 0x18, len);
    host.receive(START, &[data(2, 0), data(2, 900), data(3000, 500)], CsumState::Verified);
    let listener = socks.get(1).copied().ok_or("no listener")?;
    let accepted = host.engine(START, |e| {
        let accepted = e.tcp_accept(listener).ok()?;
        let _ = e.tcp_send(accepted.sock, &[1; 3000], false);
        Some(accepted.sock)
    });
    socks.extend(accepted.flatten());
    host.send(START, true)?;
    Ok(socks)
}

fn use_all(host: &mut Host, now: Instant, socks: &[SockRef]) {
    host.engine(now, |e| {
        for sock in socks.iter().copied() {
            let _ =
                (e.ready(sock), e.tcp_info(sock), e.names(sock), e.tcp_options(sock), e.unread_bytes(sock));
            let _ = e.tcp_send(sock, &[2; 700], false);
            let _ = e.tcp_recv(sock, &mut [0; 400], false);
            let _ = e.udp_recv_from(sock, &mut [0; 400], true).is_ok();
            let _ = e.set_event_queue(sock, 1, 7);
            let _ = e.take_error(sock);
        }
        while e.poll_event(1).is_some_and(|event| socks.contains(&event.sock)) {}
        e.hibernate_idle(2);
        for sock in socks.iter().copied() {
            let _ = e.shutdown(sock, How::Write);
        }
        let _ = e.counters();
    });
}

fn seeds() -> Vec<Vec<u8>> {
    let one = |kind: u8, place: u16| [vec![kind], place.to_le_bytes().to_vec(), vec![150]].concat();
    let mut seeds: Vec<Vec<u8>> = (0..8).map(|kind| one(kind, 40 * u16::from(kind) + 3)).collect();
    seeds.extend((0..32).map(|n| one(3, 131 * n)));
    seeds
}
