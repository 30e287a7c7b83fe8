//! The command line: what a user types, and the help that explains it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Run unmodified network programs on Corelane's own TCP instead of the kernel's.
#[derive(Parser, Debug)]
#[command(
    name = "corelane",
    version,
    long_about = "Corelane runs unmodified network programs on its own TCP/IP in user space, on the same device and the same IP \
                  address as before. What it cannot take over stays with the kernel, and `corelane explain` says why.",
    after_help = "First steps:
  corelane doctor                       what this machine can do, and what to change
  corelane demo                         nginx on the kernel and on Corelane, side by side
  corelane run -- nginx -g 'daemon off;'   your own server, on every usable device
  corelane explain PID                  which sockets of PID are accelerated

Exit status: that of the wrapped command (128+N when signal N ended it); 125 when corelane itself failed,
126 when the command could not be executed, 127 when it was not found, 2 for a mistake on the command line."
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// The sub-commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Action {
    /// Run a command with its TCP on Corelane
    #[command(after_help = "Examples:
  corelane run -- nginx -g 'daemon off;'
  corelane run --device eth1 --user www-data -- python3 -m http.server 8000
  corelane run --device tap:cl0=10.9.0.2/24,gw=10.9.0.1 -- redis-server --protected-mode no

Needs root (CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF) to attach to a device, or a shared keeper (`corelane keeper`) whose
policy allows the user; the command itself needs none of it and with --user gets none of it. Settings come from the configuration file, then CORELANE_* variables, then these flags;
the later wins.")]
    Run(RunArgs),
    /// Keep for all users: the system service that `corelane run` of every user that the policy allows goes to
    #[command(after_help = "Examples:
  corelane keeper                            as the unit corelane-keeper.service does
  corelane keeper --check                    only look whether the policy file is right
  corelane run --keeper shared -- nginx      as a user that the policy allows

The policy file (docs/keeper.md), without which only root may:
  [[allow]]                    # the first rule that names the user, or a group of the user's, decides
  name = \"web\"               # for messages
  users = [\"www-data\", 1000] # names or numbers, \"*\": everybody; or groups = [...]
  devices = [\"eth0\"]         # else all of the kernel's; tap:NAME, own:NAME, memif:PATH must be named
  addresses = [\"10.0.0.0/8\"] # else all of the devices'
  ports = [443, \"8000-8999\"] # else all
  namespaces = \"host\"        # else \"any\": callers in other network namespaces too
  runs = 4                     # of one user at a time
  lanes = 8                    # of one run
  memory = \"4GiB\"            # of one run
  connections = 16384          # of one process

Signals: SIGHUP reads the policy again, SIGTERM ends the service. Runs that go on are not disturbed by its end: each has a
keeper process of its own, which reports to the service that comes next.
Exit status: 0, or 125 when it could not start.")]
    Keeper(KeeperArgs),
    /// Serve a web page on the kernel and on Corelane and compare them, in namespaces that vanish afterwards
    Demo(DemoArgs),
    /// Say what this machine can do for Corelane, and what to change
    Doctor(DoctorArgs),
    /// Say for each socket of a running program whether it is accelerated, and if not why
    Explain(ExplainArgs),
    /// The keeper of one run (started by the shared keeper)
    #[command(hide = true, name = keeper::WORKER_COMMAND)]
    RunKeeper,
    /// The steward of a region (started by the keeper)
    #[command(hide = true, name = keeper::STEWARD_COMMAND)]
    Steward,
    /// Carries the TCP of a program that the library cannot reach (started by `run`)
    #[command(hide = true, name = crate::relay::COMMAND)]
    Relay(RelayArgs),
}

/// Settings that a configuration file and the environment can give too.
#[derive(Args, Debug, Default, Clone)]
pub(crate) struct SettingArgs {
    /// Network device to work on. A name: its addresses stay shared with the kernel. Or, with an address that belongs to
    /// Corelane alone, tap:NAME=ADDRESS/PREFIX[,gw=ADDRESS] for a TAP device to be made, own:NAME=... for a device that
    /// is there, memif:PATH=ADDRESS/PREFIX[,gw=ADDRESS][,role=client|server][,id=N][,secret=TEXT][,mtu=N] for a wire to a VPP,
    /// DPDK or other program at the memif socket PATH. May be given several times. Without it: every usable device except
    /// loopback. `lo`: none, for a program that talks to others of this machine on Corelane; needs no privileges
    #[arg(long, short = 'd', value_name = "IFNAME")]
    pub(crate) device: Vec<String>,
    /// How packets come and go: auto, xdp, packet or tap
    #[arg(long, value_name = "KIND")]
    pub(crate) port: Option<String>,
    /// Run the command as this user, without any privilege
    #[arg(long, short = 'u', value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// TCP connections one process can have open on Corelane; of more than 65536 idle ones hibernate
    #[arg(long, value_name = "N")]
    pub(crate) sockets: Option<u32>,
    /// Packet buffers (4 KiB each) of one process at most; memory is taken as they are used and given back
    #[arg(long, value_name = "N")]
    pub(crate) frames: Option<u32>,
    /// Regions on huge pages of 2 MiB: off (the default), try (else on ordinary pages; `explain` says how many were missing) or
    /// need (else sockets stay with the kernel). They have to be there before (sysctl vm.nr_hugepages); a region takes all of
    /// its own at once
    #[arg(long, value_name = "WHEN")]
    pub(crate) huge_pages: Option<String>,
    /// How long a thread looks for packets before it sleeps, us: auto, 0 (never) or a number
    #[arg(long, value_name = "US")]
    pub(crate) spin_us: Option<String>,
    /// Who attaches to devices: auto (the shared keeper if there is one and it allows this user, else a private one), shared,
    /// private, or the path of a shared keeper's socket
    #[arg(long, value_name = "WHICH")]
    pub(crate) keeper: Option<String>,
    /// Configuration file (TOML). Default: /etc/corelane.toml if there is one
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Use the settings of [profile.NAME] in the configuration file
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
}

/// `corelane run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
    /// Say on standard error what is being done
    #[arg(long, short = 'v')]
    pub(crate) verbose: bool,
    /// Carry the command's TCP sockets by a relay, as is done for static executables, Go programs and those of another C library, even if the preload
    /// library reaches it
    #[arg(long)]
    pub(crate) relay: bool,
    /// The command and its arguments, after `--`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// `corelane relay`.
#[derive(Args, Debug)]
pub(crate) struct RelayArgs {
    /// The program's file
    pub(crate) file: PathBuf,
    /// Its arguments, from its own name on
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<OsString>,
}

/// `corelane keeper`.
#[derive(Args, Debug)]
pub(crate) struct KeeperArgs {
    /// Where to listen
    #[arg(long, value_name = "PATH", default_value = keeper::SOCKET)]
    pub(crate) socket: PathBuf,
    /// The policy file (TOML)
    #[arg(long, value_name = "FILE", default_value = keeper::POLICY)]
    pub(crate) policy: PathBuf,
    /// Only read the policy file and say whether it is right
    #[arg(long)]
    pub(crate) check: bool,
    /// Say on standard error what is being done
    #[arg(long, short = 'v')]
    pub(crate) verbose: bool,
}

/// `corelane demo`.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// A few seconds instead of a minute: one short run of each kind and a small file
    #[arg(long)]
    pub(crate) short: bool,
    /// Also write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// How packets come and go: auto, xdp or packet
    #[arg(long, value_name = "KIND", default_value = "auto")]
    pub(crate) port: String,
    /// Behave as if started without privileges: user namespace and TAP device
    #[arg(long)]
    pub(crate) unprivileged: bool,
    /// Set in the copy of this program that already is in its user namespace
    #[arg(long, hide = true)]
    pub(crate) in_namespace: bool,
}

/// `corelane doctor`.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Look at these devices only
    #[arg(long, short = 'd', value_name = "IFNAME")]
    pub(crate) device: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `corelane explain`.
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// Process id of a program started with `corelane run`, or of one of its children
    pub(crate) pid: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_after_the_double_dash_belong_to_the_command() {
        let cli = Cli::parse_from(["corelane", "run", "-d", "eth1", "--", "nginx", "-d", "--user"]);
        let Action::Run(run) = cli.action else { panic!("not run") };
        assert_eq!(run.settings.device, ["eth1"]);
        assert_eq!(run.command, ["nginx", "-d", "--user"]);
    }
}
