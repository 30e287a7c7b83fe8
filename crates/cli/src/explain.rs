//! `corelane explain`: which sockets of a program are accelerated, and why the others are not.

use std::process::ExitCode;

use keeper::{AskError, ask_keeper_of};
use serde::Serialize;

use crate::args::ExplainArgs;
use crate::failure::Failure;
use crate::relay;

/// What a keeper says about one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Process {
    pid: u32,
    /// Its lanes.
    lanes: Vec<String>,
    /// Wires to other programs of this host.
    wires: Vec<String>,
    /// Local ports whose packets go to its lanes.
    ports: Vec<String>,
    /// Ports that a program outside Corelane has, too.
    shared: Vec<String>,
    /// What it says about its sockets, a line each.
    sockets: Vec<String>,
}

/// What a keeper says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Description {
    /// Private or shared, and why.
    keeper: String,
    devices: Vec<String>,
    processes: Vec<Process>,
}

/// Reads the keeper's lines.
fn parse(text: &str) -> Description {
    let mut found = Description::default();
    for line in text.lines() {
        let Some((kind, rest)) = line.split_once(' ') else { continue };
        let rest = rest.to_owned();
        match (kind, found.processes.last_mut()) {
            ("keeper", _) => found.keeper = rest,
            ("device", _) => found.devices.push(rest),
            ("process", _) => {
                let pid = rest.parse().unwrap_or_default();
                found.processes.push(Process { pid, ..Process::default() });
            }
            ("lane", Some(process)) => process.lanes.push(rest),
            ("wire", Some(process)) => process.wires.push(rest),
            ("port", Some(process)) => process.ports.push(rest),
            ("shared", Some(process)) => process.shared.push(rest),
            ("socket", Some(process)) => process.sockets.push(rest),
            _ => {}
        }
    }
    found
}

/// Explains one process.
pub(crate) fn run(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    let pid = relay::carrier(args.pid).unwrap_or(args.pid);
    let text = ask_keeper_of(pid).map_err(|error| {
        let fix = match &error {
            AskError::NotWrapped => {
                "was it started with `corelane run -- CMD`? If not, every socket is the kernel's; if so, it has made no socket yet, or the \
                 preload library is not in it (statically linked, or started with its own LD_PRELOAD)"
            }
            AskError::Unreadable(_) => "check the process id; run as the process's user or as root",
            AskError::NoAnswer(_) => "its keeper is gone, so its new sockets are the kernel's; start it anew",
        };
        Failure::new(format!("process {pid}"), error).fix(fix)
    })?;
    let mut description = parse(&text);
    description.processes.retain(|p| p.pid == pid);
    if args.json {
        let json = serde_json::to_string_pretty(&description).map_err(|e| Failure::new("JSON", e))?;
        println!("{json}");
    } else {
        if pid != args.pid {
            println!("process {} has its TCP sockets carried by the relay {pid}, whose are:", args.pid);
        }
        print!("{}", for_people(pid, &description));
    }
    Ok(ExitCode::SUCCESS)
}

fn for_people(pid: u32, description: &Description) -> String {
    let mut lines = vec![format!("keeper    {}", description.keeper)];
    for device in &description.devices {
        lines.push(format!("device    {device}"));
    }
    let Some(process) = description.processes.first() else {
        lines.push(format!(
            "process {pid} is under `corelane run`, but not connected: it has made no socket yet, or the preload library is \
             not in it (statically linked, or started with its own LD_PRELOAD)"
        ));
        return lines.join("\n") + "\n";
    };
    for lane in &process.lanes {
        lines.push(format!("lane      {lane}"));
    }
    if process.lanes.is_empty() {
        lines.push("lane      none: no socket of this process is accelerated".to_owned());
    }
    for wire in &process.wires {
        lines.push(format!("wire      {wire}"));
    }
    for port in &process.ports {
        lines.push(format!("port      {port}  accelerated: its packets go to the lane"));
    }
    for port in &process.shared {
        lines.push(format!(
            "port      {port}  the kernel's: a program outside Corelane listens there, too (SO_REUSEPORT), and the kernel shares out what is new"
        ));
    }
    for socket in &process.sockets {
        lines.push(format!("socket    {socket}"));
    }
    lines.join("\n") + "\n"
}

/// What was accelerated in `pids`, for the demo, and whether any port was.
pub(crate) fn summary(pids: &[u32]) -> (Vec<String>, bool) {
    let Some(text) = pids.iter().find_map(|&pid| ask_keeper_of(pid).ok()) else {
        return (vec!["nothing: no process of the server is connected to a keeper".to_owned()], false);
    };
    let description = parse(&text);
    let mut lines: Vec<String> = description.devices.iter().map(|d| format!("device {d}")).collect();
    for process in &description.processes {
        for port in &process.ports {
            lines.push(format!("process {}: {port}", process.pid));
        }
        for socket in &process.sockets {
            lines.push(format!("process {}: {socket}", process.pid));
        }
    }
    let any = description.processes.iter().any(|p| !p.ports.is_empty());
    (lines, any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keepers_lines_are_sorted_by_process() {
        let text = "keeper private\ndevice eth1 (packet port, MTU 1500)\nrules 1\nprocess 7\nlane 0 of region 1\nport tcp *:80\n\
                    process 8\nsocket fd 5: the peer is on this machine\n";
        let found = parse(text);
        assert_eq!(found.keeper, "private");
        assert_eq!(found.devices, ["eth1 (packet port, MTU 1500)"]);
        assert_eq!(found.processes[0].ports, ["tcp *:80"]);
        assert_eq!(found.processes[1].sockets, ["fd 5: the peer is on this machine"]);
    }
}
