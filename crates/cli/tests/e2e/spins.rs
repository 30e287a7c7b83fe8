//! System calls of unmodified programs over a wire: short connections, with all that servers and clients call for them, need none while nobody
//! sleeps. Two kinds are not counted, as they depend on the machine's load and not on connections: what a program that spins asks the kernel's own
//! descriptors in vain, and what wakes a steward that stands in for a program whose processor does something else.

use std::fs;

use crate::wires::{corelane, explain, kernel_segments, said, script};
use crate::world::{Process, Side, World, wait_until};

/// Connections between the two marks (`spins.c`).
const COUNTED: usize = 1000;

/// The system calls between the two marks in strace's record `text`, one a line, but for looks at an epoll instance that found nothing
/// and signals of an eventfd.
fn between_marks(text: &str) -> Vec<&str> {
    assert_eq!(text.matches("getppid(").count(), 2, "{text}");
    let counted = text.split("getppid(").nth(1).expect("a part between two marks");
    // What is left of the mark's own line, and of the next one's, is no call.
    let lines: Vec<&str> = counted.lines().collect();
    let calls = lines.get(1..lines.len() - 1).expect("the rests of two lines");
    let in_vain = |call: &str| call.contains(" epoll_") && call.contains("[]") && call.ends_with("= 0");
    let wakes = |call: &str| call.contains(" write(") && call.ends_with("\\1\\0\\0\\0\\0\\0\\0\\0\", 8) = 8");
    calls.iter().copied().filter(|call| !in_vain(call) && !wakes(call)).collect()
}

/// Starts `what` of spins.c under Corelane, stopped at the file `go`, and a record of its system calls.
fn start(world: &World, what: &str, go: &str) -> (Process, Process) {
    let program = world.dir.join("spins").display().to_string();
    let line = corelane("lo", &[program.as_str(), what, "7300", "127.0.0.1", go]);
    let mut runs = world.spawn(Side::Ours, what, &line);
    wait_until("the program runs", 30, || {
        runs.assert_running();
        said(&runs, "running").is_some()
    });
    let pid = said(&runs, "running").expect("its number");
    let record = world.dir.join(format!("{what}.calls")).display().to_string();
    let name = format!("{what}-strace");
    let strace = world.spawn(Side::Ours, &name, &["strace", "-f", "-p", &pid, "-o", &record]);
    wait_until("the record begins", 30, || strace.output().contains("attached"));
    (runs, strace)
}

#[test]
fn short_connections_of_programs_that_never_sleep_make_no_system_call() {
    let Some(world) = World::new(&["cc", "ip", "strace"]) else { return };
    let program = world.dir.join("spins").display().to_string();
    world.check(Side::Ours, 60, &["cc", "-O1", "-w", "-o", &program, &script("spins.c")]);
    let go = world.dir.join("go").display().to_string();
    let (server, _one) = start(&world, "serve", &go);
    let pid = said(&server, "running").expect("its number");
    wait_until("the lane listens", 30, || explain(&world, Side::Ours, &pid).contains("listens on port"));
    let (client, _two) = start(&world, "ask", &go);
    let before = kernel_segments(&world, Side::Ours);
    fs::write(&go, "").expect("a file");
    wait_until("both are done", 120, || {
        [&server, &client].iter().all(|process| said(process, "counted").is_some())
    });
    assert_eq!(kernel_segments(&world, Side::Ours), before, "the kernel took part");
    for what in ["serve", "ask"] {
        let path = world.dir.join(format!("{what}.calls"));
        let read = || fs::read_to_string(&path).unwrap_or_default();
        wait_until("the record is whole", 30, || read().contains("+++ exited"));
        let record = read();
        let calls = between_marks(&record);
        assert!(calls.len() * 20 < COUNTED, "{what}: {} calls: {calls:#?}", calls.len());
    }
}
