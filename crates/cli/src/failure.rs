//! What a user reads when something fails: what failed, why, what to do.

use std::fmt;

/// Exit status when corelane itself, not the wrapped command, failed.
pub(crate) const OWN_FAILURE: u8 = 125;

/// An error for the user.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    why: String,
    fix: Option<String>,
    code: u8,
}

impl Failure {
    /// `what` failed because of `why`.
    pub(crate) fn new(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { what: what.into(), why: why.to_string(), fix: None, code: OWN_FAILURE }
    }

    /// Adds what the user can do about it.
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Adds what failed before, and what to do about that.
    pub(crate) fn and(mut self, other: &keeper::StartError) -> Self {
        if !other.fix.is_empty() {
            let own = self.fix.map_or(String::new(), |fix| format!("; or {fix}"));
            self.fix = Some(format!("{}{own}", other.fix));
        }
        self
    }

    /// The exit status.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

impl From<keeper::StartError> for Failure {
    fn from(error: keeper::StartError) -> Self {
        let code = error.exit_status();
        Self { what: error.what, why: error.why, fix: Some(error.fix).filter(|f| !f.is_empty()), code }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "corelane: {}: {}", self.what, self.why)?;
        match &self.fix {
            Some(fix) => write!(f, "\n  what to do: {fix}"),
            None => Ok(()),
        }
    }
}
