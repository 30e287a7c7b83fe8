//! The timer wheel against a sorted list.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use base::Instant;
use proptest::prelude::*;
use region::{Table, Timer, WHEEL_TICK_NS, Wheel, WheelHead};

const ROWS: u32 = 24;

#[derive(Debug, Clone)]
enum Step {
    Arm(u32, u64),
    Cancel(u32),
    Advance(u64),
}

/// Distances on every level of the wheel, 0 included.
fn distance() -> impl Strategy<Value = u64> {
    (0..44u32, any::<u64>()).prop_map(|(bits, n)| ((n % (1 << bits)) * 0x3_0001) >> 3)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..ROWS, distance()).prop_map(|(row, after)| Step::Arm(row, after)),
        1 => (0..ROWS).prop_map(Step::Cancel),
        3 => distance().prop_map(Step::Advance),
    ]
}

fn fires_at(at: Instant) -> u64 {
    at.0.div_ceil(WHEEL_TICK_NS)
}

proptest! {
    #[test]
    fn timers_fire_in_their_tick_and_never_early(start in any::<u32>(), budget in 1..40u32, steps in prop::collection::vec(step(), 1..200)) {
        let mut now = Instant(u64::from(start) << 20);
        let mut head = WheelHead::starting(now);
        let mut rows = vec![Timer::default(); ROWS as usize];
        let mut wheel = Wheel::new(&mut head, Table::new(&mut rows));
        let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Arm(row, after) => {
                    let at = Instant(now.0.saturating_add(after));
                    prop_assert!(wheel.arm(row, at));
                    model.insert(row, at);
                }
                Step::Cancel(row) => {
                    wheel.cancel(row);
                    model.remove(&row);
                }
                Step::Advance(after) => {
                    now = Instant(now.0.saturating_add(after).min(u64::MAX >> 1));
                    // A step is bounded by its budget; as long as a deadline is due, it is called again.
                    for _ in 0..10_000 {
                        let mut left = budget;
                        while let Some(row) = wheel.expire(now, &mut left) {
                            let at = model.remove(&row).unwrap();
                            prop_assert!(at <= now, "early");
                        }
                        if wheel.next_deadline() > now {
                            break;
                        }
                    }
                    for at in model.values() {
                        prop_assert!(fires_at(*at) > now.0 / WHEEL_TICK_NS, "late");
                    }
                }
            }
            prop_assert_eq!(wheel.armed() as usize, model.len());
            let first = model.values().map(|at| fires_at(*at)).min();
            match first {
                None => prop_assert_eq!(wheel.next_deadline(), Instant::NEVER),
                Some(tick) => prop_assert!(wheel.next_deadline().0 >> 20 <= tick.max(now.0 >> 20)),
            }
            for (row, at) in &model {
                prop_assert_eq!(wheel.deadline(*row).unwrap().0 >> 20, fires_at(*at));
            }
        }
    }

    #[test]
    fn corrupted_rows_neither_panic_nor_hang(words in prop::collection::vec(any::<u64>(), 300), steps in prop::collection::vec(step(), 1..50)) {
        let mut layout = region::Layout::new();
        let head_at = layout.table::<WheelHead>(1);
        let rows_at = layout.table::<Timer>(ROWS);
        let mut span: Vec<u64> = (0..layout.bytes() as usize / 8).map(|n| words[n % words.len()]).collect();
        for (n, word) in span.iter_mut().enumerate() {
            if n % 2 == 0 { *word &= 0x1f_0000_001f; } // small indices make loops
        }
        let mut carver = region::Carver::new(&mut span);
        let head = carver.one(head_at).unwrap();
        let mut wheel = Wheel::new(head, carver.table(rows_at).unwrap());
        let mut now = Instant(0);
        for step in steps {
            match step {
                Step::Arm(row, after) => drop(wheel.arm(row, now.plus(base::Duration(after)))),
                Step::Cancel(row) => wheel.cancel(row),
                Step::Advance(after) => {
                    now = now.plus(base::Duration(after));
                    let mut budget = 200;
                    while wheel.expire(now, &mut budget).is_some() {}
                }
            }
            let _ = wheel.next_deadline();
        }
    }
}

#[test]
fn next_deadline_is_exact_within_64_ticks() {
    let mut head = WheelHead::starting(Instant(640 << 20));
    let mut rows = vec![Timer::default(); 4];
    let mut wheel = Wheel::new(&mut head, Table::new(&mut rows));
    wheel.arm(0, Instant((640 << 20) + 40_000_000));
    assert_eq!(wheel.next_deadline(), Instant((640 + 39) << 20));
    assert_eq!(wheel.deadline(0), Some(wheel.next_deadline()));
    wheel.arm(0, Instant::NEVER);
    assert_eq!(wheel.next_deadline(), Instant::NEVER);
    assert!(!wheel.arm(4, Instant(1)));
    assert_eq!(wheel.deadline(0), None);
}

#[test]
fn a_slot_full_of_distant_timers_moves_down_within_the_budget() {
    const MANY: u32 = 10_000;
    let mut head = WheelHead::starting(Instant(0));
    let mut rows = vec![Timer::default(); MANY as usize];
    let mut wheel = Wheel::new(&mut head, Table::new(&mut rows));
    let at = Instant(7_200_000_000_000);
    for row in 0..MANY {
        wheel.arm(row, Instant(at.0 + u64::from(row % 100) * WHEEL_TICK_NS));
    }
    let (mut fired, mut calls) = (0, 0);
    let mut now = Instant(0);
    while fired < MANY {
        now = now.max(wheel.next_deadline());
        let mut budget = 64;
        while wheel.expire(now, &mut budget).is_some() {
            fired += 1;
        }
        calls += 1;
        assert!(calls < MANY / 64 * 6, "each timer moves at most once a level");
    }
    assert!(now >= at);
}
