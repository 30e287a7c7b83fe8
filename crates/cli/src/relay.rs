//! `corelane relay`: under the preload library itself, it carries the TCP of a program that the library cannot reach.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use keeper::Program;

use crate::args::RelayArgs;
use crate::failure::Failure;

/// Name of the sub-command.
pub(crate) const COMMAND: &str = "relay";

/// `program`, whose file is `file`, under a relay.
pub(crate) fn around(program: Program, file: PathBuf) -> Result<Program, Failure> {
    let own = std::env::current_exe().map_err(|error| Failure::new("finding corelane's own file", error))?;
    let mut args = vec![OsString::from(COMMAND), file.into_os_string(), program.name];
    args.extend(program.args);
    Ok(Program { name: own.into_os_string(), args, identity: program.identity })
}

/// Runs the program; its exit status is ours.
pub(crate) fn run(args: RelayArgs) -> Result<ExitCode, Failure> {
    let name = args.file.display().to_string();
    let environment = ::relay::cleared(std::env::vars_os());
    let program = ::relay::Program { file: args.file, args: args.arguments, environment };
    let failure = match ::relay::run(&program) {
        Ok(status) => return Ok(ExitCode::from(status)),
        Err(failure) => failure,
    };
    let what = format!("running {name}: {}", failure.what);
    if !failure.cannot_carry() {
        return Err(Failure::new(what, failure.errno));
    }
    eprintln!("corelane: {name}: runs on the kernel's network: {}: {}", failure.what, failure.errno);
    let ::relay::Program { file, args, environment } = program;
    let mut args = args.into_iter();
    let mut command = Command::new(&file);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args).env_clear().envs(environment);
    Err(Failure::new(what, command.exec()))
}

/// Generations looked through for a relay.
const ANCESTORS: u32 = 64;

/// The relay that carries the sockets of process `pid`, if one does: the nearest ancestor that is one, or, if `pid` is what stands in front of a relay,
/// its child.
pub(crate) fn carrier(pid: u32) -> Option<u32> {
    if is_relay(pid) {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        return children
            .split_whitespace()
            .filter_map(|child| child.parse().ok())
            .find(|child| is_relay(*child));
    }
    let mut pid = pid;
    for _ in 0..ANCESTORS {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // 2: under a filter, as all are that a relay carries.
        status.lines().find(|line| line.starts_with("Seccomp:") && line.ends_with('2'))?;
        pid = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
        if is_relay(pid) {
            return Some(pid);
        }
    }
    None
}

/// Does `pid` run `corelane relay`?
fn is_relay(pid: u32) -> bool {
    let Ok(words) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let mut words = words.split(|byte| *byte == 0);
    words.next().is_some_and(|program| program.ends_with(b"corelane"))
        && words.next() == Some(COMMAND.as_bytes())
}
