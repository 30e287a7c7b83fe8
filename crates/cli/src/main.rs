//! The `corelane` program.

mod args;
mod config;
mod demo;
mod doctor;
mod explain;
mod failure;
mod keeper_service;
mod log;
mod relay;
mod run;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Action, Cli};

fn main() -> ExitCode {
    log::start();
    let outcome = match Cli::parse().action {
        Action::Run(args) => run::run(args),
        Action::Demo(args) => demo::run(&args),
        Action::Doctor(args) => doctor::run(&args),
        Action::Explain(args) => explain::run(&args),
        Action::Keeper(args) => keeper_service::run(args),
        Action::RunKeeper => Ok(keeper::keep_run()),
        Action::Steward => Ok(keeper::steward_main()),
        Action::Relay(args) => relay::run(args),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.code())
        }
    }
}
