//! How large buffers of connections are: what the kernel's own are in this network namespace (net.ipv4.tcp_rmem and tcp_wmem).

use core::str;

use engine::{Buffers, Engine};
use region::LaneGuard;
use rustix::fs::{CWD, Mode, OFlags};
use state::LaneMem;

/// A send buffer at first, at least: the kernel raises its default to about so much as soon as a connection is open.
const SEND_LEAST: u32 = 65_536;

/// Connections of the lane behind `guard` have buffers as the kernel's own have.
pub(crate) fn set(guard: &mut LaneGuard) {
    let area = guard.region().frame_area();
    let Ok(mem) = LaneMem::carve(guard.carver(), &area) else { return };
    if let (Some(receive), Some(send)) = of_namespace() {
        Engine::new(mem, sys::clock::now()).set_buffers(receive, send);
    }
}

/// Receive and send buffers, where the kernel says.
fn of_namespace() -> (Option<Buffers>, Option<Buffers>) {
    // Of a receive buffer the kernel announces half, the rest is for overhead.
    let receive = limits(c"/proc/sys/net/ipv4/tcp_rmem").map(|(first, most)| (first / 2, most / 2));
    let send = limits(c"/proc/sys/net/ipv4/tcp_wmem").map(|(first, most)| (first.max(SEND_LEAST), most));
    let of = |(first, most)| Buffers { first, most };
    (receive.map(of), send.map(of))
}

/// The default and the largest size in one of the kernel's settings.
fn limits(path: &core::ffi::CStr) -> Option<(u32, u32)> {
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = [0; 96];
    let used = rustix::io::read(&file, &mut bytes[..]).ok()?;
    parse(str::from_utf8(bytes.get(..used)?).ok()?)
}

/// `min default max`.
fn parse(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_ascii_whitespace().skip(1).map(|word| word.parse().ok());
    let (first, most) = (numbers.next()??, numbers.next()??);
    (first <= most).then_some((first, most))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn default_and_maximum_are_read_and_nonsense_is_not() {
        assert_eq!(parse("4096\t131072\t6291456\n"), Some((131_072, 6_291_456)));
        for wrong in ["", "4096", "4096 131072", "1 2 x", "4096 9 8"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
