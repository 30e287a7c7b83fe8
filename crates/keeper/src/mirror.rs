//! The mirrored control plane: written here, read by every program through a memfd nobody else can write.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use base::IpAddress;
use control::netlink::Mirror as Netlink;
use control::tables::{Address, Link, TABLES_BYTES, Tables, TablesWriter};
use rustix::io::Errno;
use sys::fds::Fd;
use sys::memory::{memfd, seal_writes};

use crate::client::Refusal;
use crate::devices::Devices;
use crate::error::StartError;
use crate::memif::FIRST_IFINDEX;
use crate::settings::DeviceSpec;

/// The devices of this thread's network namespace.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn links() -> Result<Vec<Link>, StartError> {
    Mirror::open().map(|mirror| mirror.links())
}

/// The mirror and the memory it writes to.
pub(crate) struct Mirror {
    netlink: Netlink,
    memory: Fd,
}

impl Mirror {
    /// Reads the namespace of this thread.
    pub(crate) fn open() -> Result<Self, StartError> {
        let failed =
            |e: &dyn std::fmt::Display| StartError::new("reading links, addresses and routes", e, "");
        let memory = memfd("corelane-tables", TABLES_BYTES as u64, false).map_err(|e| failed(&e))?;
        let words = sys::memory::map_shared(&memory.fd, memory.bytes).map_err(|e| failed(&e))?;
        seal_writes(&memory.fd).map_err(|e| failed(&e))?;
        let writer = TablesWriter::format(words).map_err(|e| failed(&format!("{e:?}")))?;
        let netlink = Netlink::open(writer).map_err(|e| failed(&e))?;
        Ok(Self { netlink, memory: memory.fd })
    }

    /// The devices of the namespace, each with the receive queues that it uses, of those that it was made with.
    pub(crate) fn links(&self) -> Vec<Link> {
        let mut links = self.netlink.tables().links();
        for link in &mut links {
            let used = sys::links::receive_queues(link.name()).ok().and_then(|used| u16::try_from(used).ok());
            if let Some(used) = used.filter(|used| *used > 0) {
                link.rx_queues = used;
            }
        }
        links
    }

    /// Enters the addresses that are Corelane's alone: the kernel does not know them.
    pub(crate) fn add_own(&mut self, specs: &[DeviceSpec], devices: &Devices) -> Result<(), StartError> {
        for spec in specs {
            let Some(own) = spec.own() else { continue };
            let Some(device) = devices.list().iter().find(|d| d.name == own.name) else { continue };
            // The other side of a TAP device is this machine's kernel: the gateway, unless somebody gave it an address.
            let given = |gateway: IpAddress| {
                // The kernel gives every device a link-local address by itself.
                let same = |a: &Address| {
                    a.addr.is_v4() == gateway.is_v4() && !a.addr.as_v6().is_unicast_link_local()
                };
                let addresses = self.netlink.tables().addresses();
                addresses.iter().any(|a| a.ifindex == device.ifindex && same(a))
            };
            let gateway = own.gateway.map(address_of).filter(|_| matches!(spec, DeviceSpec::Tap(_)));
            if let Some(gateway) = gateway.filter(|gateway| !given(*gateway)) {
                self.netlink.add_kernel_address(device.ifindex, gateway, own.prefix).map_err(|errno| {
                    StartError::new(format!("the kernel's address on {}", own.name), errno, "")
                })?;
            }
            if let Some(link) = device.own_link() {
                self.netlink.add_own_link(link);
            }
            self.netlink.add_own(control::netlink::OwnAddress {
                ifindex: device.ifindex,
                addr: address_of(own.address),
                prefix: own.prefix,
                gateway: own.gateway.map_or(IpAddress::ANY, address_of),
            });
        }
        self.update();
        Ok(())
    }

    /// The tables as programs see them.
    pub(crate) fn tables(&self) -> Tables {
        self.netlink.tables()
    }

    /// Who listens where on this host has changed.
    pub(crate) fn count_meeting(&mut self) {
        self.netlink.writer().count_meeting();
    }

    /// A notice was sent to some program.
    pub(crate) fn count_notice(&mut self) {
        self.netlink.writer().count_notice();
    }

    /// Does `addr` belong to Corelane alone?
    pub(crate) fn is_own(&self, addr: IpAddress) -> bool {
        self.netlink.is_own_address(addr)
    }

    /// What to poll.
    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.netlink.as_fd())
    }

    /// Takes in what the kernel reported. True: addresses changed.
    pub(crate) fn update(&mut self) -> bool {
        match self.netlink.update() {
            Ok(changes) => changes.addresses || changes.links,
            Err(errno) => {
                log::warn!("following the kernel's tables: {errno}");
                false
            }
        }
    }

    /// Addresses of the devices for which `wanted` says so.
    pub(crate) fn addresses(&self, wanted: impl Fn(u32) -> bool) -> Vec<IpAddress> {
        let rows = self.netlink.tables().addresses();
        rows.iter().filter(|a| wanted(a.ifindex)).map(|a| a.addr).collect()
    }

    /// Asks the kernel to resolve a neighbour.
    pub(crate) fn resolve(&mut self, ifindex: u32, addr: IpAddress) -> Result<(), Refusal> {
        if ifindex >= FIRST_IFINDEX {
            return Ok(()); // no device of the kernel's: the lane asks by itself
        }
        self.netlink
            .resolve(ifindex, addr)
            .map_err(|errno: Errno| Refusal::new(errno, format!("resolving {addr}: {errno}")))
    }

    /// The tables, read-only for everybody else.
    pub(crate) fn tables_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// `ip` as the tables have it.
pub(crate) fn address_of(ip: IpAddr) -> IpAddress {
    match ip {
        IpAddr::V4(v4) => IpAddress::from_v4(v4),
        IpAddr::V6(v6) => IpAddress::from_v6(v6),
    }
}
