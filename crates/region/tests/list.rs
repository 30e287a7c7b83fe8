//! Free lists and lists against plain models.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, VecDeque};

use base::Idx;
use proptest::prelude::*;
use region::{FreeList, Linked, Links, List, Table, plain};

plain! {
    #[derive(Debug, Default)]
    struct Row {
        free: Links<Row>,
        queue: Links<Row>,
    }
}

/// Names the queue.
enum Queue {}

impl Linked for Row {
    fn links(&self) -> &Links<Self> {
        &self.free
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.free
    }
}

impl Linked<Queue> for Row {
    fn links(&self) -> &Links<Self> {
        &self.queue
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.queue
    }
}

const ROWS: u32 = 12;

#[derive(Debug, Clone)]
enum Step {
    Alloc,
    Release(u32),
    PushBack(u32, bool),
    PushFront(u32, bool),
    Remove(u32),
    PopFront(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let row = 0..ROWS + 2;
    prop_oneof![
        Just(Step::Alloc),
        row.clone().prop_map(Step::Release),
        (row.clone(), any::<bool>()).prop_map(|(r, l)| Step::PushBack(r, l)),
        (row.clone(), any::<bool>()).prop_map(|(r, l)| Step::PushFront(r, l)),
        row.prop_map(Step::Remove),
        any::<bool>().prop_map(Step::PopFront),
    ]
}

fn ids(list: &List<Row, Queue>, rows: &Table<'_, Row>) -> Vec<u32> {
    list.iter(rows).map(|(at, _)| at.raw()).collect()
}

proptest! {
    #[test]
    fn two_lists_and_a_free_list_do_what_their_models_do(steps in prop::collection::vec(step(), 1..200)) {
        let mut memory = [Row::default(); ROWS as usize];
        let mut rows = Table::new(&mut memory);
        let mut free = FreeList::<Row>::EMPTY;
        let mut lists = [List::<Row, Queue>::EMPTY; 2];
        let mut used = BTreeSet::new();
        let mut models = [VecDeque::new(), VecDeque::new()];
        for step in steps {
            let listed = |models: &[VecDeque<u32>; 2], r: u32| models.iter().any(|m| m.contains(&r));
            match step {
                Step::Alloc => match free.alloc(&mut rows) {
                    Some(row) => prop_assert!(used.insert(row.raw())),
                    None => prop_assert_eq!(used.len(), ROWS as usize),
                },
                Step::Release(r) => {
                    prop_assert_eq!(free.release(&mut rows, Idx::new(r)), used.remove(&r));
                }
                Step::PushBack(r, l) => {
                    let fits = r < ROWS && !listed(&models, r);
                    prop_assert_eq!(lists[usize::from(l)].push_back(&mut rows, Idx::new(r)), fits);
                    if fits { models[usize::from(l)].push_back(r); }
                }
                Step::PushFront(r, l) => {
                    let fits = r < ROWS && !listed(&models, r);
                    prop_assert_eq!(lists[usize::from(l)].push_front(&mut rows, Idx::new(r)), fits);
                    if fits { models[usize::from(l)].push_front(r); }
                }
                Step::Remove(r) => {
                    let on = usize::from(models[1].contains(&r));
                    let at = models[on].iter().position(|x| *x == r);
                    prop_assert_eq!(lists[on].remove(&mut rows, Idx::new(r)), at.is_some());
                    if let Some(at) = at { models[on].remove(at); }
                }
                Step::PopFront(l) => {
                    let popped = lists[usize::from(l)].pop_front(&mut rows).map(Idx::raw);
                    prop_assert_eq!(popped, models[usize::from(l)].pop_front());
                }
            }
            prop_assert_eq!(free.free(&rows) as usize, ROWS as usize - used.len());
            for (list, model) in lists.iter().zip(&models) {
                prop_assert_eq!(list.len() as usize, model.len());
                prop_assert_eq!(list.is_empty(), model.is_empty());
                prop_assert_eq!(ids(list, &rows), Vec::from(model.clone()));
            }
        }
    }

    #[test]
    fn corrupted_links_neither_panic_nor_loop(words in prop::collection::vec(any::<u32>(), 64), steps in prop::collection::vec(step(), 1..40)) {
        let mut layout = region::Layout::new();
        let at = layout.table::<Row>(ROWS);
        let list_at = layout.table::<List<Row, Queue>>(1);
        let free_at = layout.table::<FreeList<Row>>(1);
        let mut span: Vec<u64> = vec![0; layout.bytes() as usize / 8];
        for (to, pair) in span.iter_mut().zip(words.chunks(2)) {
            *to = u64::from(pair[0] % 16) << 32 | u64::from(pair[1] % 16);
        }
        let mut carver = region::Carver::new(&mut span);
        let mut rows = carver.table(at).unwrap();
        let list = carver.one(list_at).unwrap();
        let free = carver.one(free_at).unwrap();
        for step in steps {
            prop_assert!(list.iter(&rows).count() <= ROWS as usize);
            match step {
                Step::Alloc => drop(free.alloc(&mut rows)),
                Step::Release(r) => drop(free.release(&mut rows, Idx::new(r))),
                Step::PushBack(r, _) => drop(list.push_back(&mut rows, Idx::new(r))),
                Step::PushFront(r, _) => drop(list.push_front(&mut rows, Idx::new(r))),
                Step::Remove(r) => drop(list.remove(&mut rows, Idx::new(r))),
                Step::PopFront(_) => {
                    let mut popped = 0;
                    while list.pop_front(&mut rows).is_some() {
                        popped += 1;
                        prop_assert!(popped <= ROWS);
                    }
                }
            }
        }
    }
}
