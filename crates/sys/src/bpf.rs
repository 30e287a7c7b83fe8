//! bpf(2): maps, programs with the verifier's words, links, test runs.
//!
//! Everything lives as long as its fd (nothing is pinned), so an owner that dies leaves nothing behind. Instructions are made elsewhere;
//! the kernel's verifier decides whether they are harmless. Not for the preload library: it needs privileges.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::fds::Fd;
use crate::{Result, raw, sockopt};

const MAP_CREATE: usize = 0;
const MAP_LOOKUP: usize = 1;
const MAP_UPDATE: usize = 2;
const MAP_DELETE: usize = 3;
const MAP_NEXT_KEY: usize = 4;
const PROG_LOAD: usize = 5;
const PROG_TEST_RUN: usize = 10;
const LINK_CREATE: usize = 28;

/// Bytes kept of the verifier's log.
const LOG_BYTES: usize = 64 * 1024;
/// Loads are repeated this often when a signal interrupts the verifier (EAGAIN).
const LOAD_TRIES: u32 = 5;

/// One instruction as the kernel reads it (struct bpf_insn).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Insn {
    /// Operation.
    pub code: u8,
    /// Destination register in the low half, source register in the high half.
    pub registers: u8,
    /// Memory or jump offset.
    pub offset: i16,
    /// Constant.
    pub immediate: i32,
}
const _: () = assert!(size_of::<Insn>() == 8);

/// Kind of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapKind {
    /// Hash table, its memory taken as it fills.
    Hash,
    /// Hash table that forgets what was not used for longest when it is full.
    LruHash,
    /// Array of values by u32.
    Array,
    /// AF_XDP sockets by u32.
    Xsk,
}

/// Kind of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgramKind {
    /// XDP, able to see packets of several buffers.
    Xdp,
    /// TCX on the way in.
    TcxIngress,
    /// Filter of a socket.
    SocketFilter,
}

/// How an XDP program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// On socket buffers, any device.
    Generic,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries_max: u32,
    flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
    ifindex: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapElement {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgramTestRun {
    program_fd: u32,
    result: u32,
    data_in_bytes: u32,
    data_out_bytes: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
    context_in_bytes: u32,
    context_out_bytes: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program_fd: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

/// Calls bpf(2).
///
/// # Safety
/// `attr` is the struct that `command` takes, and every pointer in it is valid for what the command does with it.
unsafe fn bpf<T>(command: usize, attr: &mut T) -> Result<usize> {
    let at = core::ptr::from_mut(attr).expose_provenance();
    // SAFETY: `attr` is a live struct of the size given; what it points to is the caller's promise.
    unsafe { raw::syscall(libc::SYS_bpf, [command, at, size_of::<T>(), 0, 0, 0]) }
}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr().expose_provenance() as u64
}

fn address_mut<T>(slice: &mut [T]) -> u64 {
    slice.as_mut_ptr().expose_provenance() as u64
}

fn owned(fd: usize) -> Fd {
    // SAFETY: the kernel just made this descriptor for us. (bpf fds are CLOEXEC by themselves.)
    unsafe { Fd::from_raw(fd as i32) }
}

fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd() as u32
}

/// At most 15 bytes of `name`, which must be letters, digits, `_` or `.`.
fn object_name(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    padded.iter_mut().zip(name.bytes().take(15)).for_each(|(to, from)| *to = from);
    padded
}

/// A map.
#[derive(Debug)]
pub struct Map {
    fd: Fd,
    key_bytes: usize,
    value_bytes: usize,
}

impl Map {
    /// Makes a map for `entries_max` entries of the given sizes in bytes. `name`: letters, digits, `_`, at most 15 bytes.
    ///
    /// # Errors
    /// EPERM without CAP_BPF, EINVAL for sizes the kind does not take, ENOMEM.
    pub fn create(
        kind: MapKind,
        key_bytes: usize,
        value_bytes: usize,
        entries_max: u32,
        name: &str,
    ) -> Result<Self> {
        let (kind, flags) = match kind {
            MapKind::Hash => (1, 1), // BPF_F_NO_PREALLOC
            MapKind::LruHash => (9, 0),
            MapKind::Array => (2, 0),
            MapKind::Xsk => (17, 0),
        };
        let mut attr = MapCreate {
            kind,
            key_bytes: key_bytes as u32,
            value_bytes: value_bytes as u32,
            entries_max,
            flags,
            name: object_name(name),
            ..MapCreate::default()
        };
        // SAFETY: MAP_CREATE takes this struct, which holds no pointer.
        let fd = unsafe { bpf(MAP_CREATE, &mut attr) }?;
        Ok(Self { fd: owned(fd), key_bytes, value_bytes })
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// EINVAL when a size is not the map's, E2BIG when it is full.
    pub fn update(&self, key: &[u8], value: &[u8]) -> Result<()> {
        if value.len() != self.value_bytes {
            return Err(Errno::INVAL);
        }
        let mut attr = MapElement { value: address(value), ..self.element(key)? };
        // SAFETY: key and value have the map's sizes, and the command only reads them.
        unsafe { bpf(MAP_UPDATE, &mut attr) }.map(drop)
    }

    /// Removes `key`.
    ///
    /// # Errors
    /// ENOENT when it is not there, EINVAL when its size is not the map's.
    pub fn delete(&self, key: &[u8]) -> Result<()> {
        let mut attr = self.element(key)?;
        // SAFETY: the key has the map's size, and the command only reads it.
        unsafe { bpf(MAP_DELETE, &mut attr) }.map(drop)
    }

    /// Copies the value of `key` into `value`.
    ///
    /// # Errors
    /// ENOENT when it is not there, EINVAL when a size is not the map's.
    pub fn lookup(&self, key: &[u8], value: &mut [u8]) -> Result<()> {
        if value.len() != self.value_bytes {
            return Err(Errno::INVAL);
        }
        let mut attr = MapElement { value: address_mut(value), ..self.element(key)? };
        // SAFETY: the key has the map's size; the command writes one value, and there is room for exactly one
        // (no per-CPU kind can be made here).
        unsafe { bpf(MAP_LOOKUP, &mut attr) }.map(drop)
    }

    /// Its keys, as far as `most` of them, in no order. While others change the map, some may be missing or come twice.
    ///
    /// # Errors
    /// What bpf(2) gives but for the end.
    pub fn keys(&self, most: u32) -> Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while keys.len() < most as usize {
            let mut next = vec![0; self.key_bytes];
            // Without a key it gives the first.
            let after = keys.last().map_or(0, |key| address(key));
            let mut attr = MapElement {
                map_fd: number(&self.fd),
                key: after,
                value: address_mut(&mut next),
                ..MapElement::default()
            };
            // SAFETY: the command reads a key of the map's size, if there is one, and writes one of that size.
            match unsafe { bpf(MAP_NEXT_KEY, &mut attr) } {
                Ok(_) => keys.push(next),
                Err(Errno::NOENT) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(keys)
    }

    fn element(&self, key: &[u8]) -> Result<MapElement> {
        if key.len() != self.key_bytes {
            return Err(Errno::INVAL);
        }
        Ok(MapElement { map_fd: number(&self.fd), key: address(key), ..MapElement::default() })
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Why a program was not loaded.
#[derive(Debug)]
pub struct LoadError {
    /// What bpf(2) gave: EPERM without CAP_BPF, EACCES or EINVAL when the verifier refuses.
    pub errno: Errno,
    /// The verifier's words; empty when it was not reached.
    pub log: String,
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the kernel refused the program ({})\n{}", self.errno, self.log)
    }
}
impl std::error::Error for LoadError {}

/// Result of a test run.
#[derive(Clone, Copy, Debug)]
pub struct TestRun {
    /// What the program returned.
    pub result: u32,
    /// Mean time of one run, ns.
    pub duration_ns: u32,
}

/// A loaded program.
#[derive(Debug)]
pub struct Program {
    fd: Fd,
}

impl Program {
    /// Loads `insns`. `name`: letters, digits, `_`, at most 15 bytes.
    ///
    /// # Errors
    /// [`LoadError`], with the verifier's log.
    pub fn load(kind: ProgramKind, insns: &[Insn], name: &str) -> core::result::Result<Self, LoadError> {
        let load = |log: &mut [u8]| Self::load_logged(kind, insns, name, log);
        // The log costs more than the load; so it is asked for only after a refusal.
        let errno = match load(&mut []) {
            Ok(program) => return Ok(program),
            Err(errno) => errno,
        };
        let mut log = vec![0; LOG_BYTES];
        match load(&mut log) {
            Ok(program) => Ok(program),
            Err(_) => {
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                let log = String::from_utf8_lossy(log.get(..end).unwrap_or(&[])).into_owned();
                Err(LoadError { errno, log })
            }
        }
    }

    fn load_logged(kind: ProgramKind, insns: &[Insn], name: &str, log: &mut [u8]) -> Result<Self> {
        let (kind, flags, expected_attach_type) = match kind {
            ProgramKind::Xdp => (6, 1 << 5, 37), // BPF_F_XDP_HAS_FRAGS, BPF_XDP
            ProgramKind::TcxIngress => (3, 0, 46),
            ProgramKind::SocketFilter => (1, 0, 0),
        };
        let license = c"Dual MIT/GPL".to_bytes_with_nul();
        let mut attr = ProgramLoad {
            kind,
            insn_count: insns.len() as u32,
            insns: address(insns),
            license: address(license),
            log_level: u32::from(!log.is_empty()),
            log_bytes: log.len() as u32,
            log: if log.is_empty() { 0 } else { address_mut(log) },
            flags,
            name: object_name(name),
            expected_attach_type,
            ..ProgramLoad::default()
        };
        let mut tries = 0;
        loop {
            // SAFETY: the counts are those of the live slices behind the pointers; the license ends with a zero.
            match unsafe { bpf(PROG_LOAD, &mut attr) } {
                Ok(fd) => return Ok(Self { fd: owned(fd) }),
                Err(Errno::AGAIN) if tries < LOAD_TRIES => tries += 1,
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Runs the program `repeat` times on `packet`. `context` is the program's context struct, or empty.
    ///
    /// # Errors
    /// EINVAL for a packet shorter than an Ethernet header or a context the kind does not take.
    pub fn test_run(&self, packet: &[u8], context: &[u8], repeat: u32) -> Result<TestRun> {
        let mut attr = ProgramTestRun {
            program_fd: number(&self.fd),
            data_in_bytes: packet.len() as u32,
            data_in: address(packet),
            repeat,
            context_in_bytes: context.len() as u32,
            context_in: if context.is_empty() { 0 } else { address(context) },
            ..ProgramTestRun::default()
        };
        // SAFETY: the lengths are those of live slices, which the command only reads; there is no output buffer.
        unsafe { bpf(PROG_TEST_RUN, &mut attr) }?;
        Ok(TestRun { result: attr.result, duration_ns: attr.duration_ns })
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A program attached to a device, for as long as this value (and every copy of its fd) lives.
#[derive(Debug)]
pub struct Attachment {
    fd: Fd,
}

impl Attachment {
    /// Attaches an XDP program to device `ifindex`.
    ///
    /// # Errors
    /// EBUSY when another program is attached, EOPNOTSUPP when the driver has no native mode, EINVAL when MTU or features forbid it.
    pub fn xdp(program: &Program, ifindex: u32, mode: XdpMode) -> Result<Self> {
        let flags = match mode {
            XdpMode::Generic => 1 << 1,
            XdpMode::Native => 1 << 2,
        };
        Self::create(program, LinkCreate { ifindex, attach_type: 37, flags, ..LinkCreate::default() })
    }

    /// Attaches a TCX program to the way in of device `ifindex`, after those that are there.
    ///
    /// # Errors
    /// EINVAL on kernels before 6.6, ENODEV.
    pub fn tcx_ingress(program: &Program, ifindex: u32) -> Result<Self> {
        Self::create(program, LinkCreate { ifindex, attach_type: 46, ..LinkCreate::default() })
    }

    fn create(program: &Program, attr: LinkCreate) -> Result<Self> {
        let mut attr = LinkCreate { program_fd: number(program), ..attr };
        // SAFETY: LINK_CREATE takes this struct, which holds no pointer.
        let fd = unsafe { bpf(LINK_CREATE, &mut attr) }?;
        Ok(Self { fd: owned(fd) })
    }
}

impl AsFd for Attachment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Nobody can change or remove the filter of `socket` any more (SO_LOCK_FILTER): do this before the socket goes to a program
/// that may not see other packets.
///
/// # Errors
/// EBADF, ENOTSOCK.
pub fn lock_filter(socket: &impl AsFd) -> Result<()> {
    sockopt::set(socket, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, &1_i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::attach_filter;

    const MOV_R0_0: Insn = Insn { code: 0xb7, registers: 0, offset: 0, immediate: 0 };
    const EXIT: Insn = Insn { code: 0x95, registers: 0, offset: 0, immediate: 0 };

    /// The reason to skip: most of bpf(2) needs privileges.
    fn unprivileged() -> bool {
        !rustix::process::geteuid().is_root()
    }

    #[test]
    fn a_map_keeps_what_it_is_told() {
        if unprivileged() {
            return;
        }
        let map = Map::create(MapKind::Hash, 4, 8, 2, "corelane_test").unwrap();
        map.update(&[1; 4], &[2; 8]).unwrap();
        let mut value = [0; 8];
        map.lookup(&[1; 4], &mut value).unwrap();
        assert_eq!(value, [2; 8]);
        map.update(&[2; 4], &[2; 8]).unwrap();
        assert_eq!(map.update(&[3; 4], &[2; 8]), Err(Errno::TOOBIG));
        map.delete(&[1; 4]).unwrap();
        assert_eq!(map.delete(&[1; 4]), Err(Errno::NOENT));
        assert_eq!(map.lookup(&[1; 4], &mut value), Err(Errno::NOENT));
        assert_eq!(map.update(&[1; 3], &[2; 8]), Err(Errno::INVAL));
        assert_eq!(map.update(&[1; 4], &[2; 7]), Err(Errno::INVAL));
        assert_eq!(map.lookup(&[1; 4], &mut [0; 9]), Err(Errno::INVAL));
    }

    #[test]
    fn a_good_program_runs_and_a_bad_one_is_explained() {
        if unprivileged() {
            return;
        }
        let program = Program::load(ProgramKind::SocketFilter, &[MOV_R0_0, EXIT], "corelane_test").unwrap();
        assert_eq!(program.test_run(&[0; 60], &[], 1).unwrap().result, 0);
        let (a, _b) = crate::fds::pair().unwrap();
        attach_filter(&a, program.as_fd()).unwrap();
        lock_filter(&a).unwrap();
        assert_eq!(attach_filter(&a, program.as_fd()), Err(Errno::PERM));
        let refused = Program::load(ProgramKind::Xdp, &[EXIT], "corelane_test").unwrap_err();
        assert!(refused.log.contains("R0"), "{refused}");
    }
}
