//! What a row of the bench is: one kind of work, done by Corelane and by its peers, and the figures to reach.

use serde::{Deserialize, Serialize};

/// What a value counts. It also says which way is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) enum Unit {
    /// CPU time of all ends an operation.
    CpuNs,
    /// CPU time of all ends a byte.
    CpuNsPerByte,
    /// CPU time of the server's side an operation.
    ServerCpuUs,
    /// Elapsed time.
    Us,
    /// Operations a second.
    PerSecond,
    /// Bits a second.
    Gbit,
    /// Memory.
    Bytes,
    /// Share of one processor.
    CpuPercent,
}

impl Unit {
    /// As tables show it.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::CpuNs => "ns CPU",
            Self::CpuNsPerByte => "ns CPU/B",
            Self::ServerCpuUs => "us srv CPU",
            Self::Us => "us",
            Self::PerSecond => "1/s",
            Self::Gbit => "Gb/s",
            Self::Bytes => "bytes",
            Self::CpuPercent => "% CPU",
        }
    }

    /// Is a smaller value better?
    pub(crate) const fn smaller_is_better(self) -> bool {
        match self {
            Self::CpuNs
            | Self::CpuNsPerByte
            | Self::ServerCpuUs
            | Self::Us
            | Self::Bytes
            | Self::CpuPercent => true,
            Self::PerSecond | Self::Gbit => false,
        }
    }
}

/// One figure to reach. For units where more is better `at most` reads `at least`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Goal {
    /// Our value over that of the best peer in the row.
    OfBestPeer(f64),
    /// Our value over that of the named peer in the row.
    OfPeer(&'static str, f64),
    /// Our value over our own value in the row of this id.
    OfRow(&'static str, f64),
    /// Our value.
    Value(f64),
    /// Our instructions an operation.
    Instructions(f64),
}

/// How much work a run is to do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Job {
    /// Operations (bulk: bytes), for work that is counted.
    pub(crate) count: u64,
    /// Seconds, for work that is timed.
    pub(crate) seconds: u32,
}

/// What one run gave.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// In the row's unit.
    pub(crate) value: f64,
    /// Further figures, by name with the unit last: `p99_us`.
    #[serde(default)]
    pub(crate) more: Vec<(String, f64)>,
}

impl Sample {
    /// Nothing but the value.
    pub(crate) fn of(value: f64) -> Self {
        Self { value, more: Vec::new() }
    }

    /// Adds a further figure.
    pub(crate) fn with(mut self, name: &str, value: f64) -> Self {
        self.more.push((name.to_owned(), value));
        self
    }
}

/// Why there is no sample.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// It cannot be done here; says why and what to do. Not a failure.
    Skipped(String),
    /// It should have worked.
    Failed(String),
}

impl Trouble {
    /// A failure of `what`, which says why.
    pub(crate) fn failed(what: &str, why: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{what}: {why}"))
    }
}

/// What a run comes to.
pub(crate) type Outcome = Result<Sample, Trouble>;

/// One stack that does the work of a row.
pub(crate) struct Stack {
    /// `corelane`, or the peer's name.
    pub(crate) name: &'static str,
    /// One run, in a process of its own that ends afterwards.
    pub(crate) run: Box<dyn Fn(&Job) -> Outcome>,
    /// Counts the instructions of an operation, where the work is not all in one process.
    pub(crate) counter: Option<Box<dyn Fn() -> Result<f64, Trouble>>>,
    /// Not run above this many connections or the like would make sense to nobody: the reason, in place of a run.
    pub(crate) left_out: Option<&'static str>,
}

/// Our own stack's name in every row. A row's other stacks whose names begin so are variants of ours, not peers.
pub(crate) const OURS: &str = "corelane";

/// Where a row's point goes in a plot.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Plot {
    /// The plot's id: `docs/bench/ID.svg`.
    pub(crate) id: &'static str,
    /// The point's place.
    pub(crate) x: f64,
}

/// One kind of work.
pub(crate) struct Row {
    /// Names the row: `engine-rr-64`. The part before the first dash is its mode.
    pub(crate) id: String,
    /// The work in words.
    pub(crate) work: String,
    /// What the values count.
    pub(crate) unit: Unit,
    /// The stacks; ours first.
    pub(crate) stacks: Vec<Stack>,
    /// Figures to reach.
    pub(crate) goals: Vec<Goal>,
    /// Work of a short run; a full run does [`FULL`] times as much, callgrind a part of it.
    pub(crate) count: u64,
    /// Operations to count instructions over, when the work is a function of its input: all ends in one thread and no
    /// system call on the way.
    pub(crate) counted: Option<u64>,
    /// Part of `--short`.
    pub(crate) short: bool,
    /// Point in a plot.
    pub(crate) plot: Option<Plot>,
    /// What stands in the way where a goal is missed.
    pub(crate) obstacle: &'static str,
    /// Seconds after which a run is given up.
    pub(crate) limit_s: u64,
}

/// How much more a full run does than a short one.
pub(crate) const FULL: u64 = 4;

impl Row {
    /// A row without stacks or goals.
    pub(crate) fn new(id: impl Into<String>, work: impl Into<String>, unit: Unit) -> Self {
        Self {
            id: id.into(),
            work: work.into(),
            unit,
            stacks: Vec::new(),
            goals: Vec::new(),
            count: 0,
            counted: None,
            short: false,
            plot: None,
            obstacle: "",
            limit_s: 60,
        }
    }

    /// Adds a stack; the first one is to be [`OURS`].
    pub(crate) fn stack(mut self, name: &'static str, run: impl Fn(&Job) -> Outcome + 'static) -> Self {
        self.stacks.push(Stack { name, run: Box::new(run), counter: None, left_out: None });
        self
    }

    /// Says how the instructions of the stack added last are counted.
    pub(crate) fn counter(mut self, count: impl Fn() -> Result<f64, Trouble> + 'static) -> Self {
        if let Some(stack) = self.stacks.last_mut() {
            stack.counter = Some(Box::new(count));
        }
        self
    }

    /// Adds a stack that is not run, and why.
    pub(crate) fn left_out(mut self, name: &'static str, why: &'static str) -> Self {
        let run = Box::new(move |_: &Job| Err(Trouble::Skipped(why.to_owned())));
        self.stacks.push(Stack { name, run, counter: None, left_out: Some(why) });
        self
    }

    /// Adds a figure to reach.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goals.push(goal);
        self
    }

    /// Work of a short run.
    pub(crate) fn count(mut self, count: u64) -> Self {
        self.count = count;
        self
    }

    /// Counts instructions over so many operations.
    pub(crate) fn counted(mut self, operations: u64) -> Self {
        self.counted = Some(operations);
        self
    }

    /// Is part of `--short`.
    pub(crate) fn in_short(mut self) -> Self {
        self.short = true;
        self
    }

    /// Is a point of plot `id`.
    pub(crate) fn plot(mut self, id: &'static str, x: f64) -> Self {
        self.plot = Some(Plot { id, x });
        self
    }

    /// Says what stands in the way where a goal is missed.
    pub(crate) fn obstacle(mut self, why: &'static str) -> Self {
        self.obstacle = why;
        self
    }

    /// Gives a run up after so many seconds.
    pub(crate) fn limit_s(mut self, seconds: u64) -> Self {
        self.limit_s = seconds;
        self
    }
}
