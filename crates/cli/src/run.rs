//! `corelane run`: from settings to a keeper with the command under it.

use std::process::ExitCode;

use keeper::{Linkage, Program, Run, check_readable, find_preload, find_user, linkage_at_last};

use crate::args::RunArgs;
use crate::config;
use crate::failure::Failure;
use crate::relay;

/// Runs the command; its exit status is ours.
pub(crate) fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let config = config::load(&args.settings)?;
    let mut command = args.command.into_iter();
    let name = command.next().ok_or_else(|| Failure::new("command", "none given"))?;
    let identity = config.user.as_deref().map(find_user).transpose()?;
    let preload = find_preload()?;
    if let Some(identity) = &identity {
        check_readable(&preload, identity)?;
    }
    let program =
        within_reach(Program { name, args: command.collect(), identity }, args.relay, args.verbose)?;
    let run = Run {
        program,
        preload,
        devices: config.devices,
        port: config.port,
        sizes: config.sizes,
        spin: config.spin,
        verbose: args.verbose,
    };
    Ok(ExitCode::from(keeper::run(&run)?))
}

/// LD_PRELOAD does nothing for some executables. A relay carries their sockets where it can; else the command runs on the kernel, and we say so.
fn within_reach(program: Program, always: bool, verbose: bool) -> Result<Program, Failure> {
    let file = program.locate()?;
    let why = match linkage_at_last(&file) {
        Ok(Linkage::Dynamic | Linkage::Script | Linkage::Unknown) if always => "--relay asks for it",
        Ok(Linkage::Dynamic | Linkage::Script | Linkage::Unknown) | Err(_) => return Ok(program),
        Ok(Linkage::SetUserId) => {
            let why = "it is set-user-ID or set-group-ID, so the loader ignores LD_PRELOAD";
            eprintln!("corelane: {}: runs on the kernel's network: {why}", file.display());
            return Ok(program);
        }
        Ok(Linkage::Static) => "it is statically linked",
        Ok(Linkage::Go) => "it is a Go program, which makes its system calls itself",
        Ok(Linkage::OtherLibc) => "its C library is not glibc",
    };
    if verbose {
        eprintln!("corelane: {}: its TCP sockets are carried by a relay: {why}", file.display());
    }
    relay::around(program, file)
}
