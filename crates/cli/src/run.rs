//! `corelane run`: from settings to a keeper with the command under it.

use std::process::ExitCode;

use keeper::{Linkage, Program, Run, check_readable, find_preload, find_user, linkage};

use crate::args::RunArgs;
use crate::config;
use crate::failure::Failure;

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
    let program = Program { name, args: command.collect(), identity };
    warn_when_out_of_reach(&program)?;
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

/// LD_PRELOAD does nothing for some executables: then the command runs on the kernel, and we say so.
fn warn_when_out_of_reach(program: &Program) -> Result<(), Failure> {
    let file = program.locate()?;
    let why = match linkage(&file) {
        Ok(Linkage::Dynamic | Linkage::Script | Linkage::Unknown) | Err(_) => return Ok(()),
        Ok(Linkage::Static) => "it is statically linked, so LD_PRELOAD has no effect on it",
        Ok(Linkage::SetUserId) => "it is set-user-ID or set-group-ID, so the loader ignores LD_PRELOAD",
    };
    eprintln!("corelane: {}: runs on the kernel's network: {why}", file.display());
    Ok(())
}
