//! Two hosts joined by a veth pair: network namespaces without names, gone when the test's thread and fds are.
#![allow(clippy::unwrap_used)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use sys::namespace::{enter_net, enter_new_net};

/// The test's thread is in `here` (device `near`, 10.77.0.1/24); the other host is `there` (device `far`, 10.77.0.2/24).
pub(crate) struct Hosts {
    here: OwnedFd,
    there: OwnedFd,
}

/// Runs `test` between two hosts, or not at all without root.
pub(crate) fn two_hosts(test: impl FnOnce(&Hosts) + Send) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // A thread of its own: the test's thread may be one that others use after it.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let there = enter_new_net().unwrap();
            let here = enter_new_net().unwrap();
            let hosts = Hosts { here, there };
            ip("link add near address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:02");
            ip(&format!("link set far netns /proc/{}/fd/{}", std::process::id(), hosts.there.as_raw_fd()));
            ip("addr add 10.77.0.1/24 dev near");
            ip("link set near up");
            hosts.on_the_other(|| {
                ip("addr add 10.77.0.2/24 dev far");
                ip("link set far up");
            });
            test(&hosts);
        });
    });
}

impl Hosts {
    /// The network namespace of the other host.
    #[allow(dead_code, reason = "each test file uses its own part of the hosts")]
    pub(crate) fn there(&self) -> &OwnedFd {
        &self.there
    }

    /// Runs `what` on the other host.
    pub(crate) fn on_the_other<R>(&self, what: impl FnOnce() -> R) -> R {
        enter_net(&self.there).unwrap();
        let result = what();
        enter_net(&self.here).unwrap();
        result
    }
}

/// Held while a child of this process may have copies of its fds.
static CHILDREN: Mutex<()> = Mutex::new(());

/// While this is held no child has copies of this process's fds: what is closed now is really closed.
pub(crate) fn without_children() -> MutexGuard<'static, ()> {
    CHILDREN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs `ip` with `arguments` on the host the thread is in.
pub(crate) fn ip(arguments: &str) {
    let _alone = without_children();
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}
