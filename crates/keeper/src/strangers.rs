//! Programs outside Corelane that share a listener's address and port (SO_REUSEPORT).
//!
//! Only the kernel can give connections to them, and it gives them out among all sockets of the group, ours too. So while there is such a program, what is new
//! goes to the kernel, which shares it out as it would without Corelane; open connections stay where they are. The kernel tells nobody who listens, so it is
//! looked for, where our listeners say that they share.

use std::collections::{BTreeMap, BTreeSet};

use base::{Duration, IpAddress};
use control::netlink::{KernelListener, tcp_listeners};

use crate::children;
use crate::rules::End;
use crate::session::Session;

/// How often it is looked.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// Whose a kernel's listener is that no lane listens beside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whose {
    /// A process of the family's, which does not wait on it (yet).
    Family,
    /// Seen so often at others. The first time may be too early: a program that begins to listen is no client before.
    Stranger(u32),
}

/// Looks after which it is believed that a listener is a stranger's.
const LOOKS: u32 = 2;

/// What is known of listeners, by inode number.
#[derive(Default)]
pub(crate) struct Strangers {
    known: BTreeMap<u64, Whose>,
}

impl Strangers {
    /// Which of `all` are strangers', those of lanes (`own`) left out; `judge` says of new ones which are the family's, and leaves out what no process
    /// has.
    fn of(
        &mut self,
        all: &[KernelListener],
        own: &BTreeSet<u64>,
        judge: impl FnOnce(&BTreeSet<u64>) -> BTreeMap<u64, bool>,
    ) -> BTreeSet<u64> {
        let there: BTreeSet<u64> =
            all.iter().map(|row| row.inode).filter(|inode| !own.contains(inode)).collect();
        self.known.retain(|inode, _| there.contains(inode));
        let is_sure = |whose: &Whose| *whose == Whose::Family || *whose == Whose::Stranger(LOOKS);
        let open: BTreeSet<u64> =
            there.into_iter().filter(|inode| !self.known.get(inode).is_some_and(is_sure)).collect();
        if !open.is_empty() {
            for (inode, is_family) in judge(&open) {
                let seen = match self.known.get(&inode) {
                    Some(Whose::Stranger(times)) => *times,
                    Some(Whose::Family) | None => 0,
                };
                let whose = if is_family { Whose::Family } else { Whose::Stranger(seen + 1) };
                self.known.insert(inode, whose);
            }
        }
        let sure = self.known.iter().filter(|(_, whose)| **whose == Whose::Stranger(LOOKS));
        sure.map(|(&inode, _)| inode).collect()
    }
}

/// Is `row` at `end`? Whether a socket of IPv6 takes IPv4, too, is not looked at.
fn is_at(row: &KernelListener, end: End) -> bool {
    let addr = if end.addr() == IpAddress::ANY_V6 { IpAddress::ANY } else { end.addr() };
    row.port == end.port() && row.addr == addr
}

impl Session {
    /// Looks who else listens where lanes do, and has the kernel share out what is new there.
    pub(crate) fn look_for_strangers(&mut self) {
        let shared = self.rules.shared_ends();
        let rows = if shared.is_empty() { Vec::new() } else { tcp_listeners().unwrap_or_default() };
        let rows: Vec<KernelListener> =
            rows.into_iter().filter(|row| shared.iter().any(|&end| is_at(row, end))).collect();
        let mut strangers = std::mem::take(&mut self.strangers);
        let theirs = strangers.of(&rows, &self.rules.inodes(), |inodes| self.judge(inodes));
        self.strangers = strangers;
        let has_stranger = |end: &End| rows.iter().any(|row| theirs.contains(&row.inode) && is_at(row, *end));
        let (changes, ends) = self.rules.set_strangers(shared.into_iter().filter(has_stranger).collect());
        for (end, on) in ends {
            let (addr, port) = (end.addr(), end.port().0);
            if on {
                eprintln!(
                    "corelane: a program outside Corelane listens at {addr}:{port}, too (SO_REUSEPORT): the kernel shares out new connections, and none is accelerated until it stops"
                );
            } else {
                eprintln!(
                    "corelane: nobody outside Corelane listens at {addr}:{port} any more: new connections are accelerated"
                );
            }
            self.has_news = true;
            self.unsettle();
        }
        if let Err(refusal) = self.devices.steer(&changes) {
            eprintln!("corelane: sharing a port with a program outside Corelane: {}", refusal.text);
        }
    }

    /// Which of the sockets are the family's.
    fn judge(&self, inodes: &BTreeSet<u64>) -> BTreeMap<u64, bool> {
        // Of one that is gone nobody knows the descendants; those that listen are clients.
        let first = self.family();
        let descendants =
            children::exists(first).then(|| children::descendants(first, &BTreeSet::new())).flatten();
        let mut family = descendants.unwrap_or_default();
        family.extend([first, sys::process::pid()]);
        family.extend(self.clients.values().map(|client| client.pid));
        family.extend(self.steward_pids());
        let owners = children::owners(inodes);
        owners.into_iter().map(|(inode, pids)| (inode, pids.iter().any(|pid| family.contains(pid)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Port;

    fn row(inode: u64) -> KernelListener {
        KernelListener { addr: IpAddress::ANY_V4, port: Port(80), inode }
    }

    #[test]
    fn a_listener_is_a_strangers_at_the_second_look_and_the_familys_at_once() {
        let mut strangers = Strangers::default();
        let own = BTreeSet::from([1]);
        let all = [row(1), row(2), row(3), row(4)];
        let judge = |inodes: &BTreeSet<u64>| {
            assert!(!inodes.contains(&1), "a lane listens beside it");
            let known = [(2, true), (3, false)];
            known.into_iter().filter(|(inode, _)| inodes.contains(inode)).collect()
        };
        assert_eq!(strangers.of(&all, &own, judge), BTreeSet::new());
        assert_eq!(strangers.of(&all, &own, judge), BTreeSet::from([3]), "nobody has 4");
        let unasked = |inodes: &BTreeSet<u64>| {
            assert_eq!(inodes, &BTreeSet::from([4]));
            BTreeMap::new()
        };
        assert_eq!(strangers.of(&all, &own, unasked), BTreeSet::from([3]));
        assert_eq!(strangers.of(&all[..2], &own, unasked_nothing), BTreeSet::new());
        assert!(!strangers.known.contains_key(&3), "it may be another one's number next");
    }

    fn unasked_nothing(inodes: &BTreeSet<u64>) -> BTreeMap<u64, bool> {
        panic!("{inodes:?}")
    }
}
