//! Whatever is asked of it, the timer heap agrees with a sorted map from deadline and
//! insertion to entry. The input is steps of two bytes: what to do, and a time or an entry.
#![no_main]

use std::collections::BTreeMap;

use hybrid_core::timer::TimerHeap;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut heap = TimerHeap::new();
    let mut entries = BTreeMap::new();
    for (number, step) in (0_u64..).zip(data.chunks_exact(2)) {
        let time = u64::from(step[1]);
        match step[0] % 4 {
            0 | 1 => {
                entries.insert((time, number), heap.insert(time, number));
            }
            2 => {
                let nth = usize::from(step[1]).checked_rem(entries.len()).unwrap_or(0);
                if let Some((&rank, &key)) = entries.iter().nth(nth) {
                    assert_eq!(heap.cancel(key), Some(rank.1));
                    assert_eq!(heap.cancel(key), None);
                    entries.remove(&rank);
                }
            }
            _ => {
                let due: Vec<_> = entries.range(..=(time, u64::MAX)).take(3).collect();
                let due: Vec<_> = due.iter().map(|(rank, key)| (**key, rank.1)).collect();
                assert_eq!(heap.expire(time, 3), due);
                entries.retain(|_, key| !due.iter().any(|(expired, _)| expired == key));
            }
        }
        assert_eq!(heap.len(), entries.len());
        assert_eq!(heap.next_deadline(), entries.keys().next().map(|rank| rank.0));
    }
});
