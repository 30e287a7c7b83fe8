//! The kernel's settings, as /proc/sys shows them.

use engine::{Algorithm, Ecn, Engine, cookies, half_open_max};
use region::LaneGuard;
use rustix::fs::{Mode, OFlags};
use state::{LaneMem, PathSettings, Usual};

use crate::{buffers, fast_open};

/// The new lane behind `guard` does as the kernel of this network namespace is told to.
pub(crate) fn begin(guard: &mut LaneGuard) {
    let area = guard.region().frame_area();
    let Ok(mem) = LaneMem::carve(guard.carver(), &area) else { return };
    let mut engine = Engine::new(mem, sys::clock::now());
    buffers::begin(&mut engine);
    fast_open::begin(&mut engine);
    engine.set_path_search(&path_search(number));
    engine.set_usual(&Usual { hop_limit: hop_limit(), ..usual(number) });
    if let Some(ways) = number("tcp_ecn") {
        engine.set_ecn(ecn(ways));
    }
    if let Some(algorithm) = congestion() {
        engine.set_congestion(algorithm);
    }
}

/// net.ipv4.tcp_congestion_control; `None` if it is one that lanes do not have.
fn congestion() -> Option<Algorithm> {
    let mut room = [0; 32];
    Algorithm::from_name(text_of("/proc/sys/net/ipv4/tcp_congestion_control", &mut room)?.as_bytes())
}

/// net.ipv6.conf.*.hop_limit: what devices begin with. 0: the kernel does not say.
pub(crate) fn hop_limit() -> u8 {
    let text = |room: &mut [u8]| text_of("/proc/sys/net/ipv6/conf/default/hop_limit", room)?.parse().ok();
    text(&mut [0; 16]).unwrap_or(0)
}

/// net.ipv4.tcp_ecn. Of AccECN (3 to 5) lanes know what it falls back to.
const fn ecn(ways: u32) -> Ecn {
    match ways {
        0 => Ecn::Never,
        1 | 3 | 4 => Ecn::Ask,
        _ => Ecn::Asked,
    }
}

/// What connections do whose options say nothing of it, as ip(7) and tcp(7) name the settings.
fn usual(setting: impl Fn(&str) -> Option<u32>) -> Usual {
    let number = |name| setting(name).unwrap_or(0);
    let short = |name| u16::try_from(number(name)).unwrap_or(u16::MAX);
    let byte = |name| u8::try_from(number(name)).unwrap_or(u8::MAX);
    let off = |name| u8::from(setting(name) == Some(0));
    // All ones: as much as there is room for.
    let notsent = setting("tcp_notsent_lowat").filter(|bytes| *bytes != u32::MAX);
    Usual {
        notsent_low_bytes: notsent.unwrap_or(0),
        ttl: byte("ip_default_ttl"),
        hop_limit: 0,
        half_open_max: setting("tcp_max_syn_backlog").map_or(0, half_open_max),
        cookies: setting("tcp_syncookies").map_or(0, cookies),
        resets_overflow: u8::from(number("tcp_abort_on_overflow") != 0),
        spare: [0; 3],
        keeps_window: off("tcp_slow_start_after_idle"),
        keep_idle_s: number("tcp_keepalive_time"),
        keep_interval_s: short("tcp_keepalive_intvl"),
        fin_timeout_s: short("tcp_fin_timeout"),
        keep_probes: byte("tcp_keepalive_probes"),
        syn_retries: byte("tcp_syn_retries"),
        syn_ack_retries: byte("tcp_synack_retries"),
        retries: byte("tcp_retries2"),
        orphan_retries: byte("tcp_orphan_retries"),
        no_sack: off("tcp_sack"),
        no_timestamps: off("tcp_timestamps"),
        no_window_scaling: off("tcp_window_scaling"),
    }
}

/// A setting of net.ipv4 that is a number.
pub(crate) fn number(name: &str) -> Option<u32> {
    let mut path = [0; 64];
    let parts = ["/proc/sys/net/ipv4/", name];
    let bytes = parts.iter().flat_map(|part| part.bytes());
    path.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    let used = parts.iter().map(|part| part.len()).sum::<usize>();
    text_of(core::str::from_utf8(path.get(..used)?).ok()?, &mut [0; 32])?.parse().ok()
}

/// How the MTU of paths is searched: as the kernel does in this network namespace, where it says (ip(7), tcp_mtu_probing and its like).
fn path_search(setting: impl Fn(&str) -> Option<u32>) -> PathSettings {
    let short =
        |name, usual: u16| setting(name).map_or(usual, |value| u16::try_from(value).unwrap_or(u16::MAX));
    let usual = PathSettings::DEFAULT;
    PathSettings {
        when: short("tcp_mtu_probing", usual.when),
        base_mss: short("tcp_base_mss", usual.base_mss),
        floor_mss: short("tcp_mtu_probe_floor", usual.floor_mss),
        threshold: short("tcp_probe_threshold", usual.threshold),
        interval_s: setting("tcp_probe_interval").unwrap_or(usual.interval_s),
        ..usual
    }
}

/// The text of a short file, without white space around it; `None`: it cannot be read.
pub(crate) fn text_of<'a>(path: &str, room: &'a mut [u8]) -> Option<&'a str> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let n = rustix::io::read(&file, &mut *room).ok()?;
    Some(core::str::from_utf8(room.get(..n)?).ok()?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_searched_as_the_kernel_is_told_to() {
        assert_eq!(path_search(|_| None), PathSettings::DEFAULT);
        let settings = [
            ("tcp_mtu_probing", 2),
            ("tcp_base_mss", 512),
            ("tcp_mtu_probe_floor", 100),
            ("tcp_probe_threshold", 16),
            ("tcp_probe_interval", 77),
        ];
        let told = |name: &str| settings.iter().find(|s| s.0 == name).map(|s| s.1);
        let wanted =
            PathSettings { when: 2, base_mss: 512, floor_mss: 100, threshold: 16, interval_s: 77, spare: 0 };
        assert_eq!(path_search(told), wanted);
        assert_eq!(path_search(|_| Some(1 << 20)).base_mss, u16::MAX);
    }

    #[test]
    fn connections_keep_alive_and_try_again_as_the_kernel_is_told_to() {
        assert_eq!(usual(|_| None), Usual::NONE);
        let settings = [
            ("tcp_keepalive_time", 100_000),
            ("tcp_keepalive_intvl", 7),
            ("tcp_keepalive_probes", 3),
            ("tcp_fin_timeout", 20),
            ("tcp_syn_retries", 2),
            ("tcp_synack_retries", 1),
            ("tcp_retries2", 4),
            ("tcp_orphan_retries", 300),
            ("tcp_sack", 0),
            ("tcp_timestamps", 0),
            ("tcp_window_scaling", 1),
            ("tcp_notsent_lowat", 16_384),
            ("ip_default_ttl", 33),
            ("tcp_syncookies", 2),
            ("tcp_max_syn_backlog", 10),
            ("tcp_abort_on_overflow", 1),
            ("tcp_slow_start_after_idle", 0),
        ];
        let told = |name: &str| settings.iter().find(|s| s.0 == name).map(|s| s.1);
        let wanted = Usual {
            keep_idle_s: 100_000,
            keep_interval_s: 7,
            fin_timeout_s: 20,
            keep_probes: 3,
            syn_retries: 2,
            syn_ack_retries: 1,
            retries: 4,
            orphan_retries: 255,
            no_sack: 1,
            no_timestamps: 1,
            no_window_scaling: 0,
            notsent_low_bytes: 16_384,
            ttl: 33,
            hop_limit: 0,
            // Its last quarter is for peers that are known.
            half_open_max: 9,
            cookies: 2,
            resets_overflow: 1,
            spare: [0; 3],
            keeps_window: 1,
        };
        assert_eq!(usual(told), wanted);
        let unlimited = usual(|name| (name == "tcp_notsent_lowat").then_some(u32::MAX));
        assert_eq!(unlimited, Usual::NONE);
    }

    #[test]
    fn ecn_is_what_its_number_says() {
        let ways = [0, 1, 2, 3, 4, 5].map(ecn);
        assert_eq!(ways, [Ecn::Never, Ecn::Ask, Ecn::Asked, Ecn::Ask, Ecn::Ask, Ecn::Asked]);
    }

    #[test]
    fn a_setting_is_read_by_its_name() {
        let file = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mtu_probing").ok();
        assert_eq!(number("tcp_mtu_probing"), file.and_then(|text| text.trim().parse().ok()));
        assert_eq!(number("no_such_setting"), None);
    }
}
