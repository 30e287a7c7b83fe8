//! The keeper's side of the tables.

use super::layout::{self, FLAGS, GENERATION, Section, flags, load, store};
use super::rows::{self, Address, Link, Neighbour, RouteRow};
use super::{Tables, TablesError, seqlock};
use std::cmp::Reverse;
use std::sync::atomic::AtomicU64;

/// Writes the tables. There is one, in the keeper.
pub struct TablesWriter {
    words: &'static [AtomicU64],
}

impl TablesWriter {
    /// Makes empty tables in a writable mapping of at least [`super::TABLES_BYTES`].
    ///
    /// # Errors
    /// [`TablesError::TooSmall`].
    pub fn format(words: &'static [AtomicU64]) -> Result<Self, TablesError> {
        layout::format(words)?;
        Ok(Self { words })
    }

    /// The reader's view of the same words.
    #[must_use]
    pub fn reader(&self) -> Tables {
        Tables { words: self.words }
    }

    /// Replaces the links.
    pub fn set_links(&mut self, mut links: Vec<Link>) {
        links.sort_by_key(|link| link.ifindex);
        self.replace(Section::Links, &links, rows::write_link);
    }

    /// Replaces the addresses; the order is the kernel's and decides the source address.
    pub fn set_addresses(&mut self, addresses: &[Address]) {
        self.replace(Section::Addresses, addresses, rows::write_address);
    }

    /// Replaces the routes. They are stored most specific first, then by metric, so that the first match is the answer.
    pub fn set_routes(&mut self, mut routes: Vec<RouteRow>) {
        routes.sort_by_key(|route| (Reverse(route.prefix), route.metric));
        self.replace(Section::Routes, &routes, rows::write_route);
    }

    /// Replaces the neighbours, which are sorted by device and address for the lookup.
    pub fn set_neighbours(&mut self, mut neighbours: Vec<Neighbour>) {
        neighbours.sort_by_key(|neighbour| (neighbour.ifindex, neighbour.addr.0));
        self.replace(Section::Neighbours, &neighbours, rows::write_neighbour);
    }

    /// Says whether the namespace has routing rules of its own for IPv4 and for IPv6, which the tables cannot follow.
    pub fn set_policy_rules(&mut self, present: [bool; 2]) {
        self.change(|words| {
            let both = [flags::POLICY_RULES, flags::POLICY_RULES_V6];
            let others = load(words, FLAGS) & !(flags::POLICY_RULES | flags::POLICY_RULES_V6);
            let set = both.into_iter().zip(present).filter(|(_, present)| *present);
            store(words, FLAGS, set.fold(others, |all, (bit, _)| all | bit));
        });
    }

    /// Somebody of this host begins or stops to listen where wires lead.
    pub fn count_meeting(&mut self) {
        self.count(layout::MEETINGS);
    }

    /// A notice was sent to some program.
    pub fn count_notice(&mut self) {
        self.count(layout::NOTICES);
    }

    /// Outside the sequence: each of these words is read alone.
    fn count(&mut self, at: usize) {
        store(self.words, at, load(self.words, at).wrapping_add(1));
    }

    fn replace<T>(&mut self, section: Section, rows: &[T], write: impl Fn(&[AtomicU64], &T)) {
        self.change(|words| {
            layout::all_rows(words, section).zip(rows).for_each(|(words, row)| write(words, row));
            store(words, section.count_at(), rows.len().min(section.capacity()) as u64);
            let bit = 1 << section.number() & flags::OVERFLOW;
            let others = load(words, FLAGS) & !bit;
            store(words, FLAGS, if rows.len() > section.capacity() { others | bit } else { others });
        });
    }

    fn change(&mut self, change: impl FnOnce(&[AtomicU64])) {
        seqlock::write(self.words, || {
            change(self.words);
            store(self.words, GENERATION, load(self.words, GENERATION).wrapping_add(1));
        });
    }
}
