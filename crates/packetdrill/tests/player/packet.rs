//! Segments to IP packets and back, between the numbers of a script and the live ones.

use crate::script::{Opt, Packet};

pub const LOCAL: [u8; 4] = [192, 168, 7, 9];
pub const REMOTE: [u8; 4] = [192, 0, 2, 1];
pub const PORT: u16 = 8080;

/// What one conversation's numbers are.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    pub local_port: u16,
    pub remote_port: u16,
    pub local: [u8; 4],
    /// Live minus script, of what the stack sends.
    pub offset: u32,
    /// The stack's initial number, live.
    pub known: bool,
    /// Timestamp values of the stack: script, live.
    pub stamps: Vec<(u32, u32)>,
    /// Window shift of the peer's announcements is not applied: scripts give the raw field.
    pub last_in: Option<(u32, u32, u32)>,
}

fn sum(bytes: &[u8], mut total: u32) -> u16 {
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

fn ip(local: [u8; 4], protocol: u8, tos: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, tos, (len >> 8) as u8, len as u8, 0, 0, 0, 0, 255, protocol, 0, 0];
    packet.extend_from_slice(&REMOTE);
    packet.extend_from_slice(&local);
    let check = sum(&packet, 0);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

fn put_options(options: &[Opt], offset: u32, stamps: &[(u32, u32)]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for option in options {
        match option {
            Opt::End => bytes.push(0),
            Opt::Nop => bytes.push(1),
            Opt::Mss(mss) => bytes.extend([2, 4, (mss >> 8) as u8, *mss as u8]),
            Opt::WindowScale(shift) => bytes.extend([3, 3, *shift]),
            Opt::SackOk => bytes.extend([4, 2]),
            Opt::Sack(blocks) => {
                bytes.extend([5, 2 + 8 * blocks.len() as u8]);
                for (left, right) in blocks {
                    bytes.extend(left.wrapping_add(offset).to_be_bytes());
                    bytes.extend(right.wrapping_add(offset).to_be_bytes());
                }
            }
            Opt::Timestamps(value, echo) => {
                let live = stamps.iter().rev().find(|(script, _)| script == echo).map(|(_, live)| *live);
                let live = if *echo == 0 { Some(0) } else { live };
                bytes.extend([8, 10]);
                bytes.extend(value.to_be_bytes());
                bytes.extend(live.ok_or_else(|| format!("nobody sent the timestamp {echo}"))?.to_be_bytes());
            }
            Opt::FastOpen(cookie) => {
                bytes.extend([34, 2 + cookie.len() as u8]);
                bytes.extend(cookie);
            }
        }
    }
    while bytes.len() % 4 != 0 {
        bytes.push(0);
    }
    Ok(bytes)
}

/// The live packet of an inbound segment of the script.
pub fn build(packet: &Packet, flow: &mut Flow) -> Result<Vec<u8>, String> {
    if let Some(icmp) = &packet.icmp {
        let mut quoted = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
        quoted.extend_from_slice(&flow.local);
        quoted.extend_from_slice(&REMOTE);
        quoted.extend(flow.local_port.to_be_bytes());
        quoted.extend(flow.remote_port.to_be_bytes());
        quoted.extend(packet.seq.wrapping_add(flow.offset).to_be_bytes());
        let mut message = vec![icmp.kind, icmp.code, 0, 0, 0, 0, (icmp.mtu >> 8) as u8, icmp.mtu as u8];
        message.extend(quoted);
        let check = sum(&message, 0);
        message[2..4].copy_from_slice(&check.to_be_bytes());
        return Ok(ip(flow.local, 1, 0, &message));
    }
    let options = put_options(packet.options.as_deref().unwrap_or(&[]), flow.offset, &flow.stamps)?;
    let mut segment = Vec::new();
    segment.extend(flow.remote_port.to_be_bytes());
    segment.extend(flow.local_port.to_be_bytes());
    segment.extend(packet.seq.to_be_bytes());
    let ack = packet.ack.map_or(0, |ack| ack.wrapping_add(flow.offset));
    segment.extend(ack.to_be_bytes());
    segment.push((((20 + options.len()) / 4) << 4) as u8);
    segment.push(packet.flags);
    segment.extend(packet.win.unwrap_or(0).to_be_bytes());
    segment.extend([0; 2]);
    segment.extend(packet.urg.to_be_bytes());
    segment.extend(options);
    segment.resize(segment.len() + packet.len as usize, 0);
    let mut pseudo = Vec::new();
    pseudo.extend(REMOTE);
    pseudo.extend(flow.local);
    pseudo.extend([0, 6]);
    pseudo.extend((segment.len() as u16).to_be_bytes());
    let part = u32::from(!sum(&pseudo, 0));
    let check = sum(&segment, part);
    segment[16..18].copy_from_slice(&check.to_be_bytes());
    let space = packet.len + u32::from(packet.flags & 1) + u32::from(packet.flags >> 1 & 1);
    flow.last_in = Some((packet.seq.wrapping_add(space), ack, 0));
    Ok(ip(flow.local, 6, packet.ecn.unwrap_or(0), &segment))
}

/// A segment of the stack's, in live numbers.
#[derive(Clone, Debug)]
pub struct Seen {
    pub from: [u8; 4],
    pub ports: (u16, u16),
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub win: u16,
    pub urg: u16,
    pub options: Vec<Opt>,
    pub len: u32,
    pub ecn: u8,
    pub time: i64,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a packet of the stack's; `None`: no TCP.
pub fn read(packet: &[u8], time: i64) -> Result<Option<Seen>, String> {
    if packet.len() < 20 || packet[0] != 0x45 {
        return Err(format!("no IPv4 packet without options: {packet:02x?}"));
    }
    if sum(&packet[..20], 0) != 0 || usize::from(half(packet, 2)) != packet.len() {
        return Err("IP checksum or length is wrong".to_owned());
    }
    if packet[9] != 6 {
        return Ok(None);
    }
    let segment = &packet[20..];
    let mut pseudo = packet[12..20].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend((segment.len() as u16).to_be_bytes());
    let part = u32::from(!sum(&pseudo, 0));
    if sum(segment, part) != 0 {
        return Err("the TCP checksum is wrong".to_owned());
    }
    let head = usize::from(segment[12] >> 4) * 4;
    Ok(Some(Seen {
        from: [packet[12], packet[13], packet[14], packet[15]],
        ports: (half(segment, 0), half(segment, 2)),
        seq: word(segment, 4),
        ack: word(segment, 8),
        flags: segment[13],
        win: half(segment, 14),
        urg: half(segment, 18),
        options: read_options(&segment[20..head])?,
        len: (segment.len() - head) as u32,
        ecn: packet[1] & 3,
        time,
    }))
}

fn read_options(mut bytes: &[u8]) -> Result<Vec<Opt>, String> {
    let mut options = Vec::new();
    while let Some(kind) = bytes.first() {
        let len = if *kind < 2 { 1 } else { usize::from(bytes[1]) };
        let value = &bytes[..len];
        options.push(match kind {
            0 => Opt::End,
            1 => Opt::Nop,
            2 => Opt::Mss(half(value, 2)),
            3 => Opt::WindowScale(value[2]),
            4 => Opt::SackOk,
            5 => Opt::Sack((2..len).step_by(8).map(|at| (word(value, at), word(value, at + 4))).collect()),
            8 => Opt::Timestamps(word(value, 2), word(value, 6)),
            34 => Opt::FastOpen(value[2..].to_vec()),
            other => return Err(format!("unknown option {other}")),
        });
        bytes = &bytes[len..];
    }
    Ok(options)
}
