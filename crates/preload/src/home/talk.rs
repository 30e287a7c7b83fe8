//! One message and its answer, and what the keeper says unasked.

use core::sync::atomic::{AtomicBool, Ordering};
use std::os::fd::BorrowedFd;

use base::limits::KEEPER_MESSAGE_BYTES;
use base::{Duration, LaneId, Port};
use control::proto::{DeviceList, Reply, Request, WireEnd};
use sys::fds::Fd;
use sys::poll::{PollFd, PollFlags, poll};

use crate::hub;

/// Do lanes go on when the keeper is gone?
static KEPT: AtomicBool = AtomicBool::new(false);

/// Do lanes go on when the keeper is gone, because somebody else holds the steering?
pub(super) fn steering_is_kept() -> bool {
    KEPT.load(Ordering::Relaxed)
}

/// Is the keeper gone, and with it the stewards, though nobody has heard so yet? Whoever would may wait for a lane that one of them held.
pub(super) fn is_alone() -> bool {
    let link = super::link();
    if link < 0 {
        return false;
    }
    let link = super::borrow(&link);
    let mut polled = [PollFd::from_borrowed_fd(link, PollFlags::empty())];
    poll(&mut polled, Some(Duration(0))).is_ok_and(|ready| ready > 0)
}

/// What the keeper said, with whatever descriptors came along.
pub(super) enum Answer {
    Done,
    Welcome(Sizes, Vec<Fd>),
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
            Answer::Welcome(Sizes::read(config), fds)
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

/// What the keeper's settings say of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sizes {
    /// Connections a lane has room for.
    pub(super) sockets: u32,
    /// Frames of a region.
    pub(super) frames: u32,
    /// On huge pages, if there are enough.
    pub(super) hugepages: bool,
}

impl Sizes {
    /// Of a keeper that says nothing of them.
    pub(super) const DEFAULT: Self = Self { sockets: 16_384, frames: 16_384, hugepages: false };

    /// From the keeper's `KEY=VALUE` lines.
    fn read(config: &str) -> Self {
        let value = |key: &str| config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let number =
            |key: &str, default: u32| value(key).and_then(|v| v.trim().parse().ok()).unwrap_or(default);
        Self {
            sockets: number("CORELANE_SOCKETS", Self::DEFAULT.sockets),
            frames: number("CORELANE_FRAMES", Self::DEFAULT.frames),
            hugepages: value("CORELANE_HUGE_PAGES").is_some_and(|v| v != "off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Sizes;

    #[test]
    fn sizes_come_from_the_keepers_lines_or_have_defaults() {
        let sizes = Sizes::read("A=1\nCORELANE_SOCKETS=20\nCORELANE_FRAMES=x\nCORELANE_HUGE_PAGES=try\n");
        assert_eq!(sizes, Sizes { sockets: 20, hugepages: true, ..Sizes::DEFAULT });
        assert_eq!(Sizes::read("CORELANE_HUGE_PAGES=off\n"), Sizes::DEFAULT);
    }
}
