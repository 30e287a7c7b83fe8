//! The devices of a session: which port serves each, and the port's fds for each lane.

use std::collections::BTreeMap;

use base::{LaneId, MacAddr};
use control::proto::{DeviceKind, DeviceList, LaneDevice, device_flags};
use control::steer::{LocalEnd, SteerLane, Steering};
use control::tables::{Link, LinkKind};
use port::packet::PacketSpec;
use rustix::io::Errno;
use sys::fds::{FDS_MAX, Fd};

use crate::client::Refusal;
use crate::error::StartError;
use crate::kernel_flows;
use crate::memif::{FIRST_IFINDEX, MemifLink};
use crate::mirror::address_of;
use crate::regions::RegionMemory;
use crate::rules::{Change, End, Slot, steer_lane};
use crate::session::RegionId;
use crate::settings::{DeviceSpec, MemifDevice, OwnSpec, PortChoice};
use crate::xdp::{OpenError, XdpDevice, open_filtered};

pub use crate::choice::{Choice, PortKind, choose};
use crate::choice::{is_local, named};

/// For which lane of which region devices are opened, and how the steering knows it.
#[derive(Clone, Copy)]
pub(crate) struct Seat {
    pub(crate) region: RegionId,
    pub(crate) lane: LaneId,
    pub(crate) slot: Slot,
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
    /// AF_XDP.
    Xdp(XdpDevice),
    /// The one queue of the TAP device, until a lane takes it.
    Tap(Option<Fd>),
    /// Every packet of a device on which the kernel has nothing; one lane at a time has it.
    Own {
        taken: bool,
    },
    /// A wire to another program; one lane at a time has it.
    Memif(Box<MemifLink>),
}

/// All devices of a session, with what steers packets on them.
pub(crate) struct Devices {
    list: Vec<Device>,
    /// `None`: TAP devices only, which need no steering.
    pub(crate) steering: Option<Steering>,
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

fn xdp_failed(error: &control::steer::SteerError, device: &str) -> StartError {
    let control::steer::SteerError::Kernel(_, Errno::BUSY | Errno::EXIST) = error else {
        return steer_failed(error);
    };
    let fix = format!(
        "end its program (`ip link show {device}` names it), or use --port packet, which goes beside it"
    );
    StartError::new(format!("device `{device}`"), "an XDP program is on it already", fix)
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
                    let link = named(links, name)?;
                    if link.kind == LinkKind::Loopback {
                        // Wires carry what goes over it, and need no device.
                        continue;
                    }
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
                DeviceSpec::Own(own) => devices.add_own(own, links)?,
                DeviceSpec::Memif(memif) => devices.add_memif(memif)?,
            }
        }
        if specs.is_empty() {
            for (link, chosen) in links.iter().filter_map(|l| Some((l, choose(l, choice).ok()?))) {
                devices.attach(link, &chosen, seed)?;
            }
        }
        if devices.list.is_empty() && specs.is_empty() {
            return Err(StartError::new(
                "devices",
                "none here can be used",
                "name one with --device (`lo`: only for programs of this machine); `corelane doctor` says what is wrong with each",
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
                Back::Xdp(XdpDevice::attach(steering, link).map_err(|e| xdp_failed(&e, link.name()))?)
            }
        };
        self.list.push(Device {
            name: link.name().to_owned(),
            ifindex: link.ifindex,
            mtu: link.mtu,
            mac: link.mac,
            local_peer: is_local(link.kind),
            back,
        });
        Ok(())
    }

    fn add_tap(&mut self, tap: &OwnSpec) -> Result<(), StartError> {
        let failed = |errno: Errno| {
            let fix = match errno {
                Errno::PERM => "run as root, or inside a user namespace (`unshare -Urn`)",
                Errno::ACCESS => {
                    "give the user access to /dev/net/tun, or use own:NAME=... on a device that is there"
                }
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

    fn add_own(&mut self, own: &OwnSpec, links: &[Link]) -> Result<(), StartError> {
        let link = named(links, &own.name)?;
        if !link.up {
            let fix = format!("ip link set {} up", own.name);
            return Err(StartError::new(format!("device `{}`", own.name), "it is switched off", fix));
        }
        self.list.push(Device {
            name: own.name.clone(),
            ifindex: link.ifindex,
            mtu: link.mtu,
            mac: link.mac,
            local_peer: is_local(link.kind),
            back: Back::Own { taken: false },
        });
        Ok(())
    }

    fn add_memif(&mut self, memif: &MemifDevice) -> Result<(), StartError> {
        self.list.push(Device {
            name: memif.path().to_owned(),
            ifindex: FIRST_IFINDEX + self.list.len() as u32,
            mtu: u32::from(memif.mtu),
            mac: tap_mac(&memif.own),
            local_peer: false,
            back: Back::Memif(Box::new(MemifLink::open(memif)?)),
        });
        Ok(())
    }

    /// The wires to other programs.
    pub(crate) fn memifs(&self) -> impl Iterator<Item = &MemifLink> {
        self.list.iter().filter_map(|device| match &device.back {
            Back::Memif(link) => Some(&**link),
            Back::Packet | Back::Xdp(_) | Back::Tap(_) | Back::Own { .. } => None,
        })
    }

    /// Handles what the programs at the other ends of wires say.
    pub(crate) fn serve_memifs(&mut self) {
        for device in &mut self.list {
            if let Back::Memif(link) = &mut device.back {
                link.serve();
            }
        }
    }

    /// The devices.
    pub(crate) fn list(&self) -> &[Device] {
        &self.list
    }

    /// Does a device register the frames of regions?
    pub(crate) fn has_xdp(&self) -> bool {
        self.list.iter().any(|d| matches!(d.back, Back::Xdp(_)))
    }

    /// Is `ifindex` one of the devices whose addresses are the kernel's?
    pub(crate) fn is_steered(&self, ifindex: u32) -> bool {
        self.list.iter().any(|d| d.ifindex == ifindex && matches!(d.back, Back::Packet | Back::Xdp(_)))
    }

    /// Opens every device for a lane of the region in `memory`. The fds come in the order of the devices.
    pub(crate) fn open_lane(
        &mut self,
        seat: Seat,
        memory: &RegionMemory,
    ) -> Result<(DeviceList, Vec<Fd>), Refusal> {
        let (mut list, mut fds) = (DeviceList::new(), Vec::new());
        let outcome = self.open_each(seat, memory, &mut list, &mut fds);
        match outcome {
            Ok(()) => Ok((list, fds)),
            Err(refusal) => {
                self.close_lane(seat, &list, fds);
                Err(refusal)
            }
        }
    }

    fn open_each(
        &mut self,
        seat: Seat,
        memory: &RegionMemory,
        list: &mut DeviceList,
        fds: &mut Vec<Fd>,
    ) -> Result<(), Refusal> {
        for device in &mut self.list {
            let (row, opened) = device.open(seat, memory, self.steering.as_mut())?;
            list.push(row).map_err(|_| Refusal::new(Errno::NOBUFS, "more devices than a lane can have"))?;
            fds.extend(opened);
        }
        if fds.len() > FDS_MAX {
            let text =
                format!("{} descriptors for one lane, {FDS_MAX} can be sent: name fewer devices", fds.len());
            return Err(Refusal::new(Errno::NOBUFS, text));
        }
        Ok(())
    }

    /// Takes a lane's fds back: what serves one lane at a time is free for the next.
    pub(crate) fn close_lane(&mut self, seat: Seat, list: &DeviceList, fds: Vec<Fd>) {
        let mut fds = fds.into_iter();
        for row in list.as_slice() {
            let mut own = fds.by_ref().take(usize::from(row.fds));
            let Some(device) = self.list.iter_mut().find(|d| d.ifindex == row.ifindex) else { continue };
            match &mut device.back {
                Back::Packet => {}
                Back::Tap(queue) => *queue = own.next(),
                Back::Own { taken } => *taken = false,
                Back::Memif(link) => link.give_back(own.by_ref().collect()),
                Back::Xdp(xdp) => {
                    if let (Ok(lane), Some(steering)) = (steer_lane(seat.slot), &mut self.steering) {
                        xdp.close(row, (seat, lane), own.by_ref().collect(), steering);
                    }
                }
            }
            own.for_each(drop);
        }
    }

    /// A region is no more: what its lanes had in common on devices goes.
    pub(crate) fn forget_region(&mut self, region: RegionId) {
        for device in &mut self.list {
            if let Back::Xdp(xdp) = &mut device.back {
                xdp.forget(region);
            }
        }
    }

    /// Looks whether the kernel still has connections on the ports of lanes. True: look again later.
    pub(crate) fn settle(&mut self) -> bool {
        let Some(steering) = &mut self.steering else { return false };
        // What cannot be read now is read the next time.
        let Ok(found) = kernel_flows::look() else { return true };
        let entrusted = steering.settle_entrusted(|flow| found.flows.contains(flow));
        let beside = steering.settle(|end| found.local_ends.contains(end));
        match entrusted.and_then(|entrusted| Ok(entrusted + beside?)) {
            Ok(left) => left > 0,
            Err(error) => {
                log::warn!("settling steering rules: {error}");
                true
            }
        }
    }

    /// A lane is done: its connections are the kernel's to refuse.
    pub(crate) fn forget_lane(&mut self, slot: Slot) {
        if let (Ok(lane), Some(steering)) = (steer_lane(slot), &mut self.steering)
            && let Err(error) = steering.remove_lane(lane)
        {
            log::warn!("taking back the rules of a lane: {error}");
        }
    }

    /// The steering, if any device is steered.
    pub(crate) fn steering(&mut self) -> Option<&mut Steering> {
        self.steering.as_mut()
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
            for lane in without(&wanted, present) {
                match change.listens {
                    _ if change.end.is_block() => steering.add_block(end, lane).map_err(failed)?,
                    true => steering.add_listener_beside_kernel(end, lane).map_err(failed)?,
                    false => steering.add_listener(end, lane).map_err(failed)?,
                }
            }
            for lane in without(present, &wanted) {
                match change.end.is_block() {
                    true => steering.remove_block(end, lane).map_err(failed)?,
                    false => steering.remove_listener(end, lane).map_err(failed)?,
                }
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

/// Those of `all` that are there more often than in `others`, each as often as that.
fn without(all: &[SteerLane], others: &[SteerLane]) -> Vec<SteerLane> {
    let mut rest = others.to_vec();
    let is_more = |lane: &&SteerLane| match rest.iter().position(|other| other == *lane) {
        Some(at) => {
            rest.swap_remove(at);
            false
        }
        None => true,
    };
    all.iter().filter(is_more).copied().collect()
}

impl Device {
    /// Opens this device for `lane`.
    fn open(
        &mut self,
        seat: Seat,
        memory: &RegionMemory,
        steering: Option<&mut Steering>,
    ) -> Result<(LaneDevice, Vec<Fd>), Refusal> {
        let name = self.name.clone();
        let failed = |errno: Errno| Refusal::new(errno, format!("opening device {name}: {errno}"));
        let steered = |e: OpenError| Refusal::new(e.errno(), format!("opening device {name}: {e}"));
        let busy = || Refusal::new(Errno::BUSY, format!("device {name} serves one process at a time"));
        let lane = steer_lane(seat.slot)?;
        let mut row = self.row();
        let fds = match (&mut self.back, steering) {
            (Back::Packet, Some(steering)) => {
                vec![open_filtered(row.ifindex, lane, steering).map_err(steered)?]
            }
            (Back::Xdp(xdp), Some(steering)) => {
                xdp.open(&mut row, (seat, lane), memory, steering).map_err(steered)?
            }
            (Back::Tap(queue), _) => {
                let held = queue.take().ok_or_else(busy)?;
                row.kind = DeviceKind::Tap;
                row.flags |= device_flags::OWN_ADDRESS;
                vec![held]
            }
            (Back::Own { taken }, _) => {
                if *taken {
                    return Err(busy());
                }
                let spec = PacketSpec { ifindex: row.ifindex, filter: None, ring: true, qdisc_bypass: false };
                let fd = port::packet::open(&spec).map_err(failed)?;
                *taken = true;
                row.flags |= device_flags::OWN_ADDRESS;
                vec![fd]
            }
            (Back::Memif(link), _) => {
                row.kind = DeviceKind::Memif;
                row.flags |= device_flags::OWN_ADDRESS;
                link.take().ok_or_else(busy)?
            }
            (Back::Packet | Back::Xdp(_), None) => return Err(failed(Errno::NODEV)),
        };
        row.fds = fds.len() as u8;
        Ok((row, fds))
    }

    fn row(&self) -> LaneDevice {
        LaneDevice {
            ifindex: self.ifindex,
            kind: DeviceKind::Packet,
            flags: if self.local_peer { device_flags::UNFINISHED_CHECKSUMS } else { 0 },
            mtu: self.mtu,
            queues: 0,
            mac: self.mac,
            fds: 0,
        }
    }

    /// The row of the mirrored tables for a device of which the kernel does not know.
    pub(crate) fn own_link(&self) -> Option<Link> {
        let Back::Memif(_) = self.back else { return None };
        let mut name = [0; 16];
        for (to, from) in name.iter_mut().zip(b"memif".iter().chain(self.ifindex.to_string().as_bytes())) {
            *to = *from;
        }
        let (ifindex, mac, mtu) = (self.ifindex, self.mac, self.mtu);
        Some(Link {
            ifindex,
            name,
            mac,
            mtu,
            up: true,
            running: true,
            kind: LinkKind::Ethernet,
            rx_queues: 1,
            tx_queues: 1,
            ..Link::default()
        })
    }

    /// For `explain` and `--verbose`.
    pub(crate) fn describe(&self) -> String {
        let port = match &self.back {
            Back::Packet => "packet port, addresses shared with the kernel",
            Back::Xdp(xdp) => &xdp.describe(),
            Back::Tap(_) => "tap port, an address of its own",
            Back::Own { .. } => "packet port, an address of its own",
            Back::Memif(_) => "memif port, an address of its own",
        };
        format!("{} ({port}, MTU {})", self.name, self.mtu)
    }
}

/// Our Ethernet address behind a TAP device: locally administered, made from the IP address, so that it stays the same.
fn tap_mac(tap: &OwnSpec) -> MacAddr {
    let [.., a, b, c, d] = address_of(tap.address).0;
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
        assert!(no(Link { master: 9, ..link(LinkKind::Veth) }, PortChoice::Auto).contains("member"));
        let queues = |rx_queues| Link { rx_queues, ..link(LinkKind::Ethernet) };
        assert!(no(queues(17), PortChoice::Xdp).contains("17 receive queues"));
        assert_eq!(choose(&queues(16), PortChoice::Xdp).map(|chosen| chosen.kind), Ok(PortKind::Xdp));
        assert_eq!(choose(&queues(17), PortChoice::Auto).map(|chosen| chosen.kind), Ok(PortKind::Packet));
        assert!(no(link(LinkKind::Veth), PortChoice::Tap).contains("TAP"));
    }
}
