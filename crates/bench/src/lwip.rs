//! The same work on lwIP: Debian's source package (`sim::lwip` has it), compiled at the first run into target/bench/lwip with the rig in
//! crates/bench/lwip.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::rows::{Job, Outcome, Trouble};
use crate::runner;
use crate::work::{Setting, Work};

/// Parts of our rig: file, text.
const RIG: &[(&str, &str)] = &[
    ("main.c", include_str!("../lwip/main.c")),
    ("end.c", include_str!("../lwip/end.c")),
    ("end.h", include_str!("../lwip/end.h")),
    ("lwipopts.h", include_str!("../lwip/lwipopts.h")),
    ("arch/cc.h", include_str!("../lwip/arch/cc.h")),
];

/// Says why lwIP could not be had, so that only the first run of a bench tries.
const WHY: &str = "why-not";

/// Compiles. `$1`: the folder with lwIP's sources.
const SCRIPT: &str = r#"set -e
files="end.c $1/core/*.c $1/core/ipv4/*.c $1/netif/ethernet.c"
for copy in 1 2; do
  cc -O3 -w -fPIC -shared -fvisibility=hidden -I. -I$1/include $files -o liblwend.so.$copy
  cc -O3 -w -fPIC -shared -fvisibility=hidden -DRIG_MSS=8960 -I. -I$1/include $files -o liblwend-jumbo.so.$copy
done
cc -O3 -o lwiprig main.c -ldl
"#;

/// One run. This process becomes the rig.
pub(crate) fn run(setting: &Setting, work: Work, job: &Job) -> Outcome {
    let mut command = Command::new(program()?);
    match work {
        Work::ShortConnections(n) => command.args(["conn", &n.to_string()]),
        Work::RequestResponse(n) => command.args(["rr", &n.to_string()]),
        Work::Bulk(mtu) => command.args(["bulk", &mtu.to_string()]),
    };
    command.arg(job.count.to_string());
    if let Work::RequestResponse(n) = work {
        command.arg(Work::active(n).to_string());
    }
    if !setting.checksums {
        command.env("CSUM", "off");
    }
    command.env("LOST_PPM", setting.lost_ppm.to_string());
    Err(Trouble::failed("lwiprig", command.exec()))
}

/// A new bench tries again what an earlier one could not do.
pub(crate) fn forget_failure() {
    // Most often there is none.
    let _ = std::fs::remove_file(folder().join(WHY));
}

fn folder() -> PathBuf {
    runner::target_folder().join("bench/lwip")
}

/// The rig, compiled when it is not there yet.
fn program() -> Result<PathBuf, Trouble> {
    let folder = folder();
    let rig = folder.join("lwiprig");
    if let Ok(why) = std::fs::read_to_string(folder.join(WHY)) {
        return Err(Trouble::Skipped(why));
    }
    let changed = write_sources(&folder).map_err(|e| Trouble::failed(&folder.display().to_string(), e))?;
    if rig.exists() && !changed {
        return Ok(rig);
    }
    match build(&folder) {
        Ok(()) => Ok(rig),
        Err(why) => {
            let why = format!("lwIP could not be compiled: {why}");
            // Whoever comes next tries again, which costs time only.
            let _ = std::fs::write(folder.join(WHY), &why);
            Err(Trouble::Skipped(why))
        }
    }
}

/// Writes the rig's sources where they differ; did they?
fn write_sources(folder: &Path) -> io::Result<bool> {
    std::fs::create_dir_all(folder.join("arch"))?;
    let mut changed = false;
    for (name, text) in RIG {
        let file = folder.join(name);
        if std::fs::read_to_string(&file).ok().as_deref() != Some(*text) {
            std::fs::write(file, text)?;
            changed = true;
        }
    }
    Ok(changed)
}

fn build(folder: &Path) -> Result<(), String> {
    let source = sim::lwip::source()?.join("src/src");
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "sh"]).arg(source).current_dir(folder);
    // What the compiler has to say is on the terminal.
    match runner::finish(&mut command, Duration::from_secs(120)) {
        Ok(_) => Ok(()),
        Err(Trouble::Skipped(why) | Trouble::Failed(why)) => Err(format!("{why} (needs cc)")),
    }
}
