//! What is told of each row: a line for people, a row of target/reports/matrix.json for machines.

use serde_json::json;

use crate::trial::{Opens, Stack};

/// The outcome of one row on one pair of stacks.
pub(crate) struct Told {
    name: &'static str,
    ours: Stack,
    peer: Stack,
    /// Least share of connections on lanes, per cent, towards a kernel peer.
    least_share: f64,
    pub(crate) seconds: f64,
    pub(crate) opens: Option<Opens>,
    pub(crate) skipped: bool,
    /// Why it failed.
    pub(crate) why: Option<String>,
}

impl Told {
    pub(crate) fn new(name: &'static str, ours: Stack, peer: Stack, least_share: f64) -> Self {
        Self { name, ours, peer, least_share, seconds: 0.0, opens: None, skipped: false, why: None }
    }

    /// TCP connections on lanes, per cent; not known when neither kernel sees them.
    fn share(&self) -> Option<f64> {
        let opens = self.opens.as_ref()?;
        if self.ours == Stack::Kernel || self.peer == Stack::Lane || opens.total == 0 {
            return None;
        }
        Some(100.0 * opens.total.saturating_sub(opens.by_kernel) as f64 / opens.total as f64)
    }

    fn too_few(&self) -> bool {
        self.share().is_some_and(|share| share < self.least_share)
    }

    pub(crate) fn failed(&self) -> bool {
        self.why.is_some() || self.too_few()
    }

    /// What there is to say beside the figures.
    fn note(&self) -> String {
        if let Some(why) = &self.why {
            return why.clone();
        }
        let Some(opens) = &self.opens else { return "a program is not installed".to_owned() };
        let mut parts = Vec::new();
        if self.ours == Stack::Lane && self.peer == Stack::Lane && opens.by_kernel > 0 {
            parts.push(format!("{} by a kernel", opens.by_kernel));
        }
        if self.too_few() {
            parts.push(format!("at least {} % were to be on lanes", self.least_share));
        }
        parts.extend(opens.reasons.iter().cloned());
        parts.join("; ")
    }

    fn result(&self) -> &'static str {
        if self.skipped {
            "skipped"
        } else if self.failed() {
            "FAILED"
        } else {
            "ok"
        }
    }

    pub(crate) fn line(&self) -> String {
        let share = self.share().map_or_else(|| "-".to_owned(), |share| format!("{share:.1} %"));
        let total = self.opens.as_ref().map_or(0, |opens| opens.total);
        format!(
            "{:<22} {:>6} {:>6} {:>7} {:>9} {:>6.1} s  {:<7} {}",
            self.name,
            self.ours.text(),
            self.peer.text(),
            total,
            share,
            self.seconds,
            self.result(),
            self.note()
        )
    }
}

/// Prints what `cargo xtask test` counts.
pub(crate) fn summary(told: &[Told]) {
    let failed = told.iter().filter(|one| one.failed()).count();
    let skipped = told.iter().filter(|one| one.skipped).count();
    let passed = told.len() - failed - skipped;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; {skipped} ignored");
}

/// Writes the rows in the form of all reports.
pub(crate) fn write(path: &str, told: &[Told]) -> std::io::Result<()> {
    let row = |one: &Told| {
        json!({
            "id": format!("{}/{}/{}", one.name, one.ours.text(), one.peer.text()),
            "value": one.share(),
            "unit": "%",
            "peer": null,
            "peer_value": null,
            "ratio": null,
            "goal": one.least_share,
            "reached": if one.skipped { None } else { Some(!one.failed()) },
            "note": one.note(),
            "seconds": one.seconds,
        })
    };
    let rows: Vec<_> = told.iter().map(row).collect();
    std::fs::write(path, serde_json::to_string_pretty(&rows)? + "\n")
}
