//! What one job costs in the pool map.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hybrid_core::slab::{Record, Slab};

const RECORD: Record = Record::started_at(1);

fn insert_and_take(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("slab/insert+take");
    group.throughput(Throughput::Elements(1));
    for held in [0, 1_000, 100_000] {
        group.bench_function(BenchmarkId::new("held", held), |bencher| {
            let slab = Slab::new(held + 1);
            for value in 0..held {
                slab.insert(value, RECORD).unwrap();
            }
            bencher.iter(|| {
                let ticket = slab.insert(black_box(7), RECORD).unwrap();
                slab.take(black_box(ticket)).unwrap()
            });
        });
    }
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::new("threads", threads), |bencher| {
            bencher.iter_custom(|rounds| race(threads, rounds));
        });
    }
    group.finish();
}

/// Time until each of `threads` has inserted and taken `rounds` jobs.
fn race(threads: usize, rounds: u64) -> Duration {
    let slab = Slab::new(1_000);
    let start = Barrier::new(threads + 1);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..rounds {
                        let ticket = slab.insert(black_box(7), RECORD).unwrap();
                        black_box(slab.take(ticket));
                    }
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        for worker in workers {
            worker.join().unwrap();
        }
        began.elapsed()
    })
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("slab/read");
    let slab = Slab::new(1_000);
    let tickets: Vec<_> = (0..1_000)
        .map(|value| slab.insert(value, RECORD).unwrap())
        .collect();
    group.bench_function("get_with", |bencher| {
        bencher.iter(|| slab.get_with(black_box(tickets[500]), |value| *value));
    });
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("scan 1000", |bencher| {
        bencher.iter(|| {
            let mut latest = 0;
            slab.scan(|_, record| latest = latest.max(record.started_ns));
            latest
        });
    });
    group.finish();
}

criterion_group!(benches, insert_and_take, read);
criterion_main!(benches);
