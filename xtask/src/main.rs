//! The project's chores: `cargo xtask demo | test | bench | tidy | compliance | conformance | sim | mutants | matrix | kills`. Uses the standard library only.

mod bench;
mod compliance;
mod conformance;
mod demo;
mod fuzz;
mod install;
mod kills;
mod matrix;
mod mutants;
mod report;
mod run;
mod seed;
mod sim;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <chore> [options]

  demo         install what the demo needs, build, and show a real server on the kernel and on Corelane
  test         install what the tests need and run every test (what CI runs)
  bench        measure Corelane beside its peers, and write docs/bench.md   [--short] [--only ROW] [--list] [--bless]
  tidy         check layers, file and function sizes, unsafe and other house rules
  compliance   check that each row of COMPLIANCE.md names code and a test that exist
  fuzz         play mutated inputs to everything that reads what others wrote   [--minutes N] [--seed S] [TARGET ...]
  conformance  play the packet scripts on the engine and on Linux's stack   [--engine-only] [FILE-OR-NAME ...]

  sim          play seeds in the simulator   [--seeds N] [--from S] [--minutes M] [--jobs J], or one: --seed S;
               or goodput over a bottleneck, beside Linux's own stack: goodput [--linux] [--only NAME] [--page docs/goodput.md]
  mutants      put faults into a copy of the engine, and count those that the tests find   [--check] [--quick] [NAME ...]
  matrix       run each program of the matrix under `corelane run`, with peers on the kernel and on Corelane   [--short] [NAME ...]
  kills        kill workers, stewards, keepers and programs at random moments under load   [--count N] [--seed S] [--jobs J]

Each chore writes target/reports/NAME.json beside what it prints.";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let chore = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let outcome = match chore.as_str() {
        "demo" => demo::run(&rest),
        "test" => test::run(&rest),
        "bench" => bench::run(&rest),
        "tidy" => tidy::run(),
        "compliance" => compliance::run(),
        "conformance" => conformance::run(&rest),
        "fuzz" => fuzz::run(&rest),
        "sim" => sim::run(&rest),
        "matrix" => matrix::run(&rest),
        "kills" => kills::run(&rest),
        "mutants" => mutants::run(&rest),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}
