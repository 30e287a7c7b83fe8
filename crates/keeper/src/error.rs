//! Why a keeper could not start.

/// What kind of failure it is, for the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFailure {
    /// Corelane itself failed.
    Own,
    /// The command was found and could not be executed.
    NotExecutable,
    /// The command was not found.
    NotFound,
}

/// Why `corelane run` did not run the command, in words for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    /// What failed.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do; may be empty.
    pub fix: String,
    /// Which kind.
    pub kind: StartFailure,
}

impl StartError {
    /// A failure of Corelane's own.
    pub fn new(what: impl Into<String>, why: impl std::fmt::Display, fix: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.to_string(), fix: fix.into(), kind: StartFailure::Own }
    }

    /// Exit status: 125 for our own failure, 126 and 127 as shells use them.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self.kind {
            StartFailure::Own => 125,
            StartFailure::NotExecutable => 126,
            StartFailure::NotFound => 127,
        }
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for StartError {}
