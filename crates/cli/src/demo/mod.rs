//! `corelane demo`: an unmodified server on the kernel's TCP and on Corelane's, driven by real kernel clients.

mod load;
mod measure;
mod place;
mod processes;
mod server;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use rustix::process::set_child_subreaper;
use sys::poll::{PollFd, PollFlags};
use sys::signals::SignalFd;

use self::measure::Plan;
use self::place::{Means, World};
use self::server::{Site, Web};
use crate::args::DemoArgs;
use crate::failure::Failure;

/// Bytes of the large file.
const LARGE_BYTES: u64 = 1 << 30;
/// The same with `--short`.
const LARGE_BYTES_SHORT: u64 = 32 << 20;

/// Runs the demo. Status 1: Corelane did not do what it should.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode, Failure> {
    let means = match args.unprivileged || !privileged() {
        true => Means::without_privileges(),
        false => Means::Privileges,
    };
    if means != Means::Privileges {
        println!("{}", if args.unprivileged { "As asked, without privileges:" } else { WITHOUT_PRIVILEGES });
        println!("Corelane runs in a user namespace, on a device with an address of its own.\n");
        sys::namespace::enter_new_user_and_net().map_err(|e| {
            Failure::new("making a user namespace", e)
                .fix("run as root, or allow user namespaces (`corelane doctor` says how)")
        })?;
    }
    watch_signals()?;
    set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| Failure::new("PR_SET_CHILD_SUBREAPER", std::io::Error::from(e)))?;
    processes::clear_stale();
    let web = Web::choose()?;
    let world = World::build(means)?;
    let site = Site::make(if args.short { LARGE_BYTES_SHORT } else { LARGE_BYTES })?;
    let plan = Plan {
        web,
        port: args.port.clone(),
        rounds: if args.short { 1 } else { 3 },
        seconds: if args.short { 1 } else { 4 },
        wrk: load::installed("wrk"),
        iperf3: load::installed("iperf3"),
        server_core: world.server_core(),
    };
    introduce(&plan, means);
    let figures = measure::measure(&world, &site, &plan);
    let rows = table::rows(&figures);
    print!("{}", table::text(&figures, &rows, &plan));
    if let Some(path) = &args.report {
        let json = serde_json::to_string_pretty(&rows).map_err(|e| Failure::new("the report", e))?;
        std::fs::write(path, json + "\n")
            .map_err(|e| Failure::new(format!("writing {}", path.display()), e))?;
    }
    Ok(if figures.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const WITHOUT_PRIVILEGES: &str = "Not started as root: no AF_XDP, no AF_PACKET and no BPF programs on real devices. So, as \
                                  anybody can:";

/// May we attach programs to devices and open raw sockets?
fn privileged() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::SYS_ADMIN;
    capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

fn introduce(plan: &Plan, means: Means) {
    println!("{} as the server, unmodified, first on the kernel's TCP, then on Corelane's.", plan.web.name());
    let path = match means {
        Means::Privileges => "a veth pair between two network namespaces",
        Means::Tap => "a veth pair (kernel) and a TAP device (Corelane)",
        Means::PacketSocket => "a veth pair each, Corelane's with a packet socket",
    };
    println!("The clients ({}) run on the kernel and reach it over {path}.", plan.clients());
    println!("{} round(s) of {} s each; please wait.\n", plan.rounds, plan.seconds);
}

/// On SIGINT, SIGTERM and SIGHUP: ends what was started, removes the files, and goes.
fn watch_signals() -> Result<(), Failure> {
    let signals = SignalFd::open(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP])
        .map_err(|e| Failure::new("signal handling", e))?;
    let watch = move || {
        loop {
            // An error here only means to look again.
            let _ = sys::poll::poll(&mut [PollFd::new(&signals, PollFlags::IN)], None);
            if let Ok(Some(arrived)) = signals.next() {
                processes::kill_all_below_us();
                // What stays behind is found by its name next time.
                let _ = std::fs::remove_dir_all(processes::directory());
                std::process::exit(128 + arrived.signal);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(watch)
        .map(drop)
        .map_err(|e| Failure::new("starting a thread", e))
}
