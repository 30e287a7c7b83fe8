//! What waits at a listener of one lane goes to another one, and its segments with it.
#![allow(clippy::unwrap_used)]

#[macro_use]
mod stub;
mod two_lanes;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use base::MacAddr;
use lane::{Lane, LanePort, Way, hand_on, twins};
use port::{Port, PortCaps, PortError, PortStats};
use region::Frames;
use state::{FlowKey, RxBatch, SockRef, TxFrame};
use two_lanes::{MAC, NOW, flow, lanes, lanes_with, syn, syn_frame};

/// Ports of peers whose SYNs come by a device.
type Coming = Arc<Mutex<VecDeque<u16>>>;

struct Device(Coming);

impl Port for Device {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        let Some(port) = self.0.lock().unwrap().pop_front() else { return Ok(0) };
        assert!(batch.push(syn_frame(frames, port)));
        Ok(1)
    }
    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        packets.iter().for_each(|packet| frames.release(packet.head));
        Ok(packets.len())
    }
    plain_port!();
}

fn listener(lane: &Lane) -> SockRef {
    twins::listeners(&mut lane.enter(NOW).unwrap()).first().unwrap().0
}

fn waiting(lane: &Lane) -> Vec<FlowKey> {
    let at = listener(lane);
    let mut flows = Vec::new();
    lane.enter(NOW).unwrap().engine(|e| e.waiting_flows(at, |flow| flows.push(*flow)));
    flows.sort_by_key(|flow| flow.remote_port.0);
    flows
}

fn flows(ports: std::ops::Range<u16>) -> Vec<FlowKey> {
    ports.map(flow).collect()
}

/// Hands on what waits at lane `from`, and gives which flows were steered which way; `takes` says what the steering says.
fn hand(from: &Lane, to: &Lane, mut takes: impl FnMut(Way) -> bool) -> (u32, Vec<(Way, Vec<FlowKey>)>) {
    let mut asked = Vec::new();
    let moved = hand_on(from, to, listener(from), NOW, |way, flows| {
        let mut flows = flows.to_vec();
        flows.sort_by_key(|flow| flow.remote_port.0);
        asked.push((way, flows));
        takes(way)
    });
    (moved.unwrap(), asked)
}

#[test]
fn what_goes_is_steered_once() {
    let [from, to] = lanes();
    from.enter(NOW).unwrap().engine(|e| (1..4).for_each(|port| syn(e, port)));
    assert_eq!(hand(&from, &to, |_| true), (3, vec![(Way::There, flows(1..4))]));
    assert_eq!((waiting(&from), waiting(&to)), (Vec::new(), flows(1..4)));
}

/// Steering may have begun when it is refused.
#[test]
fn what_is_refused_stays_and_is_steered_back() {
    let [from, to] = lanes();
    from.enter(NOW).unwrap().engine(|e| (1..4).for_each(|port| syn(e, port)));
    let (moved, asked) = hand(&from, &to, |way| way == Way::Back);
    assert_eq!((moved, asked), (0, vec![(Way::There, flows(1..4)), (Way::Back, flows(1..4))]));
    assert_eq!((waiting(&from), waiting(&to)), (flows(1..4), Vec::new()));
}

#[test]
fn what_the_other_lane_cannot_take_is_steered_back() {
    let [from, to] = lanes();
    from.enter(NOW).unwrap().engine(|e| (1..4).for_each(|port| syn(e, port)));
    to.enter(NOW).unwrap().engine(|e| {
        let mut other = e.mem().ports.rows()[0];
        other.mac = MacAddr([2, 0, 0, 0, 0, 9]);
        assert!(e.set_port(0, &other));
    });
    let (moved, asked) = hand(&from, &to, |_| true);
    assert_eq!((moved, asked), (0, vec![(Way::There, flows(1..4)), (Way::Back, flows(1..4))]));
    assert_eq!(waiting(&from), flows(1..4));
}

/// One comes while others are steered, and then the steering fails.
#[test]
fn what_was_steered_before_the_steering_failed_goes() {
    let coming = Coming::default();
    let device = |coming| LanePort { port: Box::new(Device(coming)), ifindex: 1, mac: MAC, wire: None };
    let [from, to] = lanes_with([vec![device(Arc::clone(&coming))], vec![device(Coming::default())]]);
    from.enter(NOW).unwrap().engine(|e| (1..4).for_each(|port| syn(e, port)));
    let mut first = true;
    let (moved, asked) = hand(&from, &to, |way| {
        coming.lock().unwrap().extend(first.then_some(7));
        core::mem::take(&mut first) || way == Way::Back
    });
    let want = vec![(Way::There, flows(1..4)), (Way::There, flows(7..8)), (Way::Back, flows(7..8))];
    assert_eq!((moved, asked), (3, want));
    assert_eq!((waiting(&from), waiting(&to)), (flows(7..8), flows(1..4)));
}

#[test]
fn what_is_half_open_is_not_shared_out() {
    let [from, to] = lanes();
    from.enter(NOW).unwrap().engine(|e| syn(e, 1));
    // Nobody could accept it, so nothing is steered.
    let mut asked = 0;
    let shared = twins::share_out(&from, &to, listener(&from), (NOW, 8), |_, _| {
        asked += 1;
        true
    });
    assert_eq!((shared, asked), (Ok(0), 0));
}
