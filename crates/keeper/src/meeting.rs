//! Where the keepers of one host meet: a folder with the socket of each, and a connection between every two.
//!
//! A socket in the file system is reached from every network namespace, which an abstract one is not. Only keepers of root or of the
//! same user meet: the folder and the sockets are theirs, and the kernel says who connects. A keeper without the folder, or one
//! in a container with a /run of its own, meets nobody; its programs still meet one another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base::limits::KEEPER_MESSAGE_BYTES;
use base::{IpAddress, Port};
use control::meet::{FarLane, Letter, NamespaceId, VERSION};
use rustix::fs::OFlags;
use rustix::io::Errno;
use sys::fds::{self, Fd};

/// Keepers met at a time.
const KEEPERS_MAX: usize = 256;
/// How the name of every keeper's socket begins.
const PREFIX: &str = "keeper-";

/// Number of a connection to another keeper; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) struct KeeperId(u32);

/// A lane that listens, as keepers tell one another of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Listening {
    pub(crate) lane: FarLane,
    pub(crate) addr: [u8; 16],
    pub(crate) port: u16,
    pub(crate) pid: u32,
}

impl Listening {
    fn letter(&self, on: bool) -> Letter {
        let Self { lane, addr, port, pid } = *self;
        Letter::Listens { lane, addr: IpAddress(addr), port: Port(port), pid, on }
    }
}

/// What a keeper tells the others.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct News {
    pub(crate) listening: BTreeSet<Listening>,
    /// Addresses by device.
    pub(crate) addresses: BTreeSet<(u32, [u8; 16])>,
}

impl News {
    /// The letters that make `old` this.
    fn since(&self, old: &Self) -> Vec<Letter> {
        let listens = |row: &Listening, on| row.letter(on);
        let address =
            |&(ifindex, addr): &(u32, [u8; 16]), on| Letter::Address { ifindex, addr: IpAddress(addr), on };
        let gone = old.listening.difference(&self.listening).map(|row| listens(row, false));
        let new = self.listening.difference(&old.listening).map(|row| listens(row, true));
        let lost = old.addresses.difference(&self.addresses).map(|row| address(row, false));
        let found = self.addresses.difference(&old.addresses).map(|row| address(row, true));
        lost.chain(found).chain(gone).chain(new).collect()
    }
}

/// Another keeper.
pub(crate) struct Keeper {
    socket: Fd,
    /// We connected to it, not it to us.
    ours: bool,
    /// Its random number; `None`: it has not said hello yet.
    number: Option<u64>,
    pub(crate) namespace: NamespaceId,
    /// Its network namespace.
    pub(crate) net: Option<Fd>,
    pub(crate) news: News,
}

impl Keeper {
    fn send(&self, letter: &Letter, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut buffer = [0; KEEPER_MESSAGE_BYTES];
        let len = letter.encode(&mut buffer).map_err(|_| Errno::MSGSIZE)?;
        fds::send(&self.socket, buffer.get(..len).unwrap_or(&[]), fds)
    }
}

/// This keeper among the others.
pub(crate) struct Meeting {
    number: u64,
    /// Our network namespace.
    pub(crate) namespace: NamespaceId,
    net: Option<OwnedFd>,
    place: Option<Place>,
    keepers: BTreeMap<KeeperId, Keeper>,
    next: u32,
    /// What the others were told.
    told: News,
}

/// Our own socket in the folder; its name goes with it.
struct Place {
    listener: Fd,
    path: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The namespace behind a file such as /proc/PID/ns/net.
pub(crate) fn namespace_of(path: &str) -> Option<NamespaceId> {
    let meta = fs::metadata(path).ok()?;
    Some(NamespaceId { device: meta.dev(), inode: meta.ino() })
}

/// The namespace that `net` is an fd of.
pub(crate) fn namespace_of_fd(net: &impl AsFd) -> Option<NamespaceId> {
    let stat = rustix::fs::fstat(net).ok()?;
    Some(NamespaceId { device: stat.st_dev, inode: stat.st_ino })
}

/// The folder in which the keepers of this user meet.
fn folder() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/run/corelane"));
    }
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty())?);
    runtime.is_absolute().then(|| runtime.join("corelane"))
}

/// Makes the folder if need be. An error says why it is not to be used.
fn prepare(folder: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(e)),
        Ok(()) | Err(_) => {}
    }
    let meta = fs::symlink_metadata(folder).map_err(failed)?;
    let own = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw();
    if !own || meta.mode() & 0o022 != 0 {
        return Err(format!("{}: others may write there", folder.display()));
    }
    Ok(())
}

impl Meeting {
    /// Takes part from now on, with the others that are there. Without a folder to meet in it stays alone, and `Err` of the second says why.
    pub(crate) fn open(number: u64) -> (Self, Result<(), String>) {
        let mut meeting = Self::alone(number);
        let outcome = match folder() {
            Some(folder) => meeting.join(&folder),
            None => Err("XDG_RUNTIME_DIR is not set".to_owned()),
        };
        (meeting, outcome)
    }

    fn alone(number: u64) -> Self {
        Self {
            number,
            namespace: namespace_of("/proc/self/ns/net").unwrap_or_default(),
            net: sys::namespace::current_net().ok(),
            place: None,
            keepers: BTreeMap::new(),
            next: 1,
            told: News::default(),
        }
    }

    fn join(&mut self, folder: &Path) -> Result<(), String> {
        prepare(folder)?;
        let name = format!("{PREFIX}{}-{:016x}", std::process::id(), self.number);
        let (path, hidden) = (folder.join(&name), folder.join(format!(".{name}")));
        let failed = |e: Errno| format!("{}: {e}", path.display());
        // Under another name until it listens, so that nobody takes it for that of a dead keeper.
        let listener = fds::listen_path(&hidden.to_string_lossy()).map_err(failed)?;
        let place = Place { listener, path: path.clone() };
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&hidden, &path))
            .map_err(|e| format!("{}: {e}", path.display()))?;
        self.place = Some(place);
        let others = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for other in others.filter_map(Result::ok).map(|entry| entry.path()).filter(|other| *other != path) {
            self.visit(&other);
        }
        Ok(())
    }

    /// Connects to the keeper at `path`; removes the socket of a dead one.
    fn visit(&mut self, path: &Path) {
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        let socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
        if !named || !socket {
            return;
        }
        match fds::connect_path(&path.to_string_lossy()) {
            Ok(socket) => self.welcome(socket, true),
            Err(Errno::CONNREFUSED) => {
                let _ = fs::remove_file(path);
            }
            // It is busy, or not ours to talk to.
            Err(_) => {}
        }
    }

    /// A connection is made: says who we are and what there is to tell.
    fn welcome(&mut self, socket: Fd, ours: bool) {
        let trusted = fds::peer_cred(&socket)
            .is_ok_and(|cred| cred.uid == 0 || cred.uid == rustix::process::geteuid().as_raw());
        let nonblocking = rustix::fs::fcntl_getfl(&socket)
            .and_then(|flags| rustix::fs::fcntl_setfl(&socket, flags | OFlags::NONBLOCK));
        if !trusted || nonblocking.is_err() || self.keepers.len() >= KEEPERS_MAX {
            return;
        }
        let namespace = NamespaceId::default();
        let keeper = Keeper { socket, ours, number: None, namespace, net: None, news: News::default() };
        let hello = Letter::Hello { version: VERSION, keeper: self.number, namespace: self.namespace };
        let net: Vec<BorrowedFd<'_>> = self.net.iter().map(AsFd::as_fd).collect();
        let told = self.told.since(&News::default());
        let sent = told.iter().all(|l| keeper.send(l, &[]).is_ok()) && keeper.send(&hello, &net).is_ok();
        if sent {
            self.keepers.insert(KeeperId(self.next), keeper);
            self.next = self.next.wrapping_add(1);
        }
    }

    /// What to poll.
    pub(crate) fn poll_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let place = self.place.as_ref().map(|place| place.listener.as_fd());
        place.into_iter().chain(self.keepers.values().map(|keeper| keeper.socket.as_fd()))
    }

    /// Takes in whoever comes.
    pub(crate) fn accept(&mut self) {
        while let Some(Ok(socket)) = self.place.as_ref().map(|place| fds::accept(&place.listener)) {
            self.welcome(socket, false);
        }
    }

    /// Has everybody whom we went to said what there is to say at first?
    pub(crate) fn has_heard_all(&self) -> bool {
        self.keepers.values().all(|keeper| keeper.number.is_some() || !keeper.ours)
    }

    /// The connections to others.
    pub(crate) fn ids(&self) -> Vec<KeeperId> {
        self.keepers.keys().copied().collect()
    }

    /// The others that have said hello.
    pub(crate) fn others(&self) -> impl Iterator<Item = (KeeperId, &Keeper)> {
        self.keepers.iter().filter(|(_, k)| k.number.is_some()).map(|(&id, k)| (id, k))
    }

    /// The next letter of `id`. `Ok(None)`: none yet. An error: it is gone.
    pub(crate) fn receive(&self, id: KeeperId) -> Result<Option<(Letter, Vec<Fd>)>, Errno> {
        let keeper = self.keepers.get(&id).ok_or(Errno::PIPE)?;
        let mut buffer = [0; KEEPER_MESSAGE_BYTES];
        match fds::recv(&keeper.socket, &mut buffer) {
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno),
            Ok(got) if got.bytes == 0 => Err(Errno::CONNRESET),
            Ok(got) => {
                let letter = Letter::decode(buffer.get(..got.bytes).unwrap_or(&[]));
                letter.map(|letter| Some((letter, got.fds))).map_err(|_| Errno::PROTO)
            }
        }
    }

    /// Takes in what `id` tells of itself. `Ok(true)`: of who listens where. An error: it is not to be talked to.
    pub(crate) fn note(&mut self, id: KeeperId, letter: &Letter, fds: Vec<Fd>) -> Result<bool, Errno> {
        if let Letter::Hello { keeper, .. } = letter {
            self.check_twin(id, *keeper)?;
        }
        let own = self.number;
        let keeper = self.keepers.get_mut(&id).ok_or(Errno::PIPE)?;
        match *letter {
            Letter::Hello { version, keeper: number, namespace } => {
                if version != VERSION || keeper.number.is_some() || number == own {
                    return Err(Errno::PROTO);
                }
                (keeper.number, keeper.namespace) = (Some(number), namespace);
                keeper.net = fds.into_iter().next();
                Ok(true)
            }
            Letter::Listens { lane, addr, port, pid, on } => {
                let row = Listening { lane, addr: addr.0, port: port.0, pid };
                if on {
                    keeper.news.listening.insert(row)
                } else {
                    keeper.news.listening.remove(&row)
                };
                Ok(true)
            }
            Letter::Address { ifindex, addr, on } => {
                let row = (ifindex, addr.0);
                if on {
                    keeper.news.addresses.insert(row)
                } else {
                    keeper.news.addresses.remove(&row)
                };
                Ok(true)
            }
            Letter::Wire { .. } | Letter::Part { .. } => Ok(false),
        }
    }

    /// Two keepers that came at the same time have two connections: the one that the smaller number began stays.
    fn check_twin(&mut self, id: KeeperId, number: u64) -> Result<(), Errno> {
        let twin = self.keepers.iter().find(|(other, k)| **other != id && k.number == Some(number));
        let Some((&twin, _)) = twin else { return Ok(()) };
        let ours = self.keepers.get(&id).is_some_and(|k| k.ours);
        if ours == (self.number < number) {
            // No wire went over it yet but by the greatest haste; then it is parted when the keeper is lost.
            self.keepers.remove(&twin);
            Ok(())
        } else {
            Err(Errno::ALREADY)
        }
    }

    /// Sends a letter. False: it could not be sent, the keeper is to be given up.
    pub(crate) fn send(&self, id: KeeperId, letter: &Letter, fds: &[BorrowedFd<'_>]) -> bool {
        self.keepers.get(&id).is_some_and(|keeper| keeper.send(letter, fds).is_ok())
    }

    /// The addresses of `id`'s namespace, one that several devices have as often.
    pub(crate) fn addresses_of(&self, id: KeeperId) -> Vec<IpAddress> {
        let rows = self.keepers.get(&id).into_iter().flat_map(|keeper| &keeper.news.addresses);
        rows.map(|(_, addr)| IpAddress(*addr)).collect()
    }

    /// `id` is gone.
    pub(crate) fn forget(&mut self, id: KeeperId) {
        self.keepers.remove(&id);
    }

    /// Tells the others what is new. Gives those that could not be told, and whether there was anything.
    pub(crate) fn tell(&mut self, news: News) -> (Vec<KeeperId>, bool) {
        let letters = news.since(&self.told);
        self.told = news;
        let told = |keeper: &Keeper| letters.iter().all(|letter| keeper.send(letter, &[]).is_ok());
        let lost = self.keepers.iter().filter(|(_, keeper)| !told(keeper)).map(|(&id, _)| id).collect();
        (lost, !letters.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::LaneId;

    fn news(port: u16) -> News {
        let lane = FarLane { region: 3, lane: LaneId(1) };
        let listening = BTreeSet::from([Listening { lane, addr: [9; 16], port, pid: 77 }]);
        News { listening, addresses: BTreeSet::from([(2, [7; 16])]) }
    }

    /// Takes in what is there; gives who is gone.
    fn read_all(meeting: &mut Meeting) -> Vec<KeeperId> {
        meeting.accept();
        let mut gone = Vec::new();
        for id in meeting.ids() {
            loop {
                let noted = match meeting.receive(id) {
                    Ok(None) => break,
                    Ok(Some((letter, fds))) => meeting.note(id, &letter, fds).is_ok(),
                    Err(_) => false,
                };
                if !noted {
                    meeting.forget(id);
                    gone.push(id);
                    break;
                }
            }
        }
        gone
    }

    #[test]
    fn keepers_in_one_folder_hear_of_one_another_and_clear_the_dead_away() {
        let folder = std::env::temp_dir().join(format!("corelane-meeting-{}", std::process::id()));
        prepare(&folder).expect("a folder");
        let dead = folder.join("keeper-1-dead");
        drop(fds::listen_path(&dead.to_string_lossy()).expect("a socket"));
        let (mut first, mut second) = (Meeting::alone(1), Meeting::alone(2));
        first.join(&folder).expect("joined");
        assert!(!dead.exists());
        first.tell(news(80));
        second.join(&folder).expect("joined");
        for _ in 0..2 {
            read_all(&mut first);
            read_all(&mut second);
        }
        let heard = |meeting: &Meeting| meeting.others().map(|(_, k)| k.news.clone()).collect::<Vec<_>>();
        assert!(second.has_heard_all());
        assert_eq!((heard(&first), heard(&second)), (vec![News::default()], vec![news(80)]));
        // Changes are told, and nothing twice.
        assert_eq!(second.tell(news(81)), (vec![], true));
        assert_eq!(second.tell(news(81)), (vec![], false));
        read_all(&mut first);
        assert_eq!(heard(&first), vec![news(81)]);
        assert!(first.others().all(|(_, k)| k.namespace == first.namespace && k.net.is_some()));
        drop(first);
        assert_eq!(read_all(&mut second).len(), 1);
        assert_eq!(heard(&second), vec![]);
        drop(second);
        // Every socket went with its keeper, so the folder is empty.
        fs::remove_dir(&folder).expect("an empty folder");
    }

    #[test]
    fn of_two_connections_between_two_keepers_the_same_one_stays_at_both() {
        let folder = std::env::temp_dir().join(format!("corelane-twins-{}", std::process::id()));
        prepare(&folder).expect("a folder");
        let (mut first, mut second) = (Meeting::alone(1), Meeting::alone(2));
        first.join(&folder).expect("joined");
        second.join(&folder).expect("joined");
        // As if both had come at the same moment.
        let path = second.place.as_ref().expect("a place").path.clone();
        first.visit(&path);
        for _ in 0..3 {
            read_all(&mut first);
            read_all(&mut second);
        }
        assert_eq!((first.ids().len(), second.ids().len()), (1, 1));
        assert_eq!((first.others().count(), second.others().count()), (1, 1));
        drop((first, second));
        fs::remove_dir(&folder).expect("an empty folder");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_no_place_to_meet() {
        let folder = std::env::temp_dir().join(format!("corelane-open-{}", std::process::id()));
        prepare(&folder).expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("set");
        let open = prepare(&folder);
        fs::remove_dir(&folder).expect("removed");
        assert!(open.is_err_and(|why| why.contains("others may write")));
    }
}
