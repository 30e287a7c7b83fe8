//! What a stack under a script can do: ours in virtual time, Linux's in real time.

use base::Instant;

use crate::script::{Answer, Call};

/// A stack at the other end of a link.
pub trait Target {
    /// How it is called in messages.
    fn name(&self) -> &'static str;

    /// Its clock.
    fn now(&self) -> Instant;

    /// Lets time pass until `at`; if `for_packet`, only until there is a packet to take.
    ///
    /// # Errors
    /// What failed.
    fn wait(&mut self, at: Instant, for_packet: bool) -> Result<(), String>;

    /// The oldest packet that came and was not taken, with its time.
    fn take_packet(&mut self) -> Option<(Instant, Vec<u8>)>;

    /// Hands it an Ethernet frame.
    ///
    /// # Errors
    /// What failed.
    fn inject(&mut self, frame: &[u8]) -> Result<(), String>;

    /// Makes a call of the program.
    ///
    /// # Errors
    /// What failed, other than the call itself: its errno is an [`Answer`].
    fn call(&mut self, call: &Call) -> Result<Answer, String>;

    /// How late a packet may be that a script expects `after_us` microseconds later, and how early, us.
    fn slack_us(&self, after_us: u64) -> (u64, u64);
}
