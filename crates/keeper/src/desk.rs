//! A steward's end of its connection to the keeper: orders in turn, and reports that wait for their answer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use base::limits::KEEPER_MESSAGE_BYTES;
use rustix::io::Errno;
use sys::fds::{self, Fd};

use crate::orders::{Order, Report};

/// Why a steward ends early.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

impl<E: std::fmt::Display> From<E> for Broken {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// The connection.
pub(crate) struct Desk {
    socket: Fd,
    /// Orders that came while an answer was waited for.
    pending: RefCell<VecDeque<(Order, Vec<Fd>)>>,
}

impl Desk {
    pub(crate) fn new(socket: Fd) -> Self {
        Self { socket, pending: RefCell::default() }
    }

    /// Readable: [`Desk::receive`] does not block.
    pub(crate) fn poll_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Is there an order that [`Desk::receive`] gives at once, without the socket?
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.borrow().is_empty()
    }

    /// The next order; `None`: the keeper closed the socket.
    pub(crate) fn receive(&self) -> Result<Option<(Order, Vec<Fd>)>, Broken> {
        let pending = self.pending.borrow_mut().pop_front();
        pending.map_or_else(|| self.read(), |order| Ok(Some(order)))
    }

    fn read(&self) -> Result<Option<(Order, Vec<Fd>)>, Broken> {
        let mut buffer = [0; KEEPER_MESSAGE_BYTES];
        let got = match fds::recv(&self.socket, &mut buffer) {
            // The keeper died with reports of ours unread. That is said first, and only once: what it sent before it died comes behind.
            Err(Errno::CONNRESET) => fds::recv(&self.socket, &mut buffer)?,
            other => other?,
        };
        if got.bytes == 0 {
            return Ok(None);
        }
        let order = Order::decode(buffer.get(..got.bytes).unwrap_or(&[]));
        let order = order.map_err(|_| Broken("an order that is none".to_owned()))?;
        Ok(Some((order, got.fds)))
    }

    /// Sends `report`; without a keeper it goes nowhere, which [`Desk::receive`] tells.
    pub(crate) fn report(&self, report: &Report) -> Result<(), Broken> {
        match fds::send(&self.socket, &report.encode(), &[]) {
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(errno) => Err(Broken(format!("reporting: {errno}"))),
        }
    }

    /// Sends `report` and waits for the keeper's [`Order::Answer`]. False: it refused, or is gone.
    pub(crate) fn ask(&self, report: &Report) -> bool {
        if self.report(report).is_err() {
            return false;
        }
        loop {
            match self.read() {
                Ok(Some((Order::Answer { done }, _))) => return done,
                Ok(Some(order)) => self.pending.borrow_mut().push_back(order),
                Ok(None) | Err(_) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::LaneId;

    #[test]
    fn orders_of_a_keeper_that_died_with_reports_unread_are_heard() {
        let (keeper, steward) = fds::pair().expect("a pair of sockets");
        let desk = Desk::new(steward);
        let order = Order::Dead { lane: LaneId(3), heirs: false };
        fds::send(&keeper, &order.encode(), &[]).expect("sent");
        desk.report(&Report::Done { lane: LaneId(1), aborted: 0 }).expect("sent");
        drop(keeper);
        let heard = desk.receive().expect("not broken").map(|(order, _)| order);
        assert!(matches!(heard, Some(Order::Dead { lane: LaneId(3), heirs: false })));
        assert!(desk.receive().expect("not broken").is_none());
    }
}
