//! What machine it was.

use std::process::Command;

use serde::Serialize;

/// The machine and the moment of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) system: String,
    pub(crate) kernel: String,
    pub(crate) compiler: String,
    /// Of Linux, and so of unmodified programs on lanes.
    pub(crate) congestion_control: String,
    pub(crate) date: String,
    pub(crate) commit: String,
    /// Programs that wanted to run, on average of the minute before.
    pub(crate) load_before: f64,
    /// Did runs have real-time priority?
    pub(crate) realtime: bool,
}

impl Machine {
    /// This one, now.
    pub(crate) fn here() -> Self {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once([':', '='])
                .map(|(_, value)| value.trim().trim_matches('"').to_owned())
                .unwrap_or_default()
        };
        let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let mhz: f64 = field(&cpu, "cpu MHz").parse().unwrap_or(0.0);
        let kib: f64 = field(&memory, "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
        let virtual_machine = if cpu.contains(" hypervisor") { ", virtual machine" } else { "" };
        Self {
            cpu: format!(
                "{} (family {}, model {}), {:.1} GHz{virtual_machine}",
                field(&cpu, "model name"),
                field(&cpu, "cpu family"),
                field(&cpu, "model\t"),
                mhz / 1000.0
            ),
            cores: sys::affinity::allowed().unwrap_or_default().len(),
            memory_gib: kib / f64::from(1 << 20),
            system: field(&read("/etc/os-release"), "PRETTY_NAME"),
            kernel: sys::kernel::release(),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned(),
            compiler: said("rustc", &["--version"]),
            date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            commit: said("git", &["rev-parse", "--short", "HEAD"]),
            load_before: read("/proc/loadavg").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0),
            realtime: crate::runner::ahead_of_others(),
        }
    }
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default()
}
