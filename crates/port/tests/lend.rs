//! A wire on which frames are lent: bytes stay where they are and unchanged, and every frame comes back, whoever dies.
#![allow(clippy::unwrap_used, reason = "tests stop at what they do not expect")]

use base::limits::FRAME_BYTES;
use base::{FrameIdx, LaneId};
use port::lend::{LendPort, pair};
use port::{Port, PortError, PortSetup};
use region::{FrameArea, FrameLane, Frames, LENT_MAX, Owner, POOL_BATCH, Region, RegionShape};
use state::{Piece, RxBatch, RxFrame, TxFrame};

const FRAMES: u32 = 1024;
const TCP_HEADERS: usize = 66;

struct End {
    port: LendPort,
    area: FrameArea,
    stock: FrameLane,
    /// Holds the lane.
    _guard: region::LaneGuard,
}

fn me(lane: u16) -> Owner {
    Owner { pid: sys::process::pid(), tid: sys::process::tid() + u32::from(lane) }
}

impl End {
    fn frames(&mut self) -> Frames<'_> {
        self.area.frames(&mut self.stock)
    }

    /// A TCP packet whose payload is `len` bytes of `byte` in a frame, which is given too.
    fn packet(&mut self, byte: u8, len: usize) -> (TxFrame, FrameIdx) {
        let mut frames = self.frames();
        let (head, payload) = (frames.alloc().unwrap(), frames.alloc().unwrap());
        frames.meta_mut(head).unwrap().len = TCP_HEADERS as u16;
        frames.data_mut(head).fill(0xaa);
        frames.cell_mut(payload)[..len].fill(byte);
        let mut packet = TxFrame::new(head);
        packet.header_bytes = TCP_HEADERS as u16;
        (packet.csum_start, packet.csum_offset) = (34, 16);
        assert!(packet.push_piece(Piece { frame: payload, offset: 0, len: len as u16 }));
        (packet, payload)
    }

    fn send(&mut self, packet: TxFrame) -> Result<usize, PortError> {
        self.port.tx(&mut self.area.frames(&mut self.stock), &[packet])
    }

    fn receive(&mut self) -> Vec<RxFrame> {
        let mut batch = RxBatch::new();
        self.port.rx(&mut self.area.frames(&mut self.stock), &mut batch).unwrap();
        batch.items().to_vec()
    }

    /// The payload of a received packet, and its first frame.
    fn payload(&mut self, packet: &RxFrame) -> (Vec<u8>, FrameIdx) {
        let frames = self.frames();
        let mut bytes = frames.data(packet.head).to_vec();
        let payload = frames.meta(packet.head).unwrap().next;
        bytes.extend_from_slice(frames.data(payload));
        (bytes.split_off(TCP_HEADERS), payload)
    }
}

fn region() -> Region {
    let shape = RegionShape { lanes: 2, lane_bytes: 4096, frames: FRAMES };
    let words = sys::memory::map_anonymous(Region::bytes_needed(&shape)).unwrap();
    Region::format(words, &shape, 1, [1, 2]).unwrap()
}

fn ends(region: Region, owners: [Owner; 2]) -> [End; 2] {
    let (near, far) = pair(region, (LaneId(0), LaneId(1))).unwrap();
    let mut parts = [near, far].into_iter();
    [0, 1].map(|lane: u16| {
        let guard = region.lane(LaneId(lane)).unwrap().try_lock(owners[usize::from(lane)]).unwrap();
        let setup = PortSetup { port: 0, mtu: 61_492, local_peer: true, own_address: true };
        let port = LendPort::from_parts(parts.next().unwrap(), region, setup).unwrap();
        let stock = FrameLane { head: FrameIdx::NONE, free: 0, high: 2 * POOL_BATCH, failed: 0 };
        End { port, area: guard.frame_area(), stock, _guard: guard }
    })
}

#[test]
fn a_payload_is_read_where_it_is_and_comes_back_when_released() {
    let [mut near, mut far] = ends(region(), [me(0), me(1)]);
    let (packet, payload) = near.packet(7, 4000);
    assert_eq!(near.send(packet).unwrap(), 1);
    let got = far.receive();
    assert_eq!(got.len(), 1);
    let (bytes, stand_in) = far.payload(&got[0]);
    assert_eq!(bytes, vec![7; 4000]);
    // Nothing was copied: what the lender does to the bytes shows.
    near.frames().cell_mut(payload)[0] = 8;
    assert_eq!(far.payload(&got[0]).0[0], 8);
    // The borrower cannot write them.
    assert!(far.frames().data_mut(stand_in).is_empty());
    assert!(!far.frames().copy((stand_in, 0), (stand_in, 4000), 10));
    // The lender gives its own reference up first: the frame is free only once it came back.
    near.frames().release(payload);
    assert_eq!(near.frames().meta(payload).unwrap().refs, 1);
    far.frames().release_chain(got[0].head);
    near.receive();
    assert_eq!(near.frames().meta(payload).unwrap().refs, 0);
}

#[test]
fn bytes_that_are_lent_already_are_copied_when_they_are_sent_again() {
    let [mut near, mut far] = ends(region(), [me(0), me(1)]);
    let (packet, payload) = near.packet(7, 4000);
    let (mut again, unused) = near.packet(0, 1);
    again.payload = packet.payload;
    again.payload_bytes = packet.payload_bytes;
    near.frames().release(unused);
    assert_eq!(near.send(packet).unwrap(), 1);
    assert_eq!(near.send(again).unwrap(), 1);
    let got = far.receive();
    assert_eq!(near.frames().meta(payload).unwrap().refs, 2);
    for packet in &got {
        assert_eq!(far.payload(packet).0, vec![7; 4000]);
        far.frames().release_chain(packet.head);
    }
    near.receive();
    assert_eq!((got.len(), near.frames().meta(payload).unwrap().refs), (2, 1));
}

#[test]
fn a_small_payload_holds_nothing() {
    let [mut near, mut far] = ends(region(), [me(0), me(1)]);
    let (packet, payload) = near.packet(5, 100);
    assert_eq!(near.send(packet).unwrap(), 1);
    assert_eq!(near.frames().meta(payload).unwrap().refs, 1);
    let got = far.receive();
    assert_eq!(far.payload(&got[0]).0, vec![5; 100]);
}

#[test]
fn a_wire_lends_no_more_than_its_places_and_goes_on_when_they_come_back() {
    let [mut near, mut far] = ends(region(), [me(0), me(1)]);
    let mut held = Vec::new();
    let mut sent = 0;
    loop {
        let (packet, payload) = near.packet(1, FRAME_BYTES);
        let taken = near.send(packet).unwrap();
        sent += taken;
        held.extend(far.receive());
        near.frames().release(payload);
        if taken == 0 {
            near.frames().release(packet.head);
            break;
        }
    }
    // A place for each payload; those of the headers are back.
    assert!(sent > LENT_MAX - 4 && sent <= LENT_MAX, "{sent}");
    held.drain(..).for_each(|packet| far.frames().release_chain(packet.head));
    let (packet, _) = near.packet(1, FRAME_BYTES);
    assert_eq!(near.send(packet).unwrap(), 1);
    assert_eq!(far.receive().len(), 1);
}

#[test]
fn what_a_dead_peer_had_borrowed_comes_back() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = Owner { pid: child.id(), tid: child.id() };
    child.wait().unwrap();
    let [mut near, mut far] = ends(region(), [me(0), dead]);
    let (packet, payload) = near.packet(1, FRAME_BYTES);
    near.send(packet).unwrap();
    assert_eq!(far.receive().len(), 1);
    let mut looks = 0;
    let ended = loop {
        let (packet, spare) = near.packet(1, FRAME_BYTES);
        let outcome = near.send(packet);
        near.frames().release(spare);
        match outcome {
            Ok(1) => {}
            Ok(_) => near.frames().release(packet.head),
            Err(error) => break error,
        }
        looks += 1;
        assert!(looks < 1 << 20, "the peer's death goes unnoticed");
    };
    assert!(matches!(ended, PortError::Device(_)));
    assert_eq!(near.frames().meta(payload).unwrap().refs, 1);
}

#[test]
fn an_end_that_is_released_ends_the_wire_after_what_was_sent() {
    let [mut near, mut far] = ends(region(), [me(0), me(1)]);
    let (packet, _) = near.packet(3, 2000);
    near.send(packet).unwrap();
    let mut stock = near.stock;
    near.port.release(&mut near.area.frames(&mut stock));
    assert_eq!(far.receive().len(), 1);
    let mut batch = RxBatch::new();
    assert!(far.port.rx(&mut far.area.frames(&mut far.stock), &mut batch).is_err());
    let (packet, _) = far.packet(3, 2000);
    assert!(far.send(packet).is_err());
}

#[test]
fn nonsense_on_a_shelf_costs_packets_only() {
    let region = region();
    let (near, _) = pair(region, (LaneId(0), LaneId(1))).unwrap();
    let area = region.frame_area();
    let mut rng = base::Rng::new(5);
    let setup = PortSetup { port: 0, mtu: 61_492, local_peer: true, own_address: true };
    let mut port = LendPort::from_parts(near, region, setup).unwrap();
    let guard = region.lane(LaneId(0)).unwrap().try_lock(me(0)).unwrap();
    let area_of_lane = guard.frame_area();
    let mut stock = FrameLane { head: FrameIdx::NONE, free: 0, high: 2 * POOL_BATCH, failed: 0 };
    for cell in near.shelves {
        let from = cell.0 as usize * (FRAME_BYTES / 8);
        let words = area.cells().get(from..from + FRAME_BYTES / 8).unwrap();
        for round in 0..200 {
            words
                .iter()
                .for_each(|w| w.store(rng.next_u64() >> (round % 60), std::sync::atomic::Ordering::Relaxed));
            let mut frames = area_of_lane.frames(&mut stock);
            let mut batch = RxBatch::new();
            let _ = port.rx(&mut frames, &mut batch);
            batch.items().iter().for_each(|packet| frames.release_chain(packet.head));
            if let Some(head) = frames.alloc() {
                frames.meta_mut(head).unwrap().len = 60;
                if port.tx(&mut frames, &[TxFrame::new(head)]).unwrap_or(0) == 0 {
                    frames.release(head);
                }
            }
        }
    }
}
