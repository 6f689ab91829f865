//! What one timer costs in the heap, in time and in memory.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hybrid_core::timer::{Key, TimerHeap};

const MANY: u64 = 1_000_000;
const HOUR_NS: u64 = 3_600_000_000_000;

/// Deadlines within an hour, in no order but the same in each run.
fn deadline_ns(n: u64) -> u64 {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % HOUR_NS
}

fn filled(count: u64) -> (TimerHeap<u64>, Vec<Key>) {
    let mut heap = TimerHeap::new();
    let keys = (0..count).map(|n| heap.insert(deadline_ns(n), n)).collect();
    (heap, keys)
}

fn million(criterion: &mut Criterion) {
    let (heap, _) = filled(MANY);
    println!(
        "timer: {} bytes for {MANY} entries of 8 bytes",
        heap.memory_bytes()
    );
    drop(heap);

    let mut group = criterion.benchmark_group("timer/1e6");
    group.sample_size(10);
    group.throughput(Throughput::Elements(MANY));
    group.bench_function("insert", |bencher| {
        bencher.iter_with_large_drop(|| filled(MANY).0);
    });
    group.bench_function("cancel in random order", |bencher| {
        let prepare = || {
            let (heap, mut keys) = filled(MANY);
            keys.sort_unstable_by_key(|key| key.to_raw().wrapping_mul(0xD6E8_FEB8_6659_FD93));
            (heap, keys)
        };
        let cancel_all = |(mut heap, keys): (TimerHeap<u64>, Vec<Key>)| {
            for key in keys {
                black_box(heap.cancel(key));
            }
            heap
        };
        bencher.iter_batched(prepare, cancel_all, BatchSize::PerIteration);
    });
    group.bench_function("expire in batches of 100", |bencher| {
        let expire_all = |mut heap: TimerHeap<u64>| {
            while !black_box(heap.expire(HOUR_NS, 100)).is_empty() {}
            heap
        };
        bencher.iter_batched(|| filled(MANY).0, expire_all, BatchSize::PerIteration);
    });
    group.finish();
}

fn insert_and_cancel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timer/insert+cancel");
    group.throughput(Throughput::Elements(1));
    for held in [0, 1_000, MANY] {
        let (mut heap, _) = filled(held);
        group.bench_function(format!("{held} held"), |bencher| {
            bencher.iter_custom(|rounds| {
                let began = Instant::now();
                for n in 0..rounds {
                    let key = heap.insert(deadline_ns(n), n);
                    black_box(heap.cancel(key));
                }
                began.elapsed().max(Duration::from_nanos(1))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, million, insert_and_cancel);
criterion_main!(benches);
