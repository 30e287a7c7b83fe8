//! The last that is done in a lane: every socket ends, and what is to be said of that leaves by whichever ports take it.

use base::Duration;
use base::limits::OUTBOX_PACKETS;
use region::Frames;
use state::{SockKind, SockRef};

use super::{Held, Session, discard, open, send};
use crate::lane::LanePort;

/// Batches that leave a lane to which nobody comes back.
const BATCHES: usize = 1024;
/// Connections that are reset between two looks at the ports: twice as many resets wait at most.
const RESETS: usize = OUTBOX_PACKETS as usize / 4;
/// Connections that wait at one listener and are told: a list in disorder may have no end.
const WAITING_MAX: usize = 1 << 20;
/// How often, and how long each time, the end of a lane waits for ports that take nothing now.
const PAUSES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// The waits that the end of a lane has left.
struct Pauses(u32);

impl Pauses {
    /// Waits, if any are left.
    fn pause(&mut self) -> bool {
        let Some(left) = self.0.checked_sub(1) else { return false };
        self.0 = left;
        // Interrupted: the wait was shorter.
        let _ = sys::poll::poll(&mut [], Some(PAUSE));
        true
    }
}

impl Session<'_> {
    /// Sends what is queued, for the last time: nobody comes back to the lane. Waits for a port that takes nothing now, for at most 100 ms; what it does not take
    /// then is lost, and does not hold up what goes by others.
    pub fn see_off(&mut self) {
        self.see_off_within(&mut Pauses(PAUSES));
    }

    fn see_off_within(&mut self, pauses: &mut Pauses) {
        let Self { guard, area, held, kept, now, after, .. } = self;
        *after = None;
        let Some(engine) = open(kept, guard, area, *now) else { return };
        let Held { ports, stuck_since, tx, .. } = &mut **held;
        for _ in 0..BATCHES {
            tx.clear();
            if engine.poll_transmit(tx) == 0 {
                break;
            }
            let mut rest = tx.items();
            while let Some((first, behind)) = rest.split_first() {
                let has_port = ports.get(usize::from(first.port)).is_some_and(|port| !port.is_absent());
                let taken = send(engine, (&mut *ports, &mut *stuck_since), rest, *now);
                rest = match taken {
                    0 if has_port && pauses.pause() => rest,
                    0 => {
                        discard(&mut engine.mem().frames, core::slice::from_ref(first));
                        behind
                    }
                    some => rest.get(some..).unwrap_or(&[]),
                };
            }
        }
        while push(ports, &mut engine.mem().frames) && pauses.pause() {}
    }

    /// Does anything wait to be sent, here or in a port?
    pub fn has_unsent(&mut self) -> bool {
        if self.engine(|engine| engine.transmit_pending()) {
            return true;
        }
        let Self { guard, area, held, kept, now, .. } = self;
        open(kept, guard, area, *now).is_some_and(|engine| push(&mut held.ports, &mut engine.mem().frames))
    }
}

/// Has the kernel take what the ports took before. True: it did not take all of it.
fn push(ports: &mut [LanePort], frames: &mut Frames<'_>) -> bool {
    let waits = |port: &mut LanePort| {
        // What a device that is gone did not send is lost.
        port.port.sends_later() && port.port.tx(frames, &[]).is_ok() && port.port.sends_later()
    };
    ports.iter_mut().map(waits).fold(false, |any, waits| any | waits)
}

/// Every socket that a program still has in the lane, hibernating connections included.
#[must_use]
pub fn open_sockets(session: &mut Session<'_>) -> Vec<SockRef> {
    session.engine(|engine| {
        let mem = engine.mem();
        let listeners = mem.listeners.rows().iter().enumerate();
        let listeners = listeners.map(|(row, l)| SockRef::new(SockKind::Listener, row as u32, l.generation));
        // Where connections hibernate each has a handle; else its row gives the name.
        let rows = mem.hot.rows().iter().map(|c| c.generation);
        let handles = mem.handles.rows().iter().map(|h| h.generation);
        let handles = handles.take(mem.globals.dormant.fresh_handle as usize);
        let rows = rows.take(if mem.handles.is_empty() { usize::MAX } else { 0 });
        let connections = rows.chain(handles).enumerate();
        let connections = connections.map(|(row, g)| SockRef::new(SockKind::Tcp, row as u32, g));
        let udp = mem.udp_socks.rows().iter().enumerate();
        let udp = udp.map(|(row, u)| SockRef::new(SockKind::Udp, row as u32, u.generation));
        let all: Vec<SockRef> = listeners.chain(connections).chain(udp).collect();
        all.into_iter().filter(|&sock| engine.exists(sock)).collect()
    })
}

/// Ends every connection of a lane by RST, those too that were closed and are not over, and every listener with what waits at it; their peers hear of it. Who opens a connection meanwhile
/// is not refused, but gets no answer here. Gives how many there were.
/// Should the caller be killed meanwhile, whoever takes the lane over and calls this tells the rest.
pub fn abort_all(session: &mut Session<'_>) -> u32 {
    session.engine(|engine| engine.listens_no_more());
    let pauses = &mut Pauses(PAUSES);
    let mut count = abort(session, pauses);
    while session.engine(|engine| engine.tell_closed(RESETS as u32)) > 0 {
        session.see_off_within(pauses);
        let ended = session.engine(|engine| engine.end_closed(RESETS as u32));
        // In a lane in disorder they may stay.
        if ended == 0 {
            break;
        }
        count += ended;
    }
    count
}

/// Resets every connection of a lane whose program goes on, which finds it reset, and sends the resets; gives how many there were. Listeners and UDP sockets stay.
pub fn fail_all(session: &mut Session<'_>) -> u32 {
    let open = open_sockets(session);
    let connections: Vec<SockRef> =
        open.into_iter().filter(|sock| sock.kind() == Some(SockKind::Tcp)).collect();
    let (mut count, mut pauses) = (0, Pauses(PAUSES));
    for some in connections.chunks(RESETS) {
        session.engine(|engine| some.iter().for_each(|sock| engine.tell_reset(*sock)));
        session.see_off_within(&mut pauses);
        count += session.engine(|engine| some.iter().filter(|sock| engine.fail_told(**sock)).count());
    }
    count as u32
}

/// Resets connections, closes listeners and the rest, and sends the resets; gives how many sockets there were. Connections that wait at a listener go with it.
fn abort(session: &mut Session<'_>, pauses: &mut Pauses) -> u32 {
    let open = open_sockets(session);
    let is_listener = |sock: &SockRef| sock.kind() == Some(SockKind::Listener);
    let (listeners, others): (Vec<SockRef>, Vec<SockRef>) = open.iter().partition(|sock| is_listener(sock));
    for listener in listeners {
        abort_listener(session, listener, pauses);
    }
    for some in others.chunks(RESETS) {
        session.engine(|engine| some.iter().for_each(|sock| engine.tell_reset(*sock)));
        session.see_off_within(pauses);
        session.engine(|engine| some.iter().for_each(|sock| engine.end_told(*sock)));
    }
    open.len() as u32
}

/// Closes `listener`; what waits there is reset, so many at a time as the outbox holds.
fn abort_listener(session: &mut Session<'_>, listener: SockRef, pauses: &mut Pauses) {
    let mut waiting = Vec::new();
    session.engine(|engine| {
        let most = WAITING_MAX;
        engine.waiting_flows(listener, |ends| {
            if waiting.len() < most {
                waiting.push(*ends)
            }
        });
    });
    for some in waiting.chunks(RESETS) {
        session.engine(|engine| some.iter().for_each(|ends| engine.tell_waiting(ends)));
        session.see_off_within(pauses);
        session.engine(|engine| some.iter().for_each(|ends| engine.end_waiting(ends)));
    }
    session.engine(|engine| engine.abort(listener));
    session.see_off_within(pauses);
}
