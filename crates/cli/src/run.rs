//! `corelane run`: from settings to a keeper with the command under it.

use std::process::ExitCode;

use keeper::{
    Asked, Keeper, Linkage, Program, Run, StartError, Wish, check_readable, find_preload, find_user,
    linkage_at_last,
};

use crate::args::RunArgs;
use crate::config::{self, Config, KeeperChoice};
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
    let (keeper, refused) = find_keeper(&config, &program)?;
    let run = Run {
        program,
        preload,
        devices: config.devices,
        port: config.port,
        sizes: config.sizes,
        spin: config.spin,
        verbose: args.verbose,
    };
    match (keeper::run(&run, keeper), refused) {
        (Ok(status), _) => Ok(ExitCode::from(status)),
        // Who may use neither has to know of both.
        (Err(own), Some(refused)) => Err(Failure::from(own).and(&refused)),
        (Err(own), None) => Err(own.into()),
    }
}

/// Asks the shared keeper, unless a private one is wanted. Gives also the refusal after which a private one is tried.
fn find_keeper(config: &Config, program: &Program) -> Result<(Keeper, Option<StartError>), Failure> {
    let (socket, must) = match &config.keeper {
        KeeperChoice::Private => return Ok((Keeper::Private("private, as asked for".to_owned()), None)),
        KeeperChoice::Auto(path) => (path.as_path(), false),
        KeeperChoice::Shared(path) => (path.as_path(), true),
    };
    let wish = Wish {
        devices: config.device_texts.clone(),
        port: config.port,
        sizes: config.sizes,
        spin: config.spin,
        identity: program.identity.as_ref().map(|identity| (identity.uid, identity.gid)),
    };
    match keeper::ask(socket, &wish) {
        Asked::Served(keeper) => Ok((Keeper::Shared(keeper), None)),
        Asked::Absent(why) if must => Err(Failure::new("the shared keeper", why)
            .fix("start it (`systemctl start corelane-keeper`), or use --keeper private")),
        Asked::Refused(refused) if must => Err(refused.into()),
        Asked::Absent(why) => Ok((Keeper::Private(format!("private: {why}")), None)),
        Asked::Refused(refused) => {
            eprintln!("corelane: {refused}; a private keeper is used instead");
            Ok((Keeper::Private(format!("private, because {refused}")), Some(refused)))
        }
    }
}

/// LD_PRELOAD does nothing for some executables. A relay carries their sockets where it can; else the command runs on the kernel, and we say so.
fn within_reach(program: Program, always: bool, verbose: bool) -> Result<Program, Failure> {
    let file = program.locate()?;
    let why = match linkage_at_last(&file) {
        Ok(Linkage::Dynamic | Linkage::Script | Linkage::Unknown) if always => "--relay asks for it",
        Ok(Linkage::Dynamic | Linkage::Script | Linkage::Unknown) | Err(_) => return Ok(program),
        Ok(Linkage::SetUserId) => {
            let why = "it is set-user-ID or set-group-ID: no library comes into it";
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
