//! Whatever is asked of it, the slab agrees with a map from ticket to job. The input is steps
//! of two bytes: what to do, and to which job.
#![no_main]

use std::collections::BTreeMap;

use hybrid_core::slab::{Record, Slab, Ticket};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let slab = Slab::new(8);
    let mut jobs = BTreeMap::new();
    let mut stale = Vec::new();
    for (number, step) in (0_u64..).zip(data.chunks_exact(2)) {
        let chosen = jobs
            .keys()
            .nth(usize::from(step[1]).checked_rem(jobs.len()).unwrap_or(0))
            .copied();
        match step[0] % 5 {
            0 => match slab.insert(number, Record::started_at(number)) {
                Ok(ticket) => assert_eq!(jobs.insert(ticket, number), None),
                Err(full) => assert!(full.0 == number && jobs.len() >= slab.limit() as usize),
            },
            1 => {
                if let Some(ticket) = chosen {
                    assert_eq!(slab.take(ticket), jobs.remove(&ticket));
                    stale.push(ticket);
                }
            }
            2 => slab.set_limit(u32::from(step[1])),
            3 => {
                for ticket in &stale {
                    assert_eq!(slab.take(*ticket), None);
                }
                let forged = Ticket::from_raw(u64::from(step[1]) << 20 | number);
                assert_eq!(slab.get_with(forged, |job| *job), jobs.get(&forged).copied());
            }
            _ => {
                let mut scanned = BTreeMap::new();
                slab.scan(|ticket, record| {
                    scanned.insert(ticket, record.started_ns);
                });
                assert_eq!(scanned, jobs);
            }
        }
        assert_eq!(slab.len() as usize, jobs.len());
    }
});
