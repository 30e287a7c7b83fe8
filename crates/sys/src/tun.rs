//! TAP devices: Ethernet frames to and from this machine's own stack, with a [`VnetHeader`] in front of each.
//!
//! [`VnetHeader`]: crate::messages::VnetHeader

use std::os::fd::AsRawFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::fds::Fd;
use crate::{Result, raw};

const TUNSETIFF: usize = 0x4004_54ca;
const TUNSETOFFLOAD: usize = 0x4004_54d0;
const IFF_TAP: u16 = 0x0002;
const IFF_NAPI: u16 = 0x0010;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUN_F_CSUM: usize = 0x01;
const TUN_F_TSO4: usize = 0x02;
const TUN_F_TSO6: usize = 0x04;
const TUN_F_TSO_ECN: usize = 0x08;

/// The kernel's ifreq with flags in it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}
const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

/// Opens TAP device `name` in this network namespace, making it if it does not exist; it goes away with the last fd
/// of it unless it was made persistent. Needs CAP_NET_ADMIN, or a device that belongs to this user. CLOEXEC, not
/// blocking. Towards us the kernel leaves checksums unfinished and TCP unsegmented.
///
/// # Errors
/// ENODEV for an impossible name, EBUSY when the device is taken, EPERM, ENOENT without /dev/net/tun.
pub fn open_tap(name: &str) -> Result<Fd> {
    let (fd, mut request) = prepare(name)?;
    let base = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    let mut attached = Err(Errno::INVAL);
    // With NAPI what we send is merged before the kernel's stack sees it; a device made without it refuses it.
    for extra in [IFF_NAPI, 0] {
        request.flags = base | extra;
        attached = attach(&fd, &mut request);
        if attached != Err(Errno::INVAL) {
            break;
        }
    }
    attached?;
    let offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    // SAFETY: this operation takes a number.
    unsafe { raw::syscall(libc::SYS_ioctl, [fd.as_raw_fd() as usize, TUNSETOFFLOAD, offloads, 0, 0, 0]) }?;
    Ok(fd)
}

/// As [`open_tap`], but plain: Ethernet frames with nothing in front, complete checksums, no segment larger than the
/// MTU, and nothing merged.
///
/// # Errors
/// As [`open_tap`].
pub fn open_plain_tap(name: &str) -> Result<Fd> {
    let (fd, mut request) = prepare(name)?;
    request.flags = IFF_TAP | IFF_NO_PI;
    attach(&fd, &mut request)?;
    Ok(fd)
}

/// A handle that is no device yet, and the request that makes it `name`.
fn prepare(name: &str) -> Result<(Fd, Request)> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = Fd::from(open("/dev/net/tun", flags, Mode::empty())?);
    let mut request = Request { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    let room = request.name.get_mut(..name.len()).filter(|room| room.len() < libc::IFNAMSIZ);
    room.ok_or(Errno::NODEV)?.copy_from_slice(name.as_bytes());
    Ok((fd, request))
}

fn attach(fd: &Fd, request: &mut Request) -> Result<()> {
    let at = core::ptr::from_mut(request) as usize;
    // SAFETY: the kernel reads and writes one live ifreq.
    unsafe { raw::syscall(libc::SYS_ioctl, [fd.as_raw_fd() as usize, TUNSETIFF, at, 0, 0, 0]) }.map(|_| ())
}
