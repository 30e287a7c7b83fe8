//! Every interleaving of the shared-word algorithms, run by loom:
//! `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --package corelane-region --lib --release`.
#![allow(clippy::unwrap_used, clippy::panic)]

use core::sync::atomic::Ordering;
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use std::vec::Vec;

use crate::lock::{Lock, Owner, Unlocked};
use crate::mailbox::{Mail, Mailbox};
use crate::pool::Pool;
use crate::{Mpsc, Seqlock, Spsc, Word};

macro_rules! loom_word {
    ($atomic:ty, $value:ty) => {
        impl Word for $atomic {
            type Value = $value;
            fn load(&self, order: Ordering) -> $value {
                <$atomic>::load(self, order)
            }
            fn store(&self, value: $value, order: Ordering) {
                <$atomic>::store(self, value, order);
            }
            fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                <$atomic>::compare_exchange(self, current, new, success, failure)
            }
            fn increment(&self, order: Ordering) -> $value {
                <$atomic>::fetch_add(self, 1, order)
            }
            fn fence(order: Ordering) {
                loom::sync::atomic::fence(order);
            }
            fn relax() {
                thread::yield_now();
            }
        }
    };
}
loom_word!(AtomicU64, u64);
loom_word!(AtomicU32, u32);

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

fn check(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(test);
}

/// What a lane has: the lock, its request ring, a counter that only the holder touches, and a futex.
struct Lane {
    word: AtomicU64,
    freed: AtomicU32,
    ring: Vec<AtomicU64>,
    counter: UnsafeCell<u64>,
    futex: Mutex<()>,
    sleepers: Condvar,
}

// SAFETY: the counter is under the lock that is being tested; loom says so if two threads meet there.
unsafe impl Sync for Lane {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Lane {}

impl Lane {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            word: AtomicU64::new(0),
            freed: AtomicU32::new(0),
            ring: words(4),
            counter: UnsafeCell::new(0),
            futex: Mutex::new(()),
            sleepers: Condvar::new(),
        })
    }

    fn lock(&self) -> Lock<'_, AtomicU64, AtomicU32> {
        Lock { word: &self.word, freed: &self.freed }
    }

    fn requests(&self) -> Mpsc<'_, AtomicU64> {
        Mpsc::new(&self.ring[0], &self.ring[1], &self.ring[2..])
    }

    fn wait(&self, word: &AtomicU32, seen: u32) {
        let futex = self.futex.lock().unwrap();
        if word.load(SeqCst) == seen {
            drop(self.sleepers.wait(futex).unwrap());
        }
    }

    fn add(&self, amount: u64) {
        // SAFETY: the lock is held.
        self.counter.with_mut(|counter| unsafe { *counter += amount });
    }

    /// Unlocks as a session does, doing what was deferred.
    fn leave(&self, mut held: u64) {
        loop {
            match self.lock().unlock(held) {
                Unlocked::Free { wake } => {
                    if wake {
                        drop(self.futex.lock().unwrap());
                        self.sleepers.notify_one();
                    }
                    return;
                }
                Unlocked::Lost => return,
                Unlocked::Work(still) => {
                    held = still;
                    while let Some(request) = self.requests().pop() {
                        self.add(request);
                    }
                }
            }
        }
    }
}

fn owner(tid: u32) -> Owner {
    Owner { pid: 1, tid }
}

#[test]
fn three_threads_never_hold_the_lock_together_and_none_sleeps_forever() {
    check(3, || {
        let lane = Lane::new();
        let visit = |lane: Arc<Lane>, tid| {
            move || {
                let held = lane.lock().lock(owner(tid), |word, seen| lane.wait(word, seen));
                lane.add(1);
                lane.leave(held);
            }
        };
        let others = [1, 2].map(|tid| thread::spawn(visit(lane.clone(), tid)));
        visit(lane.clone(), 3)();
        for other in others {
            other.join().unwrap();
        }
        // SAFETY: the only thread left.
        assert_eq!(lane.counter.with(|counter| unsafe { *counter }), 3);
    });
}

#[test]
fn a_deferred_request_is_done_exactly_once() {
    check(3, || {
        let lane = Lane::new();
        let visit = |lane: Arc<Lane>, tid| {
            move || match lane.lock().lock_or_defer(&lane.requests(), owner(tid), 1) {
                Ok(None) => {}
                Ok(Some(held)) => {
                    lane.add(1);
                    lane.leave(held);
                }
                Err(_) => panic!("two requests have room"),
            }
        };
        let others = [1, 2].map(|tid| thread::spawn(visit(lane.clone(), tid)));
        visit(lane.clone(), 3)();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(lane.requests().pop(), None);
        assert!(lane.lock().holding().is_none());
        // SAFETY: the only thread left.
        assert_eq!(lane.counter.with(|counter| unsafe { *counter }), 3);
    });
}

#[test]
fn a_lock_taken_over_keeps_its_requests_and_its_waiters() {
    check(3, || {
        let lane = Lane::new();
        lane.lock().try_lock(owner(9)).unwrap(); // and dies
        let deferring = {
            let lane = lane.clone();
            thread::spawn(move || match lane.lock().lock_or_defer(&lane.requests(), owner(1), 1) {
                Ok(None) => {}
                Ok(Some(held)) => {
                    lane.add(1);
                    lane.leave(held);
                }
                Err(_) => panic!("one request has room"),
            })
        };
        let waiting = {
            let lane = lane.clone();
            thread::spawn(move || {
                let held = lane.lock().lock(owner(2), |word, seen| lane.wait(word, seen));
                lane.leave(held);
            })
        };
        let held = lane.lock().take_over(owner(9), owner(3)).unwrap();
        lane.leave(held);
        deferring.join().unwrap();
        waiting.join().unwrap();
        // SAFETY: the only thread left.
        assert_eq!(lane.counter.with(|counter| unsafe { *counter }), 1);
    });
}

#[test]
fn what_two_producers_push_arrives_once_and_in_order() {
    check(2, || {
        let ring = Arc::new(words(4));
        fn mpsc(ring: &[AtomicU64]) -> Mpsc<'_, AtomicU64> {
            Mpsc::new(&ring[0], &ring[1], &ring[2..])
        }
        let producers = [10u64, 20].map(|base| {
            let ring = ring.clone();
            thread::spawn(move || (0..2).filter(|n| mpsc(&ring).push(base + n).is_ok()).count())
        });
        // In a thread of its own, and without yielding, so that loom also tries old values for its loads.
        let consumer = {
            let ring = ring.clone();
            thread::spawn(move || (0..3).filter_map(|_| mpsc(&ring).pop()).collect::<Vec<_>>())
        };
        let pushed: usize = producers.into_iter().map(|p| p.join().unwrap()).sum();
        let mut got = consumer.join().unwrap();
        while let Some(value) = mpsc(&ring).pop() {
            got.push(value);
        }
        assert_eq!(got.len(), pushed);
        for base in [10, 20] {
            let own: Vec<_> = got.iter().filter(|v| **v / 10 * 10 == base).collect();
            assert!(own.is_sorted_by(|a, b| a < b));
        }
    });
}

#[test]
fn what_one_producer_pushes_arrives_in_order() {
    check(4, || {
        let ring = Arc::new(words(4));
        fn spsc(ring: &[AtomicU64]) -> Spsc<'_, AtomicU64> {
            Spsc::new(&ring[0], &ring[1], &ring[2..])
        }
        let producer = {
            let ring = ring.clone();
            thread::spawn(move || (1..=3).take_while(|n| spsc(&ring).push(*n).is_ok()).count())
        };
        let consumer = {
            let ring = ring.clone();
            thread::spawn(move || (0..3).filter_map(|_| spsc(&ring).pop()).collect::<Vec<_>>())
        };
        let pushed = producer.join().unwrap();
        let mut got = consumer.join().unwrap();
        while let Some(value) = spsc(&ring).pop() {
            got.push(value);
        }
        assert_eq!(got, (1..=pushed as u64).collect::<Vec<_>>());
    });
}

#[test]
fn a_reader_never_sees_half_a_write() {
    check(4, || {
        let shared = Arc::new(words(3));
        let writer = {
            let shared = shared.clone();
            thread::spawn(move || {
                for n in 1..3 {
                    Seqlock::new(&shared[0]).write(|| {
                        shared[1].store(n, Relaxed);
                        shared[2].store(n * 10, Relaxed);
                    });
                }
            })
        };
        let read = Seqlock::new(&shared[0]).read(2, || (shared[1].load(Relaxed), shared[2].load(Relaxed)));
        if let Some((one, ten)) = read {
            assert_eq!(one * 10, ten);
        }
        writer.join().unwrap();
    });
}

#[test]
fn a_batch_of_the_pool_has_one_owner() {
    check(3, || {
        let head = Arc::new(AtomicU64::new(u64::from(u32::MAX)));
        let links = Arc::new(words(3));
        let owned = Arc::new([0, 1, 2].map(|_| UnsafeCell::new(0u32)));
        struct Shared(Arc<AtomicU64>, Arc<Vec<AtomicU64>>, Arc<[UnsafeCell<u32>; 3]>);
        // SAFETY: a cell is touched by the owner of its batch only; loom says so if not.
        unsafe impl Send for Shared {}
        impl Shared {
            fn swap(&self) {
                let pool = Pool { head: &*self.0, links: &self.1 };
                if let Some((first, len)) = pool.pop() {
                    assert_eq!(len, first + 5);
                    // SAFETY: the batch is ours.
                    self.2[first as usize].with_mut(|cell| unsafe { *cell += 1 });
                    pool.push(first, len);
                }
            }
        }
        let pool = Pool { head: &*head, links: &links };
        for first in 0..3 {
            pool.push(first, first + 5);
        }
        let swapping = {
            let shared = Shared(head.clone(), links.clone(), owned.clone());
            thread::spawn(move || shared.swap())
        };
        // Takes two and brings the first back: the head names the same batch again, over another one (ABA).
        let first = pool.pop();
        let second = pool.pop();
        for (first, len) in first.iter().chain(&second) {
            // SAFETY: the batch is ours.
            owned[*first as usize].with_mut(|cell| unsafe { *cell += 1 });
            assert_eq!(*len, first + 5);
        }
        for (first, len) in first.into_iter().chain(second) {
            pool.push(first, len);
        }
        swapping.join().unwrap();
        let mut left: Vec<_> = core::iter::from_fn(|| pool.pop()).collect();
        left.sort_unstable();
        assert_eq!(left, [(0, 5), (1, 6), (2, 7)]);
        assert_eq!(head.load(Acquire) as u32, u32::MAX);
    });
}

/// A mailbox, the frames that go through it, and what its owner sleeps on.
struct Post {
    ring: Vec<AtomicU64>,
    sleepers: AtomicU32,
    wake_seq: AtomicU32,
    frames: [UnsafeCell<u32>; 4],
    futex: Mutex<()>,
    bell: Condvar,
}

// SAFETY: a frame is touched by its owner only, which is being tested; loom says so if two threads meet there.
unsafe impl Sync for Post {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Post {}

impl Post {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ring: words(4),
            sleepers: AtomicU32::new(0),
            wake_seq: AtomicU32::new(0),
            frames: [0; 4].map(UnsafeCell::new),
            futex: Mutex::new(()),
            bell: Condvar::new(),
        })
    }

    fn mailbox(&self) -> Mailbox<'_, AtomicU64, AtomicU32> {
        let ring = Mpsc::new(&self.ring[0], &self.ring[1], &self.ring[2..]);
        Mailbox { ring, sleepers: &self.sleepers, wake_seq: &self.wake_seq }
    }

    /// Writes frame `n` and hands it over. False: no room, the frame is still the caller's.
    fn send(&self, n: u32) -> bool {
        // SAFETY: a frame is its sender's until it is posted.
        self.frames[n as usize].with_mut(|frame| unsafe { *frame += 1 });
        match self.mailbox().post(Mail { head: base::FrameIdx(n), note: n + 7 }) {
            Ok(wake) => {
                if wake {
                    drop(self.futex.lock().unwrap());
                    self.bell.notify_all();
                }
                true
            }
            Err(_) => false,
        }
    }

    fn receive(&self) -> Option<u32> {
        let mail = self.mailbox().take()?;
        assert_eq!(mail.note, mail.head.0 + 7);
        // SAFETY: what came out of the mailbox is the receiver's.
        self.frames[mail.head.0 as usize].with_mut(|frame| unsafe { *frame += 10 });
        Some(mail.head.0)
    }
}

#[test]
fn frames_handed_over_have_one_owner_and_arrive_once() {
    check(2, || {
        let post = Post::new();
        let senders = [0, 2].map(|first| {
            let post = post.clone();
            thread::spawn(move || (first..first + 2).filter(|n| post.send(*n)).count())
        });
        let receiver = {
            let post = post.clone();
            thread::spawn(move || (0..3).filter_map(|_| post.receive()).count())
        };
        let sent: usize = senders.into_iter().map(|s| s.join().unwrap()).sum();
        let mut got = receiver.join().unwrap();
        while post.receive().is_some() {
            got += 1;
        }
        assert_eq!(sent, got);
        // SAFETY: the only thread left.
        let touched = post.frames.iter().filter(|f| f.with(|f| unsafe { *f }) == 11).count();
        assert_eq!(touched, got);
    });
}

#[test]
fn a_lane_that_sleeps_is_woken_for_its_mail() {
    check(3, || {
        let post = Post::new();
        let sender = {
            let post = post.clone();
            thread::spawn(move || assert!(post.send(1)))
        };
        // The owner: looks, announces its sleep, looks a last time, sleeps.
        while post.receive().is_none() {
            let seen = post.mailbox().announce();
            if post.receive().is_some() {
                break;
            }
            let futex = post.futex.lock().unwrap();
            if post.wake_seq.load(SeqCst) == seen {
                drop(post.bell.wait(futex).unwrap());
            }
        }
        sender.join().unwrap();
    });
}
