//! Connections that go by wires, and are to go where those do not lead: they go by a device first.

use control::proto::Request;
use engine::Leaver;
use lane::Ask;
use lane::twins;
use state::{Endpoint, FlowKey};

use super::{Answer, Home, home, resolve, rule};
use crate::view::View;

impl Home {
    /// Has those of `flows`, on the lane of `view`, that go by a wire go by the device beside it, as far as there is one and their peers follow.
    pub(super) fn unwire(&mut self, view: &View, flows: &[FlowKey]) {
        if !flows.is_empty() {
            view.unwire(flows, |flows| self.pin(view, flows));
            self.hear_later();
        }
    }

    /// Has the segments of `flows` that come by a device come to the lane of `view`.
    pub(super) fn pin(&mut self, view: &View, flows: &[FlowKey]) -> bool {
        let Some(first) = flows.first() else { return true };
        let rule = rule(view, Endpoint { addr: first.local, port: first.local_port });
        let ask =
            |flows| matches!(self.ask_holding_lanes(&Request::Fetch { rule, flows }, &[]), Ok(Answer::Done));
        twins::lists(flows).all(ask)
    }
}

/// The peer of a connection on the lane of `view` would have it go by a device.
fn follow(view: &View, leaver: &Leaver) {
    let mut home = home();
    if home.connect().is_ok() {
        view.follow(leaver, |flows| home.pin(view, flows));
    }
    home.hear_later();
}

/// Tells the keeper what the stack of `view` asks for.
pub(crate) fn pass_on(view: &View, asks: &[Ask]) {
    for ask in asks {
        match ask {
            Ask::Neighbour { ifindex, addr } => resolve(*ifindex, *addr),
            Ask::Leaver(leaver) => follow(view, leaver),
        }
    }
}
