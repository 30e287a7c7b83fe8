//! What a keeper is told to do: devices, kinds of port, sizes, user.

use std::fmt;
use std::net::IpAddr;

use port::memif::Role;
use region::{Region, RegionShape};

/// Longest interface name (IFNAMSIZ - 1), bytes.
const NAME_BYTES_MAX: usize = 15;

/// A device that the user named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSpec {
    /// A device of the current network namespace; its addresses stay shared with the kernel.
    Kernel(String),
    /// A TAP device to be made, with an address that is Corelane's alone.
    Tap(OwnSpec),
    /// A device that is there, with an address that is Corelane's alone: needs no BPF.
    Own(OwnSpec),
    /// A memif wire to another program, with an address that is Corelane's alone.
    Memif(MemifDevice),
}

/// A memif wire to another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemifDevice {
    /// The address; the name is the path of the control socket.
    pub own: OwnSpec,
    /// Which end we are.
    pub role: Role,
    /// Number of the interface.
    pub id: u32,
    /// Shared secret; empty: none.
    pub secret: String,
    /// Largest IP packet, bytes.
    pub mtu: u16,
}

impl MemifDevice {
    /// Path of the control socket.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.own.name
    }

    /// Reads `PATH=ADDRESS/PREFIX[,gw=ADDRESS][,role=client|server][,id=N][,secret=TEXT][,mtu=N]`.
    fn parse(text: &str) -> Result<Self, String> {
        let (mut role, mut id, mut secret, mut mtu) = (Role::Client, 0, String::new(), 1500);
        let own = OwnSpec::parse_with(text, |name, value| {
            let wrong = || format!("`{value}` cannot be the {name}");
            match name {
                "role" => {
                    role = match value {
                        "client" => Role::Client,
                        "server" => Role::Server,
                        _ => return Err("the role is client or server".to_owned()),
                    }
                }
                "id" => id = value.parse().map_err(|_| wrong())?,
                "secret" if value.len() <= 24 => secret = value.to_owned(),
                "mtu" => mtu = value.parse().ok().filter(|mtu| *mtu >= 576).ok_or_else(wrong)?,
                _ => {
                    return Err(format!(
                        "`{name}` is unknown; it can be gw, role, id, secret (24 bytes), mtu"
                    ));
                }
            }
            Ok(())
        })?;
        if own.name.is_empty() || own.name.len() > 107 {
            return Err("the path of the socket must have 1 to 107 bytes".to_owned());
        }
        Ok(Self { own, role, id, secret, mtu })
    }
}

/// A device with an address of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnSpec {
    /// Name of the device.
    pub name: String,
    /// Corelane's address on it.
    pub address: IpAddr,
    /// Prefix length of its network, 1 to 30, or 1 to 126 of IPv6.
    pub prefix: u8,
    /// Router for everything else.
    pub gateway: Option<IpAddr>,
}

impl DeviceSpec {
    /// Reads `NAME`, `tap:NAME=ADDRESS/PREFIX[,gw=ADDRESS]`, `own:NAME=ADDRESS/PREFIX[,gw=ADDRESS]` or
    /// `memif:PATH=ADDRESS/PREFIX[,gw=ADDRESS][,role=client|server][,id=N][,secret=TEXT][,mtu=N]`.
    ///
    /// # Errors
    /// What is wrong with `text`, for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(tap) = text.strip_prefix("tap:") {
            return OwnSpec::parse(tap).map(Self::Tap);
        }
        if let Some(own) = text.strip_prefix("own:") {
            return OwnSpec::parse(own).map(Self::Own);
        }
        if let Some(memif) = text.strip_prefix("memif:") {
            return MemifDevice::parse(memif).map(Self::Memif);
        }
        checked_name(text).map(Self::Kernel)
    }

    /// The address that is Corelane's alone, if it has one.
    #[must_use]
    pub fn own(&self) -> Option<&OwnSpec> {
        match self {
            Self::Kernel(_) => None,
            Self::Tap(own) | Self::Own(own) => Some(own),
            Self::Memif(memif) => Some(&memif.own),
        }
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Kernel(name) => name,
            Self::Tap(own) | Self::Own(own) => &own.name,
            Self::Memif(memif) => memif.path(),
        }
    }
}

impl OwnSpec {
    fn parse(text: &str) -> Result<Self, String> {
        let unknown =
            |name: &str, value: &str| Err(format!("`{name}={value}` is unknown; only gw=ADDRESS can follow"));
        let own = Self::parse_with(text, unknown)?;
        Ok(Self { name: checked_name(&own.name)?, ..own })
    }

    /// `option` is given what follows the address, but for the gateway. The name is not checked.
    fn parse_with(
        text: &str,
        mut option: impl FnMut(&str, &str) -> Result<(), String>,
    ) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').ok_or("it needs =ADDRESS/PREFIX after the device's name")?;
        let mut parts = rest.split(',');
        let network = parts.next().unwrap_or_default();
        let (address, prefix) =
            network.split_once('/').ok_or("the address needs /PREFIX, such as 10.9.0.2/24")?;
        let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is no IP address"))?;
        let most = if address.is_ipv4() { 30 } else { 126 };
        let prefix = prefix.parse().ok().filter(|p| (1..=most).contains(p));
        let prefix = prefix.ok_or(format!("the prefix length must be 1 to {most}"))?;
        let mut gateway = None;
        for part in parts {
            match part.split_once('=') {
                Some(("gw", gw)) => {
                    let router: IpAddr = gw.parse().map_err(|_| format!("`{gw}` is no IP address"))?;
                    if router.is_ipv4() != address.is_ipv4() {
                        return Err(format!("`{gw}` is not of the family of `{address}`"));
                    }
                    gateway = Some(router);
                }
                Some((name, value)) => option(name, value)?,
                None => return Err(format!("`{part}` is unknown; only NAME=VALUE can follow")),
            }
        }
        Ok(Self { name: name.to_owned(), address, prefix, gateway })
    }
}

fn checked_name(name: &str) -> Result<String, String> {
    let bad = name.is_empty()
        || name.len() > NAME_BYTES_MAX
        || name.chars().any(|c| c == '/' || c.is_whitespace() || c.is_control());
    if bad { Err(format!("`{name}` cannot be an interface name")) } else { Ok(name.to_owned()) }
}

/// Which kind of port to use on a device of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PortChoice {
    /// The best one of each device.
    #[default]
    Auto,
    /// AF_XDP.
    Xdp,
    /// AF_PACKET with a steering program on TCX.
    Packet,
    /// TAP devices only.
    Tap,
}

impl PortChoice {
    /// Reads `auto`, `xdp`, `packet` or `tap`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "xdp" => Some(Self::Xdp),
            "packet" => Some(Self::Packet),
            "tap" => Some(Self::Tap),
            _ => None,
        }
    }
}

impl fmt::Display for PortChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Packet => "packet",
            Self::Tap => "tap",
        })
    }
}

/// How long a thread looks at its ports before it sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Spin {
    /// As long as it pays, learnt from each lane's waits.
    #[default]
    Auto,
    /// So many microseconds before every sleep; 0: never.
    Micros(u32),
}

impl Spin {
    /// Reads `auto` or a number of microseconds up to 1000000.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "auto" => Some(Self::Auto),
            number => number.parse().ok().filter(|us| *us <= 1_000_000).map(Self::Micros),
        }
    }
}

impl fmt::Display for Spin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Micros(us) => write!(f, "{us}"),
        }
    }
}

/// Whether regions lie on huge pages (2 MiB), which have to be reserved (vm.nr_hugepages).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HugePages {
    /// On ordinary pages.
    #[default]
    Off,
    /// If there are enough; else on ordinary pages, with the reason on record.
    Try,
    /// Only if there are enough; else sockets stay with the kernel, with the reason on record.
    Need,
}

impl HugePages {
    /// Reads `off`, `try` or `need`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            "try" => Some(Self::Try),
            "need" => Some(Self::Need),
            _ => None,
        }
    }
}

impl fmt::Display for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Try => "try",
            Self::Need => "need",
        })
    }
}

/// How large one process's lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSizes {
    /// TCP sockets.
    pub sockets: u32,
    /// Frames of 4 KiB.
    pub frames: u32,
    /// On huge pages?
    pub huge_pages: HugePages,
}

impl Default for RegionSizes {
    fn default() -> Self {
        Self { sockets: 16_384, frames: 16_384, huge_pages: HugePages::Off }
    }
}

impl RegionSizes {
    /// Sockets: at most this many.
    pub const SOCKETS_MAX: u32 = 4 << 20;
    /// Frames: at most this many (16 GiB).
    pub const FRAMES_MAX: u32 = 4 << 20;

    /// Bytes of a region of these sizes for an unmodified program, with as many lanes as it may have.
    #[must_use]
    pub fn region_bytes(&self) -> u64 {
        let lane_bytes = state::LaneShape::for_program(self.sockets).lane_bytes();
        let shape = RegionShape { lanes: base::limits::LANES as u16, lane_bytes, frames: self.frames };
        Region::bytes_needed(&shape)
    }

    /// Are these sizes possible?
    ///
    /// # Errors
    /// What is wrong, for the user.
    pub fn check(&self) -> Result<(), String> {
        if !(64..=Self::SOCKETS_MAX).contains(&self.sockets) {
            return Err(format!("sockets must be 64 to {}, not {}", Self::SOCKETS_MAX, self.sockets));
        }
        if !(512..=Self::FRAMES_MAX).contains(&self.frames) {
            return Err(format!("frames must be 512 to {}, not {}", Self::FRAMES_MAX, self.frames));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_device_is_read_with_its_gateway() {
        let spec = DeviceSpec::parse("tap:cl0=10.9.0.2/24,gw=10.9.0.1");
        let tap = OwnSpec {
            name: "cl0".to_owned(),
            address: IpAddr::from([10, 9, 0, 2]),
            prefix: 24,
            gateway: Some(IpAddr::from([10, 9, 0, 1])),
        };
        assert_eq!(spec, Ok(DeviceSpec::Tap(tap.clone())));
        assert_eq!(DeviceSpec::parse("own:cl0=10.9.0.2/24,gw=10.9.0.1"), Ok(DeviceSpec::Own(tap)));
    }

    #[test]
    fn a_memif_device_is_read_with_its_options() {
        let spec = DeviceSpec::parse(
            "memif:/run/vpp/memif.sock=10.9.0.2/24,role=server,id=3,secret=psst,mtu=9000,gw=10.9.0.1",
        );
        let Ok(DeviceSpec::Memif(memif)) = spec else { panic!("{spec:?}") };
        assert_eq!((memif.path(), memif.role, memif.id), ("/run/vpp/memif.sock", Role::Server, 3));
        assert_eq!((memif.secret.as_str(), memif.mtu), ("psst", 9000));
        assert_eq!(memif.own.gateway, Some(IpAddr::from([10, 9, 0, 1])));
    }

    #[test]
    fn a_device_may_have_an_ipv6_address() {
        let spec = DeviceSpec::parse("tap:cl0=fd00:9::2/64,gw=fd00:9::1").expect("good");
        let own = spec.own().expect("an address of our own");
        assert_eq!((own.address, own.prefix), ("fd00:9::2".parse().expect("an address"), 64));
        assert_eq!(own.gateway, "fd00:9::1".parse().ok());
        let memif = DeviceSpec::parse("memif:/run/x.sock=fd00:9::2/64,role=server").expect("good");
        assert_eq!(memif.own().map(|own| own.prefix), Some(64));
    }

    #[test]
    fn mistakes_in_a_device_are_named() {
        for (text, part) in [
            ("tap:cl0", "=ADDRESS/PREFIX"),
            ("tap:cl0=10.9.0.2", "/PREFIX"),
            ("tap:cl0=10.9.0/24", "no IP address"),
            ("tap:cl0=10.9.0.2/31", "1 to 30"),
            ("tap:cl0=fd00::2/127", "1 to 126"),
            ("tap:cl0=fd00::2/64,gw=10.9.0.1", "not of the family"),
            ("tap:cl0=10.9.0.2/24,mtu=9000", "`mtu=9000` is unknown"),
            ("memif:/x=10.9.0.2/24,role=slave", "client or server"),
            ("memif:/x=10.9.0.2/24,mtu=99", "`99` cannot be the mtu"),
            ("memif:/x=10.9.0.2/24,queues=2", "`queues` is unknown"),
            ("memif:=10.9.0.2/24", "path of the socket"),
            ("", "interface name"),
            ("a-name-much-too-long", "interface name"),
            ("../eth0", "interface name"),
        ] {
            let why = DeviceSpec::parse(text).expect_err("wrong");
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
