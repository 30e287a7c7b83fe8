//! Several UDP datagrams in one go: cut when sent (UDP_SEGMENT), merged when read (UDP_GRO).
#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use base::IpAddress;
use engine::{UdpOptions, UdpRecvError, UdpSendError, UdpTo};
use proptest::prelude::*;
use rig::*;
use state::{CsumState, SockRef};
use wire::{IpProtocol, Ipv4Packet, UdpDatagram};

fn cuts(segment: u16) -> UdpOptions {
    UdpOptions { segment, ..UdpOptions::default() }
}

fn merging() -> UdpOptions {
    UdpOptions { merges: true, ..UdpOptions::default() }
}

fn bind(host: &mut Host, opts: &UdpOptions) -> SockRef {
    host.engine(|e| e.udp_bind(anywhere(53), opts)).unwrap()
}

fn send(host: &mut Host, s: SockRef, data: &[u8]) -> Result<usize, UdpSendError> {
    let to = UdpTo { remote: at(PEER, 4000), local: IpAddress::from_v4(HOST), route: route(Some(PEER_MAC)) };
    host.engine(|e| e.udp_send_to(s, data, Some(&to)))
}

/// The payloads of the packets that were sent, each with a right checksum.
fn sent(host: &mut Host) -> Vec<Vec<u8>> {
    let payload = |bytes: Vec<u8>| {
        let ip = Ipv4Packet::parse(&bytes[14..]).unwrap();
        let len = ip.payload().len() as u16;
        let udp = UdpDatagram::parse(ip.payload()).unwrap();
        assert!(udp.checksum_ok(wire::checksum::pseudo_v4(HOST, PEER, IpProtocol::UDP, len)));
        assert!(!ip.more_fragments() && udp.len_bytes() == usize::from(len));
        udp.payload().to_vec()
    };
    host.transmitted().into_iter().map(payload).collect()
}

/// What one read gives: the bytes, and the length of each datagram but the last if there are several.
fn read(host: &mut Host, s: SockRef) -> Result<(Vec<u8>, u16), UdpRecvError> {
    let mut buf = vec![0; 65_536];
    let got = host.engine(|e| e.udp_recv_from(s, &mut buf, false))?;
    assert_eq!(got.copied, got.len as usize);
    buf.truncate(got.copied);
    Ok((buf, got.segment))
}

#[test]
fn what_is_sent_in_one_go_leaves_as_datagrams_of_the_length_asked_for() {
    let mut host = Host::new();
    let free = host.free_frames();
    let s = bind(&mut host, &cuts(1000));
    for len in [1, 999, 1000, 1001, 3500, 4000, 60_000] {
        let data = pattern(len);
        assert_eq!(send(&mut host, s, &data), Ok(len));
        let want: Vec<Vec<u8>> = data.chunks(1000).map(<[u8]>::to_vec).collect();
        assert_eq!(sent(&mut host), want, "{len} bytes");
    }
    assert_eq!(host.free_frames(), free);
}

#[test]
fn what_cannot_be_cut_is_refused_and_nothing_leaves() {
    let mut host = Host::new();
    let s = bind(&mut host, &cuts(10));
    assert_eq!(send(&mut host, s, &pattern(1280)), Ok(1280), "128 datagrams");
    assert_eq!(sent(&mut host).len(), 128);
    assert_eq!(send(&mut host, s, &pattern(1281)), Err(UdpSendError::Invalid));
    let bare = UdpOptions { no_checksum: true, ..cuts(10) };
    host.engine(|e| e.set_udp_options(s, &bare));
    assert_eq!(send(&mut host, s, &pattern(11)), Err(UdpSendError::Invalid));
    // 1500 bytes of a packet are 1472 of payload; what is not cut may be fragmented, what is cut may not.
    host.engine(|e| e.set_udp_options(s, &cuts(1473)));
    assert_eq!(send(&mut host, s, &pattern(2000)), Err(UdpSendError::MessageSize));
    assert!(host.transmitted().is_empty());
    assert_eq!(send(&mut host, s, &pattern(1473)), Ok(1473));
    assert_eq!(host.transmitted().len(), 2);
    assert_eq!(host.engine(|e| e.udp_options(s)).unwrap().segment, 1473);
}

#[test]
fn datagrams_of_one_length_are_read_in_one_go_up_to_a_shorter_one() {
    let mut host = Host::new();
    let free = host.free_frames();
    let s = bind(&mut host, &merging());
    assert!(host.engine(|e| e.udp_options(s)).unwrap().merges);
    let bytes = pattern(5 * 1000 + 400);
    for part in bytes.chunks(1000) {
        host.receive(&udp_frame(4000, 53, part));
    }
    // Behind a shorter one, from another port, longer, empty.
    host.receive(&udp_frame(4000, 53, &[1; 1000]));
    host.receive(&udp_frame(4001, 53, &[2; 1000]));
    host.receive(&udp_frame(4001, 53, &[3; 1001]));
    host.receive(&udp_frame(4001, 53, &[]));
    assert_eq!(host.engine(|e| e.udp_next_len(s)), Some(5400));
    assert_eq!(read(&mut host, s), Ok((bytes, 1000)));
    for (len, byte) in [(1000, 1), (1000, 2), (1001, 3), (0, 0)] {
        assert_eq!(read(&mut host, s), Ok((vec![byte; len], 0)));
    }
    assert_eq!(read(&mut host, s), Err(UdpRecvError::WouldBlock));
    assert_eq!(host.free_frames(), free);
}

#[test]
fn what_the_device_merged_stays_merged_and_grows() {
    let mut host = Host::new();
    let free = host.free_frames();
    let s = bind(&mut host, &merging());
    let bytes = pattern(1472 * 20);
    host.receive_merged(&udp_frame(4000, 53, &bytes[..1472 * 8]), 3000, CsumState::Unfinished, 1472);
    host.receive_merged(&udp_frame(4000, 53, &bytes[1472 * 8..]), 3000, CsumState::Unfinished, 1472);
    assert_eq!(read(&mut host, s), Ok((bytes, 1472)));
    assert_eq!(host.free_frames(), free);
}

#[test]
fn sixty_four_datagrams_are_merged_at_most() {
    let mut host = Host::new();
    let s = bind(&mut host, &merging());
    (0..100).for_each(|_| host.receive(&udp_frame(4000, 53, b"ten bytes.")));
    assert_eq!(read(&mut host, s).unwrap().0.len(), 640);
    assert_eq!(read(&mut host, s).unwrap().0.len(), 360);
}

/// One step of a program and its peers.
#[derive(Debug, Clone)]
enum Step {
    Come { from: u16, len: usize, byte: u8 },
    Merge(bool),
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (4000_u16..4002, prop_oneof![Just(100_usize), Just(1200), 0_usize..1400], any::<u8>())
            .prop_map(|(from, len, byte)| Step::Come { from, len, byte }),
        1 => any::<bool>().prop_map(Step::Merge),
        1 => Just(Step::Read),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// However they are merged, cut apart again they are those that came, in their order.
    #[test]
    fn merged_datagrams_keep_their_borders(steps in prop::collection::vec(step(), 0..120)) {
        let mut host = Host::new();
        let free = host.free_frames();
        let s = bind(&mut host, &merging());
        let (mut came, mut got) = (Vec::new(), Vec::new());
        let take = |host: &mut Host, got: &mut Vec<Vec<u8>>| match read(host, s) {
            Ok((bytes, 0)) => got.push(bytes),
            Ok((bytes, segment)) => got.extend(bytes.chunks(usize::from(segment)).map(<[u8]>::to_vec)),
            Err(_) => {}
        };
        for step in steps {
            match step {
                Step::Come { from, len, byte } => {
                    let before = host.dropped(state::DropReason::UdpQueueFull);
                    let payload = vec![byte; len];
                    host.receive(&udp_frame(from, 53, &payload));
                    if host.dropped(state::DropReason::UdpQueueFull) == before {
                        came.push(payload);
                    }
                }
                Step::Merge(on) => {
                    let opts = UdpOptions { merges: on, ..UdpOptions::default() };
                    host.engine(|e| e.set_udp_options(s, &opts));
                }
                Step::Read => take(&mut host, &mut got),
            }
        }
        while got.len() < came.len() {
            let before = got.len();
            take(&mut host, &mut got);
            prop_assert!(got.len() > before, "{} of {}", got.len(), came.len());
        }
        prop_assert_eq!(got, came);
        prop_assert_eq!(host.free_frames(), free);
    }
}
