//! Every message survives the wire, and no byte string breaks the decoder.
#![allow(clippy::unwrap_used)]

use base::{IpAddress, LaneId, MacAddr, Port};
use control::proto::{
    DeviceKind, DeviceList, FLOWS_MAX, FlowEnds, FlowList, LaneDevice, MessageBuffer, Proto, ProtoError,
    RegionWish, Reply, Request, Rule, Stopped, TEXT_BYTES_MAX, WireEnd, fit_text,
};
use proptest::prelude::*;

const EMPTY: MessageBuffer = [0; base::limits::KEEPER_MESSAGE_BYTES];

fn rule() -> impl Strategy<Value = Rule> {
    (any::<u32>(), any::<u16>(), any::<bool>(), any::<[u8; 16]>(), any::<u16>()).prop_map(
        |(region, lane, tcp, addr, port)| Rule {
            region,
            lane: LaneId(lane),
            proto: if tcp { Proto::Tcp } else { Proto::Udp },
            addr: IpAddress(addr),
            port: Port(port),
        },
    )
}

fn device() -> impl Strategy<Value = LaneDevice> {
    (any::<[u32; 3]>(), 0..3u8, any::<u16>(), any::<[u8; 6]>(), any::<u8>()).prop_map(
        |(words, kind, queues, mac, fds)| LaneDevice {
            ifindex: words[0],
            kind: [DeviceKind::Xdp, DeviceKind::Packet, DeviceKind::Tap][usize::from(kind)],
            flags: words[1],
            mtu: words[2],
            queues,
            mac: MacAddr(mac),
            fds,
        },
    )
}

fn check_request(request: Request<'_>) {
    let mut buffer = EMPTY;
    let len = request.encode(&mut buffer).unwrap();
    assert_eq!(Request::decode(&buffer[..len]), Ok(request));
    assert_eq!(Request::decode(&buffer[..len + 1]), Err(ProtoError::Surplus));
    for short in 0..len {
        assert!(Request::decode(&buffer[..short]).is_err());
    }
}

fn check_reply(reply: Reply<'_>) {
    let mut buffer = EMPTY;
    let len = reply.encode(&mut buffer).unwrap();
    assert_eq!(Reply::decode(&buffer[..len]), Ok(reply));
    assert_eq!(Reply::decode(&buffer[..len + 1]), Err(ProtoError::Surplus));
    for short in 0..len {
        assert!(Reply::decode(&buffer[..short]).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn requests_survive_the_wire(
        rule in rule(), numbers in any::<[u32; 3]>(), version: u16, token: [u8; 16], shape: [u32; 16], huge: bool, text in ".{0,60}",
    ) {
        check_request(Request::Hello { version, pid: numbers[0], token });
        check_request(Request::NewRegion(RegionWish { lanes: version, frames: numbers[1], hugepages: huge, shape }));
        check_request(Request::NewLane { region: numbers[2] });
        check_request(Request::Listen(rule));
        check_request(Request::Unlisten { rule, inode: u64::MAX - 5 });
        check_request(Request::TakePort(rule));
        check_request(Request::GivePort(rule));
        check_request(Request::TakePorts(rule));
        check_request(Request::Leave(rule));
        check_request(Request::Join);
        check_request(Request::Introduce { rule, ifindex: numbers[0], turn: token[0] });
        let flow = FlowEnds { local: rule.addr, local_port: rule.port, remote: IpAddress(token), remote_port: Port(version) };
        let flows = vec![flow; usize::from(token[1]) % (FLOWS_MAX + 1)];
        check_request(Request::HandOn { rule, to: LaneId(version), flows: FlowList::of(&flows) });
        check_request(Request::Fetch { rule, flows: FlowList::of(&flows) });
        check_request(Request::Enter { region: numbers[1] });
        check_request(Request::Rouse { region: numbers[1], lanes: u64::from(numbers[2]) << 20 });
        check_request(Request::Resume { region: numbers[0], lane: LaneId(version) });
        check_request(Request::Resolve { ifindex: numbers[0], addr: rule.addr });
        check_request(Request::Reasons { text: &text });
        let [a, b, c] = numbers;
        let scales = huge.then_some((token[2] % 15, token[3] % 15));
        check_request(Request::Entrust { rule, stopped: Stopped {
            remote: IpAddress(token), remote_port: Port(version), scope: a, v6: huge, snd_una: b, rcv_nxt: c, unread_bytes: shape[0],
            unacked_bytes: shape[1], unsent_bytes: shape[2], snd_wl1: shape[3], snd_wnd: shape[4], snd_wnd_max: shape[5], rcv_wnd: shape[6],
            mss: version, scales, sack: !huge, timestamp: (!huge).then_some(a), fin_sent: huge, fin_received: !huge,
        } });
        check_request(Request::Describe { offset: numbers[1] });
    }

    #[test]
    fn replies_survive_the_wire(
        devices in proptest::collection::vec(device(), 0..=base::limits::DEVICES), number: u32, short: u16, text in ".{0,60}",
    ) {
        let mut list = DeviceList::new();
        for device in &devices {
            list.push(*device).unwrap();
        }
        prop_assert_eq!(list.as_slice(), &devices[..]);
        check_reply(Reply::Error { errno: short, text: &text });
        check_reply(Reply::Done);
        check_reply(Reply::Connection);
        check_reply(Reply::Welcome { session: number, config: &text });
        check_reply(Reply::Region { id: number });
        check_reply(Reply::Lane { lane: LaneId(short), devices: list });
        check_reply(Reply::Port { port: Port(short) });
        check_reply(Reply::Ports { first: Port(short), count: short });
        let end = WireEnd {
            wire: number,
            lane: LaneId(short),
            port: 63,
            asked: number > 9,
            peer_pid: number ^ 1,
            ifindex: 3,
            log2_ring: 9,
            buffer_bytes: 2048,
        };
        check_reply(Reply::Wire { end, lanes: 4, fresh: number & 1 == 0 });
        check_reply(Reply::Met { end });
        check_reply(Reply::Parted { wire: number });
        check_reply(Reply::Look { lane: LaneId(short) });
        let notice = Reply::Parted { wire: number };
        prop_assert!(notice.is_notice() && !Reply::Done.is_notice());
        check_reply(Reply::Description { text: &text, more: number });
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0..12u8) {
        let _ = Request::decode(&bytes);
        let _ = Reply::decode(&bytes);
        let mut known = bytes;
        if let Some(first) = known.first_mut() {
            *first = kind;
            let _ = Request::decode(&known);
        }
        if let Some(first) = known.first_mut() {
            *first = kind | 128;
            let _ = Reply::decode(&known);
        }
    }
}

#[test]
fn a_text_that_does_not_fit_is_refused_and_fit_text_cuts_it() {
    let long = "\u{e9}".repeat(TEXT_BYTES_MAX);
    let mut buffer = EMPTY;
    assert_eq!(Request::Reasons { text: &long }.encode(&mut buffer), Err(ProtoError::TooLong));
    let cut = fit_text(&long);
    assert!(cut.len() <= TEXT_BYTES_MAX && long.starts_with(cut));
    assert!(Reply::Error { errno: 1, text: cut }.encode(&mut buffer).is_ok());
}

#[test]
fn a_seventeenth_device_is_given_back() {
    let mut list = DeviceList::new();
    for _ in 0..base::limits::DEVICES {
        list.push(LaneDevice::default()).unwrap();
    }
    assert!(list.push(LaneDevice::default()).is_err());
}

#[test]
fn unknown_kinds_and_values_are_named() {
    assert_eq!(Request::decode(&[0]), Err(ProtoError::UnknownKind(0)));
    assert_eq!(Request::decode(&[]), Err(ProtoError::TooShort));
    assert_eq!(Reply::decode(&[7]), Err(ProtoError::UnknownKind(7)));
    let mut buffer = EMPTY;
    let rule = Rule { region: 1, lane: LaneId(0), proto: Proto::Tcp, addr: IpAddress::ANY, port: Port(80) };
    let len = Request::Listen(rule).encode(&mut buffer).unwrap();
    buffer[7] = 99;
    assert_eq!(Request::decode(&buffer[..len]), Err(ProtoError::BadValue));
}
