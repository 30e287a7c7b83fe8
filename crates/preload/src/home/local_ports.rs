//! Local ports of this process's lane.

use core::ops::Range;
use std::os::fd::BorrowedFd;

use base::{IpAddress, Port};
use control::proto::Request;
use state::Endpoint;

use super::{Answer, home, rule};
use crate::reason::Reason;
use crate::view::View;

/// Takes a local port for the lane: the one `fd` is bound to, or one of the keeper's choice if the port is 0.
pub(crate) fn take_port(view: &View, local: Endpoint, fd: Option<BorrowedFd<'_>>) -> Result<Port, Reason> {
    let mut home = home();
    home.connect()?;
    let fds: &[BorrowedFd<'_>] = fd.as_slice();
    match home.ask(&Request::TakePort(rule(view, local)), fds)? {
        Answer::Number(port, _) => Ok(Port(port as u16)),
        Answer::Refused(..)
        | Answer::Done
        | Answer::Welcome(..)
        | Answer::Lane(..)
        | Answer::Ports(..)
        | Answer::Wire(..) => Err(Reason::PortTaken),
    }
}

/// Takes a block of local ports at `addr` for the lane, for connections that go out.
pub(crate) fn take_ports(view: &View, addr: IpAddress) -> Result<Range<u16>, Reason> {
    let mut home = home();
    home.connect()?;
    match home.ask(&Request::TakePorts(rule(view, Endpoint { addr, port: Port(0) })), &[])? {
        Answer::Ports(first, count) => Ok(first.0..first.0.saturating_add(count)),
        Answer::Number(..)
        | Answer::Refused(..)
        | Answer::Done
        | Answer::Welcome(..)
        | Answer::Lane(..)
        | Answer::Wire(..) => Err(Reason::PortTaken),
    }
}
