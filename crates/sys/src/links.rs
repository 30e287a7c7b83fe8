//! Network interfaces by ioctl: number, name, MTU, address, flags, driver. In the calling thread's network namespace.

use std::os::fd::AsRawFd;

use base::MacAddr;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::fds::Fd;
use crate::{Result, raw};

/// `IFF_UP`: the interface is switched on.
pub const FLAG_UP: u16 = libc::IFF_UP as u16;
/// `IFF_RUNNING`: it has a carrier, and the kernel has begun to send on it.
pub const FLAG_RUNNING: u16 = libc::IFF_RUNNING as u16;
/// `IFF_LOOPBACK`.
pub const FLAG_LOOPBACK: u16 = libc::IFF_LOOPBACK as u16;

const NAME_BYTES: usize = libc::IFNAMSIZ;
const ETHTOOL_GDRVINFO: u32 = 3;

/// The kernel's ifreq: a name and one value.
#[repr(C)]
struct IfReq {
    name: [u8; NAME_BYTES],
    value: [u8; 24],
}
const _: () = assert!(size_of::<IfReq>() == size_of::<libc::ifreq>());

const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// Words of the kernel's ethtool_channels: the command, four limits, and what is set for receiving, sending, other and combined.
const CHANNELS_WORDS: usize = 9;
/// Bytes of the kernel's ethtool_drvinfo: a command word, the driver's name in 32 bytes, other text.
const DRIVER_INFO_BYTES: usize = 196;

impl IfReq {
    fn named(name: &str) -> Result<Self> {
        let mut request = Self { name: [0; NAME_BYTES], value: [0; 24] };
        // One byte stays 0, as the end of the name.
        let room = request.name.get_mut(..name.len()).filter(|room| room.len() < NAME_BYTES);
        room.ok_or(Errno::NODEV)?.copy_from_slice(name.as_bytes());
        Ok(request)
    }

    fn call(&mut self, operation: libc::Ioctl) -> Result<()> {
        let flags = SocketFlags::CLOEXEC;
        let socket = Fd::from(socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?);
        let at = core::ptr::from_mut(self) as usize;
        // SAFETY: `self` is a whole ifreq, which these operations read and write; a pointer inside it, where there
        // is one, was put there by `ethtool`, whose caller answers for what it leads to.
        unsafe {
            raw::syscall(libc::SYS_ioctl, [socket.as_raw_fd() as usize, operation as usize, at, 0, 0, 0])
        }
        .map(|_| ())
    }

    fn word(&self) -> u32 {
        self.value.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b))
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}

/// The number of interface `name`.
///
/// # Errors
/// ENODEV.
pub fn index(name: &str) -> Result<u32> {
    let mut request = IfReq::named(name)?;
    request.call(libc::SIOCGIFINDEX)?;
    Ok(request.word())
}

/// The name of interface `index`.
///
/// # Errors
/// ENODEV.
pub fn name(index: u32) -> Result<String> {
    let mut request = IfReq::named("")?;
    if let Some(room) = request.value.first_chunk_mut() {
        *room = index.to_ne_bytes();
    }
    request.call(libc::SIOCGIFNAME)?;
    Ok(text(&request.name))
}

/// Largest packet of interface `name` without its Ethernet header, bytes.
///
/// # Errors
/// ENODEV.
pub fn mtu(name: &str) -> Result<u32> {
    let mut request = IfReq::named(name)?;
    request.call(libc::SIOCGIFMTU)?;
    Ok(request.word())
}

/// The Ethernet address of interface `name`.
///
/// # Errors
/// ENODEV; EPROTONOSUPPORT when it is not Ethernet (loopback counts as such, with an address of zeroes).
pub fn mac(name: &str) -> Result<MacAddr> {
    let mut request = IfReq::named(name)?;
    request.call(libc::SIOCGIFHWADDR)?;
    let [kind_0, kind_1, a, b, c, d, e, f, ..] = request.value;
    match u16::from_ne_bytes([kind_0, kind_1]) {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Ok(MacAddr([a, b, c, d, e, f])),
        _ => Err(Errno::PROTONOSUPPORT),
    }
}

/// The flags of interface `name` (`FLAG_*`).
///
/// # Errors
/// ENODEV.
pub fn flags(name: &str) -> Result<u16> {
    let mut request = IfReq::named(name)?;
    request.call(libc::SIOCGIFFLAGS)?;
    Ok(request.word() as u16)
}

/// Switches interface `name` on. Needs CAP_NET_ADMIN.
///
/// # Errors
/// ENODEV, EPERM.
pub fn set_up(name: &str) -> Result<()> {
    let mut request = IfReq::named(name)?;
    request.call(libc::SIOCGIFFLAGS)?;
    let up = request.word() as u16 | FLAG_UP;
    if let Some(room) = request.value.first_chunk_mut() {
        *room = up.to_ne_bytes();
    }
    request.call(libc::SIOCSIFFLAGS)
}

/// The name of the driver of interface `name`: "veth", "tun", "virtio_net" ...
///
/// # Errors
/// ENODEV; EOPNOTSUPP when the driver does not say.
pub fn driver(name: &str) -> Result<String> {
    let mut info = [0; DRIVER_INFO_BYTES / 4];
    if let Some(command) = info.first_mut() {
        *command = ETHTOOL_GDRVINFO;
    }
    // SAFETY: GDRVINFO reads the command and writes one ethtool_drvinfo, which is as long as `info`.
    unsafe { ethtool(name, &mut info) }?;
    let bytes: Vec<u8> = info.iter().skip(1).take(8).flat_map(|word| word.to_ne_bytes()).collect();
    Ok(text(&bytes))
}

/// Receive queues of interface `name` that are in use, which may be fewer than it was made with.
///
/// # Errors
/// ENODEV; EOPNOTSUPP when the driver does not say.
pub fn receive_queues(name: &str) -> Result<u32> {
    let mut channels = [0; CHANNELS_WORDS];
    if let Some(command) = channels.first_mut() {
        *command = ETHTOOL_GCHANNELS;
    }
    // SAFETY: GCHANNELS reads the command and writes one ethtool_channels, which is as long as `channels`.
    unsafe { ethtool(name, &mut channels) }?;
    let [_, _, _, _, _, rx, _, _, combined] = channels;
    Ok(rx.saturating_add(combined))
}

/// One call of ethtool's about interface `name`; the first of `words` says which, and what the kernel answers takes their place.
///
/// # Safety
/// `words` are at least as many as the call of that number reads and writes.
pub(crate) unsafe fn ethtool(name: &str, words: &mut [u32]) -> Result<()> {
    let mut request = IfReq::named(name)?;
    if let Some(room) = request.value.first_chunk_mut() {
        *room = words.as_mut_ptr().expose_provenance().to_ne_bytes();
    }
    request.call(libc::SIOCETHTOOL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_name_and_number() {
        let number = index("lo").unwrap();
        assert_eq!(name(number).unwrap(), "lo");
        assert!(mtu("lo").unwrap() >= 1500);
        assert_eq!(mac("lo").unwrap(), MacAddr([0; 6]));
        assert_eq!(flags("lo").unwrap() & FLAG_LOOPBACK, FLAG_LOOPBACK);
    }

    #[test]
    fn a_name_that_cannot_be_is_no_device() {
        assert_eq!(index("no-such-device"), Err(Errno::NODEV));
        assert_eq!(index("a-name-longer-than-fifteen-bytes"), Err(Errno::NODEV));
        assert!(name(u32::MAX).is_err());
    }
}
