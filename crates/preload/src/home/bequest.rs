//! What goes on without this process, or begins before it: what waits at a listener that it closes goes to another process of the family; after exec it
//! goes on with what the image before had.

use base::LaneId;
use control::proto::{FLOWS_MAX, FlowEnds, FlowList, Request};
use core::sync::atomic::Ordering;
use std::os::fd::AsFd;

use lane::Lane;
use state::{Endpoint, FlowKey, SockRef};
use sys::fds::Fd;

use super::{Answer, Home, home, rule, tables, way};
use crate::exec::Mark;
use crate::ports::Devices;
use crate::sock::Seat;
use crate::view::View;

/// Hands the connections that wait at `listener`, whose rule is gone already, on to the other lanes of the region that listen at `local`. True: there
/// is none yet that takes them, and the listener is left to the steward, who waits for one.
pub(crate) fn bequeath(view: &View, listener: SockRef, local: Endpoint) -> bool {
    let mut home = home();
    let Some((_, region)) = home.region else { return false };
    let lanes = region.shape().lanes;
    for step in 1..lanes {
        if !view.has_waiting(listener) {
            return false;
        }
        let to = LaneId((view.id.0 + step) % lanes);
        let usable = region.lane(to).filter(|lane| {
            let signals = lane.signals();
            signals.ready.load(Ordering::Acquire) != 0 && signals.poisoned.load(Ordering::Acquire) == 0
        });
        // Without ports: what is to be sent there is sent by its own process.
        let heir = usable.and_then(|_| Lane::new(region, to, Vec::new(), None));
        let Some(heir) = heir else { continue };
        view.hand_on(&heir, listener, |flows| {
            flows.chunks(FLOWS_MAX).all(|flows| {
                let ends: Vec<FlowEnds> = flows.iter().map(ends_of).collect();
                let request = Request::HandOn { rule: rule(view, local), to, flows: FlowList::of(&ends) };
                matches!(home.ask(&request, &[]), Ok(Answer::Done))
            })
        });
    }
    view.has_waiting(listener) && {
        view.leave_listener(listener);
        matches!(home.ask(&Request::Leave(rule(view, local)), &[]), Ok(Answer::Done))
    }
}

/// Moves the connection `seat`, on a lane of the process this one was forked from, to `own`; gives its name there.
pub(crate) fn fetch(seat: Seat, own: &View) -> Option<SockRef> {
    let mut home = home();
    seat.view.move_to(own, seat.name, |flow| {
        let local = Endpoint { addr: flow.local, port: flow.local_port };
        let request = Request::Fetch { rule: rule(own, local), flows: FlowList::of(&[ends_of(flow)]) };
        matches!(home.ask(&request, &[]), Ok(Answer::Done))
    })
}

/// Has the kernel go on with the connection `seat`, on whichever lane of the region; `v6`: by a socket of IPv6. `None`: the lane keeps it.
pub(crate) fn entrust(seat: Seat, v6: bool) -> Option<Fd> {
    let mut home = home();
    home.connect().ok()?;
    seat.view.entrust(seat.name, |at, bytes, scope| {
        let memory = if bytes.is_empty() {
            None
        } else {
            let memory = sys::memory::memfd("corelane-entrusted", bytes.len() as u64, false).ok()?.fd;
            write_all(&memory, bytes)?;
            Some(memory)
        };
        let request = Request::Entrust { rule: rule(seat.view, at.local), stopped: stopped(at, v6, scope) };
        let fds: Vec<_> = memory.iter().map(AsFd::as_fd).collect();
        match home.ask(&request, &fds) {
            Ok(Answer::Number(_, fds)) => fds.into_iter().next(),
            Ok(_) | Err(_) => None,
        }
    })
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
        region.lane(lane)?.signals().sleepers.store(0, Ordering::Release);
        let devices = Devices::new(region, tables(), &devices, fds);
        self.own = View::open(mark.region, lane, devices);
        self.own
    }
}

/// Goes on, after exec, with the lane of `mark`.
pub(crate) fn resume(mark: &Mark) -> Option<&'static View> {
    home().resume(mark)
}

const fn ends_of(flow: &FlowKey) -> FlowEnds {
    FlowEnds {
        local: flow.local,
        local_port: flow.local_port,
        remote: flow.remote,
        remote_port: flow.remote_port,
    }
}
