//! What devices of tests have in common.

/// What of a [`port::Port`] says nothing of what it does.
macro_rules! plain_port {
    () => {
        fn release(&mut self, _: &mut Frames<'_>) {}
        fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }
        fn caps(&self) -> PortCaps {
            PortCaps { mtu: 1500, super_segment_max: 0, local_peer: false, own_address: false }
        }
        fn stats(&self) -> PortStats {
            PortStats::default()
        }
    };
}
