//! The counters that a program of the campaign shares with it, in a file that both map or read (`traffic.c`, `struct shared`).

use std::fs;
use std::path::{Path, PathBuf};

const WORKERS_MAX: usize = 16;
const FILE_BYTES: usize = 4096;

/// The file of one program.
pub(crate) struct Counters(PathBuf);

/// What was in it at one moment.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counted {
    /// Requests that were answered in full, each byte checked.
    pub(crate) answered: u64,
    /// Connections that ended before their time.
    pub(crate) cut: u64,
    /// Longest time between two bytes of a request.
    pub(crate) worst_us: u64,
    /// Connections that were opened.
    pub(crate) opened: u64,
    /// Connections that were refused over a wire.
    pub(crate) refused: u64,
    /// Connections that are open.
    pub(crate) open: u64,
    /// Clients that open nothing more.
    pub(crate) draining: u64,
}

impl Counters {
    /// A new file with nothing counted.
    pub(crate) fn new(dir: &Path, name: &str) -> Result<Self, String> {
        let path = dir.join(format!("{name}.counters"));
        fs::write(&path, vec![0; FILE_BYTES]).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> String {
        self.0.display().to_string()
    }

    pub(crate) fn read(&self) -> Counted {
        let bytes = fs::read(&self.0).unwrap_or_default();
        let words: Vec<u64> =
            bytes.chunks_exact(8).filter_map(|word| word.try_into().ok().map(u64::from_ne_bytes)).collect();
        let word = |at: usize| words.get(at).copied().unwrap_or(0);
        let sum = |from: usize| (from..from + WORKERS_MAX).map(word).sum();
        Counted {
            answered: word(0),
            cut: word(1),
            worst_us: word(2),
            opened: word(3),
            refused: word(4),
            open: sum(5),
            draining: sum(5 + 2 * WORKERS_MAX),
        }
    }
}
