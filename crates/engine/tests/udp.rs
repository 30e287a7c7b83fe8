//! UDP end to end: from frames to the program and back.
#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use base::limits::FRAME_BYTES;
use base::{Duration, IpAddress, MacAddr};
use engine::{How, SockError, UdpBindError, UdpOptions, UdpRecvError, UdpSendError, UdpTo};
use proptest::prelude::*;
use rig::*;
use state::ports::{PORT_LOCAL_PEER, PORT_OWN_ADDRESS, PORT_UP};
use state::{CsumState, DropReason, Ready, SockRef};
use wire::{Icmp4Header, IpProtocol, Ipv4Packet, UdpDatagram};

fn bind(host: &mut Host, port: u16) -> SockRef {
    host.engine(|e| e.udp_bind(anywhere(port), &UdpOptions::default())).unwrap()
}

fn read(host: &mut Host, s: SockRef) -> Result<Vec<u8>, UdpRecvError> {
    let mut buf = vec![0; 65_536];
    let got = host.engine(|e| e.udp_recv_from(s, &mut buf, false))?;
    buf.truncate(got.copied);
    Ok(buf)
}

fn to_peer(port: u16, mac: Option<MacAddr>) -> UdpTo {
    UdpTo { remote: at(PEER, port), local: IpAddress::from_v4(HOST), route: route(mac) }
}

#[test]
fn a_datagram_is_read_with_its_sender_and_its_frame_is_free_again() {
    let mut host = Host::new();
    let free = host.free_frames();
    let s = bind(&mut host, 53);
    assert!(host.engine(|e| e.set_event_queue(s, 1, 99)));
    assert!(host.engine(|e| e.poll_event(1)).is_some_and(|ev| ev.ready == Ready::OUT));
    host.receive(&udp_frame(4000, 53, b"hello"));
    let event = host.engine(|e| e.poll_event(1)).unwrap();
    assert_eq!((event.sock, event.token, event.ready), (s, 99, Ready::IN));
    assert!(host.engine(|e| e.ready(s)).has(Ready::IN));
    let mut buf = [0; 3];
    let got = host.engine(|e| e.udp_recv_from(s, &mut buf, true)).unwrap();
    assert_eq!((got.copied, got.len, got.from), (3, 5, at(PEER, 4000)));
    assert_eq!((got.to, &buf), (IpAddress::from_v4(HOST), b"hel"));
    assert_eq!(read(&mut host, s).unwrap(), b"hello");
    assert_eq!(read(&mut host, s), Err(UdpRecvError::WouldBlock));
    assert_eq!(host.free_frames(), free);
}

#[test]
fn ethernet_padding_is_not_payload() {
    let mut host = Host::new();
    let s = bind(&mut host, 53);
    let mut bytes = udp_frame(4000, 53, b"x");
    bytes.resize(60, 0xee);
    host.receive(&bytes);
    assert_eq!(read(&mut host, s).unwrap(), b"x");
}

#[test]
fn padding_that_fills_a_frame_of_its_own_is_cut_off() {
    let mut host = Host::new();
    let free = host.free_frames();
    let s = bind(&mut host, 53);
    let payload = pattern(400);
    let mut bytes = udp_frame(4000, 53, &payload);
    bytes.resize(bytes.len() + 500, 0xee);
    host.receive_in(&bytes, 128, CsumState::Unknown);
    assert_eq!(read(&mut host, s).unwrap(), payload);
    assert_eq!(host.free_frames(), free);
}

#[test]
fn small_datagrams_share_frames_and_keep_their_borders() {
    let mut host = Host::new();
    let free = host.free_frames();
    let s = bind(&mut host, 53);
    for i in 0..200_u16 {
        host.receive(&udp_frame(1000 + i, 53, &pattern(usize::from(i))));
    }
    let used = free - host.free_frames();
    assert!(used < 20, "{used} frames for 200 small datagrams");
    for i in 0..200_u16 {
        assert_eq!(read(&mut host, s).unwrap(), pattern(usize::from(i)), "datagram {i}");
    }
    assert_eq!(host.free_frames(), free);
}

#[test]
fn merged_datagrams_are_read_one_by_one() {
    let mut host = Host::new();
    let free = host.free_frames();
    let s = bind(&mut host, 53);
    let payload = pattern(1472 * 20 + 100);
    host.receive_merged(&udp_frame(4000, 53, &payload), 3000, CsumState::Unfinished, 1472);
    assert!(free - host.free_frames() <= 11, "two share a frame");
    for part in payload.chunks(1472) {
        assert_eq!(read(&mut host, s).unwrap(), part);
    }
    assert_eq!(read(&mut host, s), Err(UdpRecvError::WouldBlock));
    let opts = UdpOptions { recv_bytes: 4 * FRAME_BYTES as u32, ..UdpOptions::default() };
    host.engine(|e| e.set_udp_options(s, &opts));
    host.receive_merged(&udp_frame(4000, 53, &payload), 3000, CsumState::Unfinished, 1472);
    assert_eq!(host.dropped(DropReason::UdpQueueFull), 12, "eight, and the small one beside the last");
    host.engine(|e| e.close(s));
    assert_eq!(host.free_frames(), free);
}

#[test]
fn the_receive_buffer_bounds_what_a_socket_holds() {
    let mut host = Host::new();
    let free = host.free_frames();
    let opts = UdpOptions { recv_bytes: 8 * FRAME_BYTES as u32, ..UdpOptions::default() };
    let s = host.engine(|e| e.udp_bind(anywhere(53), &opts)).unwrap();
    for _ in 0..20 {
        host.receive(&udp_frame(4000, 53, &pattern(1200)));
    }
    assert_eq!(free - host.free_frames(), 8);
    assert_eq!(host.dropped(DropReason::UdpQueueFull), 12);
    host.engine(|e| e.close(s));
    assert_eq!(host.free_frames(), free);
    assert!(!host.engine(|e| e.exists(s)));
}

#[test]
fn a_wrong_checksum_is_dropped_and_no_checksum_is_taken() {
    let mut host = Host::new();
    let s = bind(&mut host, 53);
    let mut bytes = udp_frame(4000, 53, b"hello");
    *bytes.last_mut().unwrap() ^= 1;
    host.receive(&bytes);
    assert_eq!(host.dropped(DropReason::UdpChecksumBad), 1);
    bytes[40..42].fill(0);
    host.receive(&bytes);
    assert_eq!(read(&mut host, s).unwrap(), b"helln");
}

#[test]
fn an_unfinished_checksum_is_taken_from_a_peer_on_this_machine_only() {
    let pseudo = wire::checksum::pseudo_v4(PEER, HOST, IpProtocol::UDP, 13).fold();
    let mut bytes = udp_frame(4000, 53, b"hello");
    bytes[40..42].copy_from_slice(&pseudo.to_be_bytes());
    for (flags, taken) in [(PORT_UP | PORT_LOCAL_PEER, true), (PORT_UP, false)] {
        let mut host = Host::with(flags, 1500);
        let s = bind(&mut host, 53);
        host.receive(&bytes);
        assert_eq!(read(&mut host, s).is_ok(), taken);
    }
}

#[test]
fn the_connected_socket_comes_before_the_bound_one_before_any() {
    let mut host = Host::new();
    let reuse = UdpOptions { reuse_port: true, ..UdpOptions::default() };
    let open = |host: &mut Host, local| host.engine(|e| e.udp_bind(local, &reuse)).unwrap();
    let (wide, exact, connected) =
        (open(&mut host, anywhere(53)), open(&mut host, at(HOST, 53)), open(&mut host, anywhere(53)));
    let local = IpAddress::from_v4(HOST);
    host.engine(|e| e.udp_connect(connected, local, at(PEER, 9), &route(Some(PEER_MAC)))).unwrap();
    host.receive(&udp_frame(9, 53, b"to connected"));
    host.receive(&udp_frame(10, 53, b"to exact"));
    assert_eq!(read(&mut host, connected).unwrap(), b"to connected");
    assert_eq!(read(&mut host, exact).unwrap(), b"to exact");
    host.engine(|e| e.close(exact));
    host.receive(&udp_frame(10, 53, b"to any"));
    assert_eq!(read(&mut host, wide).unwrap(), b"to any");
}

#[test]
fn a_port_is_taken_once_unless_both_share_it() {
    let mut host = Host::new();
    let opts = UdpOptions::default();
    bind(&mut host, 53);
    assert_eq!(host.engine(|e| e.udp_bind(at(HOST, 53), &opts)), Err(UdpBindError::InUse));
    assert_eq!(host.engine(|e| e.udp_bind(anywhere(0), &opts)), Err(UdpBindError::Invalid));
    for port in 100..107 {
        bind(&mut host, port);
    }
    assert_eq!(host.engine(|e| e.udp_bind(anywhere(200), &opts)), Err(UdpBindError::NoRoom));
}

#[test]
fn a_sent_datagram_has_right_headers_and_checksum() {
    let mut host = Host::new();
    let free = host.free_frames();
    let s = bind(&mut host, 53);
    let sent = host.engine(|e| e.udp_send_to(s, b"answer", Some(&to_peer(4000, Some(PEER_MAC)))));
    assert_eq!(sent, Ok(6));
    let bytes = host.transmitted_one();
    assert_eq!((&bytes[..6], &bytes[6..12]), (&PEER_MAC.0[..], &HOST_MAC.0[..]));
    let ip = Ipv4Packet::parse(&bytes[14..]).unwrap();
    assert_eq!((ip.src(), ip.dst(), ip.ttl()), (HOST, PEER, 64));
    let udp = UdpDatagram::parse(ip.payload()).unwrap();
    assert_eq!((udp.src_port().0, udp.dst_port().0, udp.payload()), (53, 4000, &b"answer"[..]));
    let pseudo = wire::checksum::pseudo_v4(HOST, PEER, IpProtocol::UDP, 14);
    assert!(udp.checksum() != 0 && udp.checksum_ok(pseudo));
    assert_eq!(host.free_frames(), free);
}

#[test]
fn a_datagram_larger_than_the_link_is_fragmented_or_refused() {
    let mut host = Host::new();
    let free = host.free_frames();
    let s = bind(&mut host, 53);
    let payload = pattern(65_507);
    host.engine(|e| e.udp_send_to(s, &payload, Some(&to_peer(4000, Some(PEER_MAC))))).unwrap();
    let parts = host.transmitted();
    assert_eq!(parts.len(), 65_515_usize.div_ceil(1480));
    let mut whole = vec![0; 65_515];
    for part in &parts {
        let ip = Ipv4Packet::parse(&part[14..]).unwrap();
        let from = usize::from(ip.fragment_offset());
        whole[from..from + ip.payload().len()].copy_from_slice(ip.payload());
        assert_eq!(ip.more_fragments(), from + ip.payload().len() < 65_515);
    }
    let pseudo = wire::checksum::pseudo_v4(HOST, PEER, IpProtocol::UDP, 65_515);
    let udp = UdpDatagram::parse(&whole).unwrap();
    assert!(udp.checksum_ok(pseudo) && udp.payload() == payload);
    let opts = UdpOptions { dont_fragment: true, ..UdpOptions::default() };
    host.engine(|e| e.set_udp_options(s, &opts));
    let to = to_peer(4000, Some(PEER_MAC));
    assert_eq!(host.engine(|e| e.udp_send_to(s, &payload, Some(&to))), Err(UdpSendError::MessageSize));
    assert_eq!(
        host.engine(|e| e.udp_send_to(s, &vec![0; 65_508], Some(&to))),
        Err(UdpSendError::MessageSize)
    );
    assert_eq!(host.free_frames(), free);
}

#[test]
fn fragments_for_a_jumbo_link_fit_their_frames() {
    let mut host = Host::with(PORT_UP | PORT_OWN_ADDRESS, 9000);
    let s = bind(&mut host, 53);
    let payload = pattern(14_248);
    host.engine(|e| e.udp_send_to(s, &payload, Some(&to_peer(4000, Some(PEER_MAC))))).unwrap();
    let sent: usize = host.transmitted().iter().map(|part| part.len() - 34).sum();
    assert_eq!(sent, payload.len() + 8);
}

#[test]
fn a_jumbo_datagram_leaves_as_one_packet_of_several_frames() {
    let mut host = Host::with(PORT_UP | PORT_OWN_ADDRESS, 65_535);
    let free = host.free_frames();
    let s = bind(&mut host, 53);
    let payload = pattern(65_507);
    host.engine(|e| e.udp_send_to(s, &payload, Some(&to_peer(4000, Some(PEER_MAC))))).unwrap();
    let bytes = host.transmitted_one();
    let ip = Ipv4Packet::parse(&bytes[14..]).unwrap();
    assert_eq!(UdpDatagram::parse(ip.payload()).unwrap().payload(), payload);
    assert_eq!(host.free_frames(), free);
}

#[test]
fn the_send_buffer_fills_and_its_owner_is_told_of_room() {
    let mut host = Host::new();
    let opts = UdpOptions { send_bytes: 10_000, ..UdpOptions::default() };
    let s = host.engine(|e| e.udp_bind(anywhere(53), &opts)).unwrap();
    host.engine(|e| e.set_event_queue(s, 1, 5));
    host.engine(|e| e.poll_event(1));
    let to = to_peer(4000, Some(PEER_MAC));
    let sent =
        (0..100).take_while(|_| host.engine(|e| e.udp_send_to(s, &[0; 992], Some(&to))).is_ok()).count();
    assert_eq!(sent, 10);
    assert!(!host.engine(|e| e.ready(s)).any(Ready::OUT));
    assert_eq!(host.transmitted().len(), 10);
    assert_eq!(host.engine(|e| e.poll_event(1)).map(|e| e.ready), Some(Ready::OUT));
}

#[test]
fn packets_that_a_port_did_not_take_come_again_in_order() {
    let mut host = Host::with(PORT_UP | PORT_OWN_ADDRESS, 9000);
    let free = host.free_frames();
    let s = bind(&mut host, 53);
    let to = to_peer(4000, Some(PEER_MAC));
    for i in 0..4_u8 {
        host.engine(|e| e.udp_send_to(s, &vec![i; 5000], Some(&to))).unwrap();
    }
    host.engine(|e| {
        let mut out = state::TxBatch::new();
        assert_eq!(e.poll_transmit(&mut out), 4);
        e.mem().frames.release(out.items()[0].head);
        e.requeue_unsent(&out.items()[1..]);
        assert!(e.transmit_pending());
    });
    let again = host.transmitted();
    assert_eq!(again.iter().map(|p| p[100]).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(again.iter().all(|p| p.len() == 14 + 20 + 8 + 5000 && p.last() == Some(&p[100])));
    assert_eq!(host.free_frames(), free);
}

#[test]
fn a_datagram_for_nobody_is_answered_and_a_refusal_reaches_the_connected_socket() {
    let mut host = Host::new();
    let free = host.free_frames();
    host.receive(&udp_frame(4000, 53, b"anybody?"));
    let bytes = host.transmitted_one();
    let ip = Ipv4Packet::parse(&bytes[14..]).unwrap();
    assert_eq!((ip.protocol(), ip.dst()), (IpProtocol::ICMP4, PEER));
    let icmp = wire::Icmp4Message::parse(ip.payload()).unwrap();
    assert!(icmp.checksum_ok());
    assert_eq!(icmp.header(), Icmp4Header::Unreachable { code: 3, next_hop_mtu: 0 });
    assert_eq!(icmp.payload(), &udp_frame(4000, 53, b"anybody?")[14..]);

    let s = bind(&mut host, 53);
    let local = IpAddress::from_v4(HOST);
    host.engine(|e| e.udp_connect(s, local, at(PEER, 4000), &route(Some(PEER_MAC)))).unwrap();
    host.engine(|e| e.udp_send_to(s, b"hello", None)).unwrap();
    let sent = host.transmitted_one();
    let mut message = vec![0; 8];
    icmp.header().emit(&mut message).unwrap();
    message.extend_from_slice(&sent[14..]);
    wire::icmp4::fill_checksum(&mut message).unwrap();
    host.receive(&frame(&ip_header(IpProtocol::ICMP4, message.len()), &message));
    assert!(host.engine(|e| e.ready(s)).has(Ready::ERR));
    assert_eq!(read(&mut host, s), Err(UdpRecvError::Failed(SockError::Refused)));
    assert_eq!(read(&mut host, s), Err(UdpRecvError::WouldBlock));
    host.engine(|e| e.close(s));
    assert_eq!(host.free_frames(), free);
}

#[test]
fn icmp_errors_are_rate_limited() {
    let mut host = Host::new();
    for _ in 0..200 {
        host.receive(&udp_frame(4000, 53, b"anybody?"));
    }
    assert_eq!(host.transmitted().len(), 50);
    assert_eq!(host.dropped(DropReason::IcmpRateLimited), 150);
    host.sleep(Duration::from_millis(10));
    for _ in 0..200 {
        host.receive(&udp_frame(4000, 53, b"anybody?"));
    }
    assert_eq!(host.transmitted().len(), 10);
}

#[test]
fn nothing_is_answered_on_a_shared_address() {
    let mut host = Host::with(PORT_UP, 1500);
    host.receive(&udp_frame(4000, 53, b"anybody?"));
    assert!(host.transmitted().is_empty());
}

#[test]
fn a_shut_socket_reads_the_rest_and_then_ends() {
    let mut host = Host::new();
    let s = bind(&mut host, 53);
    host.receive(&udp_frame(4000, 53, b"last"));
    assert!(host.engine(|e| e.shutdown(s, How::Both)).is_err());
    assert!(host.engine(|e| e.ready(s)).has(Ready::HUP | Ready::IN | Ready::RDHUP));
    assert_eq!(read(&mut host, s).unwrap(), b"last");
    assert_eq!(read(&mut host, s), Err(UdpRecvError::Shut));
    let to = to_peer(4000, Some(PEER_MAC));
    assert_eq!(host.engine(|e| e.udp_send_to(s, b"no", Some(&to))), Err(UdpSendError::Pipe));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_packets_neither_panic_nor_leak(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..40),
        piece in 1_usize..150,
    ) {
        let mut host = Host::new();
        let free = host.free_frames();
        let s = bind(&mut host, 53);
        for mut bytes in packets {
            // Half of them get proper lower layers, so that the upper ones see nonsense too.
            if bytes.len() > 40 && bytes[0] & 1 == 1 {
                let protocol = [IpProtocol::UDP, IpProtocol::ICMP4, IpProtocol::TCP][usize::from(bytes[1] % 3)];
                bytes = frame(&ip_header(protocol, bytes.len() - 3), &bytes[3..]);
            }
            let first = piece.max(bytes.len().min(128));
            host.receive_in(&bytes, first.max(1), CsumState::Unknown);
        }
        host.transmitted();
        host.sleep(Duration::from_secs(40));
        host.transmitted();
        host.engine(|e| e.close(s));
        prop_assert_eq!(host.free_frames(), free);
    }
}
