//! The states of a connection and the one function that makes them (RFC 9293 3.3.2).

/// State of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum State {
    /// No connection: the row is free, or its owner has not closed it yet.
    Closed = 0,
    /// Waiting for a SYN. Listeners have a table of their own; no connection row is in this state.
    Listen = 1,
    /// SYN sent.
    SynSent = 2,
    /// SYN received, SYN,ACK sent.
    SynRcvd = 3,
    /// Open.
    Established = 4,
    /// Our FIN is sent, not acknowledged.
    FinWait1 = 5,
    /// Our FIN is acknowledged; the peer may still send.
    FinWait2 = 6,
    /// The peer's FIN has come; we may still send.
    CloseWait = 7,
    /// Both FINs sent, ours not acknowledged.
    Closing = 8,
    /// The peer's FIN has come, then ours was sent; not acknowledged.
    LastAck = 9,
    /// Waiting for old segments to die out.
    TimeWait = 10,
}

/// What happened to a connection; the only input to [`State::after`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The program listens.
    PassiveOpen,
    /// The program connects.
    ActiveOpen,
    /// A SYN without an ACK of ours came.
    RecvSyn,
    /// A SYN that acknowledges our SYN came.
    RecvSynAck,
    /// Our SYN was acknowledged.
    RecvAckOfSyn,
    /// The program is done sending: a FIN goes out.
    Close,
    /// The peer's FIN is in order.
    RecvFin,
    /// Our FIN was acknowledged.
    AckOfFin,
    /// Twice the maximum segment lifetime is over.
    TimeWaitOver,
    /// A RST came, a limit was reached, or the program aborts.
    Abort,
}

impl State {
    /// The kernel's number of it (include/net/tcp_states.h), as TCP_INFO and sock_diag tell it.
    #[must_use]
    pub const fn kernel_number(self) -> u8 {
        match self {
            Self::Established => 1,
            Self::SynSent => 2,
            Self::SynRcvd => 3,
            Self::FinWait1 => 4,
            Self::FinWait2 => 5,
            Self::TimeWait => 6,
            Self::Closed => 7,
            Self::CloseWait => 8,
            Self::LastAck => 9,
            Self::Listen => 10,
            Self::Closing => 11,
        }
    }

    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::Closed,
        Self::Listen,
        Self::SynSent,
        Self::SynRcvd,
        Self::Established,
        Self::FinWait1,
        Self::FinWait2,
        Self::CloseWait,
        Self::Closing,
        Self::LastAck,
        Self::TimeWait,
    ];

    /// The state numbered `raw` in a region; nonsense is [`State::Closed`].
    #[must_use]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::Listen,
            2 => Self::SynSent,
            3 => Self::SynRcvd,
            4 => Self::Established,
            5 => Self::FinWait1,
            6 => Self::FinWait2,
            7 => Self::CloseWait,
            8 => Self::Closing,
            9 => Self::LastAck,
            10 => Self::TimeWait,
            _ => Self::Closed,
        }
    }

    /// The one place that makes a TCP state (RFC 9293 3.3.2, figure 5). `None`: the cause is not legal here.
    #[must_use]
    pub const fn after(self, cause: Cause) -> Option<Self> {
        use Cause::*;
        use State::*;
        Some(match (self, cause) {
            (Closed, PassiveOpen) => Listen,
            (Closed | Listen, ActiveOpen) => SynSent,
            (Listen | SynSent, RecvSyn) => SynRcvd,
            (SynSent, RecvSynAck) | (SynRcvd, RecvAckOfSyn) => Established,
            (SynRcvd | Established, Close) => FinWait1,
            (CloseWait, Close) => LastAck,
            (Listen | SynSent, Close) => Closed,
            (SynRcvd | Established, RecvFin) => CloseWait,
            (FinWait1, RecvFin) => Closing,
            (FinWait2, RecvFin) => TimeWait,
            (FinWait1, AckOfFin) => FinWait2,
            (Closing, AckOfFin) => TimeWait,
            (LastAck, AckOfFin) | (TimeWait, TimeWaitOver) => Closed,
            (
                Listen | SynSent | SynRcvd | Established | FinWait1 | FinWait2 | CloseWait | Closing
                | LastAck | TimeWait,
                Abort,
            ) => Closed,
            _ => return None,
        })
    }

    /// May the program still queue data in this state (RFC 9293 3.10.2)?
    #[must_use]
    pub const fn may_send(self) -> bool {
        matches!(self, Self::SynSent | Self::SynRcvd | Self::Established | Self::CloseWait)
    }

    /// May new data still arrive in this state (RFC 9293 3.10.7.4)?
    #[must_use]
    pub const fn may_receive(self) -> bool {
        matches!(self, Self::SynSent | Self::SynRcvd | Self::Established | Self::FinWait1 | Self::FinWait2)
    }

    /// Has the handshake been completed?
    #[must_use]
    pub const fn is_synchronized(self) -> bool {
        !matches!(self, Self::Closed | Self::Listen | Self::SynSent | Self::SynRcvd)
    }
}
