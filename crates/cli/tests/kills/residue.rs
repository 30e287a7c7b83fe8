//! What must not be left when a program of the campaign is gone: processes, programs in the kernel, sockets, memory, rules.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::world::{DEVICE, Side, World};

/// What one keeper has in the kernel.
#[derive(Default)]
pub(crate) struct Held {
    links: BTreeSet<String>,
    programs: BTreeSet<String>,
    maps: BTreeSet<String>,
    /// Number of its memory objects.
    memory: BTreeSet<u64>,
}

/// The value of `key` in a text like /proc/PID/fdinfo/N.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

impl Held {
    /// Looks into a keeper.
    pub(crate) fn of(&mut self, keeper: u32) {
        let Ok(entries) = fs::read_dir(format!("/proc/{keeper}/fdinfo")) else { return };
        for entry in entries.flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            self.links.extend(value(&text, "link_id:").map(str::to_owned));
            self.programs.extend(value(&text, "prog_id:").map(str::to_owned));
            self.maps.extend(value(&text, "map_id:").map(str::to_owned));
            let fd = entry.file_name();
            let link = fs::read_link(format!("/proc/{keeper}/fd/{}", fd.to_string_lossy()));
            if link.is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:")) {
                self.memory.extend(value(&text, "ino:").and_then(|ino| ino.parse::<u64>().ok()));
            }
        }
    }

    /// What of it is still there, beside processes: kind and number.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (kind, ids) in [("link", &self.links), ("prog", &self.programs), ("map", &self.maps)] {
            let there = listed(kind);
            left.extend(ids.intersection(&there).map(|id| format!("bpf {kind} {id}")));
        }
        if !self.memory.is_empty() {
            left.extend(mapped().intersection(&self.memory).map(|inode| format!("memory object {inode}")));
        }
        left
    }
}

/// Lists that fail one after another before that is a failure: an object that goes meanwhile, of whomever, ends a list.
const LISTS: u32 = 100;

/// Numbers of the kernel's objects of a kind.
fn listed(kind: &str) -> BTreeSet<String> {
    let list = || Command::new("bpftool").args([kind, "list"]).output().expect("bpftool starts");
    let output = (1..LISTS).map(|_| list()).find(|output| output.status.success()).unwrap_or_else(list);
    assert!(output.status.success(), "bpftool {kind} list: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// Memory objects that any process has mapped or open.
fn mapped() -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let memory = maps.lines().filter(|line| line.contains("/memfd:"));
        found.extend(memory.filter_map(|line| line.split_whitespace().nth(4)?.parse::<u64>().ok()));
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for fd in fds.flatten() {
            let named = fs::read_link(fd.path()).unwrap_or_default();
            if !named.to_string_lossy().starts_with("/memfd:") {
                continue;
            }
            let info = format!("/proc/{pid}/fdinfo/{}", fd.file_name().to_string_lossy());
            let info = fs::read_to_string(info).unwrap_or_default();
            found.extend(value(&info, "ino:").and_then(|ino| ino.parse::<u64>().ok()));
        }
    }
    found
}

/// Abstract sockets of keepers in a namespace, which a process of it shows.
pub(crate) fn keeper_sockets(process: u32) -> BTreeSet<String> {
    let text = fs::read_to_string(format!("/proc/{process}/net/unix")).unwrap_or_default();
    // Connections that a keeper took bear its name, too: only what listens (flag 0x10000) counts.
    let listening = text.lines().filter(|line| line.split_whitespace().nth(3) == Some("00010000"));
    let names = listening.filter_map(|line| line.split_whitespace().nth(7));
    names.filter(|name| name.starts_with("@corelane-")).map(str::to_owned).collect()
}

/// Sockets of keepers in the file system whose keeper (its id is in the name) is one of `dead`.
pub(crate) fn stale_files(dead: &BTreeSet<u32>) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/corelane") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let of = |name: &str| {
        let rest = name.trim_start_matches('.').strip_prefix("keeper-")?;
        rest.split('-').next()?.parse::<u32>().ok()
    };
    names.filter(|name| of(name).is_some_and(|pid| dead.contains(&pid))).collect()
}

/// Processes of a namespace beside those in `known`.
pub(crate) fn strangers(world: &World, side: Side, known: &BTreeSet<u32>) -> Vec<u32> {
    let output = Command::new("ip").args(["netns", "pids", world.namespace(side)]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| !known.contains(pid)).collect()
}

/// A process and its command line.
pub(crate) fn name(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("process {pid} ({})", String::from_utf8_lossy(&line).replace('\0', " ").trim())
}

/// Rules on both devices and in both packet filters, when no keeper is left.
pub(crate) fn rules(world: &World) -> Vec<String> {
    let mut left = Vec::new();
    for (side, device) in [(Side::Ours, DEVICE), (Side::Peer, "peer0")] {
        let link = world.check(side, 5, &["ip", "-details", "link", "show", device]);
        if link.contains("xdp") {
            left.push(format!("an XDP program on {device}"));
        }
        for direction in ["ingress", "egress"] {
            let filters = world.check(side, 5, &["tc", "filter", "show", "dev", device, direction]);
            if !filters.trim().is_empty() {
                left.push(format!("a filter on {device}: {filters}"));
            }
        }
        let discs = world.check(side, 5, &["tc", "qdisc", "show", "dev", device]);
        if discs.contains("clsact") {
            left.push(format!("a qdisc on {device}: {discs}"));
        }
        let tables = world.run(side, 5, &["cat", "/proc/net/ip_tables_names"]);
        if !tables.stdout.is_empty() {
            left.push(format!("iptables: {}", String::from_utf8_lossy(&tables.stdout)));
        }
        let links = world.check(side, 5, &["ip", "-o", "link"]);
        if links.lines().count() > 2 {
            left.push(format!("devices: {links}"));
        }
    }
    left
}
