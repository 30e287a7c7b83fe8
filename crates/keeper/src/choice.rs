//! Which kind of port serves a device of the kernel's, and why.

use base::limits::XDP_QUEUES;
use control::tables::{Link, LinkKind};

use crate::error::StartError;
use crate::settings::PortChoice;

/// Why a device got its kind of port, in words for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The kind.
    pub kind: PortKind,
    /// Why this one.
    pub why: String,
}

/// Kinds of port on a device of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// AF_XDP.
    Xdp,
    /// AF_PACKET with steering on TCX.
    Packet,
}

/// Which port serves `link` under `choice`.
///
/// # Errors
/// Why it cannot be used, in words for the user.
pub fn choose(link: &Link, choice: PortChoice) -> Result<Choice, String> {
    match link.kind {
        LinkKind::Loopback => {
            return Err("it is the loopback device, which the kernel does better".to_owned());
        }
        LinkKind::Tun => return Err("it is a TUN or TAP device of another program".to_owned()),
        LinkKind::Other => return Err("it is not an Ethernet device".to_owned()),
        LinkKind::Ethernet | LinkKind::Veth | LinkKind::Bridge | LinkKind::Upper | LinkKind::Dummy => {}
    }
    if link.master != 0 {
        return Err("it is a member of a bridge, bond or VRF: use that one".to_owned());
    }
    if !link.up {
        return Err("it is switched off".to_owned());
    }
    let chosen = |kind, why: &str| Ok(Choice { kind, why: why.to_owned() });
    match choice {
        PortChoice::Tap => Err("only TAP devices are asked for".to_owned()),
        PortChoice::Packet => chosen(PortKind::Packet, "asked for"),
        PortChoice::Xdp if usize::from(link.rx_queues) > XDP_QUEUES => Err(format!(
            "it has {} receive queues, and the xdp port serves {XDP_QUEUES}: `ethtool -L {} combined {XDP_QUEUES}`, or --port packet",
            link.rx_queues,
            link.name()
        )),
        PortChoice::Xdp => chosen(PortKind::Xdp, "asked for"),
        PortChoice::Auto if link.kind == LinkKind::Veth => {
            chosen(PortKind::Packet, "on veth it keeps super-frames whole both ways")
        }
        PortChoice::Auto => {
            chosen(PortKind::Packet, "it takes every queue of the device and keeps super-frames whole")
        }
    }
}

/// May a peer behind a device of this kind be on this machine?
pub(crate) fn is_local(kind: LinkKind) -> bool {
    matches!(kind, LinkKind::Veth | LinkKind::Bridge | LinkKind::Dummy)
}

pub(crate) fn named<'a>(links: &'a [Link], name: &str) -> Result<&'a Link, StartError> {
    links.iter().find(|l| l.name() == name).ok_or_else(|| {
        let names: Vec<&str> = links.iter().map(Link::name).collect();
        let fix = format!("give one of: {}", names.join(", "));
        StartError::new(format!("device `{name}`"), "no such interface", fix)
    })
}
