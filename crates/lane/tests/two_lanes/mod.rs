//! Two lanes that listen at one end.
#![allow(clippy::unwrap_used, dead_code)]

use std::net::Ipv4Addr;

use base::limits::FRAME_HEADROOM;
use base::{Instant, IpAddress, LaneId, MacAddr, Port, SeqNum};
use engine::Engine;
use lane::{Lane, LanePort};
use region::{Frames, Owner, Region, RegionShape};
use state::ports::{PORT_ADDRESSES, PORT_UP};
use state::{
    CsumState, Endpoint, FlowKey, LAYOUT_VERSION, LaneMem, LaneShape, PortInfo, RxBatch, RxFrame, TcpOptions,
};
use wire::{EthHeader, EtherType, IpProtocol, Ipv4Header, TcpFlags, TcpHeader};

const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const NOW: Instant = Instant(1_000_000_000);

pub(crate) fn flow(port: u16) -> FlowKey {
    let (local, remote) = (IpAddress::from_v4(HERE), IpAddress::from_v4(THERE));
    FlowKey { local, remote, local_port: Port(80), remote_port: Port(port) }
}

/// Two lanes of one region, each with a clone of a listener at port 80.
pub(crate) fn lanes() -> [Lane; 2] {
    lanes_with([Vec::new(), Vec::new()])
}

/// [`lanes`] with these ports.
pub(crate) fn lanes_with(ports: [Vec<LanePort>; 2]) -> [Lane; 2] {
    let shape = LaneShape::for_socks(512);
    let region_shape = RegionShape { lanes: 2, lane_bytes: shape.lane_bytes(), frames: 1024 };
    let words = sys::memory::map_anonymous(Region::bytes_needed(&region_shape)).unwrap();
    let region = Region::format(words, &region_shape, LAYOUT_VERSION, [1, 2]).unwrap();
    let mut addrs = [IpAddress::ANY; PORT_ADDRESSES];
    addrs[0] = IpAddress::from_v4(HERE);
    let info = PortInfo { addrs, addr_count: 1, flags: PORT_UP, super_segment_max: 0, mac: MAC, mtu: 1500 };
    let mut ports = ports.into_iter();
    [0, 1].map(|n| {
        let owner = Owner { pid: sys::process::pid(), tid: sys::process::tid() };
        let mut guard = region.lane(LaneId(n)).unwrap().try_lock(owner).unwrap();
        LaneMem::format(&mut guard, &shape, [3, 4], NOW).unwrap();
        drop(guard);
        let lane = Lane::new(region, LaneId(n), ports.next().unwrap(), None).unwrap();
        let local = Endpoint { addr: IpAddress::ANY, port: Port(80) };
        lane.enter(NOW).unwrap().engine(|e| {
            assert!(e.set_port(0, &info));
            e.tcp_listen(local, 256, &TcpOptions::default()).unwrap();
        });
        lane
    })
}

/// A SYN from `port` arrives at lane `e`.
pub(crate) fn syn(e: &mut Engine<'_>, port: u16) {
    let mut batch = RxBatch::new();
    assert!(batch.push(syn_frame(&mut e.mem().frames, port)));
    e.handle_frames(&mut batch);
}

/// A SYN from `port`.
pub(crate) fn syn_frame(frames: &mut Frames<'_>, port: u16) -> RxFrame {
    let mut bytes = [0; 54];
    EthHeader { dst: MAC, src: MacAddr([2, 0, 0, 0, 0, 2]), ethertype: EtherType::IPV4 }
        .emit(&mut bytes)
        .unwrap();
    Ipv4Header::plain((THERE, HERE), IpProtocol::TCP, 20).emit(&mut bytes[14..]).unwrap();
    let (src_port, dst_port) = (Port(port), Port(80));
    let tcp = TcpHeader {
        src_port,
        dst_port,
        seq: SeqNum(1),
        ack: SeqNum(0),
        flags: TcpFlags::SYN,
        window: 9000,
        urgent: 0,
    };
    tcp.emit(&wire::TcpOptions::NONE, &mut bytes[34..]).unwrap();
    let head = frames.alloc().unwrap();
    frames.cell_mut(head)[FRAME_HEADROOM..FRAME_HEADROOM + bytes.len()].copy_from_slice(&bytes);
    frames.meta_mut(head).unwrap().len = bytes.len() as u16;
    RxFrame { head, len: 54, gso_size: 0, port: 0, local_peer: false, csum: CsumState::Verified }
}
