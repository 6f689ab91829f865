//! What it takes to find the fields of one Celery message, without Python.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hybrid_core::envelope::Envelope;
use hybrid_core::message::{Reader, TaskMessage, json};
use std::hint::black_box;

const ENVELOPE: &[u8] = br#"{"body": "W1sxLCAyLCAiaGVsbG8iXSwgeyJyZXRyeSI6IHRydWV9LCB7ImNhbGxiYWNrcyI6IG51bGwsICJlcnJiYWNrcyI6IG51bGwsICJjaGFpbiI6IG51bGwsICJjaG9yZCI6IG51bGx9XQ==", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"lang": "py", "task": "proj.tasks.add", "id": "b0c6b0a6-3f7e-4f0e-8e0e-9c1f7c1f7c1f", "shadow": null, "eta": null, "expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [null, null], "root_id": "b0c6b0a6-3f7e-4f0e-8e0e-9c1f7c1f7c1f", "parent_id": null, "argsrepr": "(1, 2, 'hello')", "kwargsrepr": "{'retry': True}", "origin": "gen123@host", "ignore_result": false, "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}}, "properties": {"correlation_id": "b0c6b0a6-3f7e-4f0e-8e0e-9c1f7c1f7c1f", "reply_to": "e1b9-aaa", "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "celery"}, "priority": 0, "body_encoding": "base64", "delivery_tag": "3bd85d2d-6a47-45fa-a9f6-54ee733696ba"}}"#;
const BODY: &[u8] = br#"[[1, 2, "hello"], {"retry": true}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Bytes(ENVELOPE.len() as u64));
    group.bench_function("check", |b| b.iter(|| json::check(black_box(ENVELOPE))));
    group.bench_function("envelope", |b| {
        b.iter(|| Envelope::read(black_box(ENVELOPE), Reader::skip));
    });
    let headers = Envelope::read(ENVELOPE, Reader::skip)
        .unwrap()
        .headers
        .unwrap()
        .as_bytes();
    group.bench_function("message", |b| {
        b.iter(|| TaskMessage::split(black_box(headers), black_box(BODY)));
    });
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
