//! Fetching files and loading servers, as several rows do.

use std::path::{Path, PathBuf};

use crate::trial::{Running, Trial};
use crate::world::{Side, sha256};

/// A script or source of this folder.
pub(crate) fn program(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/matrix/programs").join(name);
    path.display().to_string()
}

/// Python as the system has it.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Makes the folder `www` with files of several sizes; gives the big one.
pub(crate) fn www(trial: &Trial) -> PathBuf {
    std::fs::create_dir_all(trial.world.dir.join("www")).expect("a folder");
    trial.write("www/index.html", &"lanes\n".repeat(100));
    trial.random("www/big", 5_000_003)
}

/// `curl` of `side` fetches `url`, and has what `file` has.
pub(crate) fn fetch(trial: &Trial, side: Side, flags: &[&str], url: &str, file: &Path) {
    let fetched = trial.world.dir.join("fetched").display().to_string();
    let mut words = vec!["curl", "-sSf", "--max-time", "30", "-o", &fetched];
    words.extend(flags);
    words.push(url);
    trial.check(side, 60, &words);
    assert_eq!(sha256(Path::new(&fetched)), sha256(file), "{url} came changed");
}

/// `wrk` of `side` loads `url` for a second with keep-alive, and for one without; no request may fail.
pub(crate) fn load(trial: &Trial, side: Side, url: &str) {
    load_with(trial, side, "Connection: keep-alive", url);
    load_with(trial, side, "Connection: close", url);
}

/// `wrk` of `side` loads `url` for a second; no request may fail.
pub(crate) fn load_with(trial: &Trial, side: Side, header: &str, url: &str) {
    let out = trial.check(side, 60, &wrk("-d1s", header, url));
    assert_load(header, &out);
}

fn wrk<'a>(time: &'a str, header: &'a str, url: &'a str) -> [&'a str; 9] {
    ["wrk", "-t1", "-c32", time, "--timeout", "10s", "-H", header, url]
}

fn assert_load(header: &str, out: &str) {
    assert!(!out.contains("Socket errors") && !out.contains("Non-2xx"), "{header}: {out}");
    let line = out.lines().find(|l| l.contains(" requests in ")).unwrap_or_default();
    let requests: u64 = line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
    assert!(requests > 50, "{header}: {out}");
}

/// `wrk` at work while something else happens.
pub(crate) struct Load<'a> {
    running: Running,
    header: &'a str,
}

/// [`load_with`] for four seconds, from now on.
pub(crate) fn load_in_background<'a>(trial: &Trial, side: Side, header: &'a str, url: &str) -> Load<'a> {
    Load { running: trial.start(side, "wrk", &wrk("-d4s", header, url)), header }
}

impl Load<'_> {
    /// Waits for its end; no request may have failed.
    pub(crate) fn assert_no_failure(self, trial: &Trial) {
        assert_load(self.header, &trial.wait(self.running, 60));
    }
}

/// An echo server at `port` of the program's side gives back what the peer sends, over several connections at a time.
pub(crate) fn echo(trial: &Trial, port: u16) {
    echo_from(trial, Side::Peer, port);
}

/// [`echo`] with the client on `side`.
pub(crate) fn echo_from(trial: &Trial, side: Side, port: u16) {
    let server = Trial::address(if side == Side::Peer { Side::Ours } else { Side::Peer });
    let script = program("echo_client.py");
    let said = trial.check(side, 60, &[PYTHON, &script, server, &port.to_string(), "24", "700001"]);
    assert_eq!(said.trim(), "24 unchanged");
}
