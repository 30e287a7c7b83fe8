//! Answers of calls as scripts write them, and the bytes and keys that scripts mean by numbers.

use engine::{SockError, State};
use state::Ready;

use crate::script::Answer;
use crate::segment::stream_byte;

pub(crate) fn word(text: &str) -> Answer {
    Answer::Word(text.to_owned())
}

/// The keys that a script means by `value`: one, whose words are all that number, or with 256 times another number that one's behind it.
pub(crate) fn fast_open_keys(value: u32) -> Vec<[u8; 16]> {
    let numbers = if value < 256 { vec![value] } else { vec![value % 256, value / 256] };
    let key = |number: u32| {
        let mut key = [0; 16];
        key.as_chunks_mut::<4>().0.fill(number.to_le_bytes());
        key
    };
    numbers.into_iter().map(key).collect()
}

/// Are these the bytes of the script's stream from `offset` on?
pub(crate) fn check_stream(offset: u64, data: &[u8]) -> Result<(), String> {
    if (offset..).zip(data).all(|(at, byte)| *byte == stream_byte(at)) {
        Ok(())
    } else {
        Err(format!("the bytes read from {offset} on are not those that were sent"))
    }
}

/// The names of poll's bits (as Linux numbers them), in alphabetical order.
pub(crate) fn poll_words(bits: u32) -> String {
    let names = [
        (Ready::ERR, "err"),
        (Ready::HUP, "hup"),
        (Ready::IN, "in"),
        (Ready::OUT, "out"),
        (Ready::PRI, "pri"),
        (Ready::RDHUP, "rdhup"),
    ];
    let set: Vec<&str> =
        names.iter().filter(|(bit, _)| Ready(bits).has(*bit)).map(|(_, name)| *name).collect();
    if set.is_empty() { "none".to_owned() } else { set.join(",") }
}

pub(crate) fn errno(error: SockError) -> &'static str {
    match error {
        SockError::Refused => "ECONNREFUSED",
        SockError::Reset => "ECONNRESET",
        SockError::Pipe => "EPIPE",
        SockError::TimedOut => "ETIMEDOUT",
        SockError::HostUnreachable => "EHOSTUNREACH",
        SockError::NetUnreachable => "ENETUNREACH",
        SockError::MessageSize => "EMSGSIZE",
        SockError::Aborted => "ECONNABORTED",
        SockError::NoProtocol => "ENOPROTOOPT",
        SockError::Unsupported => "EOPNOTSUPP",
        SockError::HostDown => "EHOSTDOWN",
        SockError::NoNetwork => "ENONET",
        SockError::Access => "EACCES",
        SockError::Protocol => "EPROTO",
    }
}

pub(crate) fn state_name(state: Option<State>) -> &'static str {
    match state {
        Some(State::Listen) => "LISTEN",
        Some(State::SynSent) => "SYN-SENT",
        Some(State::SynRcvd) => "SYN-RECEIVED",
        Some(State::Established) => "ESTABLISHED",
        Some(State::FinWait1) => "FIN-WAIT-1",
        Some(State::FinWait2) => "FIN-WAIT-2",
        Some(State::CloseWait) => "CLOSE-WAIT",
        Some(State::Closing) => "CLOSING",
        Some(State::LastAck) => "LAST-ACK",
        Some(State::TimeWait) => "TIME-WAIT",
        Some(State::Closed) | None => "CLOSED",
    }
}
