//! A script played against a stack.

use std::collections::BTreeMap;

use base::{Duration, Instant};

use crate::script::{Action, For, Script, Step};
use crate::segment::{Came, Conversation, Pattern, SCRIPT_PORT, STACK_PORT};
use crate::target::Target;

/// How long after the last step packets are still looked for that nobody expected.
const TAIL: Duration = Duration::from_micros(20_000);

struct Run<'a, T> {
    target: &'a mut T,
    script: &'a Script,
    /// By the port of the script's side.
    talks: BTreeMap<u16, Conversation>,
    /// When the step before happened.
    at: Instant,
    /// What came and was taken, for the report.
    seen: Vec<String>,
}

/// Plays `script` for `whose` stack.
///
/// # Errors
/// The line that failed, what was expected there and what came.
pub fn play<T: Target>(target: &mut T, whose: For, script: &Script) -> Result<(), String> {
    let at = target.now();
    let mut run = Run { target, script, talks: BTreeMap::new(), at, seen: Vec::new() };
    for step in script.steps.iter().filter(|s| s.whose == For::Both || s.whose == whose) {
        let done = run.step(step);
        done.map_err(|why| run.report(step, &why))?;
    }
    match run.next_packet(run.at.plus(TAIL)).map_err(|why| format!("{}: {why}", script.file))? {
        Some((_, came)) => Err(format!(
            "{}: {} on {}: at the end came `{}`, which no line expects",
            script.file,
            script.name,
            run.target.name(),
            run.text(&came)
        )),
        None => Ok(()),
    }
}

impl<T: Target> Run<'_, T> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        let (from, to) = (self.at.plus(step.after.from), self.at.plus(step.after.to));
        match &step.action {
            Action::Expect(pattern) => self.expect(step, pattern, from, to),
            Action::Quiet => match self.next_packet(to)? {
                Some((_, came)) => Err(format!("nothing was to come, but `{}` did", self.text(&came))),
                None => {
                    self.at = to;
                    Ok(())
                }
            },
            Action::Inject(pattern) => {
                self.pass_until(from)?;
                let talk = *self.talk(pattern.port);
                self.target.inject(&pattern.build(&talk, self.script.family))
            }
            Action::Report(report) => {
                self.pass_until(from)?;
                let talk = *self.talk(SCRIPT_PORT);
                self.target.inject(&report.build(&talk, self.script.family))
            }
            Action::Call(call, answer) => {
                self.pass_until(from)?;
                let got = self.target.call(call)?;
                if answer.allows(&got) { Ok(()) } else { Err(format!("gave {got} instead of {answer}")) }
            }
        }
    }

    /// Lets time pass; packets that come meanwhile wait for the lines that expect them.
    fn pass_until(&mut self, at: Instant) -> Result<(), String> {
        self.target.wait(at, false)?;
        self.at = at.max(self.at);
        Ok(())
    }

    /// The next TCP segment that comes until `end`.
    fn next_packet(&mut self, end: Instant) -> Result<Option<(Instant, Came)>, String> {
        loop {
            self.target.wait(end, true)?;
            match self.target.take_packet() {
                Some((at, frame)) => {
                    if let Some(came) = Came::parse(&frame, self.script.family) {
                        self.learn(&came);
                        return Ok(Some((at, came)));
                    }
                }
                None if self.target.now() >= end => return Ok(None),
                None => {}
            }
        }
    }

    fn expect(&mut self, step: &Step, pattern: &Pattern, from: Instant, to: Instant) -> Result<(), String> {
        let (late, early) = self.target.slack_us(step.after.to.0 / 1000);
        let end = to.plus(Duration::from_micros(late));
        let Some((at, came)) = self.next_packet(end)? else {
            return Err("it did not come".into());
        };
        let talk = *self.talk(came.header.dst_port.0);
        self.seen.push(came.text(&talk));
        if let Some(why) = pattern.differs(&came, &talk) {
            return Err(format!("came `{}`: {why}", came.text(&talk)));
        }
        if at.plus(Duration::from_micros(early)) < from || at > end {
            let ms = at.0.saturating_sub(self.at.0) / 1_000_000;
            return Err(format!("came after {ms} ms"));
        }
        // A packet that came at once does not move the clock of the script.
        self.at = at.max(self.at.plus(step.after.from));
        Ok(())
    }

    fn talk(&mut self, port: u16) -> &mut Conversation {
        self.talks.entry(port).or_insert(Conversation { stack_port: STACK_PORT, ..Conversation::default() })
    }

    /// Remembers what later lines refer to.
    fn learn(&mut self, came: &Came) {
        let (flags, seq) = (came.header.flags, came.header.seq);
        // A connection that the stack opens goes to the script's usual port.
        let talk = self.talk(came.header.dst_port.0);
        if flags.is_syn() {
            talk.stack_iss = Some(seq);
            talk.stack_port = came.header.src_port.0;
        }
        if let Some(ts) = came.options.timestamps {
            talk.last_ts = ts.value;
        }
        talk.cookie = came.options.fast_open().filter(|f| !f.cookie().is_empty()).or(talk.cookie);
    }

    fn text(&mut self, came: &Came) -> String {
        let talk = *self.talk(came.header.dst_port.0);
        let port = came.header.dst_port.0;
        let suffix = if port == SCRIPT_PORT { String::new() } else { format!(" port {port}") };
        came.text(&talk) + &suffix
    }

    fn report(&mut self, step: &Step, why: &str) -> String {
        let mut text = format!(
            "{}:{}: {} on {}: {why}",
            self.script.file,
            step.line,
            self.script.name,
            self.target.name()
        );
        if !self.seen.is_empty() {
            text += &format!("\n    before it: {}", self.seen.join(" | "));
        }
        text
    }
}
