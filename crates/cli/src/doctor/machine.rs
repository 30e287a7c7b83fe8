//! Kernel, capabilities, limits.

use keeper::{RegionSizes, find_preload};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use sys::bpf::{Map, MapKind};

use super::{Finding, State};

/// Memory a region of the default size locks when its device is an AF_XDP one, bytes.
const REGION_BYTES: u64 = 80 << 20;
/// Descriptors a busy server needs.
const DESCRIPTORS: u64 = 4096;

/// Everything that is not a device.
pub(super) fn look() -> Vec<Finding> {
    vec![
        kernel(),
        capability(),
        bpf(),
        packet_socket(),
        xdp_socket(),
        tap(),
        user_namespaces(),
        huge_pages(),
        locked_memory(),
        descriptors(),
        preload(),
    ]
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn kernel() -> Finding {
    let release = sys::kernel::release();
    match sys::kernel::version(&release) {
        Some(v) if v >= (6, 6) => Finding::new("kernel", State::Good, format!("Linux {release}")),
        Some(_) | None => Finding::new("kernel", State::Missing, format!("Linux {release}"))
            .means("no TCX (6.6), so no packet port; no multi-buffer AF_XDP")
            .fix("use Linux 6.6 or later, or a TAP device of Corelane's own (--device tap:...)"),
    }
    .needed()
}

fn capability() -> Finding {
    let sets = capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    let wanted = [
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
        (CapabilitySet::BPF, "CAP_BPF"),
    ];
    // CAP_SYS_ADMIN contains CAP_BPF.
    let has =
        |cap| sets.contains(cap) || (cap == CapabilitySet::BPF && sets.contains(CapabilitySet::SYS_ADMIN));
    let missing: Vec<&str> = wanted.iter().filter(|(cap, _)| !has(*cap)).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Finding::new("capabilities", State::Good, "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF").needed();
    }
    Finding::new("capabilities", State::Missing, format!("without {}", missing.join(", ")))
        .means("no device of the kernel's can be used")
        .fix("run as root (the wrapped command needs no privilege: --user NAME)")
        .needed()
}

fn bpf() -> Finding {
    match Map::create(MapKind::Hash, 4, 4, 1, "corelane_doctor") {
        Ok(_) => {
            let jit = read("/proc/sys/net/core/bpf_jit_enable");
            if jit == "0" {
                return Finding::new("bpf", State::Limited, "allowed, interpreted")
                    .means("each packet costs some hundred ns more")
                    .fix("sysctl net.core.bpf_jit_enable=1")
                    .needed();
            }
            Finding::new("bpf", State::Good, "allowed, compiled").needed()
        }
        Err(errno) => Finding::new("bpf", State::Missing, errno.to_string())
            .means("packets cannot be steered to a program")
            .fix("run as root; on a locked-down kernel allow the bpf system call")
            .needed(),
    }
}

fn packet_socket() -> Finding {
    match sys::packet::socket().and_then(|fd| sys::packet::set_vnet_header(&fd)) {
        Ok(()) => Finding::new("packet sockets", State::Good, "AF_PACKET with PACKET_VNET_HDR"),
        Err(errno) => Finding::new("packet sockets", State::Missing, errno.to_string())
            .means("no packet port")
            .fix("run as root (CAP_NET_RAW), with CONFIG_PACKET"),
    }
    .needed()
}

fn xdp_socket() -> Finding {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    match socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None) {
        Ok(_) => Finding::new("AF_XDP", State::Good, "sockets can be made"),
        Err(errno) => Finding::new("AF_XDP", State::Limited, errno.to_string())
            .means("no xdp port; the packet port does the work")
            .fix("run as root, with CONFIG_XDP_SOCKETS"),
    }
}

fn tap() -> Finding {
    match std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Finding::new("TAP", State::Good, "/dev/net/tun opens"),
        Err(e) => Finding::new("TAP", State::Limited, format!("/dev/net/tun: {e}"))
            .means("no device of Corelane's own, and no demo without root")
            .fix("modprobe tun; give the user access to /dev/net/tun"),
    }
}

fn user_namespaces() -> Finding {
    let most = read("/proc/sys/user/max_user_namespaces");
    let forbidden = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1"
        || read("/proc/sys/kernel/unprivileged_userns_clone") == "0";
    if most == "0" || forbidden {
        return Finding::new("user namespaces", State::Limited, "not for ordinary users")
            .means("without root not even the demo on TAP")
            .fix("sysctl user.max_user_namespaces=15000 kernel.apparmor_restrict_unprivileged_userns=0");
    }
    Finding::new("user namespaces", State::Good, "allowed")
}

fn huge_pages() -> Finding {
    let needed = RegionSizes::default().region_bytes().div_ceil(sys::memory::HUGE_PAGE_BYTES);
    let free = sys::memory::free_huge_pages().unwrap_or(0);
    let found = format!("{free} free of 2 MiB");
    if free >= needed {
        return Finding::new("huge pages", State::Good, found);
    }
    Finding::new("huge pages", State::Limited, found)
        .means("regions lie on 4 KiB pages, with --huge-pages try too; more TLB misses with many connections")
        .fix(format!(
            "sysctl vm.nr_hugepages={needed} (for a program of the default size), then --huge-pages try"
        ))
}

fn locked_memory() -> Finding {
    let ipc_lock = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    match getrlimit(Resource::Memlock).current {
        None => Finding::new("locked memory", State::Good, "no limit"),
        Some(_) if ipc_lock => Finding::new("locked memory", State::Good, "no limit for CAP_IPC_LOCK"),
        Some(bytes) if bytes >= REGION_BYTES => {
            Finding::new("locked memory", State::Good, format!("{} MiB", bytes >> 20))
        }
        Some(bytes) => Finding::new("locked memory", State::Limited, format!("{} MiB", bytes >> 20))
            .means("the frames of an AF_XDP port may not fit")
            .fix("ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit"),
    }
}

fn descriptors() -> Finding {
    match getrlimit(Resource::Nofile).current {
        Some(most) if most < DESCRIPTORS => {
            Finding::new("descriptors", State::Limited, format!("{most} a process"))
                .means("each connection has a placeholder descriptor, as on the kernel")
                .fix("ulimit -n 65536")
        }
        Some(most) => Finding::new("descriptors", State::Good, format!("{most} a process")),
        None => Finding::new("descriptors", State::Good, "no limit"),
    }
}

fn preload() -> Finding {
    match find_preload() {
        Ok(path) => Finding::new("preload library", State::Good, path.display().to_string()),
        Err(error) => Finding::new("preload library", State::Missing, error.why)
            .means("programs cannot be wrapped")
            .fix(error.fix),
    }
    .needed()
}
