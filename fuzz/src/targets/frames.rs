//! Raw frames into a lane: whatever arrives, the engine goes on, and gives every frame back.

use base::{Duration, Instant, IpAddress, Port};
use engine::UdpOptions;
use state::{CsumState, Endpoint, TcpOptions};

use super::Target;
use crate::host::{FRAMES, Host, OWN, OWN_MAC, PEER_MAC};
use crate::input::Input;

pub(super) const TARGET: Target = Target {
    name: "frames",
    what: "raw Ethernet frames into a lane that listens",
    longest: 4096,
    play,
    seeds,
};

const START: Instant = Instant(1_000_000_000_000);

fn play(bytes: &[u8]) -> Result<(), String> {
    let mut input = Input::new(bytes);
    let mut host = Host::new(START)?;
    let mut now = START;
    let local = |port| Endpoint { addr: IpAddress::ANY, port: Port(port) };
    let socks = host.engine(now, |e| {
        [
            e.tcp_listen(local(80), 4, &TcpOptions::default()).ok(),
            e.udp_bind(local(53), &UdpOptions::default()).ok(),
        ]
    });
    while !input.is_empty() {
        let head = input.half();
        let packet = input.take(usize::from(head & 0x7ff)).to_vec();
        let csum = if head & 0x800 != 0 { CsumState::Verified } else { CsumState::Unknown };
        host.receive(now, &[packet], csum).ok_or("the tables are damaged")?;
        host.send(now, true)?;
        if head & 0x1000 != 0 {
            now = host.pass(now, Duration::from_millis(u64::from(head >> 13) * 500), 200)?;
        }
    }
    host.engine(now, |e| socks.into_iter().flatten().flatten().for_each(|sock| e.close(sock)));
    now = host.pass(now, Duration::from_secs(2000), 5000)?;
    let free = host.free_frames(now);
    if free == FRAMES { Ok(()) } else { Err(format!("{} frames are lost", FRAMES.wrapping_sub(free))) }
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = OWN_MAC.to_vec();
    frame.extend(PEER_MAC);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 2]);
    packet.extend(OWN);
    let check = wire::Sum::of(&packet).finish();
    if let Some(field) = packet.get_mut(10..12) {
        field.copy_from_slice(&check.to_be_bytes());
    }
    packet.extend(payload);
    ethernet(0x0800, &packet)
}

/// A segment of the connection that the SYN of [`packets`] opens.
pub(super) fn segment(seq: u32, ack: u32, flags: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![4, 0, 0, 80];
    bytes.extend(seq.to_be_bytes());
    bytes.extend(ack.to_be_bytes());
    bytes.extend([0x50, flags, 255, 255, 0, 0, 0, 0]);
    bytes.resize(bytes.len() + len, 0x33);
    ipv4(6, &bytes)
}

/// One packet of each kind.
pub(super) fn packets() -> Vec<Vec<u8>> {
    let syn = [4, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 255, 255, 0, 0, 0, 0, 2, 4, 5, 180];
    let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1];
    vec![
        ipv4(6, &syn),
        ipv4(17, &[4, 0, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]),
        ipv4(1, &[8, 0, 0xf7, 0xfd, 0, 1, 0, 1]),
        ethernet(0x0806, &arp),
        ethernet(0x86dd, &[0x60, 0, 0, 0, 0, 8, 58, 64, 0, 0, 0, 0]),
        ethernet(0x8100, &[0, 1, 8, 0, 0x45]),
    ]
}

fn seeds() -> Vec<Vec<u8>> {
    let one = |packet: &Vec<u8>| {
        // The checksum is taken as good.
        let head = packet.len() as u16 | 0x800;
        [head.to_le_bytes().to_vec(), packet.clone()].concat()
    };
    let all = packets();
    let mut seeds: Vec<Vec<u8>> = all.iter().map(one).collect();
    seeds.push(all.iter().flat_map(one).collect());
    seeds
}
