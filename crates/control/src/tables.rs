//! The mirrored control plane: links, addresses, routes and neighbours of the program's network namespace, in one memfd.
//!
//! The keeper writes ([`TablesWriter`]), programs map the memfd read-only and look up ([`Tables`]). Everything is plain words under one
//! sequence lock, so a reader never blocks the keeper, and a keeper that dies in the middle of a write leaves tables that answer
//! "unknown", which keeps sockets on the kernel. What the rows cannot express (policy rules, several next hops, more rows than
//! fit) is a flag or a route kind that makes the lookup say "unknown" as well: a wrong answer never comes out.
//!
//! Layout: header of 16 words, then links, addresses, routes and neighbours, each a fixed number of rows.
//! Left out: the kernel's local table (addresses say what is local), routes by type of service.

mod layout;
mod lookup;
mod rows;
mod seqlock;
mod writer;

pub use layout::TablesError;
pub use lookup::{NeighbourEntry, Route, RouteAnswer, Unknown};
pub use rows::{Address, Link, LinkKind, Neighbour, NeighbourState, RouteKind, RouteRow, Scope};
pub use writer::TablesWriter;

use base::IpAddress;
use layout::Section;
use std::sync::atomic::AtomicU64;

/// Most links mirrored.
pub const LINKS: usize = 64;
/// Most addresses mirrored.
pub const ADDRESSES: usize = 256;
/// Most routes mirrored.
pub const ROUTES: usize = 4096;
/// Most neighbours mirrored.
pub const NEIGHBOURS: usize = 4096;
/// Addresses of a namespace that wires inside it carry packets of.
pub const HOST_ADDRESSES: usize = 8;
/// Size of the memfd, bytes; a multiple of 4096.
pub const TABLES_BYTES: usize = (layout::TOTAL_WORDS * 8).next_multiple_of(4096);

/// A reader's view of the tables. Lookups copy out; each is consistent in itself and says so when it cannot be.
#[derive(Clone, Copy)]
pub struct Tables {
    words: &'static [AtomicU64],
}

impl Tables {
    /// Checks the header of a mapping made by [`TablesWriter::format`]. The mapping may be read-only.
    ///
    /// # Errors
    /// [`TablesError`] when the words are too few or were formatted by another version.
    pub fn open(words: &'static [AtomicU64]) -> Result<Self, TablesError> {
        layout::check(words)?;
        Ok(Self { words })
    }

    /// Grows with every change; equal numbers mean equal tables. What was looked up stays true until it changes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        layout::load(self.words, layout::GENERATION)
    }

    /// Grows when a program of this host begins or stops to listen where wires lead: what [`crate::proto::Request::Introduce`] answered
    /// is true until then.
    #[inline]
    #[must_use]
    pub fn meetings(&self) -> u64 {
        layout::load(self.words, layout::MEETINGS)
    }

    /// Grows when the keeper has sent a notice to some program: look at the connection to it.
    #[inline]
    #[must_use]
    pub fn notices(&self) -> u64 {
        layout::load(self.words, layout::NOTICES)
    }

    /// The addresses of this namespace between which wires inside it carry packets, besides 127.0.0.0/8 and ::1: the first
    /// [`HOST_ADDRESSES`], in the kernel's order. Link-local ones, which name a device too, are left out.
    #[must_use]
    pub fn host_addresses(&self) -> Vec<IpAddress> {
        let outside = |addr: &IpAddress| match addr.as_v4() {
            Some(v4) => !v4.is_loopback(),
            None => !addr.as_v6().is_loopback() && !addr.as_v6().is_unicast_link_local(),
        };
        self.addresses().iter().map(|row| row.addr).filter(outside).take(HOST_ADDRESSES).collect()
    }

    /// Every link, in the order of interface indices; empty while the keeper is writing for long.
    #[must_use]
    pub fn links(&self) -> Vec<Link> {
        self.rows(Section::Links, rows::read_link)
    }

    /// Every address, in the kernel's order.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.rows(Section::Addresses, rows::read_address)
    }

    /// Every route, most specific first.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteRow> {
        self.rows(Section::Routes, rows::read_route)
    }

    /// Every neighbour, sorted by device and address.
    #[must_use]
    pub fn neighbours(&self) -> Vec<Neighbour> {
        self.rows(Section::Neighbours, rows::read_neighbour)
    }

    fn rows<T>(&self, section: Section, read: impl Fn(&[AtomicU64]) -> Option<T>) -> Vec<T> {
        let copy =
            seqlock::read(self.words, || layout::rows(self.words, section).filter_map(&read).collect());
        copy.unwrap_or_default()
    }
}
