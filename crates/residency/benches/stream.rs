//! Reading leases in chunks of 1 MiB against a plain copy of as many bytes in memory.
#![allow(missing_docs)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rawrz_residency::{Extent, MappedSource, PartedFile, Source};
use std::hint::black_box;
use std::io::Write;

/// Bytes of the file: past every cache, so that both sides read RAM.
const FILE_BYTES: usize = 256 << 20;
const CHUNK_BYTES: usize = 1 << 20;

fn stream(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights");
    let mut file = std::fs::File::create(&path).unwrap();
    let chunk: Vec<u8> = (0..CHUNK_BYTES).map(|i| (i * 31) as u8).collect();
    for _ in 0..FILE_BYTES / CHUNK_BYTES {
        file.write_all(&chunk).unwrap();
    }
    drop(file);
    let source = MappedSource::new(vec![PartedFile::open(&[path]).unwrap()]).unwrap();
    let memory = vec![7u8; FILE_BYTES];
    let mut buffer = vec![0u8; CHUNK_BYTES];

    let mut group = c.benchmark_group("stream 256 MiB in chunks of 1 MiB");
    group.sample_size(10).throughput(Throughput::Bytes(FILE_BYTES as u64));
    group.bench_function("copy from memory", |b| {
        b.iter(|| {
            for chunk in memory.chunks_exact(CHUNK_BYTES) {
                buffer.copy_from_slice(chunk);
                black_box(&buffer);
            }
        });
    });
    group.bench_function("copy from leases", |b| {
        b.iter_batched(
            || source.begin_pass(&[]).unwrap(),
            |()| {
                for i in 0..FILE_BYTES / CHUNK_BYTES {
                    let offset = (i * CHUNK_BYTES) as u64;
                    let lease = source.lease(Extent { file: 0, offset, len: CHUNK_BYTES as u64 }).unwrap();
                    buffer.copy_from_slice(&lease);
                    black_box(&buffer);
                    lease.release().unwrap();
                }
                source.end_pass().unwrap();
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, stream);
criterion_main!(benches);
