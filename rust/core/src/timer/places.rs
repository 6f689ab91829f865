//! The table from keys to positions in the heap, and what a key is.
//!
//! A key is a place in this table and a generation, which changes with each use of the place. So
//! a stale key is told apart, even when its place was given up and added again.

/// Buffers of this many entries or fewer are kept, so that small heaps never reallocate.
const KEPT_CAPACITY: usize = 64;

/// The end of the list of unused places.
const NO_PLACE: u32 = u32::MAX;

/// Names one entry of a [`TimerHeap`](super::TimerHeap). Never 0, and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
    fn new(place: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(place))
    }

    /// Rebuilds a key from [`to_raw`](Self::to_raw).
    ///
    /// Any number is accepted: one that no insert returned finds nothing.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the key as one number, never 0.
    #[must_use]
    pub const fn to_raw(self) -> u64 {
        self.0
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low half is the place")]
    pub(super) const fn place(self) -> u32 {
        self.0 as u32
    }

    const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Where in the heap the entry of each key is.
#[derive(Debug)]
pub(super) struct Places {
    table: Vec<Place>,
    /// Head of the list of unused places, [`NO_PLACE`] when there are none.
    first_unused: u32,
    /// Generation that places are added with. Above all those that were given up, so that no
    /// key comes back.
    first_generation: u32,
    /// Removals since the last trim. They pay for the next one, which takes O(n).
    vacated: usize,
}

#[derive(Debug)]
struct Place {
    /// Odd while used. Goes up with each insertion and each removal.
    generation: u32,
    /// Position in the heap while used, the next unused place while not.
    link: u32,
}

impl Place {
    const fn is_used(&self) -> bool {
        self.generation % 2 == 1
    }

    /// Whether all keys of this place are used up, so that it stays unused.
    const fn is_worn_out(&self) -> bool {
        self.generation >= u32::MAX - 1
    }

    /// Whether giving this place up leaves those added later at least 2^30 keys each.
    const fn is_young(&self) -> bool {
        self.generation < 1 << 31
    }
}

impl Places {
    pub(super) const fn new() -> Self {
        Self {
            table: Vec::new(),
            first_unused: NO_PLACE,
            first_generation: 0,
            vacated: 0,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.table.capacity() * size_of::<Place>()
    }

    /// Starts to use a place. The caller settles it.
    pub(super) fn occupy(&mut self) -> Key {
        if self.first_unused == NO_PLACE {
            self.add();
        }
        let index = self.first_unused;
        let place = &mut self.table[index as usize];
        self.first_unused = place.link;
        place.generation += 1;
        Key::new(index, place.generation)
    }

    fn add(&mut self) {
        let index = u32::try_from(self.table.len())
            .ok()
            .filter(|&index| index != NO_PLACE);
        self.first_unused = index.expect("a timer heap holds fewer than 2^32 - 1 entries");
        self.table.push(Place {
            generation: self.first_generation,
            link: NO_PLACE,
        });
    }

    /// Ends the use of a place and returns its key, which is stale from now on.
    pub(super) fn vacate(&mut self, index: u32) -> Key {
        let place = &mut self.table[index as usize];
        let key = Key::new(index, place.generation);
        place.generation += 1;
        if !place.is_worn_out() {
            place.link = self.first_unused;
            self.first_unused = index;
        }
        self.vacated += 1;
        key
    }

    /// Notes that the entry of a used place is at `position`.
    pub(super) fn settle(&mut self, index: u32, position: usize) {
        self.table[index as usize].link = narrow(position);
    }

    pub(super) fn position(&self, key: Key) -> Option<usize> {
        let place = self.table.get(key.place() as usize)?;
        let named = place.is_used() && place.generation == key.generation();
        named.then_some(place.link as usize)
    }

    pub(super) fn trim_when_sparse(&mut self, used: usize) {
        let len = self.table.len();
        // A trim that finds a used place at the end gains nothing; the next one must wait for
        // enough removals to pay for it, unless nothing is used and it is sure to succeed.
        let paid = self.vacated >= len / 8 || used == 0;
        if len > KEPT_CAPACITY && used < len / 4 && paid {
            self.trim();
        }
    }

    /// Gives up the unused end of the table, and prefers low places from now on, so that more
    /// of the end can be given up next time.
    pub(super) fn trim(&mut self) {
        self.vacated = 0;
        while let Some(last) = self.table.pop_if(|last| !last.is_used() && last.is_young()) {
            self.first_generation = self.first_generation.max(last.generation);
        }
        shrink_sparse(&mut self.table);

        self.first_unused = NO_PLACE;
        for (index, place) in self.table.iter_mut().enumerate().rev() {
            if !place.is_used() && !place.is_worn_out() {
                place.link = self.first_unused;
                self.first_unused = narrow(index);
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "`add` refuses a place beyond 32 bits"
)]
const fn narrow(index: usize) -> u32 {
    index as u32
}

/// Halves a buffer that is less than a quarter full. The gap between the two fractions keeps a
/// length that goes up and down from reallocating each time.
pub(super) fn shrink_sparse<E>(buffer: &mut Vec<E>) {
    if buffer.capacity() > KEPT_CAPACITY && buffer.len() < buffer.capacity() / 4 {
        buffer.shrink_to((buffer.len() * 2).max(KEPT_CAPACITY));
    }
}
