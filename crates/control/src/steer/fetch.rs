//! Single connections that go to another lane.

use super::{Flow, SteerError, SteerLane, Steering, kernel};

impl Steering {
    /// Is the local end of the connection one that only lanes have which are not `ours`?
    #[must_use]
    pub fn is_elsewhere(&self, flow: &Flow, ours: impl Fn(SteerLane) -> bool) -> bool {
        let rows = [self.listener_rows.get(&flow.local), self.block_rows.get(&flow.local.block())];
        let mut all = rows.into_iter().flatten().flat_map(|row| row.lanes()).peekable();
        all.peek().is_some() && !all.any(ours)
    }

    /// Makes `lane` the one of a TCP connection that came in or went out by another lane. From now on each segment for its local end is looked up
    /// by connection.
    ///
    /// # Errors
    /// As [`Steering::pin`].
    pub fn fetch(&mut self, flow: Flow, lane: SteerLane) -> Result<(), SteerError> {
        self.lanes |= 1 << lane.number();
        self.write_state(0)?;
        self.pin(flow, lane)?;
        if let Some(mut listener) = self.listener_rows.get(&flow.local).cloned() {
            listener.set_shared();
            return self.set_listener(flow.local, listener);
        }
        if let Some(row) = self.block_rows.get_mut(&flow.local.block()) {
            row.set_shared();
            let key = flow.local.block_key().ok_or(SteerError::NotExact)?;
            let listeners = &self.maps.of(flow.local.addr).listeners;
            return listeners
                .update(key.bytes(), &row.value())
                .map_err(kernel("changing a rule for a block of ports"));
        }
        Ok(())
    }
}
