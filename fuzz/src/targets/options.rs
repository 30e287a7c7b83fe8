//! TCP options: any bytes parse, and what was read and written again reads the same.

use wire::{Sign, TcpOptions};

use super::Target;

pub(super) const TARGET: Target =
    Target { name: "options", what: "TCP options, parsed and written again", longest: 64, play, seeds };

/// Bytes of one SACK block, and in front of the first (RFC 2018 3).
const SACK_BLOCK_BYTES: usize = 8;
const SACK_HEAD_BYTES: usize = 4;

fn play(bytes: &[u8]) -> Result<(), String> {
    let read = TcpOptions::parse(bytes);
    let mut out = [0; wire::tcp_options::OPTIONS_LEN_MAX];
    // More than fits one header may be read from bytes longer than one: then there is nothing to write.
    let Ok(len) = read.emit(&mut out) else { return Ok(()) };
    if len % 4 != 0 || len != read.len_bytes() {
        return Err(format!("{len} bytes were written, {} announced", read.len_bytes()));
    }
    let again = TcpOptions::parse(out.get(..len).unwrap_or(&[]));
    // Of a signature its place is kept, unless it was a bad one.
    let written = if read.sign == Sign::Bad { TcpOptions { sign: Sign::None, ..read } } else { read };
    // SACK blocks for which there is no room beside the other options are left out.
    let (all, kept) = (read.sack.as_slice(), again.sack.as_slice());
    let head = if kept.is_empty() { SACK_HEAD_BYTES } else { 0 };
    let full = out.len() - len < head + SACK_BLOCK_BYTES && all.starts_with(kept);
    let again = if full { TcpOptions { sack: read.sack, ..again } } else { again };
    if again == written { Ok(()) } else { Err(format!("{read:?} is read again as {again:?}")) }
}

fn seeds() -> Vec<Vec<u8>> {
    vec![
        vec![2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7],
        vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        vec![1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 6],
        vec![19, 18, 0, 0],
        vec![2, 0],
        vec![34, 2, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8],
    ]
}
