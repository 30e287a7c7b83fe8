//! A fuzzer for stable Rust: mutated inputs for everything that reads what a peer, a program or a corrupted region wrote.
//!
//! libFuzzer and its kin need a nightly compiler or clang. What they need of the compiler, though, is a pass that stable rustc runs when told to
//! (`-Cpasses=sancov-module`): `cargo xtask fuzz` builds with it, and [`coverage`] reads its counters. The loop itself ([`run`]) is small: take
//! an input, mutate it ([`mutate`]), keep what reaches new code. Without that pass, as in `cargo test`, the kept inputs
//! (`fuzz/corpus`) are played, and a bounded number of new ones made from them.

pub mod coverage;
pub mod host;
pub mod input;
pub mod mutate;
pub mod run;
pub mod targets;
