//! The devices of a session: which port serves each, and the port's fds for each lane.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use base::MacAddr;
use control::proto::{DeviceKind, DeviceList, LaneDevice, device_flags};
use control::steer::{LocalEnd, SteerLane, Steering};
use control::tables::{Link, LinkKind};
use port::packet::PacketSpec;
use rustix::io::Errno;
use sys::fds::Fd;

use crate::client::Refusal;
use crate::error::StartError;
use crate::rules::{Change, End, Slot};
use crate::settings::{DeviceSpec, PortChoice, TapSpec};

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
    if !link.running {
        return Err("it has no carrier".to_owned());
    }
    let chosen = |kind, why: &str| Ok(Choice { kind, why: why.to_owned() });
    match choice {
        PortChoice::Tap => Err("only TAP devices are asked for".to_owned()),
        PortChoice::Packet => chosen(PortKind::Packet, "asked for"),
        PortChoice::Xdp if link.rx_queues > 1 && link.kind != LinkKind::Veth => Err(format!(
            "it has {} receive queues, and the xdp port serves one: `ethtool -L {} combined 1`, or --port packet",
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

/// A device in use.
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) ifindex: u32,
    pub(crate) mtu: u32,
    mac: MacAddr,
    local_peer: bool,
    back: Back,
}

enum Back {
    Packet,
    /// The one queue of the TAP device, until a lane takes it.
    Tap(Option<Fd>),
}

/// All devices of a session, with what steers packets on them.
pub(crate) struct Devices {
    list: Vec<Device>,
    /// `None`: TAP devices only, which need no steering.
    steering: Option<Steering>,
    /// What is in the maps now.
    steered: BTreeMap<End, Vec<SteerLane>>,
}

fn steer_failed(error: &control::steer::SteerError) -> StartError {
    StartError::new(
        "steering packets to the program",
        error,
        "run as root (CAP_BPF and CAP_NET_ADMIN), on Linux 6.6 or later; `corelane doctor` says what is missing",
    )
}

impl Devices {
    /// Attaches to the devices named by `specs`, or to every usable one of `links`.
    pub(crate) fn open(
        specs: &[DeviceSpec],
        links: &[Link],
        choice: PortChoice,
        seed: u32,
    ) -> Result<Self, StartError> {
        let mut devices = Self { list: Vec::new(), steering: None, steered: BTreeMap::new() };
        for spec in specs {
            match spec {
                DeviceSpec::Kernel(name) => {
                    let Some(link) = links.iter().find(|l| l.name() == name) else {
                        let names: Vec<&str> = links.iter().map(Link::name).collect();
                        let fix = format!("give one of: {}", names.join(", "));
                        return Err(StartError::new(format!("device `{name}`"), "no such interface", fix));
                    };
                    let chosen = choose(link, choice).map_err(|why| {
                        StartError::new(
                            format!("device `{name}`"),
                            why,
                            "`corelane doctor` lists what can be used",
                        )
                    })?;
                    devices.attach(link, &chosen, seed)?;
                }
                DeviceSpec::Tap(tap) => devices.add_tap(tap)?,
            }
        }
        if specs.is_empty() {
            for (link, chosen) in links.iter().filter_map(|l| Some((l, choose(l, choice).ok()?))) {
                devices.attach(link, &chosen, seed)?;
            }
        }
        if devices.list.is_empty() {
            return Err(StartError::new(
                "devices",
                "none here can be used",
                "name one with --device; `corelane doctor` says what is wrong with each",
            ));
        }
        Ok(devices)
    }

    fn attach(&mut self, link: &Link, chosen: &Choice, seed: u32) -> Result<(), StartError> {
        if self.list.len() >= base::limits::DEVICES {
            return Err(StartError::new("devices", "more than 16", "name the ones to use with --device"));
        }
        if self.steering.is_none() {
            self.steering = Some(Steering::new(seed).map_err(|e| steer_failed(&e))?);
        }
        let Some(steering) = &mut self.steering else { return Ok(()) };
        let back = match chosen.kind {
            PortKind::Packet => {
                steering.attach_packet(link.ifindex).map_err(|e| steer_failed(&e))?;
                Back::Packet
            }
            PortKind::Xdp => {
                return Err(StartError::new(
                    format!("device `{}`", link.name()),
                    "the xdp port is not there yet",
                    "use --port packet",
                ));
            }
        };
        self.list.push(Device {
            name: link.name().to_owned(),
            ifindex: link.ifindex,
            mtu: link.mtu,
            mac: link.mac,
            local_peer: matches!(link.kind, LinkKind::Veth | LinkKind::Bridge | LinkKind::Dummy),
            back,
        });
        Ok(())
    }

    fn add_tap(&mut self, tap: &TapSpec) -> Result<(), StartError> {
        let failed = |errno: Errno| {
            let fix = match errno {
                Errno::PERM => "run as root, or inside a user namespace (`unshare -Urn`)",
                Errno::NOENT => "the kernel module `tun` is missing: `modprobe tun`",
                _ => "",
            };
            StartError::new(format!("TAP device `{}`", tap.name), errno, fix)
        };
        let fd = port::tap::open(&tap.name).map_err(failed)?;
        let ifindex = sys::links::index(&tap.name).map_err(failed)?;
        let mtu = sys::links::mtu(&tap.name).map_err(failed)?;
        let mac = tap_mac(tap);
        self.list.push(Device {
            name: tap.name.clone(),
            ifindex,
            mtu,
            mac,
            local_peer: true,
            back: Back::Tap(Some(fd)),
        });
        Ok(())
    }

    /// The devices.
    pub(crate) fn list(&self) -> &[Device] {
        &self.list
    }

    /// Is `ifindex` one of the devices whose addresses are the kernel's?
    pub(crate) fn is_steered(&self, ifindex: u32) -> bool {
        self.list.iter().any(|d| d.ifindex == ifindex && matches!(d.back, Back::Packet))
    }

    /// Opens every device for a lane. The fds come in the order of the devices.
    pub(crate) fn open_lane(&mut self, slot: Slot) -> Result<(DeviceList, Vec<Fd>), Refusal> {
        let lane = steer_lane(slot)?;
        let (mut list, mut fds) = (DeviceList::new(), Vec::new());
        let steering = self.steering.as_ref();
        for device in &mut self.list {
            let failed = |e: &dyn std::fmt::Display| {
                Refusal::new(Errno::NODEV, format!("opening device {}: {e}", device.name))
            };
            let (kind, fd) = match (&mut device.back, steering) {
                (Back::Packet, Some(steering)) => {
                    let filter = steering.filter_program(lane).map_err(|e| failed(&e))?;
                    let spec = PacketSpec {
                        ifindex: device.ifindex,
                        filter: Some(filter.as_fd()),
                        qdisc_bypass: false,
                    };
                    let fd = port::packet::open(&spec).map_err(|e| failed(&e))?;
                    sys::bpf::lock_filter(&fd).map_err(|e| failed(&e))?;
                    (DeviceKind::Packet, fd)
                }
                (Back::Packet, None) => continue,
                (Back::Tap(queue), _) => match queue.take() {
                    Some(fd) => (DeviceKind::Tap, fd),
                    None => {
                        return Err(Refusal::new(Errno::BUSY, "a TAP device serves one process at a time"));
                    }
                },
            };
            let row = device.row(kind);
            list.push(row).map_err(|_| Refusal::new(Errno::NOBUFS, "more devices than a lane can have"))?;
            fds.push(fd);
        }
        Ok((list, fds))
    }

    /// Takes a lane's fds back: a TAP device's queue is free for the next lane.
    pub(crate) fn close_lane(&mut self, list: &DeviceList, fds: Vec<Fd>) {
        for (row, fd) in list.as_slice().iter().zip(fds) {
            let device = self.list.iter_mut().find(|d| d.ifindex == row.ifindex);
            if let Some(Device { back: Back::Tap(queue), .. }) = device {
                *queue = Some(fd);
            }
        }
    }

    /// Tells the kernel what changed.
    pub(crate) fn steer(&mut self, changes: &[Change]) -> Result<(), Refusal> {
        let Some(steering) = &mut self.steering else { return Ok(()) };
        let failed =
            |e: control::steer::SteerError| Refusal::new(Errno::NOBUFS, format!("steering rule: {e}"));
        for change in changes {
            let Some(proto) = change.end.proto() else { continue };
            let end = LocalEnd { proto, addr: change.end.addr(), port: change.end.port() };
            let wanted: Vec<SteerLane> =
                change.slots.iter().filter_map(|&slot| steer_lane(slot).ok()).collect();
            let present = self.steered.entry(change.end).or_default();
            for &lane in wanted.iter().filter(|lane| !present.contains(lane)) {
                steering.add_listener(end, lane).map_err(failed)?;
            }
            for &lane in present.iter().filter(|lane| !wanted.contains(lane)) {
                steering.remove_listener(end, lane).map_err(failed)?;
            }
            if wanted.is_empty() {
                self.steered.remove(&change.end);
            } else {
                *present = wanted;
            }
        }
        Ok(())
    }
}

impl Device {
    fn row(&self, kind: DeviceKind) -> LaneDevice {
        let unfinished = if self.local_peer { device_flags::UNFINISHED_CHECKSUMS } else { 0 };
        let own = if kind == DeviceKind::Tap { device_flags::OWN_ADDRESS } else { 0 };
        LaneDevice {
            ifindex: self.ifindex,
            kind,
            flags: unfinished | own,
            mtu: self.mtu,
            queue: 0,
            mac: self.mac,
            fds: 1,
        }
    }

    /// For `explain` and `--verbose`.
    pub(crate) fn describe(&self) -> String {
        let port = match self.back {
            Back::Packet => "packet port, addresses shared with the kernel",
            Back::Tap(_) => "tap port, an address of its own",
        };
        format!("{} ({port}, MTU {})", self.name, self.mtu)
    }
}

fn steer_lane(slot: Slot) -> Result<SteerLane, Refusal> {
    let lane = u8::try_from(slot.0).ok().and_then(SteerLane::new);
    lane.ok_or_else(|| Refusal::new(Errno::NOBUFS, "the session has as many lanes as it can"))
}

/// Our Ethernet address behind a TAP device: locally administered, made from the IP address, so that it stays the same.
fn tap_mac(tap: &TapSpec) -> MacAddr {
    let [a, b, c, d] = tap.address.octets();
    MacAddr([0x02, 0xc1, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: LinkKind) -> Link {
        Link { ifindex: 3, mtu: 1500, up: true, running: true, kind, rx_queues: 1, ..Link::default() }
    }

    #[test]
    fn veth_and_hardware_get_the_packet_port_by_default() {
        for kind in [LinkKind::Veth, LinkKind::Ethernet] {
            let chosen = choose(&link(kind), PortChoice::Auto).expect("usable");
            assert_eq!(chosen.kind, PortKind::Packet);
        }
    }

    #[test]
    fn devices_that_cannot_be_used_say_why() {
        let no = |link: Link, choice| choose(&link, choice).expect_err("not usable");
        assert!(no(link(LinkKind::Loopback), PortChoice::Auto).contains("loopback"));
        assert!(no(Link { up: false, ..link(LinkKind::Veth) }, PortChoice::Auto).contains("switched off"));
        assert!(no(Link { running: false, ..link(LinkKind::Veth) }, PortChoice::Auto).contains("carrier"));
        assert!(no(Link { master: 9, ..link(LinkKind::Veth) }, PortChoice::Auto).contains("member"));
        let queues = Link { rx_queues: 8, ..link(LinkKind::Ethernet) };
        assert!(no(queues, PortChoice::Xdp).contains("8 receive queues"));
        assert!(no(link(LinkKind::Veth), PortChoice::Tap).contains("TAP"));
    }
}
