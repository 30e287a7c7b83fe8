//! What keepers, stewards and relays have to say while they work, on standard error: a service manager keeps it, who runs a command sees it.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::log::{Level, LevelFilter, Log, Metadata, Record};

/// Time in which a line is not said twice: what fails each second fills no journal.
const ONCE_IN: Duration = Duration::from_secs(60);
/// Lines remembered. One that was pushed out may come twice.
const REMEMBERED: usize = 64;

/// Takes warnings and errors to standard error, each line at most once in [`ONCE_IN`].
struct ToStandardError {
    said: Mutex<Said>,
}

static LOG: ToStandardError = ToStandardError { said: Mutex::new(Said { lines: Vec::new() }) };

/// The lines said last, oldest first.
struct Said {
    lines: Vec<(Instant, String)>,
}

impl Said {
    /// Whether to say a line now; it counts as said then.
    fn is_news(&mut self, line: &str, now: Instant) -> bool {
        self.lines.retain(|(at, _)| now.saturating_duration_since(*at) < ONCE_IN);
        if self.lines.iter().any(|(_, said)| said == line) {
            return false;
        }
        if self.lines.len() == REMEMBERED {
            self.lines.remove(0);
        }
        self.lines.push((now, line.to_owned()));
        true
    }
}

/// A record as a line of ours.
fn line(level: Level, text: &std::fmt::Arguments<'_>) -> String {
    let kind = match level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info | Level::Debug | Level::Trace => "",
    };
    format!("corelane: {kind}{text}\n")
}

impl Log for ToStandardError {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= ::log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = line(record.level(), record.args());
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_news(&line, Instant::now()) {
            // In one call, as others write there, too. There is nobody to tell of a failure.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Has warnings and errors said from now on.
pub(crate) fn start() {
    if ::log::set_logger(&LOG).is_ok() {
        ::log::set_max_level(LevelFilter::Warn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_once_a_minute() {
        let mut said = Said { lines: Vec::new() };
        let start = Instant::now();
        assert!(said.is_news("a", start));
        assert!(said.is_news("b", start));
        assert!(!said.is_news("a", start + Duration::from_secs(59)));
        assert!(said.is_news("a", start + ONCE_IN));
    }

    #[test]
    fn few_lines_are_remembered() {
        let mut said = Said { lines: Vec::new() };
        let now = Instant::now();
        for n in 0..=REMEMBERED {
            assert!(said.is_news(&n.to_string(), now));
        }
        assert_eq!(said.lines.len(), REMEMBERED);
        assert!(!said.is_news("1", now));
        assert!(said.is_news("0", now));
    }

    #[test]
    fn a_line_tells_warnings_from_errors() {
        assert_eq!(line(Level::Warn, &format_args!("slow")), "corelane: warning: slow\n");
        assert_eq!(line(Level::Error, &format_args!("lost")), "corelane: error: lost\n");
    }
}
