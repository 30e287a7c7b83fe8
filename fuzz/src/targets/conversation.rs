//! Segments that nearly fit, calls of the program between them, and time: the input decides, the numbers follow the connection.

use base::{Duration, Instant, IpAddress, MacAddr, Port};
use engine::{Engine, How, RouteTo};
use state::{CsumState, Endpoint, SockRef, TcpOptions};
use wire::{EthFrame, Ipv4Packet, TcpSegment};

use super::Target;
use crate::host::{FRAMES, Host, OWN, OWN_MAC, PEER_MAC};
use crate::input::Input;

pub(super) const TARGET: Target = Target {
    name: "conversation",
    what: "segments near the right numbers, socket calls and time",
    longest: 1024,
    play,
    seeds,
};

const START: Instant = Instant(1_000_000_000_000);
/// Conversations under way.
const FLOWS: usize = 4;
/// Things that happen in one input, at most.
const ACTS_MAX: usize = 300;
/// Bytes of options a segment may have.
const OPTIONS_MAX: u8 = 40;

/// What the peer of one connection knows.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    /// Next number of the peer's.
    seq: u32,
    /// Next number it expects.
    ack: u32,
    /// The last timestamp of the stack's.
    stamp: u32,
    active: bool,
}

struct Play {
    host: Host,
    now: Instant,
    flows: [Flow; FLOWS],
    listener: Option<SockRef>,
    socks: Vec<SockRef>,
}

fn play(bytes: &[u8]) -> Result<(), String> {
    let mut input = Input::new(bytes);
    let flows = [Flow { seq: 1000, ..Flow::default() }; FLOWS];
    let mut play = Play { host: Host::new(START)?, now: START, flows, listener: None, socks: Vec::new() };
    let local = Endpoint { addr: IpAddress::ANY, port: Port(80) };
    play.listener =
        play.host.engine(START, |e| e.tcp_listen(local, 3, &TcpOptions::default()).ok()).flatten();
    for _ in 0..ACTS_MAX {
        if input.is_empty() {
            break;
        }
        play.act(&mut input)?;
    }
    play.end()
}

impl Play {
    fn act(&mut self, input: &mut Input<'_>) -> Result<(), String> {
        match input.byte() {
            0..=127 => self.segment(input)?,
            128..=191 => self.call(input),
            192..=223 => {
                let ms = u64::from(input.half()) >> (input.byte() & 7);
                self.now = self.host.pass(self.now, Duration::from_millis(ms), 300)?;
            }
            224..=239 => self.icmp(input),
            240..=255 => {
                let packet = input.take(usize::from(input.clone().byte())).to_vec();
                self.host.receive(self.now, &[packet], CsumState::Verified);
            }
        }
        self.listen_to_the_stack()
    }

    /// What the stack sends tells the peers its numbers.
    fn listen_to_the_stack(&mut self) -> Result<(), String> {
        for packet in self.host.send(self.now, true)? {
            let Ok(eth) = EthFrame::parse(&packet) else {
                return Err("a frame that is none was sent".into());
            };
            let Ok(ip) = Ipv4Packet::parse(eth.payload()) else { continue };
            let Ok(tcp) = TcpSegment::parse(ip.payload()) else { continue };
            let at = usize::from(tcp.dst_port().0.wrapping_sub(1000));
            if let Some(flow) = self.flows.get_mut(at) {
                let flags = tcp.flags();
                let space = u32::from(flags.is_syn()) + u32::from(flags.is_fin());
                flow.ack = tcp.seq().0.wrapping_add(tcp.payload().len() as u32).wrapping_add(space);
                flow.stamp = wire::TcpOptions::parse(tcp.options()).timestamps.map_or(0, |t| t.value);
            }
        }
        Ok(())
    }

    fn segment(&mut self, input: &mut Input<'_>) -> Result<(), String> {
        let head = input.byte();
        let at = usize::from(head & 3) % FLOWS;
        let kind = head >> 2 & 15;
        let Some(flow) = self.flows.get(at).copied() else { return Ok(()) };
        // Usual flags most of the time.
        let flags = match kind {
            0..=5 => 0x10,
            6 | 7 => 0x18,
            8 | 9 => 0x02,
            10 => 0x12,
            11 => 0x11,
            12 => 0x14,
            13 => 0x04,
            _ => input.byte(),
        };
        let seq = flow.seq.wrapping_add(input.delta());
        let ack = flow.ack.wrapping_add(input.delta());
        let len = match input.byte() {
            0..=99 => 0,
            byte @ 100..=179 => u32::from(byte - 99),
            180..=255 => u32::from(input.half()) % 1461,
        };
        let window = if input.byte() < 200 { 0xffff } else { input.half() };
        let options = self.options(flow, flags, input);
        let bytes = build(&Shape { at, seq, ack, flags, window, active: flow.active }, &options, len);
        if let Some(flow) = self.flows.get_mut(at) {
            let end = seq.wrapping_add(len).wrapping_add(u32::from(flags & 1) + u32::from(flags >> 1 & 1));
            if head & 0x80 == 0 && end.wrapping_sub(flow.seq) < 1 << 31 {
                flow.seq = end;
            }
        }
        self.host.receive(self.now, &[bytes], CsumState::Verified).ok_or_else(|| "damaged tables".into())
    }

    fn options(&self, flow: Flow, flags: u8, input: &mut Input<'_>) -> Vec<u8> {
        let stamp = |value: u32| {
            let mut bytes = vec![1, 1, 8, 10];
            bytes.extend(value.to_be_bytes());
            bytes.extend(flow.stamp.to_be_bytes());
            bytes
        };
        match input.byte() {
            0..=99 if flags & 2 != 0 => {
                let mut bytes = vec![2, 4, 5, 180, 4, 2, 3, 3, 7, 1];
                bytes.extend([1, 1].iter().chain(&stamp(1)));
                bytes
            }
            0..=149 => Vec::new(),
            150..=199 => stamp(self.now.as_millis_u32().wrapping_add(input.delta())),
            200..=229 => {
                let mut bytes = vec![1, 1, 5, 10];
                let left = flow.ack.wrapping_add(input.delta());
                bytes.extend(left.to_be_bytes());
                bytes.extend(left.wrapping_add(1 + u32::from(input.half())).to_be_bytes());
                bytes
            }
            230..=255 => input.take(usize::from(input.clone().byte() % (OPTIONS_MAX + 1))).to_vec(),
        }
    }

    fn icmp(&mut self, input: &mut Input<'_>) {
        let at = usize::from(input.byte() & 3);
        let Some(flow) = self.flows.get(at).copied() else { return };
        let mut message = vec![input.byte() % 13, input.byte() % 6, 0, 0, 0, 0];
        message.extend(input.half().to_be_bytes());
        message.extend([0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6, 0, 0]);
        message.extend(OWN);
        message.extend([10, 0, 0, 2]);
        message.extend(local_port(at, flow.active).to_be_bytes());
        message.extend((1000 + at as u16).to_be_bytes());
        message.extend(flow.ack.wrapping_add(input.delta()).to_be_bytes());
        let check = wire::Sum::of(&message).finish();
        if let Some(field) = message.get_mut(2..4) {
            field.copy_from_slice(&check.to_be_bytes());
        }
        self.host.receive(self.now, &[packet(1, &message)], CsumState::Verified);
    }

    fn call(&mut self, input: &mut Input<'_>) {
        let (what, pick, value) = (input.byte(), input.byte(), input.half());
        let listener = self.listener;
        let sock = self.socks.get(usize::from(pick) % self.socks.len().max(1)).copied();
        if what % 12 == 0 {
            return self.connect(usize::from(pick & 3));
        }
        if what % 12 == 1 {
            let made = self.host.engine(self.now, |e| e.tcp_accept(listener?).ok()).flatten();
            self.socks.extend(made.map(|accepted| accepted.sock));
            return;
        }
        let Some(sock) = sock else { return };
        let closes = self.host.engine(self.now, |e| use_sock(e, sock, what % 12, value)).unwrap_or(false);
        if closes {
            self.socks.retain(|other| *other != sock);
        }
    }

    fn connect(&mut self, at: usize) {
        let port = local_port(at, true);
        let local = Endpoint { addr: IpAddress::from_v4(OWN.into()), port: Port(port) };
        let addr = IpAddress::from_v4([10, 0, 0, 2].into());
        let remote = Endpoint { addr, port: Port(1000 + at as u16) };
        let route = RouteTo {
            port: 0,
            next_hop: addr,
            local_mac: MacAddr(OWN_MAC),
            mac: Some(MacAddr(PEER_MAC)),
            mtu: 0,
        };
        let options = TcpOptions::default();
        let made = self.host.engine(self.now, |e| e.tcp_connect(local, remote, &route, &options).ok());
        if let (Some(sock), Some(flow)) = (made.flatten(), self.flows.get_mut(at)) {
            self.socks.push(sock);
            flow.active = true;
        }
    }

    /// Everything is given up; after a while nothing is left, and no frame is missing.
    fn end(mut self) -> Result<(), String> {
        let (socks, listener) = (self.socks, self.listener);
        self.host.engine(self.now, |e| {
            for sock in socks.into_iter().chain(listener) {
                e.close(sock);
            }
        });
        let now = self.host.pass(self.now, Duration::from_secs(4000), 20_000)?;
        let (rows, asleep) = self
            .host
            .engine(now, |e| (e.mem().globals.tcp.used, e.mem().globals.dormant.used))
            .ok_or("damaged tables")?;
        let free = self.host.free_frames(now);
        if rows == 0 && asleep == 0 && free == FRAMES {
            Ok(())
        } else {
            let frames = FRAMES.wrapping_sub(free);
            let states = self.host.engine(now, |e| {
                let rows = e.mem().hot.rows().iter().filter(|row| row.state != 0);
                rows.map(|row| {
                    format!("state {} flags {:#x} {:?} {:?}", row.state, row.flags, row.snd, row.rcv)
                })
                .collect::<Vec<_>>()
            });
            Err(format!("{rows} connections, {asleep} asleep, {frames} frames are left: {states:?}"))
        }
    }
}

/// True: the name is dead now.
fn use_sock(e: &mut Engine<'_>, sock: SockRef, what: u8, value: u16) -> bool {
    let len = usize::from(value) % 4000;
    match what {
        2 | 3 => {
            let _ = e.tcp_send(sock, vec![7; len].as_slice(), value & 0x8000 != 0);
        }
        4 | 5 => {
            let _ = e.tcp_recv(sock, vec![0; len].as_mut_slice(), value & 0x8000 != 0);
        }
        6 => {
            let how = [How::Read, How::Write, How::Both].get(usize::from(value % 3)).copied();
            let _ = e.shutdown(sock, how.unwrap_or(How::Both));
        }
        7 => {
            let [low, high] = value.to_le_bytes();
            let options = TcpOptions {
                nodelay: low & 1,
                cork: low >> 1 & 1,
                keepalive: low >> 2 & 1,
                linger: low >> 3 & 1,
                keep_idle_s: u16::from(high),
                rcv_buf_bytes: u32::from(high) << (low >> 4),
                snd_buf_bytes: u32::from(high) << (low >> 4),
                user_timeout_ms: u32::from(low) * 100,
                ..TcpOptions::default()
            };
            e.set_tcp_options(sock, &options);
        }
        8 => {
            e.hibernate_idle(4);
        }
        9 => {
            let _ =
                (e.ready(sock), e.take_error(sock), e.tcp_info(sock), e.names(sock), e.unread_bytes(sock));
        }
        10 => {
            e.close(sock);
            return true;
        }
        _ => {
            e.abort(sock);
            return true;
        }
    }
    false
}

const fn local_port(at: usize, active: bool) -> u16 {
    if active { 2000 + at as u16 } else { 80 }
}

struct Shape {
    at: usize,
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    active: bool,
}

fn build(shape: &Shape, options: &[u8], len: u32) -> Vec<u8> {
    let mut options = options.to_vec();
    options.truncate(usize::from(OPTIONS_MAX));
    options.resize(options.len().next_multiple_of(4), 0);
    let mut segment = (1000 + shape.at as u16).to_be_bytes().to_vec();
    segment.extend(local_port(shape.at, shape.active).to_be_bytes());
    segment.extend(shape.seq.to_be_bytes());
    segment.extend(shape.ack.to_be_bytes());
    segment.push(((20 + options.len()) << 2) as u8);
    segment.push(shape.flags);
    segment.extend(shape.window.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(options);
    segment.resize(segment.len() + len as usize, 0x55);
    packet(6, &segment)
}

fn packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = OWN_MAC.to_vec();
    frame.extend(PEER_MAC);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 2]);
    frame.extend(OWN);
    let check = wire::Sum::of(frame.get(14..34).unwrap_or(&[])).finish();
    if let Some(field) = frame.get_mut(24..26) {
        field.copy_from_slice(&check.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

fn seeds() -> Vec<Vec<u8>> {
    let syn = [0, 8 << 2, 0, 0, 0, 0, 0];
    let ack = [0, 0, 0, 0, 0, 0, 100];
    let data = [0, 6 << 2, 0, 0, 179, 0, 100];
    let fin = [0, 11 << 2, 0, 0, 0, 0, 100];
    let accept = [128, 1, 0, 0, 0];
    let send = [128, 2, 0, 200, 3];
    let recv = [128, 4, 0, 200, 15];
    let close = [128, 10, 0, 0, 0];
    let wait = [192, 0, 1, 0];
    let connect = [128, 0, 1, 0, 0];
    let synack = [0, 10 << 2 | 1, 0, 0, 0, 0, 0];
    let all = |acts: &[&[u8]]| acts.concat();
    vec![
        all(&[&syn, &ack, &accept, &data, &recv, &send, &ack, &fin, &close, &ack]),
        all(&[&syn, &ack, &accept, &send, &wait, &wait, &wait, &ack]),
        all(&[&connect, &synack, &send, &ack, &fin, &wait]),
        all(&[&syn, &ack, &data, &fin, &accept, &recv, &close, &ack, &wait]),
    ]
}
