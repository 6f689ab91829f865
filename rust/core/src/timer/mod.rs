//! Timers by deadline: insert, cancel by key, expire in exact order.
//!
//! Deadlines are nanoseconds of whatever clock the caller uses; `now` is an argument. Entries
//! leave by deadline, those of one deadline by insertion. Cancelling removes the entry at
//! once, and a stale key cancels nothing.
//!
//! # Shape
//!
//! A 4-ary heap of entries, which hold the values, and a table that knows where in the heap the
//! entry of a key is. Four children lie in two cache lines and halve the depth of a binary
//! heap. Per entry that makes 24 bytes and the value in the heap and 8 in the table, and
//! up to twice that right after a buffer has grown.
//!
//! # Memory
//!
//! The heap shrinks as soon as it is less than a quarter full. The table cannot move entries,
//! because keys name places in it; it gives up its unused end, and prefers low places for
//! new entries after that. At worst one old timer keeps 8 bytes per timer of the highest peak.
//!
//! # Drops
//!
//! No method drops a value: each hands out what it removes, so that code run by a drop never
//! finds the heap in use.

mod places;

pub use self::places::Key;
use self::places::{Places, shrink_sparse};

/// Children per node.
const ARITY: usize = 4;

/// Values with deadlines, earliest first. The [module](self) describes it.
#[derive(Debug)]
pub struct TimerHeap<T> {
    heap: Vec<Entry<T>>,
    places: Places,
    /// Numbers the insertions, to order entries of one deadline.
    inserted: u64,
}

#[derive(Debug)]
struct Entry<T> {
    deadline_ns: u64,
    order: u64,
    place: u32,
    value: T,
}

impl<T> Entry<T> {
    fn rank(&self) -> (u64, u64) {
        (self.deadline_ns, self.order)
    }
}

impl<T> Default for TimerHeap<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> TimerHeap<T> {
    /// Creates an empty heap, without allocating.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            heap: Vec::new(),
            places: Places::new(),
            inserted: 0,
        }
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Returns whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Returns the size of the buffers, unused parts included, without what values point to.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.heap.capacity() * size_of::<Entry<T>>() + self.places.memory_bytes()
    }

    /// Adds `value`, to expire at `deadline_ns`. Takes constant time on average, O(log n) at
    /// worst.
    pub fn insert(&mut self, deadline_ns: u64, value: T) -> Key {
        let key = self.places.occupy();
        let order = self.inserted;
        self.inserted += 1;
        self.heap.push(Entry {
            deadline_ns,
            order,
            place: key.place(),
            value,
        });
        self.sift_up(self.heap.len() - 1);
        key
    }

    /// Removes the entry of `key` and returns its value. `None` when it is gone already. Takes
    /// O(log n).
    pub fn cancel(&mut self, key: Key) -> Option<T> {
        let position = self.places.position(key)?;
        let (_, value) = self.remove(position);
        self.shrink();
        Some(value)
    }

    /// Returns deadline and value of the entry of `key`. `None` when it is gone.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<(u64, &T)> {
        let entry = &self.heap[self.places.position(key)?];
        Some((entry.deadline_ns, &entry.value))
    }

    /// Returns the earliest deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.deadline_ns)
    }

    /// Removes the entries whose deadline is `now_ns` or before, `limit` at most, and returns
    /// them by deadline, then by insertion.
    pub fn expire(&mut self, now_ns: u64, limit: usize) -> Vec<(Key, T)> {
        let mut expired = Vec::new();
        while expired.len() < limit && self.next_deadline().is_some_and(|next| next <= now_ns) {
            expired.push(self.remove(0));
        }
        if !expired.is_empty() {
            self.shrink();
        }
        expired
    }

    /// Removes all entries and returns their values, in no particular order.
    #[must_use = "the values are dropped where the result is"]
    pub fn clear(&mut self) -> Vec<T> {
        let entries = std::mem::take(&mut self.heap);
        for entry in &entries {
            self.places.vacate(entry.place);
        }
        self.places.trim();
        entries.into_iter().map(|entry| entry.value).collect()
    }

    /// Iterates over deadlines and values, in no particular order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, &T)> {
        self.heap
            .iter()
            .map(|entry| (entry.deadline_ns, &entry.value))
    }

    fn remove(&mut self, position: usize) -> (Key, T) {
        let entry = self.heap.swap_remove(position);
        if position < self.heap.len() {
            // The entry from the end may belong further up: it comes from another branch.
            let position = self.sift_up(position);
            self.sift_down(position);
        }
        (self.places.vacate(entry.place), entry.value)
    }

    fn sift_up(&mut self, mut position: usize) -> usize {
        while position > 0 {
            let parent = (position - 1) / ARITY;
            if self.heap[parent].rank() <= self.heap[position].rank() {
                break;
            }
            self.heap.swap(parent, position);
            self.settle(position);
            position = parent;
        }
        self.settle(position);
        position
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let first = position * ARITY + 1;
            let last = (first + ARITY).min(self.heap.len());
            let Some(child) = (first..last).min_by_key(|&child| self.heap[child].rank()) else {
                break;
            };
            if self.heap[position].rank() <= self.heap[child].rank() {
                break;
            }
            self.heap.swap(position, child);
            self.settle(position);
            position = child;
        }
        self.settle(position);
    }

    /// Notes that the entry at `position` is there.
    fn settle(&mut self, position: usize) {
        self.places.settle(self.heap[position].place, position);
    }

    fn shrink(&mut self) {
        shrink_sparse(&mut self.heap);
        self.places.trim_when_sparse(self.heap.len());
    }
}
