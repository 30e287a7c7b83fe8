//! Keepers that were killed: programs, stewards and kernel of that namespace may know nothing any more of connections that lanes here still have.
//!
//! Wires to their lanes end with them. Connections by a device have nobody at the other end who says so when program, steward and keeper are killed at once; and one
//! that only waits sends nothing that the kernel there could refuse. So lanes ask, by a probe for each connection to an address of that namespace; and again, because
//! for a moment the dead keeper's programs may still be on the devices and take what comes. A keeper that ends in good order takes its addresses back first.
//!
//! Left out: peers that are no keeper's, which is what any host that loses power is to its peers. Keepalive (RFC 9293 3.8.4) is for those.

use base::{Duration, Instant, IpAddress};

use crate::meeting::{KeeperId, News};
use crate::orders::Order;
use crate::rules::is_loopback;
use crate::session::Session;

/// When lanes ask, after the keeper's end.
const ASKS: [Duration; 3] = [Duration(0), Duration::from_secs(1), Duration::from_secs(5)];
/// Addresses of keepers that ended within the last seconds.
const MAX: usize = 256;

/// An address of a keeper that is gone.
struct Row {
    addr: IpAddress,
    since: Instant,
    /// How often lanes have asked.
    asked: usize,
}

impl Row {
    fn due(&self) -> Option<Instant> {
        ASKS.get(self.asked).map(|after| self.since.plus(*after))
    }
}

/// Those addresses.
#[derive(Default)]
pub(crate) struct Vanished(Vec<Row>);

impl Vanished {
    fn note(&mut self, addr: IpAddress, now: Instant) {
        self.0.retain(|row| row.addr != addr);
        if self.0.len() < MAX {
            self.0.push(Row { addr, since: now, asked: 0 });
        }
    }

    /// How long until lanes are to ask.
    pub(crate) fn next_look(&self, now: Instant) -> Option<Duration> {
        self.0.iter().filter_map(Row::due).min().map(|at| at.since(now))
    }

    /// Whom to ask now.
    fn take_due(&mut self, now: Instant) -> Vec<IpAddress> {
        let mut due = Vec::new();
        for row in self.0.iter_mut().filter(|row| row.due().is_some_and(|at| at <= now)) {
            row.asked += 1;
            due.push(row.addr);
        }
        self.0.retain(|row| row.due().is_some());
        due
    }
}

impl Session {
    /// The keeper `id` is gone and had not taken its addresses back.
    pub(crate) fn note_vanished(&mut self, id: KeeperId) {
        let now = sys::clock::now();
        for addr in self.meeting.addresses_of(id).into_iter().filter(|addr| !is_loopback(*addr)) {
            self.vanished.note(addr, now);
        }
    }

    /// Has lanes ask, if it is time.
    pub(crate) fn ask_vanished(&mut self) {
        for addr in self.vanished.take_due(sys::clock::now()) {
            // The successor of one that cannot be told hears of it the next time.
            self.tell_stewards(&Order::Vanished { addr });
        }
    }

    /// This keeper ends: in good order, if every lane of its is done with.
    pub(crate) fn take_leave(&mut self) {
        if !self.is_busy() {
            let _ = self.meeting.tell(News::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDR: IpAddress = IpAddress([7; 16]);

    #[test]
    fn lanes_ask_three_times() {
        let (mut vanished, start) = (Vanished::default(), Instant(1_000));
        vanished.note(ADDR, start);
        let mut asked = Vec::new();
        let mut now = start;
        while let Some(wait) = vanished.next_look(now) {
            now = now.plus(wait);
            assert_eq!(vanished.take_due(now), [ADDR]);
            assert!(vanished.take_due(now).is_empty());
            asked.push(now.since(start));
        }
        assert_eq!(asked, ASKS);
    }

    #[test]
    fn another_end_at_the_same_address_begins_anew() {
        let (mut vanished, start) = (Vanished::default(), Instant(1_000));
        vanished.note(ADDR, start);
        assert_eq!(vanished.take_due(start), [ADDR]);
        vanished.note(ADDR, start.plus(ASKS[1]));
        assert_eq!(vanished.next_look(start.plus(ASKS[1])), Some(Duration(0)));
        assert_eq!(vanished.0.len(), 1);
    }
}
