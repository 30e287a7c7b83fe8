//! The policy file: who may run programs through the shared keeper, on what, and how much of it.
//!
//! Rules are tried in their order; the first that names the user, or one of the user's groups, decides. Nobody else may. Without a file only root may.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::guard::Guard;
use crate::settings::DeviceSpec;

/// What the policy file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    #[serde(default)]
    allow: Vec<Grant>,
    /// The file, for messages.
    #[serde(skip)]
    source: String,
}

/// Why a policy cannot be used: the file, the line and the key, in words for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError(pub String);

impl std::fmt::Display for PolicyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PolicyError {}

/// One `[[allow]]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grant {
    name: Option<String>,
    #[serde(default)]
    users: Vec<Who>,
    #[serde(default)]
    groups: Vec<Who>,
    devices: Option<Vec<DeviceText>>,
    addresses: Option<Vec<Network>>,
    ports: Option<Vec<PortRange>>,
    #[serde(default)]
    namespaces: Namespaces,
    runs: Option<u32>,
    lanes: Option<Lanes>,
    memory: Option<Bytes>,
    connections: Option<u32>,
}

/// In which network namespaces a rule holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Namespaces {
    /// In any.
    #[default]
    Any,
    /// In the keeper's only.
    Host,
}

/// A user or group, by name or number; `*`: everybody.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Who {
    Number(u32),
    Name(String),
}

/// A device as `--device` has it, read once to see that it can be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct DeviceText(String);

impl TryFrom<String> for DeviceText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let own = ["tap:", "own:", "memif:"].iter().any(|kind| text.starts_with(kind));
        // With an address that is Corelane's alone, the name suffices: the rest is the run's choice.
        if !own || text.contains('=') {
            DeviceSpec::parse(&text)?;
        }
        Ok(Self(text))
    }
}

/// Addresses: `10.0.0.0/8`, `fd00::/8`, or a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Network {
    addr: IpAddr,
    prefix: u8,
}

impl Network {
    /// Is `addr` one of them?
    pub(super) fn contains(self, addr: IpAddr) -> bool {
        let same = |a: u128, b: u128, bits: u8| {
            let rest = u32::from(bits).saturating_sub(u32::from(self.prefix));
            a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
        };
        match (self.addr, addr) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no address or network: write 10.0.0.1, 10.0.0.0/8 or fd00::/8");
        let (addr, prefix) = text.split_once('/').map_or((text.as_str(), None), |(a, p)| (a, Some(p)));
        let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(most), str::parse).map_err(|_| wrong())?;
        if prefix > most { Err(wrong()) } else { Ok(Self { addr, prefix }) }
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        format!("{}/{}", network.addr, network.prefix)
    }
}

/// Ports: `8080`, `"8080"` or `"8000-8999"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PortText", into = "String")]
pub(super) struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Is `port` one of them?
    pub(super) fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PortText {
    Number(u16),
    Text(String),
}

impl TryFrom<PortText> for PortRange {
    type Error = String;

    fn try_from(text: PortText) -> Result<Self, String> {
        let text = match text {
            PortText::Number(port) => return Ok(Self { first: port, last: port }),
            PortText::Text(text) => text,
        };
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(format!("`{text}` is no port or range: write 8080 or \"8000-8999\"")),
        }
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        format!("{}-{}", range.first, range.last)
    }
}

/// Lanes of one run, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u16")]
struct Lanes(u16);

impl TryFrom<u16> for Lanes {
    type Error = String;

    fn try_from(lanes: u16) -> Result<Self, String> {
        let most = base::limits::LANES as u16;
        if (1..=most).contains(&lanes) {
            Ok(Self(lanes))
        } else {
            Err(format!("lanes must be 1 to {most}, not {lanes}"))
        }
    }
}

/// Memory: bytes as a number, or with KiB, MiB or GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ByteText")]
struct Bytes(u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum ByteText {
    Number(u64),
    Text(String),
}

impl TryFrom<ByteText> for Bytes {
    type Error = String;

    fn try_from(text: ByteText) -> Result<Self, String> {
        let text = match text {
            ByteText::Number(bytes) => return Ok(Self(bytes)),
            ByteText::Text(text) => text,
        };
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
        let (number, shift) = units
            .iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
            .unwrap_or((&text, 0));
        let bytes = number.trim().parse().ok().and_then(|n: u64| n.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| format!("`{text}` is no size: write 512MiB, 2GiB or a number of bytes"))
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) uid: u32,
    /// Its groups, the primary one first.
    pub(super) groups: Vec<u32>,
    /// Is it in the keeper's network namespace?
    pub(super) inside: bool,
}

/// What a caller may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leave {
    /// For the run's keeper.
    pub(super) guard: Guard,
    /// Devices; empty: every usable one.
    pub(super) devices: Vec<String>,
    /// Devices that are not there are left out: the policy names them, not the caller.
    pub(super) lenient: bool,
    /// Runs of this user at a time.
    pub(super) runs: Option<u32>,
    /// Connections of one process at most.
    pub(super) connections: Option<u32>,
}

/// Why not, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denied {
    pub(super) why: String,
    pub(super) fix: String,
}

impl Policy {
    /// Reads the file at `path`; without one, only root may.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let wrong = |why: String| PolicyError(format!("policy file {}: {why}", path.display()));
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path).map_err(wrong),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::root_only(path)),
            Err(e) => Err(wrong(e.to_string())),
        }
    }

    fn root_only(path: &Path) -> Self {
        let root = Grant { users: vec![Who::Number(0)], ..Grant::none() };
        Self { allow: vec![root], source: format!("{} (which is not there: root only)", path.display()) }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, String> {
        let policy: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        for (at, grant) in policy.allow.iter().enumerate() {
            if grant.users.is_empty() && grant.groups.is_empty() {
                let nth = at + 1;
                return Err(format!(
                    "[[allow]] number {nth} names nobody: give it users = [...] or groups = [...]"
                ));
            }
        }
        Ok(Self { source: path.display().to_string(), ..policy })
    }

    /// The name of the file, and what it is if not there.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Number of its rules.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.allow.len()
    }

    /// May `caller` run programs on `devices` (none named: as the rule says)?
    pub(super) fn judge(&self, caller: &Caller, devices: &[String]) -> Result<Leave, Denied> {
        let found = self.allow.iter().enumerate().find(|(_, grant)| grant.names(caller));
        let Some((at, grant)) = found else {
            return Err(Denied {
                why: format!("no rule of {} is for user {}", self.source, user_name(caller.uid)),
                fix: format!(
                    "add `[[allow]]` with `users = [\"{}\"]` there and reload the keeper",
                    user_name(caller.uid)
                ),
            });
        };
        let rule = grant.name.clone().unwrap_or_else(|| (at + 1).to_string());
        let denied = |why: String, fix: String| {
            let why = format!("{why} (rule `{rule}` of {})", self.source);
            Err(Denied { why, fix })
        };
        if grant.namespaces == Namespaces::Host && !caller.inside {
            let fix = "run it in the keeper's network namespace, or set `namespaces = \"any\"` in the rule";
            return denied("the caller is in another network namespace".to_owned(), fix.to_owned());
        }
        if let Some(device) = devices.iter().find(|device| !grant.has_device(device)) {
            let allowed = grant.device_names().join(", ");
            let fix = format!(
                "use one of: {}; or add it to `devices` of the rule",
                if allowed.is_empty() { "none" } else { &allowed }
            );
            return denied(format!("device `{device}` is not among the rule's devices"), fix);
        }
        let named = grant.devices.as_ref().filter(|_| devices.is_empty());
        let plain = |name: &&DeviceText| !name.0.contains(':');
        Ok(Leave {
            guard: Guard {
                uid: caller.uid,
                gid: caller.groups.first().copied().unwrap_or(u32::MAX),
                rule: format!("`{rule}` of {}", self.source),
                addresses: grant.addresses.clone(),
                ports: grant.ports.clone(),
                lanes: grant.lanes.map(|lanes| lanes.0),
                memory: grant.memory.map(|memory| memory.0),
            },
            devices: match named {
                Some(named) => named.iter().filter(plain).map(|name| name.0.clone()).collect(),
                None => devices.to_vec(),
            },
            lenient: named.is_some(),
            runs: grant.runs,
            connections: grant.connections,
        })
    }
}

impl Grant {
    const fn none() -> Self {
        Self {
            name: None,
            users: Vec::new(),
            groups: Vec::new(),
            devices: None,
            addresses: None,
            ports: None,
            namespaces: Namespaces::Any,
            runs: None,
            lanes: None,
            memory: None,
            connections: None,
        }
    }

    fn names(&self, caller: &Caller) -> bool {
        self.users.iter().any(|who| who.is(caller.uid, "/etc/passwd"))
            || self.groups.iter().any(|who| caller.groups.iter().any(|&gid| who.is(gid, "/etc/group")))
    }

    fn device_names(&self) -> Vec<&str> {
        self.devices.iter().flatten().map(|device| device.0.as_str()).collect()
    }

    /// A device of the kernel's may be used unless devices are named; what takes an address or a device for itself must be named, whole or as
    /// `tap:NAME`, `own:NAME`, `memif:PATH`. `lo` attaches to nothing.
    fn has_device(&self, device: &str) -> bool {
        let kind = device.split_once('=').map_or(device, |(kind, _)| kind);
        let own = ["tap:", "own:", "memif:"].iter().any(|k| device.starts_with(k));
        match &self.devices {
            None => !own,
            Some(devices) => device == "lo" || devices.iter().any(|d| d.0 == device || d.0 == kind),
        }
    }
}

impl Who {
    /// Is it number `id`, by what `file` (passwd or group) says of names?
    fn is(&self, id: u32, file: &str) -> bool {
        match self {
            Self::Number(number) => *number == id,
            Self::Name(name) if name == "*" => true,
            Self::Name(name) => {
                number_of(name, &std::fs::read_to_string(PathBuf::from(file)).unwrap_or_default()) == Some(id)
            }
        }
    }
}

/// The number of `name` in a text like /etc/passwd or /etc/group.
fn number_of(name: &str, text: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// The name of user `uid`, or the number.
pub(super) fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests;
