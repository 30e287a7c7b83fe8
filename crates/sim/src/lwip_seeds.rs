//! `corelane-sim lwip`: plays seeds with our engine on one host and lwIP on the other. Leaves out what a seed means.

use std::process::ExitCode;
use std::time::Instant;

use sim::lwip::Build;
use sim::peers::{PeerPlan, run};

/// Plays what `args` ask for: `--seeds N`, `--from S`, `--seed S`, `--pcap DIR`.
///
/// # Errors
/// An option that is not known, or a file that cannot be written.
pub(crate) fn play(mut args: impl Iterator<Item = String>) -> Result<ExitCode, String> {
    let (mut seeds, mut from, mut one) = (1000, 0, None);
    let mut pcap = "target/reports".to_owned();
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} wants a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name} {value}: not a number"));
        match name.as_str() {
            "--seeds" => seeds = number()?,
            "--from" => from = number()?,
            "--seed" => one = Some(number()?),
            "--pcap" => pcap = value,
            _ => return Err(format!("unknown option {name}")),
        }
    }
    if let Err(why) = Build::Small.program() {
        eprintln!("SKIPPED: {why}");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(seed) = one {
        std::fs::create_dir_all(&pcap).map_err(|e| format!("cannot make {pcap}: {e}"))?;
        return Ok(play_one(seed, &pcap));
    }
    Ok(play_all(from, seeds))
}

/// One seed, with all that is known of it.
fn play_one(seed: u64, pcap: &str) -> ExitCode {
    let plan = PeerPlan::of_seed(seed);
    println!("{plan:#?}");
    let file = format!("{pcap}/lwip-{seed}.pcapng");
    match run(&plan, Some(&file)) {
        Ok(report) => {
            println!("{report:?}\npackets: {file}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}\npackets: {file}");
            ExitCode::FAILURE
        }
    }
}

fn play_all(from: u64, seeds: u64) -> ExitCode {
    let start = Instant::now();
    let (mut finished, mut broke_off, mut failed, mut lost, mut again) = (0, 0, 0, 0, 0);
    let mut read = [0; 2];
    let mut failures = 0_u64;
    for seed in from..from.saturating_add(seeds) {
        match run(&PeerPlan::of_seed(seed), None) {
            Ok(report) => {
                finished += report.finished;
                broke_off += report.broke_off;
                failed += report.failed;
                lost += report.network.dropped;
                again += report.retransmits;
                for (sum, read) in read.iter_mut().zip(report.read) {
                    *sum += read;
                }
            }
            Err(failure) => {
                failures += 1;
                eprintln!("{failure}\nplay it again: cargo xtask sim lwip --seed {seed}\n");
            }
        }
    }
    let [ours, theirs] = read;
    println!(
        "{seeds} seeds with lwIP in {:.1} s: {finished} ends finished, {broke_off} broke off, {failed} failed because the other one had; {ours} \
         bytes read by us, {theirs} by lwIP; {lost} packets lost, {again} segments sent again by us; {failures} seeds failed",
        start.elapsed().as_secs_f64()
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
