//! `corelane doctor`: what this machine can do for Corelane. Each line: state, consequence, what to do.

mod devices;
mod machine;

use std::process::ExitCode;

use serde::Serialize;

use crate::args::DoctorArgs;
use crate::failure::Failure;

/// How a line stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Good,
    /// Works, with a loss.
    Limited,
    /// Does not work.
    Missing,
    /// Not for Corelane, and need not be.
    Unused,
}

impl State {
    fn mark(self) -> &'static str {
        match self {
            Self::Good => "ok     ",
            Self::Limited => "limited",
            Self::Missing => "MISSING",
            Self::Unused => "unused ",
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) id: String,
    pub(crate) state: State,
    /// What was found.
    pub(crate) found: String,
    /// What that means.
    pub(crate) consequence: String,
    /// What to do; empty when there is nothing to do.
    pub(crate) fix: String,
    /// Without it `corelane run` on a device does not work.
    pub(crate) needed: bool,
}

impl Finding {
    fn new(id: impl Into<String>, state: State, found: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            state,
            found: found.into(),
            consequence: String::new(),
            fix: String::new(),
            needed: false,
        }
    }

    fn means(mut self, consequence: impl Into<String>) -> Self {
        self.consequence = consequence.into();
        self
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    fn needed(mut self) -> Self {
        self.needed = true;
        self
    }

    fn line(&self) -> String {
        let mut line = format!("{}  {:<22} {}", self.state.mark(), self.id, self.found);
        if !self.consequence.is_empty() {
            line.push_str(&format!("; {}", self.consequence));
        }
        if self.state != State::Good && !self.fix.is_empty() {
            line.push_str(&format!("\n         {:<22} -> {}", "", self.fix));
        }
        line
    }
}

/// Prints every finding. Status 0: `corelane run` works here on some device.
pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let mut findings = machine::look();
    findings.extend(devices::look(&args.device)?);
    let ready = verdict(&findings);
    if args.json {
        let json = serde_json::to_string_pretty(&findings).map_err(|e| Failure::new("JSON", e))?;
        println!("{json}");
    } else {
        for finding in &findings {
            println!("{}", finding.line());
        }
        println!();
        println!(
            "{}",
            match ready {
                true => "Ready: `corelane run -- CMD` works here. Try `corelane demo`.",
                false =>
                    "Not ready for devices: see the lines marked MISSING. `corelane demo` shows what works without.",
            }
        );
    }
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Does the main job work: is everything needed there, and some device usable?
fn verdict(findings: &[Finding]) -> bool {
    let needed = findings.iter().filter(|f| f.needed).all(|f| f.state != State::Missing);
    let usable = |state| matches!(state, State::Good | State::Limited);
    let device = findings.iter().any(|f| f.id.starts_with("device ") && usable(f.state));
    needed && device
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_needs_what_is_needed_and_one_device() {
        let good = Finding::new("kernel", State::Good, "").needed();
        let device = Finding::new("device eth0", State::Good, "");
        let bad_device = Finding::new("device eth1", State::Unused, "");
        let optional = Finding::new("hugepages", State::Missing, "");
        assert!(verdict(&[good.clone(), optional.clone(), device.clone(), bad_device.clone()]));
        assert!(!verdict(&[good, optional, bad_device]));
        assert!(!verdict(&[Finding::new("bpf", State::Missing, "").needed(), device]));
    }

    #[test]
    fn a_line_says_state_consequence_and_what_to_do() {
        let line = Finding::new("x", State::Limited, "7 found").means("slower").fix("make it 8").line();
        assert!(line.starts_with("limited  x"), "{line}");
        assert!(line.contains("7 found; slower") && line.contains("-> make it 8"), "{line}");
    }
}
