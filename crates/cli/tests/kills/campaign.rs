//! One job of the campaign: its namespaces, the programs that nobody touches, and one environment of victims after another.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use base::Rng;
use rustix::process::Signal;

use crate::family::{Family, is_alive, signal};
use crate::residue::{self, Held};
use crate::world::{DEVICE, OURS, Side, World};

/// Where the victims listen, and where the program does that nobody touches.
const PORT: &str = "7001";
const CALM_PORT: &str = "7002";
const PEER_DEVICE: &str = "peer0";
/// Longest time between two bytes that a client of the untouched program may see: a tail that is lost comes again after 200 ms, then 400 ms and so on,
/// and two cores have more to do than they can.
const CALM_GAP_US: u64 = 20_000_000;
/// How long things may take that nothing holds up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A steward gives connections of the dead so long.
const LINGER: Duration = Duration::from_secs(90);

/// Whom a signal hit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Victim {
    Worker,
    Client,
    Main,
    ClientMain,
    Steward,
    Keeper,
    ClientKeeper,
}

/// How an environment ends; the short form knows the first [`GENTLE`] only.
const ENDS: [&[Victim]; 8] = [
    &[Victim::Main],
    &[],
    &[Victim::ClientMain],
    &[Victim::Keeper],
    &[Victim::ClientKeeper],
    &[Victim::Keeper, Victim::Main],
    &[Victim::Main, Victim::Steward],
    &[Victim::Keeper, Victim::Steward],
];
const GENTLE: u64 = 3;

/// What the job did.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) kills: [u64; 7],
    pub(crate) stops: u64,
    pub(crate) environments: u64,
    pub(crate) answered: u64,
    pub(crate) cut: u64,
    pub(crate) opened: u64,
    /// Connections of the client on Corelane that were refused by a lane whose process had been killed.
    pub(crate) refused: u64,
    /// Of the connections of clients on the kernel, those that the kernel accepted.
    pub(crate) by_kernel: u64,
    pub(crate) worst_us: u64,
    pub(crate) calm_answered: u64,
    pub(crate) calm_worst_us: u64,
    /// Where the time went, in seconds: [`PHASES`].
    pub(crate) seconds: [f64; PHASES.len()],
}

/// The parts of an environment's life.
pub(crate) const PHASES: [&str; 7] =
    ["start", "first answers", "kills", "answers after them", "drain", "the end is heard", "nothing is left"];

impl Tally {
    pub(crate) fn all_kills(&self) -> u64 {
        self.kills.iter().sum()
    }
}

/// Waits until `condition`; false when it did not come true in time.
fn wait_for(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Connections that the kernel of a process's namespace accepted.
fn accepted_by_kernel(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/net/snmp")).unwrap_or_default();
    let values = text.lines().filter(|line| line.starts_with("Tcp:")).nth(1).unwrap_or_default();
    values.split_whitespace().nth(6).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The programs that are killed.
struct Victims {
    server: Family,
    client: Family,
    /// A client on the kernel, which is not killed.
    kernel: Family,
}

impl Victims {
    fn start(world: &World) -> Result<Self, String> {
        let server = Family::start(world, (Side::Ours, Some(DEVICE)), "server", &["serve", OURS, PORT, "4"])?;
        let ready = wait_for(PATIENCE, || server.workers().len() == 4);
        if !ready {
            return Err(format!("the server does not start: {}", server.process.output()));
        }
        // A listener is there once the first connection to it is answered.
        let kernel = Family::start(world, (Side::Peer, None), "kernel", &["ask", OURS, PORT, "1", "10"])?;
        let client = Family::start(
            world,
            (Side::Peer, Some(PEER_DEVICE)),
            "client",
            &["ask", OURS, PORT, "2", "5", "wire"],
        )?;
        Ok(Self { server, client, kernel })
    }

    fn all(&self) -> [&Family; 3] {
        [&self.server, &self.client, &self.kernel]
    }

    fn pids_of(&self, victim: Victim) -> Vec<u32> {
        match victim {
            Victim::Worker => self.server.workers(),
            Victim::Client => self.client.workers(),
            Victim::Main => self.server.main().into_iter().collect(),
            Victim::ClientMain => self.client.main().into_iter().collect(),
            Victim::Steward => [self.server.stewards(), self.client.stewards()].concat(),
            Victim::Keeper => self.server.keeper().into_iter().collect(),
            Victim::ClientKeeper => self.client.keeper().into_iter().collect(),
        }
    }

    /// Do both clients get on?
    fn get_on(&self) -> Result<(), String> {
        let before = [self.kernel.counters.read().answered, self.client.counters.read().answered];
        let gets_on = || {
            self.kernel.counters.read().answered > before[0] + 20
                && self.client.counters.read().answered > before[1] + 20
        };
        if wait_for(PATIENCE, gets_on) {
            return Ok(());
        }
        let now = [self.kernel.counters.read(), self.client.counters.read()];
        Err(format!("the clients do not get on: {before:?}, then {now:?}"))
    }
}

/// One job.
pub(crate) struct Campaign<'a> {
    world: &'a World,
    rng: Rng,
    calm: Vec<Family>,
    pub(crate) tally: Tally,
    /// Only programs are killed, neither stewards nor keepers.
    gentle: bool,
    /// How the last environment ended.
    last_end: &'static [Victim],
    /// How each is to end, if that was asked for.
    only_end: Option<usize>,
    /// When the phase before this one ended.
    since: Instant,
}

impl<'a> Campaign<'a> {
    pub(crate) fn new(
        world: &'a World,
        seed: u64,
        gentle: bool,
        only_end: Option<usize>,
    ) -> Result<Self, String> {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kills/traffic.c");
        world.check(Side::Ours, 60, &["cc", "-O1", "-pthread", "-o", "traffic", source]);
        let server = ["serve", OURS, CALM_PORT, "2"];
        let client = ["ask", OURS, CALM_PORT, "1", "2", "strict"];
        let mut calm = vec![Family::start(world, (Side::Ours, Some(DEVICE)), "calm-server", &server)?];
        if !wait_for(PATIENCE, || calm[0].workers().len() == 2) {
            return Err(format!("the untouched server does not start: {}", calm[0].process.output()));
        }
        calm.push(Family::start(world, (Side::Peer, None), "calm-kernel", &client)?);
        calm.push(Family::start(world, (Side::Peer, Some(PEER_DEVICE)), "calm-client", &client)?);
        let campaign = Self {
            world,
            rng: Rng::new(seed),
            calm,
            tally: Tally::default(),
            gentle,
            last_end: &[],
            only_end,
            since: Instant::now(),
        };
        campaign.calm_gets_on()?;
        Ok(campaign)
    }

    /// The untouched programs answer one another.
    fn calm_gets_on(&self) -> Result<(), String> {
        for family in &self.calm[1..] {
            let before = family.counters.read().answered;
            if !wait_for(PATIENCE, || family.counters.read().answered > before + 10) {
                let text = family.process.output();
                return Err(format!(
                    "{}: no answers any more: {:?} {text}",
                    family.name,
                    family.counters.read()
                ));
            }
        }
        Ok(())
    }

    /// One environment, from its start to what is left of it; `kills_max` more are wanted.
    pub(crate) fn environment(&mut self, kills_max: u64) -> Result<(), String> {
        let before = accepted_by_kernel(self.calm[0].process.id());
        self.since = Instant::now();
        let victims = Victims::start(self.world)?;
        self.spent(0);
        self.tally.environments += 1;
        let mut complaints = Vec::new();
        if let Err(why) = self.play(&victims, kills_max) {
            complaints.push(why);
        }
        for family in victims.all().into_iter().chain(&self.calm) {
            complaints.extend(family.complaints(&self.world.dir));
        }
        self.count(&victims, before);
        if let Err(why) = self.calm_gets_on() {
            complaints.push(why);
        }
        if self.tally.calm_worst_us > CALM_GAP_US {
            complaints.push(format!("an untouched program waited {} us", self.tally.calm_worst_us));
        }
        if complaints.is_empty() {
            Ok(())
        } else {
            Err(format!("end {:?}: {}", self.last_end, complaints.join("\n")))
        }
    }

    fn count(&mut self, victims: &Victims, by_kernel_before: u64) {
        let (lane, kernel) = (victims.client.counters.read(), victims.kernel.counters.read());
        let tally = &mut self.tally;
        tally.answered += lane.answered + kernel.answered;
        tally.cut += lane.cut + kernel.cut;
        tally.opened += lane.opened + kernel.opened;
        tally.refused += lane.refused;
        tally.worst_us = tally.worst_us.max(lane.worst_us).max(kernel.worst_us);
        tally.by_kernel += accepted_by_kernel(self.calm[0].process.id()).saturating_sub(by_kernel_before);
        let calm: Vec<_> = self.calm[1..].iter().map(|family| family.counters.read()).collect();
        tally.calm_answered = calm.iter().map(|counted| counted.answered).sum();
        tally.calm_worst_us = calm.iter().map(|counted| counted.worst_us).max().unwrap_or(0);
    }

    /// Counts the time since the end of the phase before as that of phase `at`.
    fn spent(&mut self, at: usize) {
        let before = std::mem::replace(&mut self.since, Instant::now());
        self.tally.seconds[at] += before.elapsed().as_secs_f64();
    }

    fn play(&mut self, victims: &Victims, kills_max: u64) -> Result<(), String> {
        victims.get_on()?;
        self.spent(1);
        let wanted = (15 + self.rng.below(60)).min(kills_max);
        let from = self.tally.all_kills();
        let mut looks = 0;
        let mut held = Held::default();
        while self.tally.all_kills() < from + wanted {
            looks += 1;
            if looks > 40 * wanted {
                return Err("there is nobody to kill".to_owned());
            }
            std::thread::sleep(Duration::from_micros(self.rng.below(25_000)));
            self.strike(victims);
        }
        held.of(victims.server.process.id());
        held.of(victims.client.process.id());
        self.spent(2);
        victims.get_on().map_err(|why| format!("after {wanted} kills {why}"))?;
        self.spent(3);
        self.end(victims, &held)
    }

    /// Sends one signal to somebody.
    fn strike(&mut self, victims: &Victims) {
        let dice = self.rng.below(if self.gentle { 80 } else { 100 });
        let (victim, all) = match dice {
            0..4 => (Victim::Worker, true),
            4..62 => (Victim::Worker, false),
            62..80 => (Victim::Client, false),
            80..86 => (Victim::Steward, false),
            _ => return self.stop(victims),
        };
        let mut pids = victims.pids_of(victim);
        if !all && !pids.is_empty() {
            let at = usize::try_from(self.rng.below(pids.len() as u64)).unwrap_or(0);
            pids = vec![pids[at]];
        }
        for pid in pids {
            self.kill(victim, pid);
        }
    }

    fn kill(&mut self, victim: Victim, pid: u32) {
        if is_alive(pid) && signal(pid, Signal::KILL) {
            self.tally.kills[victim as usize] += 1;
        }
    }

    /// Stops somebody for a moment, often with a kill meanwhile.
    fn stop(&mut self, victims: &Victims) {
        let all = [
            Victim::Worker,
            Victim::Client,
            Victim::Main,
            Victim::Steward,
            Victim::Keeper,
            Victim::ClientKeeper,
        ];
        let victim = all[usize::try_from(self.rng.below(all.len() as u64)).unwrap_or(0)];
        let Some(&pid) = victims.pids_of(victim).first() else { return };
        if !signal(pid, Signal::STOP) {
            return;
        }
        self.tally.stops += 1;
        std::thread::sleep(Duration::from_micros(self.rng.below(40_000)));
        if self.rng.below(2) == 0
            && let Some(&other) = victims.pids_of(Victim::Worker).last()
        {
            self.kill(Victim::Worker, other);
            std::thread::sleep(Duration::from_micros(self.rng.below(20_000)));
        }
        signal(pid, Signal::CONT);
    }

    /// Ends the environment by a kill, and looks at what peers see and what is left.
    fn end(&mut self, victims: &Victims, held: &Held) -> Result<(), String> {
        let dice = self.rng.below(if self.gentle { GENTLE } else { ENDS.len() as u64 });
        let at = self.only_end.unwrap_or(usize::try_from(dice).unwrap_or(0));
        let end = ENDS[at % ENDS.len()];
        self.last_end = end;
        let of_client = end.iter().all(|victim| matches!(victim, Victim::ClientMain | Victim::ClientKeeper));
        if !of_client {
            self.drain(&[&victims.client, &victims.kernel])?;
        }
        self.spent(4);
        // A program whose keeper is gone has another parent.
        let mains = [victims.client.main(), victims.server.main()];
        // All are looked up first: a dead keeper has no children.
        let doomed: Vec<_> = end.iter().map(|&victim| (victim, victims.pids_of(victim))).collect();
        for (victim, pids) in doomed {
            pids.into_iter().for_each(|pid| self.kill(victim, pid));
        }
        self.follow(victims, of_client, mains)?;
        self.spent(5);
        self.look_around(held)?;
        self.spent(6);
        Ok(())
    }

    /// From here on clients open nothing more, and wait for the end.
    fn drain(&self, clients: &[&Family]) -> Result<(), String> {
        for client in clients {
            let all = || {
                client.tell(Signal::USR1);
                client.counters.read().draining >= client.workers().len() as u64
            };
            if !wait_for(PATIENCE, all) {
                return Err(format!("{}: does not hear: {:?}", client.name, client.counters.read()));
            }
        }
        Ok(())
    }

    /// The other side hears of the end in time.
    fn follow(&self, victims: &Victims, of_client: bool, mains: [Option<u32>; 2]) -> Result<(), String> {
        let end_main = |main: Option<u32>| main.is_some_and(|main| signal(main, Signal::KILL));
        let [client_main, server_main] = mains;
        if of_client {
            // The client goes first: then the server has only connections of the other one, which closes all of them.
            end_main(client_main);
            victims.kernel.tell(Signal::USR2);
            let gone = || victims.kernel.workers().is_empty() && victims.server.counters.read().open == 0;
            if !wait_for(PATIENCE, gone) {
                return Err(format!(
                    "the server has connections of clients that are gone: {:?}",
                    victims.server.counters.read()
                ));
            }
        } else {
            // A program goes on without its keeper; what it has on lanes is cut. What it has on the kernel ends with it.
            let alone = Duration::from_secs(1);
            let clients = [&victims.client, &victims.kernel];
            let ended = || clients.iter().all(|client| client.workers().is_empty());
            if !wait_for(alone, ended) {
                end_main(server_main);
            }
            if !wait_for(PATIENCE, ended) {
                let open: Vec<_> = clients.iter().map(|client| client.counters.read().open).collect();
                return Err(format!("connections that do not end: {open:?}"));
            }
        }
        end_main(client_main);
        end_main(server_main);
        Ok(())
    }

    /// Nothing is left of the environment.
    fn look_around(&self, held: &Held) -> Result<(), String> {
        let known: BTreeSet<u32> = self.calm.iter().flat_map(Family::pids).collect();
        let left = || {
            let mut left: Vec<String> = Vec::new();
            for side in [Side::Ours, Side::Peer] {
                let all = residue::strangers(self.world, side, &known);
                left.extend(all.into_iter().filter(|pid| is_alive(*pid)).map(residue::name));
            }
            for (family, sockets) in [(&self.calm[0], 1), (&self.calm[2], 1)] {
                let found = residue::keeper_sockets(family.process.id());
                if found.len() > sockets {
                    left.push(format!("sockets of keepers: {found:?}"));
                }
            }
            left.extend(held.left());
            left
        };
        let mut found = Vec::new();
        let clean = wait_for(LINGER, || {
            found = left();
            found.is_empty()
        });
        if clean { Ok(()) } else { Err(format!("left behind: {}", found.join(", "))) }
    }

    /// Ends the untouched programs; nothing at all is left in either namespace.
    pub(crate) fn close(mut self) -> (Tally, Result<(), String>) {
        let mut held = Held::default();
        let mut dead = BTreeSet::new();
        for family in &self.calm {
            held.of(family.process.id());
            dead.extend(family.keeper());
        }
        for family in self.calm.iter().skip(1) {
            family.tell(Signal::USR2);
        }
        wait_for(PATIENCE, || self.calm[1..].iter().all(|family| family.workers().is_empty()));
        self.calm.clear();
        let outcome = self.look_at_the_end(&held, &dead);
        (self.tally, outcome)
    }

    fn look_at_the_end(&self, held: &Held, dead: &BTreeSet<u32>) -> Result<(), String> {
        let mut found = Vec::new();
        let none = BTreeSet::new();
        let clean = wait_for(LINGER, || {
            found = held.left();
            for side in [Side::Ours, Side::Peer] {
                let all = residue::strangers(self.world, side, &none);
                found.extend(all.into_iter().map(residue::name));
            }
            found.extend(residue::stale_files(dead).into_iter().map(|name| format!("/run/corelane/{name}")));
            found.is_empty()
        });
        found.extend(residue::rules(self.world));
        if clean && found.is_empty() { Ok(()) } else { Err(format!("left at the end: {}", found.join(", "))) }
    }
}
