//! Instructions an operation, by callgrind: where wall time is noise, this is not.
//!
//! The work is done twice, once with N and once with 2 N operations; the difference over N leaves start and set-up out. The C
//! library's variants of memcpy and the like are pinned, so that the count does not depend on the processor's model.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::rows::{Row, Trouble};
use crate::runner;

/// Instructions of one operation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Instructions(pub(crate) f64);

/// glibc picks its string functions by processor and their thresholds by cache size (glibc manual, "Hardware Capability
/// Tunables"): here always the ones for plain x86-64.
pub(crate) const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX2,-AVX2_Usable,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM\
:glibc.cpu.x86_non_temporal_threshold=0x4000000\
:glibc.cpu.x86_rep_movsb_threshold=0x4000000:glibc.cpu.x86_rep_stosb_threshold=0x4000000";

/// Callgrind runs fifty times slower: not for what takes long by itself.
const LIMIT: Duration = Duration::from_secs(120);

/// Is `stack` of `row` counted? The kernel's work is not seen by callgrind.
pub(crate) fn worth_counting(row: &Row, stack: &str) -> bool {
    row.counted.is_some()
        && !stack.starts_with("linux")
        && row.stacks.iter().any(|s| s.name == stack && s.left_out.is_none())
}

/// Counts over `operations` and twice as many.
pub(crate) fn instructions(row: &Row, stack: &str, operations: u64) -> Result<Instructions, Trouble> {
    let once = collected(row, stack, operations)?;
    let twice = collected(row, stack, 2 * operations)?;
    Ok(Instructions(twice.saturating_sub(once) as f64 / operations as f64))
}

/// All instructions of one run with `operations`.
fn collected(row: &Row, stack: &str, operations: u64) -> Result<u64, Trouble> {
    let this = std::env::current_exe().map_err(|e| Trouble::failed("this program's path", e))?;
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1", "--trace-children=yes"])
        .arg(&this);
    command.args(["one", &row.id, stack, "--json", "--count", &operations.to_string()]);
    command.env("GLIBC_TUNABLES", TUNABLES).stderr(Stdio::null());
    let said = runner::finish(&mut command, LIMIT)?;
    total(&said)
        .ok_or_else(|| Trouble::failed("valgrind", format!("no count in its output: {}", said.trim())))
}

/// What callgrind says that it counted: `==123== Collected : 4567`.
pub(crate) fn total(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.split("Collected :").nth(1)?.trim().parse().ok())
}

/// Is valgrind there?
pub(crate) fn possible() -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|dir| dir.join("valgrind").is_file())
        && Path::new("/proc/self/exe").exists()
}
