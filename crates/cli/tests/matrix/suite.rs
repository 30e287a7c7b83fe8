//! Python's own tests of sockets, events and what stands on them: what fails on a lane must fail on the kernel, too.

use crate::files::PYTHON;
use crate::trial::Trial;
use crate::world::Side;

const TESTS: &[&str] =
    &["test_socket", "test_selectors", "test_epoll", "test_ssl", "test_httplib", "test_asyncio"];

/// Plays each of Python's tests; the rows of both stacks are compared by who reads the report.
pub(crate) fn python(trial: &Trial) {
    for name in TESTS {
        // Those of VSOCK are no TCP, and wait for ever where a module of that name has no device.
        let out = trial.check(Side::Ours, 900, &[PYTHON, "-m", "test", "-v", "-i", "*VSOCK*", name]);
        assert!(out.contains("Result: SUCCESS"), "{out}");
    }
}
