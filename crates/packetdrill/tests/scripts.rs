//! Plays scripts in packetdrill's language (`tests/scripts/*.pkt`) through the shared library's C interface, in a process of their own, in
//! the way packetdrill does. `cargo test -p corelane-packetdrill --test scripts -- FILE...` plays other files.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::multiple_unsafe_ops_per_block)]

#[path = "player/calls.rs"]
mod calls;
#[path = "player/library.rs"]
mod library;
#[path = "player/packet.rs"]
mod packet;
#[path = "player/play.rs"]
mod play;
#[path = "player/script.rs"]
mod script;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Set for the process that plays one script.
const ONE: &str = "CORELANE_PLAY_ONE";

/// The library that was built beside this test.
fn library() -> Option<PathBuf> {
    let test = std::env::current_exe().ok()?;
    let name = "libcorelane_packetdrill.so";
    [test.parent()?, test.parent()?.parent()?].iter().map(|dir| dir.join(name)).find(|path| path.exists())
}

fn main() -> ExitCode {
    let Some(library) = library() else {
        println!("libcorelane_packetdrill.so is not built");
        return ExitCode::FAILURE;
    };
    if let Ok(one) = std::env::var(ONE) {
        return match play::play(&library, Path::new(&one)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                println!("{why}");
                // Not through `main`'s end: a thread may be blocked in the library.
                std::process::exit(1)
            }
        };
    }
    let named: Vec<PathBuf> =
        std::env::args().skip(1).filter(|a| a.ends_with(".pkt")).map(PathBuf::from).collect();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut scripts: Vec<PathBuf> = if named.is_empty() {
        std::fs::read_dir(kept).unwrap().flatten().map(|entry| entry.path()).collect()
    } else {
        named
    };
    scripts.sort();
    let mut failed = 0;
    for script in &scripts {
        let played = Command::new(std::env::current_exe().unwrap()).env(ONE, script).output().unwrap();
        let name = script.file_stem().unwrap_or_default().to_string_lossy();
        if played.status.success() {
            println!("test {name} ... ok");
        } else {
            failed += 1;
            println!("test {name} ... FAILED\n    {}", String::from_utf8_lossy(&played.stdout).trim());
            println!("    {}", String::from_utf8_lossy(&played.stderr).trim());
        }
    }
    println!(
        "\ntest result: {}. {} passed; {failed} failed",
        if failed == 0 { "ok" } else { "FAILED" },
        scripts.len() - failed
    );
    if failed == 0 && !scripts.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
