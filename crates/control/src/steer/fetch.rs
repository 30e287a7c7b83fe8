//! Single connections that go to another lane.

use super::maps::{NO_LANE, PIN_VALUE_BYTES, lane_of_pin};
use super::{Flow, PINS, SteerError, SteerLane, Steering, kernel, maps};

impl Steering {
    /// Is the local end of the connection one that only lanes have which are not `ours`?
    #[must_use]
    pub fn is_elsewhere(&self, flow: &Flow, ours: impl Fn(SteerLane) -> bool) -> bool {
        let rows = [self.listener_rows.get(&flow.local), self.block_rows.get(&flow.local.block())];
        let mut all = rows.into_iter().flatten().flat_map(|row| row.lanes()).peekable();
        all.peek().is_some() && !all.any(ours)
    }

    /// Makes `lane` the one of a TCP connection that came in by a listener, whichever had it: as if it had opened there.
    ///
    /// # Errors
    /// [`SteerError::NotExact`]; what the kernel says.
    pub fn pin(&self, flow: Flow, lane: SteerLane) -> Result<(), SteerError> {
        self.write_pin(flow, maps::pin_value(lane.number()))
    }

    /// Makes `to` the lane of a TCP connection that `from` has and gives away. Did another lane take a SYN between the same ends meanwhile, or the kernel, then theirs is the connection
    /// that the peer has, and its segments stay there. Not so if they go to that lane because `from` began to give it the connection: it died before it had done so.
    ///
    /// # Errors
    /// As [`Steering::pin`].
    pub fn hand_on(&self, flow: Flow, from: SteerLane, to: SteerLane) -> Result<(), SteerError> {
        let given = |pin| maps::is_given_by(pin, from.number());
        if self.is_of_others(flow, |pin| lane_of_pin(pin) == from.number() || given(pin))? {
            return Ok(());
        }
        self.write_pin(flow, maps::given_pin_value(from.number(), to.number()))
    }

    /// Takes a [`Steering::hand_on`] back: `from` kept the connection. Where that changed nothing, because `to` took a SYN between the same ends itself, it is `to`'s still.
    ///
    /// # Errors
    /// As [`Steering::pin`].
    pub fn keep(&self, flow: Flow, from: SteerLane, to: SteerLane) -> Result<(), SteerError> {
        if self.is_of_others(flow, |pin| {
            lane_of_pin(pin) == to.number() && maps::is_given_by(pin, from.number())
        })? {
            return Ok(());
        }
        self.pin(flow, from)
    }

    /// Does the pin of the connection say that it is with the kernel, or with a lane that is there, and is it not `ours`?
    fn is_of_others(
        &self,
        flow: Flow,
        ours: impl Fn([u8; PIN_VALUE_BYTES]) -> bool,
    ) -> Result<bool, SteerError> {
        let key = flow.key().ok_or(SteerError::NotExact)?;
        let mut pin = [0; PIN_VALUE_BYTES];
        if self.maps.of(flow.remote).pins.lookup(key.bytes(), &mut pin).is_err() {
            return Ok(false);
        }
        let has = lane_of_pin(pin);
        let is_there = has == NO_LANE || self.lanes.checked_shr(has.into()).is_some_and(|bits| bits & 1 != 0);
        Ok(is_there && !ours(pin))
    }

    fn write_pin(&self, flow: Flow, pin: [u8; PIN_VALUE_BYTES]) -> Result<(), SteerError> {
        let key = flow.key().ok_or(SteerError::NotExact)?;
        let pins = &self.maps.of(flow.remote).pins;
        pins.update(key.bytes(), &pin).map_err(kernel("moving a connection to another lane"))
    }

    /// Makes `lane` the one of a TCP connection that came in or went out by another lane. From now on each segment for its local end is looked up
    /// by connection.
    ///
    /// # Errors
    /// As [`Steering::pin`].
    pub fn fetch(&mut self, flow: Flow, lane: SteerLane) -> Result<(), SteerError> {
        self.lanes |= 1 << lane.number();
        self.write_state(0)?;
        self.fetchers |= 1 << lane.number();
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

    /// Removes the pins of `lane`, which is gone, if it ever fetched a connection. A connection that goes out later from one of its ports, by whichever lane has that then, has no SYN come in
    /// that would change the pin: its segments would go by the old one.
    pub(super) fn forget_pins(&mut self, lane: SteerLane) -> Result<(), SteerError> {
        if self.fetchers & 1 << lane.number() == 0 {
            return Ok(());
        }
        let failed = kernel("forgetting connections of a lane");
        for pins in [&self.maps.four.pins, &self.maps.six.pins] {
            for key in pins.keys(PINS).map_err(&failed)? {
                let mut value = [0; PIN_VALUE_BYTES];
                // One may be forgotten at any time, because of others.
                let found = pins.lookup(&key, &mut value).is_ok();
                if found && lane_of_pin(value) == lane.number() {
                    let _ = pins.delete(&key);
                }
            }
        }
        self.fetchers &= !(1 << lane.number());
        Ok(())
    }
}
