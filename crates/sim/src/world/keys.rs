//! Keys that sign segments: every socket has its own, and who has a wrong one does not get in.

use engine::Engine;
use state::{Endpoint, SockRef};

use crate::ip::address;
use crate::scenario::{Keys, Scenario};
use crate::stream::StreamPlan;

/// Gives `listener` of `host` its keys for all other hosts.
pub(super) fn of_listener(
    e: &mut Engine<'_>,
    listener: SockRef,
    host: usize,
    scenario: &Scenario,
) -> Result<(), String> {
    if scenario.keys == Keys::None || scenario.streams.is_empty() {
        return Ok(());
    }
    for peer in (0..scenario.hosts.len()).filter(|peer| *peer != host) {
        let given = scenario.keys.give(e, listener, (host, address(peer, scenario.six)));
        given.map_err(|error| format!("a listener's key: {error:?}"))?;
    }
    Ok(())
}

/// Gives `sock`, which connects for `plan`, its key.
pub(super) fn of_stream(
    e: &mut Engine<'_>,
    sock: SockRef,
    plan: &StreamPlan,
    scenario: &Scenario,
) -> Result<(), String> {
    let given = scenario.keys.give(e, sock, (plan.client, address(plan.server, scenario.six)));
    given.map_err(|error| format!("a connection's key: {error:?}"))
}

/// Was a connection from `remote` at `host` accepted though one of them has a wrong key?
pub(super) fn check(scenario: &Scenario, host: usize, remote: Endpoint) -> Result<(), String> {
    let from = (0..scenario.hosts.len()).find(|n| address(*n, scenario.six) == remote.addr);
    match from.filter(|from| scenario.keys.part(*from, host)) {
        Some(from) => {
            Err(format!("host {host} accepts a connection from host {from}, which signs with another key"))
        }
        None => Ok(()),
    }
}
