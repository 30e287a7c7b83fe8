//! Why a socket is a kernel socket.

macro_rules! reasons {
    ($($name:ident = $number:literal => $text:literal,)*) => {
        /// Why a socket is the kernel's and not a lane's. The number is what the descriptor table stores.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub(crate) enum Reason { $(#[doc = $text] $name = $number,)* }

        impl Reason {
            /// For people.
            pub(crate) const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The reason stored as `number`.
            pub(crate) const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    NotConnected = 1 => "not connected and not listening yet",
    Udp = 2 => "UDP sockets stay with the kernel in this version",
    Protocol = 3 => "only TCP over IPv4 and IPv6 is accelerated",
    NoKeeper = 4 => "no keeper: started without `corelane run`, or the keeper is gone",
    Loopback = 5 => "the peer is on this machine, and no program with a lane listens there",
    NotOurDevice = 6 => "the route leaves by a device that is not accelerated",
    NoRoute = 7 => "the kernel has no route to the peer",
    Ipv6Only = 8 => "an IPv6-only socket was to connect to an IPv4 address",
    Option = 9 => "an option is set that the lane does not have",
    NoLane = 10 => "no lane to be had: the keeper refused it or its devices failed",
    PortTaken = 11 => "the keeper could not take the local port",
    LaneFull = 12 => "the lane is out of sockets or frames",
    ByKernelListener = 13 => "came in through the kernel: from a program of this machine without a lane, or by a device that is not accelerated",
    Inherited = 14 => "opened before this program started",
    DescriptorTooHigh = 15 => "the descriptor number is above the table's end",
    NotWaitedOn = 16 => "came in through the kernel before the program first waited on the listener",
    RouteUnknown = 17 => "the mirrored routes cannot tell where packets to the peer leave",
    Off = 18 => "acceleration is switched off for this process",
    SentOn = 20 => "handed over to the kernel, because the program sent the descriptor to another process (SCM_RIGHTS)",
    Execed = 21 => "handed over to the kernel, because the program that is executed next cannot go on with a lane",
    Stdio = 22 => "handed over to the kernel, because the C library's stdio reads and writes the descriptor by itself",
    Confined = 19 => "the program forbids its processes the system calls that a lane needs (seccomp)",
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.text())
    }
}
