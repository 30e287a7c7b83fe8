//! One message and its answer, and what the keeper says unasked.

use core::sync::atomic::{AtomicBool, Ordering};
use std::os::fd::BorrowedFd;

use base::limits::KEEPER_MESSAGE_BYTES;
use base::{LaneId, Port};
use control::proto::{DeviceList, Reply, Request, WireEnd};
use sys::fds::Fd;

use super::{FRAMES, SOCKETS};
use crate::hub;

/// Do lanes go on when the keeper is gone?
static KEPT: AtomicBool = AtomicBool::new(false);

/// Do lanes go on when the keeper is gone, because somebody else holds the steering?
pub(super) fn steering_is_kept() -> bool {
    KEPT.load(Ordering::Relaxed)
}

/// What the keeper said, with whatever descriptors came along.
pub(super) enum Answer {
    Done,
    Welcome(u32, u32, Vec<Fd>),
    Number(u32, Vec<Fd>),
    Lane(LaneId, Box<DeviceList>, Vec<Fd>),
    Ports(Port, u16),
    Wire(WireEnd, u8, Option<Vec<Fd>>),
    Refused(String),
}

/// What the keeper says unasked.
pub(super) enum Notice {
    /// The lane has a wire, with these descriptors.
    Met(WireEnd, Vec<Fd>),
    /// It has no more.
    Parted(u32),
    /// Another process put connections into a listener of the lane.
    Look,
}

impl Notice {
    pub(super) fn of(reply: &Reply<'_>, fds: Vec<Fd>) -> Option<Self> {
        match reply {
            Reply::Met { end } => Some(Self::Met(*end, fds)),
            Reply::Parted { wire } => Some(Self::Parted(*wire)),
            Reply::Look { lane: _ } => Some(Self::Look),
            _ => None,
        }
    }
}

/// One request and its reply; what the keeper said before that goes to `notices`. `None`: the keeper is gone or talks nonsense.
pub(super) fn exchange(
    link: &Fd,
    request: &Request<'_>,
    fds: &[BorrowedFd<'_>],
    notices: &mut Vec<Notice>,
) -> Option<Answer> {
    let mut bytes = [0; KEEPER_MESSAGE_BYTES];
    let len = request.encode(&mut bytes).ok()?;
    sys::fds::send(link, bytes.get(..len)?, fds).ok()?;
    loop {
        let got = sys::fds::recv(link, &mut bytes).ok()?;
        let reply = Reply::decode(bytes.get(..got.bytes)?).ok()?;
        if !reply.is_notice() {
            return answer(&reply, got.fds);
        }
        notices.extend(Notice::of(&reply, got.fds));
    }
}

fn answer(reply: &Reply<'_>, fds: Vec<Fd>) -> Option<Answer> {
    Some(match *reply {
        Reply::Error { errno: _, text } => Answer::Refused(text.to_owned()),
        Reply::Done => Answer::Done,
        Reply::Welcome { session: _, config } => {
            hub::configure_spin(config);
            if config.lines().any(|line| line == "CORELANE_STEERING=kept") {
                KEPT.store(true, Ordering::Relaxed);
            }
            let (sockets, frames) = sizes(config);
            Answer::Welcome(sockets, frames, fds)
        }
        Reply::Region { id } => Answer::Number(id, fds),
        Reply::Lane { lane, devices } => Answer::Lane(lane, Box::new(devices), fds),
        Reply::Connection => Answer::Number(0, fds),
        Reply::Port { port } => Answer::Number(u32::from(port.0), fds),
        Reply::Ports { first, count } => Answer::Ports(first, count),
        Reply::Wire { end, lanes, fresh } => Answer::Wire(end, lanes, fresh.then_some(fds)),
        Reply::Met { .. } | Reply::Parted { .. } | Reply::Look { .. } | Reply::Description { .. } => {
            return None;
        }
    })
}

/// What the keeper's `KEY=VALUE` lines say about sizes: connections a lane and frames a region.
fn sizes(config: &str) -> (u32, u32) {
    let number = |key: &str, default: u32| {
        let value = config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.and_then(|v| v.trim().parse().ok()).unwrap_or(default)
    };
    (number("CORELANE_SOCKETS", SOCKETS), number("CORELANE_FRAMES", FRAMES))
}

#[cfg(test)]
mod tests {
    use super::{FRAMES, sizes};

    #[test]
    fn sizes_come_from_the_keepers_lines_or_have_defaults() {
        assert_eq!(sizes("A=1\nCORELANE_SOCKETS=20\nCORELANE_FRAMES=x\n"), (20, FRAMES));
    }
}
