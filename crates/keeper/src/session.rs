//! What one `corelane run` serves: the listening socket, the family's processes, their regions and lanes.
//!
//! Invariant: a region's memory is handed on, never read here; whatever a program says is checked against the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};

use base::{Duration, Instant, LaneId};
use control::proto::DeviceList;
use rustix::process::{Pid, WaitStatus};
use sys::Errno;
use sys::fds::{self, Fd};
use sys::launch::Identity;
use sys::poll::{PollFd, PollFlags, poll};

use crate::client::Client;
use crate::devices::{Device, Devices};
use crate::error::StartError;
use crate::meeting::Meeting;
use crate::memif::MemifLink;
use crate::mirror::Mirror;
use crate::regions::RegionMemory;
use crate::rules::{RuleBook, Slot};
use crate::settings::{DeviceSpec, HugePages, PortChoice, RegionSizes, Spin};
use crate::shared::Guard;
use crate::stewards::{START_DELAY, Steward};
use crate::strangers::{self, Strangers};
use crate::vanished::Vanished;
use crate::wires::WireBook;

/// Processes of one family at a time.
const CLIENTS_MAX: usize = 1024;
/// Messages of one client that are handled before others have their turn.
const TURN_MESSAGES: usize = 64;
/// Numbers of the sockets to programs and stewards, above those of all ports: when the keeper is killed they are closed before them, and whoever is at the other
/// end hears of it at once. Closing a packet socket waits for all processors.
pub(crate) const LINKS_FROM: i32 = 4096;
/// Longest wait for what other keepers say at first.
const MEETING_WAIT: Duration = Duration::from_millis(200);
/// Time between two looks at the connections that the kernel has on ports of lanes.
const SETTLE_LOOK: Duration = Duration::from_secs(2);
/// Regions of one session at a time.
pub(crate) const REGIONS_MAX: usize = 512;

/// Number of a connection; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) struct ClientId(pub(crate) u32);

/// Number of a region; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) struct RegionId(pub(crate) u32);

/// A lane that was handed out.
pub(crate) struct LaneHandle {
    /// Its process.
    pub(crate) owner: ClientId,
    /// The owner is gone; the steward finishes its connections.
    pub(crate) orphan: bool,
    /// The owner of an orphan left listeners that other processes have, too.
    pub(crate) heirs: bool,
    /// Stewards that ended before they were done with this orphan.
    pub(crate) stewards_lost: u32,
    pub(crate) slot: Slot,
    /// Whom connections were steered to last that waited here.
    pub(crate) heir: Option<Slot>,
    pub(crate) devices: DeviceList,
    /// Our copies of the ports' fds: for the steward, and so that a TAP queue can be given again.
    pub(crate) fds: Vec<Fd>,
}

/// A region with its lanes and its steward.
pub(crate) struct RegionHandle {
    pub(crate) memory: RegionMemory,
    pub(crate) lanes: BTreeMap<LaneId, LaneHandle>,
    pub(crate) maker: ClientId,
    /// The maker's user: others never share the region.
    pub(crate) uid: u32,
    /// When it was made, or when its steward may be tried again.
    pub(crate) since: Instant,
    pub(crate) steward: Option<Steward>,
    /// Stewards in a row that ended soon after their start.
    pub(crate) short_lived: u32,
}

/// How the abstract socket of every keeper begins.
pub(crate) const NAME_PREFIX: &str = "corelane-";

/// The state of a session.
pub(crate) struct Session {
    listener: Fd,
    name: String,
    token: [u8; 16],
    settings: Settings,
    pub(crate) clients: BTreeMap<ClientId, Client>,
    pub(crate) regions: BTreeMap<RegionId, RegionHandle>,
    pub(crate) devices: Devices,
    pub(crate) rules: RuleBook,
    pub(crate) mirror: Mirror,
    next_number: u32,
    /// The kernel may have connections on ports of lanes.
    unsettled: bool,
    /// When that was last looked at.
    looked_at: Instant,
    /// Who else listens where lanes do.
    pub(crate) strangers: Strangers,
    /// When that was last looked at.
    strangers_at: Instant,
    /// This keeper among those of the host.
    pub(crate) meeting: Meeting,
    pub(crate) wires: WireBook,
    /// Other keepers that were killed a moment ago.
    pub(crate) vanished: Vanished,
    /// Something that other keepers are told may have changed.
    pub(crate) has_news: bool,
    /// Something went away: look for regions that nobody has.
    pub(crate) sweep: bool,
}

/// What a session is told to do, and for whom.
pub(crate) struct Terms {
    pub(crate) devices: Vec<DeviceSpec>,
    pub(crate) port: PortChoice,
    pub(crate) sizes: RegionSizes,
    pub(crate) spin: Spin,
    pub(crate) verbose: bool,
    /// The programs' user, if not ours.
    pub(crate) identity: Option<Identity>,
    /// The process whose descendants the programs are.
    pub(crate) family: u32,
    /// Limits by policy.
    pub(crate) guard: Option<Guard>,
    /// Which keeper this is, and why, for `explain`.
    pub(crate) about: String,
}

/// What of the terms a session needs later.
struct Settings {
    sizes: RegionSizes,
    spin: Spin,
    port: String,
    verbose: bool,
    identity: Option<Identity>,
    family: u32,
    guard: Option<Guard>,
    about: String,
}

fn random<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()) {
        Ok(got) if got == N => Ok(bytes),
        Ok(_) => Err(StartError::new("random numbers", "too few", "")),
        Err(errno) => Err(StartError::new("random numbers", errno, "")),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Session {
    /// Opens devices and socket.
    pub(crate) fn open(terms: &Terms) -> Result<Self, StartError> {
        let mut mirror = Mirror::open()?;
        let seed = u32::from_ne_bytes(random()?);
        let devices = Devices::open(&terms.devices, &mirror.links(), terms.port, seed)?;
        mirror.add_own(&terms.devices, &devices)?;
        let name = format!("{NAME_PREFIX}{}", hex(&random::<16>()?));
        let listener = fds::listen_abstract(name.as_bytes())
            .map_err(|e| StartError::new("the keeper's socket", e, ""))?;
        let settings = Settings {
            sizes: terms.sizes,
            spin: terms.spin,
            port: terms.port.to_string(),
            verbose: terms.verbose,
            identity: terms.identity.clone(),
            family: terms.family,
            guard: terms.guard.clone(),
            about: terms.about.clone(),
        };
        let (meeting, met) = Meeting::open(u64::from_ne_bytes(random()?));
        let mut session = Self {
            listener,
            name,
            token: random()?,
            settings,
            clients: BTreeMap::new(),
            regions: BTreeMap::new(),
            devices,
            rules: RuleBook::default(),
            mirror,
            next_number: 1,
            unsettled: false,
            strangers: Strangers::default(),
            strangers_at: Instant(0),
            looked_at: Instant(0),
            meeting,
            wires: WireBook::default(),
            vanished: Vanished::default(),
            has_news: true,
            sweep: false,
        };
        if let Err(why) = met {
            session.say(&format!("programs of other keepers are not met: {why}"));
        }
        session.follow_addresses();
        session.await_meeting();
        for device in session.devices.list() {
            session.say(&format!("device {}", device.describe()));
        }
        Ok(session)
    }

    /// Hears who listens where already, so that the command's first connection finds them. Keepers answer at once; not long, because one
    /// may be stopped.
    fn await_meeting(&mut self) {
        let until = sys::clock::now().plus(MEETING_WAIT);
        self.serve_meeting();
        while !self.meeting.has_heard_all() {
            let left = until.since(sys::clock::now());
            let fds: Vec<BorrowedFd<'_>> = self.meeting.poll_fds().collect();
            let mut polled: Vec<PollFd<'_>> =
                fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
            if left == Duration::ZERO || poll(&mut polled, Some(left)).is_err() {
                return;
            }
            self.serve_meeting();
        }
    }

    /// The name of its abstract socket.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The secret of its programs, as they find it in their environment.
    pub(crate) fn token_text(&self) -> String {
        hex(&self.token)
    }

    /// Limits by policy, if it has any.
    pub(crate) fn guard(&self) -> Option<&Guard> {
        self.settings.guard.as_ref()
    }

    /// Which keeper this is, and why.
    pub(crate) fn about(&self) -> &str {
        &self.settings.about
    }

    /// Do lanes go on when this process dies, because the shared keeper holds what they need?
    pub(crate) fn can_outlive(&self) -> bool {
        let steered = |device: &Device| self.devices.is_steered(device.ifindex);
        self.settings.guard.is_some() && self.devices.list().iter().all(steered)
    }

    /// The process whose descendants the programs are.
    pub(crate) fn family(&self) -> u32 {
        self.settings.family
    }

    /// Settings for a program, as it gets them in Welcome.
    pub(crate) fn program_config(&self) -> String {
        let RegionSizes { sockets, frames, huge_pages } = self.settings.sizes;
        format!(
            "CORELANE_SOCKETS={sockets}\nCORELANE_FRAMES={frames}\nCORELANE_HUGE_PAGES={huge_pages}\nCORELANE_PORT={}\nCORELANE_SPIN_US={}\nCORELANE_STEERING={}\n",
            self.settings.port,
            self.settings.spin,
            if self.can_outlive() { "kept" } else { "lost" },
        )
    }

    /// Must regions lie on huge pages, or be none?
    pub(crate) fn needs_huge_pages(&self) -> bool {
        self.settings.sizes.huge_pages == HugePages::Need
    }

    /// Does `token` open the door? Compared without a hint by time.
    pub(crate) fn knows(&self, token: &[u8; 16]) -> bool {
        self.token.iter().zip(token).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }

    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.settings.identity.as_ref()
    }

    pub(crate) fn next_number(&mut self) -> u32 {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1).max(1);
        number
    }

    /// Says what is done, with --verbose.
    pub(crate) fn say(&self, text: &str) {
        if self.settings.verbose {
            eprintln!("corelane: {text}");
        }
    }

    /// Is there anybody to serve, or a lane whose connections are being finished?
    pub(crate) fn is_busy(&self) -> bool {
        !self.clients.is_empty() || self.regions.values().any(|region| !region.lanes.is_empty())
    }

    /// The stewards' process ids.
    pub(crate) fn steward_pids(&self) -> BTreeSet<u32> {
        self.stewards().map(Steward::pid).collect()
    }

    /// Waits until something happens here, `signals` or one of `others` is readable, or `limit` is over.
    pub(crate) fn wait(
        &self,
        signals: BorrowedFd<'_>,
        others: &[BorrowedFd<'_>],
        limit: Option<Duration>,
    ) -> Result<(), Errno> {
        let mut wanted = vec![signals, self.listener.as_fd()];
        wanted.extend_from_slice(others);
        wanted.extend(self.mirror.poll_fd());
        wanted.extend(self.meeting.poll_fds());
        wanted.extend(self.devices.memifs().filter_map(MemifLink::poll_fd));
        wanted.extend(self.clients.values().flat_map(Client::poll_fds));
        wanted.extend(self.stewards().map(Steward::poll_fd));
        let mut polled: Vec<PollFd<'_>> =
            wanted.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let limit = limit.into_iter().chain(self.next_look()).min();
        match poll(&mut polled, limit) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// How long until a steward may have to be started, or connections be looked at.
    fn next_look(&self) -> Option<Duration> {
        let waiting =
            self.regions.values().any(|region| region.steward.is_none() && !region.lanes.is_empty());
        let looks = [
            waiting.then_some(START_DELAY),
            self.unsettled.then_some(SETTLE_LOOK),
            self.rules.shares().then_some(strangers::LOOK),
            self.vanished.next_look(sys::clock::now()),
        ];
        looks.into_iter().flatten().min()
    }

    /// Handles whatever is ready.
    pub(crate) fn serve(&mut self) {
        if self.mirror.update() {
            self.follow_addresses();
            self.has_news = true;
        }
        self.devices.serve_memifs();
        self.accept();
        let ids: Vec<ClientId> = self.clients.keys().copied().collect();
        for id in ids {
            self.serve_client(id);
        }
        self.serve_stewards();
        self.serve_meeting();
        self.ask_vanished();
        self.drop_unused_regions();
        let now = sys::clock::now();
        if self.unsettled && now.since(self.looked_at) >= SETTLE_LOOK {
            self.looked_at = now;
            self.unsettled = self.devices.settle();
        }
        if self.rules.shares() && now.since(self.strangers_at) >= strangers::LOOK {
            self.strangers_at = now;
            self.look_for_strangers();
        }
    }

    /// There are new rules, beside which the kernel may have connections. The first look waits a little: a SYN that passed before the rule
    /// may not be in the kernel's list yet.
    pub(crate) fn unsettle(&mut self) {
        self.unsettled = true;
        self.looked_at = sys::clock::now();
    }

    /// Rules for any address mean the devices' addresses of now.
    fn follow_addresses(&mut self) {
        let devices = &self.devices;
        let mut addresses = self.mirror.addresses(|ifindex| devices.is_steered(ifindex));
        if let Some(guard) = &self.settings.guard {
            addresses.retain(|addr| guard.has_address(*addr));
        }
        let changes = self.rules.set_addresses(addresses);
        if !changes.is_empty() {
            self.unsettle();
        }
        if let Err(refusal) = self.devices.steer(&changes) {
            log::warn!("after a change of addresses: {}", refusal.text);
        }
    }

    fn accept(&mut self) {
        while let Ok(socket) = fds::accept(&self.listener) {
            if self.clients.len() >= CLIENTS_MAX {
                log::warn!("a connection was refused: {CLIENTS_MAX} processes are connected");
                continue;
            }
            // A process that died meanwhile needs no service.
            let owner = self.settings.guard.as_ref().map(Guard::uid);
            if let Ok(client) = Client::new(socket.numbered_from(LINKS_FROM), owner) {
                let id = ClientId(self.next_number());
                self.clients.insert(id, client);
            }
        }
    }

    fn serve_client(&mut self, id: ClientId) {
        for _ in 0..TURN_MESSAGES {
            let Some(client) = self.clients.get(&id) else { return };
            match client.receive() {
                Ok(Some(message)) => {
                    if self.handle(id, message).is_err() {
                        return self.drop_client(id);
                    }
                }
                Ok(None) if client.is_dead() => return self.drop_client(id),
                Ok(None) => return,
                Err(_) => return self.drop_client(id),
            }
        }
    }

    /// The process is gone, or talks to us no more: its lanes go to their stewards.
    fn drop_client(&mut self, id: ClientId) {
        if let Some(client) = self.clients.remove(&id) {
            self.say(&format!("process {} is gone", client.pid));
            self.orphan_lanes(id, client.pid);
            self.sweep = true;
            self.has_news = true;
        }
    }

    /// A child of ours ended.
    pub(crate) fn child_ended(&mut self, pid: Pid, status: WaitStatus) {
        let killed = status.terminating_signal() == Some(libc::SIGKILL);
        self.steward_ended(pid.as_raw_pid() as u32, killed);
        self.sweep = true;
    }
}

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn a_token_is_written_with_two_digits_a_byte() {
        assert_eq!(hex(&[0, 0xff, 0x1a]), "00ff1a");
    }
}
