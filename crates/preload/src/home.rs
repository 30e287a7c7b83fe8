//! This process at the keeper: the connection, the region it shares with its forks, its own lane.
//!
//! Everything is made on first need. A keeper that is absent, refuses or dies means kernel sockets with a reason,
//! never an error for the program.

mod bequest;
mod fork;
mod local_ports;
mod talk;
mod unwire;

use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use base::limits::KEEPER_MESSAGE_BYTES;
use base::{IpAddress, LaneId};
use control::proto::{LaneDevice, Proto, RegionWish, Reply, Request, Rule, SHAPE_WORDS, VERSION, fit_text};
use control::tables::{TABLES_BYTES, Tables};
use region::Region;
use state::{Endpoint, LaneMem, LaneShape};
use sys::fds::Fd;

pub(crate) use self::bequest::{Bequest, bequeath, entrust, fetch, offer, resume, rouse};
pub(crate) use self::fork::{Frozen, after_fork_in_child, freeze};
pub(crate) use self::local_ports::{take_port, take_ports};
use self::talk::{Answer, Notice, Sizes, exchange, is_alone, steering_is_kept};
pub(crate) use self::unwire::pass_on;
use crate::ports::Devices;
use crate::reason::Reason;
use crate::sock::Seat;
use crate::table;
use crate::view::View;
use crate::{exec, family, hub, sysctl, wires};

/// Lanes in a region: this process's and its forks'.
const REGION_LANES: u16 = base::limits::LANES as u16;

/// How to reach the keeper, from the environment.
struct Way {
    name: String,
    token: [u8; 16],
}

struct Home {
    link: Option<Fd>,
    /// The keeper is not to be asked again by this process.
    refused: Option<Reason>,
    /// There is another way if it refuses: it is not worth a line.
    hushed: bool,
    sizes: Sizes,
    region: Option<(u32, Region)>,
    own: Option<&'static View>,
    /// What the keeper said unasked while a lane was held: [`Home::ask_holding_lanes`].
    unheard: Vec<Notice>,
    /// The keeper was found gone while a lane was held.
    lost: bool,
}

static HOME: Mutex<Home> = Mutex::new(Home {
    link: None,
    refused: None,
    hushed: false,
    sizes: Sizes::DEFAULT,
    region: None,
    own: None,
    unheard: Vec::new(),
    lost: false,
});
/// Descriptor of the connection, for those who wait; -1: none.
static LINK: AtomicI32 = AtomicI32::new(-1);
/// How many notices the keeper had sent to all its programs when we last looked for ours.
static HEARD: AtomicU64 = AtomicU64::new(0);
static TABLES: OnceLock<Tables> = OnceLock::new();
static WAY: OnceLock<Option<Way>> = OnceLock::new();

fn home() -> MutexGuard<'static, Home> {
    HOME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn way() -> Option<&'static Way> {
    let read = || {
        let name = std::env::var("CORELANE_KEEPER").ok()?;
        let text = std::env::var("CORELANE_TOKEN").ok()?;
        let mut token = [0; 16];
        for (at, byte) in token.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Way { name, token })
    };
    WAY.get_or_init(|| {
        let way = read();
        if way.is_none() {
            complain("started without `corelane run`: every socket stays with the kernel");
        }
        way
    })
    .as_ref()
}

/// Says one line on standard error, unless CORELANE_QUIET is set.
pub(crate) fn complain(line: &str) {
    if std::env::var_os("CORELANE_QUIET").is_none() {
        let text = format!("corelane: {line}\n");
        let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    }
}

/// May sockets of this process be accelerated at all?
pub(crate) fn active() -> bool {
    way().is_some()
}

/// The mirrored control plane, once the keeper was reached.
pub(crate) fn tables() -> Option<Tables> {
    TABLES.get().copied()
}

impl Home {
    fn ask(&mut self, request: &Request<'_>, fds: &[BorrowedFd<'_>]) -> Result<Answer, Reason> {
        let mut notices = Vec::new();
        let answer = self.link.as_ref().and_then(|link| exchange(link, request, fds, &mut notices));
        notices.into_iter().for_each(|notice| self.take_notice(notice));
        if answer.is_none() {
            self.lose();
        }
        answer.ok_or(Reason::NoKeeper)
    }

    /// [`Home::ask`] by who holds a lane: what the keeper says unasked may need that lane, and is heard by [`Home::hear_later`] only.
    fn ask_holding_lanes(&mut self, request: &Request<'_>, fds: &[BorrowedFd<'_>]) -> Result<Answer, Reason> {
        let answer = self.link.as_ref().and_then(|link| exchange(link, request, fds, &mut self.unheard));
        // Its end is heard later, too: it resets the lane's connections.
        self.lost |= answer.is_none();
        answer.ok_or(Reason::NoKeeper)
    }

    /// The caller holds no lane any more.
    fn hear_later(&mut self) {
        core::mem::take(&mut self.unheard).into_iter().for_each(|notice| self.take_notice(notice));
        if core::mem::take(&mut self.lost) {
            self.lose();
        }
    }

    /// What the keeper said unasked.
    fn take_notice(&mut self, notice: Notice) {
        let Some(view) = self.own else { return };
        match notice {
            Notice::Met(end, fds) if end.lane == view.id => view.add_wire(&end, fds),
            Notice::Met(..) => {}
            Notice::Parted(wire) => {
                wires::forget();
                view.drop_wire(wire);
            }
            // Whoever waits looks at the lane.
            Notice::Look => hub::wake_all(),
        }
    }

    /// Takes in what the keeper has said unasked.
    fn hear(&mut self) {
        let mut bytes = [0; KEEPER_MESSAGE_BYTES];
        loop {
            let Some(link) = &self.link else { return };
            let got = match sys::fds::recv_now(link, &mut bytes) {
                Ok(got) if got.bytes > 0 => got,
                Err(sys::Errno::AGAIN) => return,
                Ok(_) | Err(_) => return self.lose(),
            };
            let reply = bytes.get(..got.bytes).and_then(|bytes| Reply::decode(bytes).ok());
            match reply.and_then(|reply| Notice::of(&reply, got.fds)) {
                Some(notice) => self.take_notice(notice),
                None => return self.lose(),
            }
        }
    }

    /// The keeper is gone. If the steering of packets to our lane went with it, its connections end; new ones go to the kernel.
    fn lose(&mut self) {
        LINK.store(-1, Ordering::Relaxed);
        if let Some(link) = self.link.take() {
            table::discard(link);
            if self.own.is_some() {
                let then = if steering_is_kept() { "lanes go on" } else { "accelerated connections end" };
                complain(&format!("the keeper is gone: {then}, new sockets stay with the kernel"));
            }
        }
        self.refused = Some(Reason::NoKeeper);
        if let Some(view) = self.own.take_if(|_| !steering_is_kept()) {
            view.poison();
        }
    }

    fn connect(&mut self) -> Result<(), Reason> {
        if let Some(reason) = self.refused {
            return Err(reason);
        }
        if self.link.is_some() {
            return Ok(());
        }
        let way = way().ok_or(Reason::NoKeeper)?;
        if exec::confines_itself() {
            self.refused = Some(Reason::Confined);
            return Err(Reason::Confined);
        }
        let link = sys::fds::connect_abstract(way.name.as_bytes()).ok();
        self.greet(link, way)
    }

    /// Begins the talk by `link`.
    fn greet(&mut self, link: Option<Fd>, way: &Way) -> Result<(), Reason> {
        self.link = link.map(table::keep);
        lane::alone_when(is_alone);
        LINK.store(self.link.as_ref().map_or(-1, Fd::as_raw_fd), Ordering::Relaxed);
        let hello = Request::Hello { version: VERSION, pid: sys::process::pid(), token: way.token };
        match self.ask(&hello, &[]) {
            Ok(Answer::Welcome(sizes, fds)) => {
                self.sizes = sizes;
                if let Some(fd) = fds.first()
                    && TABLES.get().is_none()
                    && let Ok(words) = sys::memory::map_shared_readonly(fd, TABLES_BYTES as u64)
                    && let Ok(tables) = Tables::open(words)
                {
                    let _ = TABLES.set(tables);
                }
                if TABLES.get().is_some() { Ok(()) } else { self.refuse("its tables cannot be mapped") }
            }
            Ok(Answer::Refused(text)) => self.refuse(&text),
            Ok(
                Answer::Done | Answer::Number(..) | Answer::Lane(..) | Answer::Ports(..) | Answer::Wire(..),
            ) => self.refuse("it speaks another protocol"),
            Err(reason) => {
                complain("the keeper does not answer: every socket stays with the kernel");
                self.refused = Some(reason);
                Err(reason)
            }
        }
    }

    fn refuse<T>(&mut self, why: &str) -> Result<T, Reason> {
        if !self.hushed {
            complain(&format!("the keeper refused: {why}; sockets stay with the kernel"));
        }
        self.refused = Some(Reason::NoLane);
        Err(Reason::NoLane)
    }

    fn region(&mut self) -> Result<(u32, Region), Reason> {
        self.connect()?;
        if let Some(region) = self.region {
            return Ok(region);
        }
        let shape = LaneShape::for_program(self.sizes.sockets);
        let mut words = [0; SHAPE_WORDS];
        let fields = [
            shape.socks,
            shape.listeners,
            shape.udp_socks,
            shape.hops,
            shape.reassemblies,
            shape.boards,
            shape.stock_high,
            shape.dormant,
        ];
        for (to, from) in words.iter_mut().zip(fields) {
            *to = from;
        }
        let Sizes { frames, hugepages, .. } = self.sizes;
        let wish = RegionWish { lanes: REGION_LANES, frames, hugepages, shape: words };
        let (id, fds) = match self.ask(&Request::NewRegion(wish), &[])? {
            Answer::Number(id, fds) => (id, fds),
            Answer::Refused(text) => return self.refuse(&text),
            Answer::Done | Answer::Welcome(..) | Answer::Lane(..) | Answer::Ports(..) | Answer::Wire(..) => {
                return self.refuse("no region");
            }
        };
        match self.take_region(id, &fds) {
            Some(region) => Ok((id, region)),
            None => self.refuse("its region cannot be mapped"),
        }
    }

    /// Maps the region `id`, whose memory `fds` begin with.
    fn take_region(&mut self, id: u32, fds: &[Fd]) -> Option<Region> {
        let fd = fds.first()?;
        let words = sys::memory::map_shared(fd, sys::memory::size(fd).ok()?).ok()?;
        let region = Region::open(words, state::LAYOUT_VERSION).ok()?;
        // Names of connections that may hibernate go beyond the rows.
        let shape = LaneShape::for_program(self.sizes.sockets);
        family::found(shape.handles().max(shape.socks));
        self.region = Some((id, region));
        Some(region)
    }

    /// Shares the region of whoever listens on the kernel's listener `fd`, which this process did not make.
    fn join(&mut self, fd: BorrowedFd<'_>) {
        if self.region.is_none()
            && self.connect().is_ok()
            && let Ok(Answer::Number(id, fds)) = self.ask(&Request::Join, &[fd])
        {
            let _ = self.take_region(id, &fds);
        }
    }

    fn lane(&mut self) -> Result<&'static View, Reason> {
        if let Some(view) = self.own {
            return Ok(view);
        }
        let (region_id, region) = self.region()?;
        let (lane, devices, fds) = match self.ask(&Request::NewLane { region: region_id }, &[])? {
            Answer::Lane(lane, devices, fds) => (lane, devices, fds),
            Answer::Refused(text) => return self.refuse(&text),
            Answer::Done
            | Answer::Welcome(..)
            | Answer::Number(..)
            | Answer::Ports(..)
            | Answer::Wire(..) => {
                return self.refuse("no lane");
            }
        };
        let shape = LaneShape::for_program(self.sizes.sockets);
        if format(region, lane, &shape, (devices.as_slice(), &fds)).is_none() {
            return self.refuse("its lane cannot be formatted");
        }
        family::begin_lane(lane);
        let devices = Devices::new(region, tables(), &devices, fds);
        let Some(view) = View::open(region_id, lane, devices) else {
            return self.refuse("its lane cannot be used");
        };
        self.own = Some(view);
        Ok(view)
    }
}

/// Brings a lane of ours to its first state, whoever had it before.
fn format(
    region: Region,
    lane: LaneId,
    shape: &LaneShape,
    (devices, fds): (&[LaneDevice], &[Fd]),
) -> Option<()> {
    let mut secret = [0; 16];
    rustix::rand::getrandom(&mut secret[..], rustix::rand::GetRandomFlags::empty()).ok()?;
    let [a, b, c, d, e, f, g, h, rest @ ..] = secret;
    let secret = [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)];
    let lane = region.lane(lane)?;
    let mut guard = lane::lock(lane);
    lane::settle_devices(lane, devices, fds).ok()?;
    LaneMem::format(&mut guard, shape, secret, sys::clock::now()).ok()?;
    sysctl::begin(&mut guard);
    let signals = lane.signals();
    signals.owner_pid.store(sys::process::pid(), Ordering::Release);
    signals.poisoned.store(0, Ordering::Release);
    signals.accepters.store(0, Ordering::Release);
    // What was left before there was this lane to be told of it.
    signals.left_at.store(u64::MAX, Ordering::Release);
    signals.ready.store(1, Ordering::Release);
    Some(())
}

/// Maps the region, so that children to come share it.
pub(crate) fn prepare() {
    if active() {
        let _ = home().region();
    }
}

/// Shares the region of the process from which the listener `fd` comes, before that process stops to listen.
pub(crate) fn join(fd: BorrowedFd<'_>) {
    home().join(fd);
}

/// Reaches the keeper, for its tables.
pub(crate) fn reach() -> Result<Tables, Reason> {
    if let Some(tables) = tables()
        && home().refused.is_none()
    {
        return Ok(tables);
    }
    home().connect()?;
    tables().ok_or(Reason::NoKeeper)
}

/// This process's own lane.
pub(crate) fn lane() -> Result<&'static View, Reason> {
    home().lane()
}

/// The same, for who has another way.
pub(crate) fn lane_if_any() -> Option<&'static View> {
    let mut home = home();
    home.hushed = true;
    let lane = home.lane();
    home.hushed = false;
    lane.ok()
}

fn rule(view: &View, local: Endpoint) -> Rule {
    Rule { region: view.region, lane: view.id, proto: Proto::Tcp, addr: local.addr, port: local.port }
}

/// Has connections to `local` come to the lane; `fd` is the kernel's listener.
pub(crate) fn listen(view: &View, local: Endpoint, fd: BorrowedFd<'_>) -> Result<(), Reason> {
    let mut home = home();
    home.connect()?;
    match home.ask(&Request::Listen(rule(view, local)), &[fd])? {
        Answer::Done => Ok(()),
        Answer::Refused(..)
        | Answer::Welcome(..)
        | Answer::Number(..)
        | Answer::Lane(..)
        | Answer::Ports(..)
        | Answer::Wire(..) => Err(Reason::NotOurDevice),
    }
}

/// Takes [`listen`] back for the kernel's listener with this inode number.
pub(crate) fn unlisten(view: &View, local: Endpoint, inode: u64) {
    let _ = home().ask(&Request::Unlisten { rule: rule(view, local), inode }, &[]);
}

/// Has the kernel look for a neighbour; the answer shows up in the tables.
pub(crate) fn resolve(ifindex: u32, addr: IpAddress) {
    let mut home = home();
    if home.connect().is_ok() {
        let _ = home.ask(&Request::Resolve { ifindex, addr }, &[]);
    }
}

/// What to wait on to hear of the keeper's end; -1: nothing.
pub(crate) fn link() -> i32 {
    LINK.load(Ordering::Relaxed)
}

/// The connection has something: a notice, a reply for another thread, or its end.
pub(crate) fn hear() {
    home().hear();
}

/// Takes in notices if the keeper has sent any to its programs since. Whoever holds the home now leaves them to the next look.
#[inline]
pub(crate) fn hear_news() {
    if let Some(tables) = TABLES.get()
        && tables.notices() != HEARD.load(Ordering::Relaxed)
    {
        let mut home = match HOME.try_lock() {
            Ok(home) => home,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        HEARD.store(tables.notices(), Ordering::Relaxed);
        home.hear();
    }
}

/// A wire to who listens at `remote`, by device `ifindex` (0: in this network namespace): its index among the lane's ports, and how many
/// lanes listen there. `None`: nobody does that a wire leads to.
pub(crate) fn introduce(view: &View, remote: Endpoint, ifindex: u32, turn: u8) -> Option<(u8, u8)> {
    let mut home = home();
    home.connect().ok()?;
    let request = Request::Introduce { rule: rule(view, remote), ifindex, turn };
    match home.ask(&request, &[]) {
        Ok(Answer::Wire(end, lanes, fds)) => {
            if let Some(fds) = fds {
                view.add_wire(&end, fds);
            }
            Some((end.port, lanes))
        }
        Ok(_) | Err(_) => None,
    }
}

/// The process at the other end of the wire by which a socket sends.
pub(crate) fn peer_of(seat: Seat) -> Option<u32> {
    let _home = home();
    seat.view.peer_of(seat.name)
}

/// Tells the keeper, for `corelane explain`, what became of this process's sockets; replaces what was told before.
pub(crate) fn tell(lines: &str) {
    let mut home = home();
    if home.link.is_some() {
        let text = format!("=\n{lines}");
        let _ = home.ask(&Request::Reasons { text: fit_text(&text) }, &[]);
    }
}

/// The descriptor of a socket of the program's, for as long as one call lasts.
pub(crate) fn borrow(fd: &i32) -> BorrowedFd<'_> {
    // SAFETY: the program keeps its descriptor open during its own call; if it does not, the kernel says EBADF.
    unsafe { BorrowedFd::borrow_raw(*fd) }
}
