//! What goes on without this process, or begins before it: what waits at a listener that it closes goes to another process of the family; after exec it
//! goes on with what the image before had.

use base::LaneId;
use control::proto::{Request, Rule};
use core::sync::atomic::Ordering;
use std::os::fd::AsFd;

use lane::{Way, twins};
use state::{Endpoint, FlowKey, SockRef};
use sys::fds::Fd;

use super::{Answer, Home, home, rule, tables, way};
use crate::exec::Mark;
use crate::ports::Devices;
use crate::sock::Seat;
use crate::view::View;

/// What became of connections that waited at a listener.
pub(crate) enum Bequest {
    /// None waits there.
    Done,
    /// Nobody takes them yet; the listener is left to the steward, who waits for somebody.
    Left,
    /// Nobody takes them.
    Refused,
}

/// Hands the connections that wait at `listener`, whose rule is gone already, on to the other lanes of the region that listen at `local`.
pub(crate) fn bequeath(view: &View, listener: SockRef, local: Endpoint) -> Bequest {
    let mut home = home();
    let Some((_, region)) = home.region else { return Bequest::Refused };
    for to in twins::others(region, view.id) {
        if !view.has_waiting(listener) {
            return Bequest::Done;
        }
        let Some(heir) = twins::without_ports(to) else { continue };
        home.unwire(view, &view.waiting_at(listener, u32::MAX));
        view.hand_on(&heir, listener, |way, flows| home.steer(view, (way, to.id()), local, flows));
        home.hear_later();
    }
    if !view.has_waiting(listener) {
        return Bequest::Done;
    }
    view.leave_listener(listener);
    match home.ask(&Request::Leave(rule(view, local)), &[]) {
        Ok(Answer::Done) => Bequest::Left,
        Ok(_) | Err(_) => Bequest::Refused,
    }
}

/// Hands connections that wait at `listener` to be accepted to the lanes whose processes accept at `local`; tells the others that the rest waits.
pub(crate) fn offer(view: &View, listener: SockRef, local: Endpoint) {
    let mut home = home();
    let left = || view.unaccepted_at_home().iter().any(|(name, _)| *name == listener);
    twins::offer(view.lane().lane_ref(), left, |heir, to, most| {
        home.unwire(view, &view.waiting_at(listener, most));
        view.share_out(heir, listener, most, |way, flows| home.steer(view, (way, to), local, flows));
        home.hear_later();
    });
}

/// Has the processes of `lanes`, a bit each, look whether connections wait that this process, with lane `view`, would accept.
pub(crate) fn rouse(view: &View, lanes: u64) {
    let _ = home().ask(&Request::Rouse { region: view.region, lanes }, &[]);
}

/// Moves the connection `seat`, on a lane of the process this one was forked from, to `own`; gives its name there.
pub(crate) fn fetch(seat: Seat, own: &View) -> Option<SockRef> {
    let mut home = home();
    home.unwire(seat.view, seat.view.flow_of(seat.name).as_slice());
    let moved = seat.view.move_to(own, seat.name, |way, flow| {
        let to = match way {
            Way::There => own,
            Way::Back => seat.view,
        };
        home.pin(to, core::slice::from_ref(flow))
    });
    home.hear_later();
    moved
}

/// Has the kernel go on with the connection `seat`, on whichever lane of the region; `v6`: by a socket of IPv6. `None`: the lane keeps it.
pub(crate) fn entrust(seat: Seat, v6: bool) -> Option<Fd> {
    let mut home = home();
    // One without a lane of its own may have been refused one.
    if home.link.is_none() {
        home.connect().ok()?;
    }
    home.unwire(seat.view, seat.view.flow_of(seat.name).as_slice());
    let entrusted = seat.view.entrust(seat.name, |at, bytes, scope| {
        let memory = if bytes.is_empty() {
            None
        } else {
            let memory = sys::memory::memfd("corelane-entrusted", bytes.len() as u64, false).ok()?.fd;
            write_all(&memory, bytes)?;
            Some(memory)
        };
        let request = Request::Entrust { rule: rule(seat.view, at.local), stopped: stopped(at, v6, scope) };
        let fds: Vec<_> = memory.iter().map(AsFd::as_fd).collect();
        match home.ask_holding_lanes(&request, &fds) {
            Ok(Answer::Number(_, fds)) => fds.into_iter().next(),
            Ok(_) | Err(_) => None,
        }
    });
    home.hear_later();
    entrusted
}

fn write_all(memory: &Fd, bytes: &[u8]) -> Option<()> {
    let mut done = 0;
    while done < bytes.len() {
        done += rustix::io::pwrite(memory, bytes.get(done..)?, done as u64).ok().filter(|n| *n > 0)?;
    }
    Some(())
}

/// As the keeper is told; `scope`: the device of a link-local address.
const fn stopped(at: &engine::Stopped, v6: bool, scope: u32) -> control::proto::Stopped {
    control::proto::Stopped {
        remote: at.remote.addr,
        remote_port: at.remote.port,
        scope,
        v6,
        snd_una: at.snd_una.0,
        rcv_nxt: at.rcv_nxt.0,
        unread_bytes: at.unread_bytes,
        unacked_bytes: at.snd_nxt.since(at.snd_una),
        unsent_bytes: at.snd_end.since(at.snd_nxt),
        snd_wl1: at.snd_wl1.0,
        snd_wnd: at.snd_wnd_bytes,
        snd_wnd_max: at.snd_wnd_max_bytes,
        rcv_wnd: at.rcv_wnd_bytes,
        mss: at.mss,
        scales: at.scales,
        sack: at.sack,
        timestamp: at.timestamp,
        fin_sent: at.fin_sent,
        fin_received: at.fin_received,
    }
}

impl Home {
    /// Has the segments of `flows`, which came in at `local` of the lane of `view`, come to lane `to`, or back.
    fn steer(&mut self, view: &View, (way, to): (Way, LaneId), local: Endpoint, flows: &[FlowKey]) -> bool {
        match way {
            Way::There => self.hand_on(rule(view, local), to, flows),
            Way::Back => self.hand_on(rule(view, local), view.id, flows),
        }
    }

    fn hand_on(&mut self, rule: Rule, to: LaneId, flows: &[FlowKey]) -> bool {
        let ask = |flows| {
            matches!(self.ask_holding_lanes(&Request::HandOn { rule, to, flows }, &[]), Ok(Answer::Done))
        };
        twins::lists(flows).all(ask)
    }

    /// Goes on, after exec, with what the image before this one had.
    fn resume(&mut self, mark: &Mark) -> Option<&'static View> {
        // SAFETY: the image before left it open for us, and nobody else knows of it.
        let link = unsafe { Fd::from_raw(mark.link) };
        self.greet(Some(link), way()?).ok()?;
        let Ok(Answer::Number(id, fds)) = self.ask(&Request::Enter { region: mark.region }, &[]) else {
            return None;
        };
        let region = self.take_region(id, &fds)?;
        let resume = Request::Resume { region: mark.region, lane: mark.lane };
        let Ok(Answer::Lane(lane, devices, fds)) = self.ask(&resume, &[]) else { return None };
        // Threads of that image slept when they ended.
        let signals = region.lane(lane)?.signals();
        signals.sleepers.store(0, Ordering::Release);
        signals.accepters.store(0, Ordering::Release);
        let devices = Devices::new(region, tables(), &devices, fds);
        self.own = View::open(mark.region, lane, devices);
        self.own
    }
}

/// Goes on, after exec, with the lane of `mark`.
pub(crate) fn resume(mark: &Mark) -> Option<&'static View> {
    home().resume(mark)
}
