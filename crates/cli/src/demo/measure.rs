//! Alternating runs on both stacks.

use super::load::{self, Requests};
use super::place::{Stack, World};
use super::processes::{core_busy_seconds, machine_busy_seconds};
use super::server::{BULK_PORT, LARGE_FILE, Server, Site, WEB_PORT, Web};
use crate::explain;
use crate::failure::Failure;

/// What is run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) web: Web,
    /// `--port` of `corelane run`.
    pub(super) port: String,
    pub(super) rounds: u32,
    pub(super) seconds: u32,
    /// Is wrk installed? Else curl drives the server.
    pub(super) wrk: bool,
    /// Is iperf3 installed?
    pub(super) iperf3: bool,
    /// [`World::server_core`].
    pub(super) server_core: Option<usize>,
}

impl Plan {
    /// The clients' names.
    pub(super) fn clients(&self) -> String {
        let mut names = vec![if self.wrk { "wrk" } else { "curl" }];
        if self.wrk {
            names.push("curl");
        }
        if self.iperf3 {
            names.push("iperf3");
        }
        names.join(", ")
    }
}

/// What one load gave, with the CPU time it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) requests: Requests,
    /// CPU time of the server's processes a request, us.
    pub(super) server_cpu_us: f64,
    /// CPU time of the whole machine a request, us.
    pub(super) machine_cpu_us: f64,
}

/// Everything that was measured on one stack, a value a round.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    pub(super) keep_alive: Vec<Sample>,
    pub(super) close: Vec<Sample>,
    /// Gb/s of the large file.
    pub(super) file_gbit: Vec<f64>,
    /// Gb/s, the client sends.
    pub(super) bulk_in_gbit: Vec<f64>,
    /// Gb/s, the server sends.
    pub(super) bulk_out_gbit: Vec<f64>,
}

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) kernel: Series,
    pub(super) corelane: Series,
    /// What of the server's sockets was accelerated.
    pub(super) accelerated: Vec<String>,
    /// What went wrong, for people.
    pub(super) faults: Vec<String>,
}

impl Figures {
    fn series(&mut self, stack: Stack) -> &mut Series {
        match stack {
            Stack::Kernel => &mut self.kernel,
            Stack::Corelane => &mut self.corelane,
        }
    }
}

/// Runs the plan. What fails is noted and the rest goes on; a stack whose server does not start is not tried again.
pub(super) fn measure(world: &World, site: &Site, plan: &Plan) -> Figures {
    let mut figures = Figures::default();
    let mut order = vec![Stack::Kernel, Stack::Corelane];
    for round in 0..plan.rounds {
        for &stack in &order.clone() {
            eprintln!("round {} of {}: {} ...", round + 1, plan.rounds, stack.name());
            if let Err(failure) = measure_web(world, site, plan, stack, &mut figures) {
                figures.faults.push(failure.to_string());
                order.retain(|&s| s != stack);
                continue;
            }
            if plan.iperf3
                && let Err(failure) = measure_bulk(world, site, plan, stack, &mut figures)
            {
                figures.faults.push(failure.to_string());
                order.retain(|&s| s != stack);
            }
        }
        // So that neither stack always has the warmer machine.
        order.reverse();
    }
    figures
}

fn measure_web(
    world: &World,
    site: &Site,
    plan: &Plan,
    stack: Stack,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let server = Server::web(world, site, stack, plan.web, &plan.port)?;
    let keep_alive = sample(world, plan, stack, &server, false)?;
    let close = sample(world, plan, stack, &server, true)?;
    for (kind, sample) in [("keep-alive", &keep_alive), ("close", &close)] {
        if sample.requests.errors != 0 || sample.requests.count == 0 {
            let requests = sample.requests;
            figures.faults.push(format!(
                "{} on {}: {} requests failed ({} for want of an answer), {} were answered",
                kind,
                stack.name(),
                requests.errors,
                requests.timeouts,
                requests.count
            ));
        }
    }
    if stack == Stack::Corelane && figures.accelerated.is_empty() {
        let (lines, any) = explain::summary(&server.members());
        figures.accelerated = lines;
        if !any {
            figures
                .faults
                .push("no port of the server was accelerated: it was served by the kernel".to_owned());
        }
    }
    let (digest, seconds) = load::fetch_digest(world.client(stack), WEB_PORT, LARGE_FILE)?;
    if digest != site.digest {
        figures.faults.push(format!("the large file came through {} with a wrong SHA-256", stack.name()));
    }
    let series = figures.series(stack);
    series.keep_alive.push(keep_alive);
    series.close.push(close);
    series.file_gbit.push(site.large_bytes as f64 * 8.0 / seconds / 1e9);
    Ok(())
}

fn sample(world: &World, plan: &Plan, stack: Stack, server: &Server, close: bool) -> Result<Sample, Failure> {
    let server_cpu = || world.server_core().map_or_else(|| server.cpu_seconds(), core_busy_seconds);
    let (server_before, machine_before) = (server_cpu(), machine_busy_seconds());
    let client = world.client(stack);
    let drive = if plan.wrk { load::wrk } else { load::curl_loop };
    let requests = drive(client, WEB_PORT, close, plan.seconds)?;
    let each = |seconds: f64| seconds * 1e6 / (requests.count.max(1) as f64);
    Ok(Sample {
        requests,
        server_cpu_us: each(server_cpu() - server_before),
        machine_cpu_us: each(machine_busy_seconds() - machine_before),
    })
}

fn measure_bulk(
    world: &World,
    site: &Site,
    plan: &Plan,
    stack: Stack,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let _server = Server::iperf3(world, site, stack, &plan.port)?;
    let client = world.client(stack);
    let inward = load::iperf3(client, BULK_PORT, false, plan.seconds)?;
    let outward = load::iperf3(client, BULK_PORT, true, plan.seconds)?;
    let series = figures.series(stack);
    series.bulk_in_gbit.push(inward);
    series.bulk_out_gbit.push(outward);
    Ok(())
}
