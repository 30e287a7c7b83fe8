//! What is fuzzed.

mod assembler;
mod conversation;
mod frames;
mod headers;
mod memif;
mod messages;
mod options;
mod region;

/// One target.
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// What it reads.
    pub what: &'static str,
    /// Longest input, bytes.
    pub longest: usize,
    /// Plays one input; what is wrong comes back, as does a panic.
    pub play: fn(&[u8]) -> Result<(), String>,
    /// Inputs to begin with, besides the corpus.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    frames::TARGET,
    conversation::TARGET,
    headers::TARGET,
    options::TARGET,
    region::TARGET,
    messages::TARGET,
    memif::TARGET,
    assembler::TARGET,
];
