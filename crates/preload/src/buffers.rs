//! How large buffers of connections are: what the kernel's own are in this network namespace (net.ipv4.tcp_rmem and tcp_wmem).

use engine::{Buffers, Engine};

use crate::sysctl::text_of;

/// A send buffer at first, at least: the kernel raises its default to about so much as soon as a connection is open.
const SEND_LEAST: u32 = 65_536;

/// Connections of a new lane have buffers as the kernel's own have, where it says.
pub(crate) fn begin(engine: &mut Engine<'_>) {
    let read = |path| parse(text_of(path, &mut [0; 96])?);
    let (Some(receive), Some(send)) =
        (read("/proc/sys/net/ipv4/tcp_rmem"), read("/proc/sys/net/ipv4/tcp_wmem"))
    else {
        return;
    };
    // Of a receive buffer the kernel announces half, the rest is for overhead.
    let receive = Buffers { first: receive.0 / 2, most: receive.1 / 2 };
    let send = Buffers { first: send.0.max(SEND_LEAST), most: send.1 };
    engine.set_buffers(receive, send);
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
