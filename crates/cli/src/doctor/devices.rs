//! The devices of this network namespace, and which port each would get.

use control::tables::{Link, LinkKind};
use keeper::{PortChoice, PortKind, can_share_queues, choose};

use super::{Finding, State};
use crate::failure::Failure;

/// Every device, or those in `only`.
pub(super) fn look(only: &[String]) -> Result<Vec<Finding>, Failure> {
    let links = keeper::links().map_err(Failure::from)?;
    let mut findings = Vec::new();
    for link in links.iter().filter(|link| only.is_empty() || only.iter().any(|name| name == link.name())) {
        findings.push(device(link));
    }
    for name in only.iter().filter(|name| !links.iter().any(|link| link.name() == name.as_str())) {
        findings.push(
            Finding::new(format!("device {name}"), State::Missing, "no such interface")
                .fix("see `ip link`; devices of other network namespaces are not seen here"),
        );
    }
    Ok(findings)
}

fn device(link: &Link) -> Finding {
    let driver = sys::links::driver(link.name()).unwrap_or_else(|_| "no driver name".to_owned());
    let facts = format!("{driver}, {} receive queue(s) in use, MTU {}", link.rx_queues, link.mtu);
    let id = format!("device {}", link.name());
    match choose(link, PortChoice::Auto) {
        Ok(choice) => {
            let port = match choice.kind {
                PortKind::Packet => "packet",
                PortKind::Xdp => "xdp",
            };
            Finding::new(id, State::Good, facts).means(format!(
                "{port} port: {}; {}",
                choice.why,
                by_xdp(link)
            ))
        }
        Err(why) => {
            let down = !link.up && link.kind != LinkKind::Other;
            let fix = if down { format!("ip link set {} up", link.name()) } else { String::new() };
            Finding::new(id, State::Unused, facts).means(why).fix(fix)
        }
    }
}

/// What `--port xdp` would do.
fn by_xdp(link: &Link) -> String {
    match choose(link, PortChoice::Xdp) {
        Ok(_) => {
            let lanes = if can_share_queues(link) { "all lanes of one program" } else { "one lane" };
            format!("--port xdp: AF_XDP sockets on each queue for {lanes}, packet sockets for others")
        }
        Err(why) => format!("no --port xdp: {why}"),
    }
}
