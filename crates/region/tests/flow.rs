//! The flow table against a plain map.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use proptest::prelude::*;
use region::{FlowBucket, FlowFull, FlowHead, FlowTable, Table};

/// Owned memory of one table.
struct Memory {
    head: FlowHead,
    rows: Vec<FlowBucket>,
}

impl Memory {
    fn new(capacity: u32) -> Self {
        let rows = vec![FlowBucket::default(); FlowTable::rows_for(capacity) as usize];
        Self { head: FlowHead::for_capacity(capacity), rows }
    }

    fn table(&mut self) -> FlowTable<'_> {
        FlowTable::new(&mut self.head, Table::new(&mut self.rows))
    }
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u32, u32),
    Remove(u32, u32),
    Find(u32, u32),
}

/// Few different hashes, so that they collide in bucket, in tag, and in both.
fn hash() -> impl Strategy<Value = u32> {
    prop_oneof![0..4u32, (0..4u32).prop_map(|n| n << 30), Just(0x10000), Just(0x20001), any::<u32>()]
}

fn step() -> impl Strategy<Value = Step> {
    let key = || (hash(), 0..40u32);
    prop_oneof![
        3 => key().prop_map(|(h, v)| Step::Insert(h, v)),
        2 => key().prop_map(|(h, v)| Step::Remove(h, v)),
        1 => key().prop_map(|(h, v)| Step::Find(h, v)),
    ]
}

proptest! {
    #[test]
    fn it_does_what_a_map_does(capacity in 0..120u32, steps in prop::collection::vec(step(), 1..500)) {
        let mut memory = Memory::new(capacity);
        let mut table = memory.table();
        let mut model = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(h, v) if model.contains_key(&(h, v)) => {
                    prop_assert_eq!(table.find(h, |x| x == v), Some(v));
                }
                Step::Insert(h, v) => {
                    let expected = if model.len() < capacity as usize { Ok(()) } else { Err(FlowFull) };
                    prop_assert_eq!(table.insert(h, v), expected);
                    if expected.is_ok() {
                        model.insert((h, v), ());
                    }
                }
                Step::Remove(h, v) => {
                    // One model entry for each hash and value, but tables see only tags: same value, same tag is the same.
                    let there = model.remove(&(h, v)).is_some();
                    if there {
                        prop_assert_eq!(table.remove(h, |x| x == v), Some(v));
                    }
                }
                Step::Find(h, v) => {
                    if model.contains_key(&(h, v)) {
                        prop_assert_eq!(table.find(h, |x| x == v), Some(v));
                    }
                }
            }
            prop_assert_eq!(table.len() as usize, model.len());
        }
        for (h, v) in model.keys() {
            prop_assert_eq!(table.remove(*h, |x| x == *v), Some(*v));
        }
        prop_assert!(table.is_empty());
    }

    #[test]
    fn corrupted_rows_neither_panic_nor_hang(words in prop::collection::vec(any::<u32>(), 16 * 30), steps in prop::collection::vec(step(), 1..60)) {
        let mut memory = Memory::new(100);
        // Tables are carved from words, so any words may be found in one.
        let mut bytes: Vec<u64> = vec![0; 8 * memory.rows.len()];
        for (to, from) in bytes.iter_mut().zip(words.chunks(2)) {
            *to = u64::from(from[0] % 64) << 32 | u64::from(from[1]);
        }
        let mut layout = region::Layout::new();
        let at = layout.table::<FlowBucket>(memory.rows.len() as u32);
        let rows = region::Carver::new(&mut bytes).table(at).unwrap();
        let mut table = FlowTable::new(&mut memory.head, rows);
        for step in steps {
            match step {
                Step::Insert(h, v) => drop(table.insert(h, v)),
                Step::Remove(h, v) => drop(table.remove(h, |x| x == v)),
                Step::Find(h, v) => drop(table.find(h, |x| x == v)),
            }
        }
    }
}

#[test]
fn entries_of_one_hash_never_fail_below_capacity() {
    let mut memory = Memory::new(1000);
    let mut table = memory.table();
    for round in 0..3 {
        for value in 0..1000 {
            assert_eq!(table.insert(round, value), Ok(()));
        }
        assert_eq!(table.insert(round, 1000), Err(FlowFull));
        for value in (0..1000).rev().step_by(2).chain((0..1000).step_by(2)) {
            assert_eq!(table.remove(round, |v| v == value), Some(value));
        }
        assert!(table.is_empty());
    }
}

#[test]
fn the_worst_spread_over_buckets_never_fails_below_capacity() {
    // Eleven entries in each bucket: the most overflow buckets for the number of entries.
    let capacity = 1100;
    let buckets = u64::from(capacity / 6 + 1);
    let mut memory = Memory::new(capacity);
    let mut table = memory.table();
    for value in 0..capacity {
        let bucket = u64::from(value / 11);
        assert_eq!(table.insert((bucket << 32).div_ceil(buckets) as u32, value), Ok(()));
    }
    for value in 0..capacity {
        let hash = (u64::from(value / 11) << 32).div_ceil(buckets) as u32;
        assert_eq!(table.find(hash, |v| v == value), Some(value));
    }
}

#[test]
fn an_entry_that_was_removed_is_not_offered_again() {
    let mut memory = Memory::new(50);
    let mut table = memory.table();
    for value in 0..12 {
        table.insert(1, value).unwrap();
    }
    for value in 0..12 {
        table.remove(1, |v| v == value).unwrap();
    }
    // Every tag, those next to the removed one too: no stale value comes up.
    for hash in 0..=0xffff {
        assert_eq!(table.find(hash, |_| true), None);
    }
}

#[test]
fn a_value_is_replaced_in_its_place_and_guessed_before_keys_are_compared() {
    let mut memory = Memory::new(64);
    let mut table = memory.table();
    assert_eq!((table.candidate(7), table.replace(7, |_| true, 1)), (None, false));
    for n in 0..20 {
        table.insert(n << 27, n).unwrap();
    }
    for n in 0..20 {
        assert_eq!(table.candidate(n << 27), table.find(n << 27, |_| true));
        assert!(table.replace(n << 27, |v| v == n, 100 + n));
        assert_eq!(
            (table.find(n << 27, |v| v == n), table.find(n << 27, |v| v == 100 + n)),
            (None, Some(100 + n))
        );
    }
    assert_eq!(table.len(), 20);
}
