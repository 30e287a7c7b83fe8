//! Opening the device: the privileged part.

use rustix::io::Errno;
use sys::fds::Fd;

/// Opens TAP device `name`, making it when it does not exist, and switches it on.
///
/// # Errors
/// As [`sys::tun::open_tap`]; EPERM when it may not be switched on.
pub fn open(name: &str) -> Result<Fd, Errno> {
    let fd = sys::tun::open_tap(name)?;
    if sys::links::flags(name)? & sys::links::FLAG_UP == 0 {
        sys::links::set_up(name)?;
    }
    Ok(fd)
}
