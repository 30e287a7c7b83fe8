//! Connections that the kernel has although a lane has their local end: they were handed over.

use super::{Flow, SteerError, SteerLane, Steering, kernel, maps};

impl Steering {
    /// Makes the kernel the one of a connection that a lane had. It costs each segment of every connection a lookup, until [`Steering::settle_entrusted`].
    ///
    /// # Errors
    /// [`SteerError::NotExact`], E2BIG above [`super::FLOWS`].
    pub fn entrust(&mut self, flow: Flow) -> Result<(), SteerError> {
        let key = flow.key().ok_or(SteerError::NotExact)?;
        let value = u32::from(maps::NO_LANE).to_ne_bytes();
        let entrusting = kernel("entrusting a connection over to the kernel");
        // Its pin would draw what follows back to the lane.
        let pin = maps::pin_value(maps::NO_LANE);
        self.maps.of(flow.remote).pins.update(key.bytes(), &pin).map_err(&entrusting)?;
        self.write_state(1)?;
        self.maps.of(flow.remote).flows.update(key.bytes(), &value).map_err(&entrusting)?;
        self.flow_rows.remove(&flow);
        self.entrusted.insert(flow);
        self.write_state(0)
    }

    /// The kernel has none of the connections handed over left but those that `busy` names. Gives how many there still are.
    ///
    /// # Errors
    /// What the kernel says about the first that failed; the others are forgotten all the same.
    pub fn settle_entrusted(&mut self, busy: impl Fn(&Flow) -> bool) -> Result<usize, SteerError> {
        let over: Vec<Flow> = self.entrusted.iter().filter(|flow| !busy(flow)).copied().collect();
        let mut outcome = Ok(());
        for flow in over {
            self.entrusted.remove(&flow);
            let key = flow.key().ok_or(SteerError::NotExact)?;
            let forgotten = self.maps.of(flow.remote).flows.delete(key.bytes());
            outcome = outcome.and(forgotten.map_err(kernel("forgetting a connection of the kernel's")));
        }
        self.write_state(0)?;
        outcome.map(|()| self.entrusted.len())
    }

    /// Are there connections that were handed over?
    #[must_use]
    pub fn has_entrusted(&self) -> bool {
        !self.entrusted.is_empty()
    }

    /// May the connection be one of a lane that `is` one of those meant?
    #[must_use]
    pub fn may_be_of(&self, flow: &Flow, is: impl Fn(SteerLane) -> bool) -> bool {
        let Some(key) = flow.key() else { return false };
        let mut pin = [0; maps::PIN_VALUE_BYTES];
        if self.maps.of(flow.remote).pins.lookup(key.bytes(), &mut pin).is_ok() {
            return SteerLane::new(maps::lane_of_pin(pin)).is_some_and(is);
        }
        let rows = [self.listener_rows.get(&flow.local), self.block_rows.get(&flow.local.block())];
        self.flow_rows.get(flow).is_some_and(|lane| is(*lane))
            || rows.into_iter().flatten().any(|row| row.lanes().any(&is))
    }
}
