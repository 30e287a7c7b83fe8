//! `corelane keeper`: the keeper that all users share, as a system service.

use std::process::ExitCode;

use keeper::{Policy, Service};

use crate::args::KeeperArgs;
use crate::failure::Failure;

/// Runs the service, or checks its policy file.
pub(crate) fn run(args: KeeperArgs) -> Result<ExitCode, Failure> {
    if args.check {
        let policy = Policy::load(&args.policy).map_err(|why| {
            Failure::new("corelane keeper --check", why).fix("docs/keeper.md says what can be in the file")
        })?;
        println!("{} rules from {}", policy.rules(), policy.source());
        return Ok(ExitCode::SUCCESS);
    }
    keeper::serve(&Service { socket: args.socket, policy: args.policy, verbose: args.verbose })?;
    Ok(ExitCode::SUCCESS)
}
