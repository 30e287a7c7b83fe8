//! A wire to another program as a row of fds, for the process that will use it: the keeper keeps the control socket.

use region::FrameArea;
use sys::Errno;
use sys::fds::Fd;
use sys::memif::{MemifParts, Role, WireShape};
use sys::memory::{memfd, seal_writes};
use sys::window::Window;

use super::{MemifError, MemifPort, RingPart, ServedParts, Wire};
use crate::PortSetup;

/// Bytes of the first fd's memory, which says what the others are.
const BYTES: u64 = 4096;
/// Most fds of one wire: the description, regions, two eventfds.
const FDS_MAX: usize = 12;
/// Numbers before the sizes of the regions.
const HEAD_WORDS: usize = 10;

/// What the first fd says, as 64-bit words: role, log2 of the ring size and bytes of a buffer (client), region, offset and log2 of the
/// size of both rings (server), number of regions, and their sizes.
struct Words(Vec<u64>);

impl Words {
    fn of(wire: &Wire) -> Self {
        let mut words = match wire {
            Wire::Client(parts) => {
                vec![0, u64::from(parts.shape.log2_ring), u64::from(parts.shape.buffer_bytes)]
            }
            Wire::Server(parts) => {
                let ring =
                    |part: &RingPart| [part.region as u64, part.offset as u64, u64::from(part.log2_size)];
                let rings = [ring(&parts.to_server), ring(&parts.to_client)].concat();
                [&[1, 0, 0][..], &rings, &[parts.regions.len() as u64]].concat()
            }
        };
        words.resize(HEAD_WORDS, 0);
        if let Wire::Server(parts) = wire {
            words.extend(parts.regions.iter().map(|(_, bytes)| *bytes));
        }
        Self(words)
    }

    fn write(&self) -> Result<Fd, Errno> {
        let made = memfd("corelane-memif", BYTES, false)?;
        let window = Window::map(&made.fd, 0, BYTES)?;
        for (at, word) in self.0.iter().enumerate() {
            window.write(8 * at, &word.to_ne_bytes());
        }
        seal_writes(&made.fd)?;
        Ok(made.fd)
    }

    fn read(fd: &Fd) -> Result<Self, Errno> {
        let words = sys::memory::Mapping::shared(fd, BYTES, sys::memory::Access::Read)?;
        let load = |word: &core::sync::atomic::AtomicU64| word.load(core::sync::atomic::Ordering::Relaxed);
        Ok(Self(words.words().iter().map(load).collect()))
    }

    fn at(&self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or(0)
    }
}

impl Wire {
    /// Its fds, for [`MemifPort::from_fds`] in another process of the same trust.
    ///
    /// # Errors
    /// E2BIG for a client with more regions than are handed over; EMFILE and the like.
    pub fn into_fds(self) -> Result<Vec<Fd>, Errno> {
        let mut fds = vec![Words::of(&self).write()?];
        match self {
            Self::Client(parts) => fds.extend([parts.memory, parts.to_server, parts.to_client]),
            Self::Server(parts) => {
                fds.extend(parts.regions.into_iter().map(|(fd, _)| fd));
                fds.extend([parts.to_server.event, parts.to_client.event]);
            }
        }
        if fds.len() > FDS_MAX { Err(Errno::TOOBIG) } else { Ok(fds) }
    }
}

impl MemifPort {
    /// A port on a wire that came as [`Wire::into_fds`].
    ///
    /// # Errors
    /// [`MemifError`].
    pub fn from_fds(
        fds: impl IntoIterator<Item = Fd>,
        area: FrameArea,
        setup: PortSetup,
    ) -> Result<Self, MemifError> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or(MemifError::Shape);
        let words = Words::read(&next()?)?;
        let number = |at| u32::try_from(words.at(at)).map_err(|_| MemifError::Shape);
        if words.at(0) == 0 {
            let shape = WireShape { log2_ring: number(1)?, buffer_bytes: number(2)? };
            let (memory, to_server, to_client) = (next()?, next()?, next()?);
            let parts = MemifParts { role: Role::Client, shape, memory, to_server, to_client, lent: None };
            return Wire::Client(parts).into_port(area, setup);
        }
        let count = number(9)? as usize;
        if count > FDS_MAX {
            return Err(MemifError::Shape);
        }
        let mut regions = Vec::new();
        for at in 0..count {
            regions.push((next()?, words.at(HEAD_WORDS + at)));
        }
        let ring = |at, event| {
            let (region, offset) = (number(at)? as usize, number(at + 1)? as usize);
            Ok::<_, MemifError>(RingPart { region, offset, log2_size: number(at + 2)?, event })
        };
        let (to_server, to_client) = (ring(3, next()?)?, ring(6, next()?)?);
        Wire::Server(ServedParts { regions, to_server, to_client }).into_port(area, setup)
    }
}
