use super::*;
use crate::kernels::{Attention, Isa, attend_all};
use crate::rope::RopeScaling;
use rawrz_residency::{FaultyStorage, ScratchFile, SpillFault};
use std::sync::Arc;
use std::time::Duration;

fn config() -> Config {
    Config {
        architecture: "test",
        n_layers: 2,
        dim: 64,
        ffn_dim: 64,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 64,
        value_dim: 32,
        vocab_len: 8,
        rms_eps: 1e-5,
        context_len: 4096,
        rope_dim: 64,
        rope_base: 1e4,
        rope_scaling: RopeScaling::None { magnitude: 1.0 },
        experts: None,
    }
}

/// Keys and values of positions `range`, of one layer: different ones for each `seed`.
fn rows(config: &Config, range: std::ops::Range<usize>, layer: usize, seed: usize) -> (Vec<f32>, Vec<f32>) {
    let value = |i: usize| ((i * 7919 + layer * 31 + seed * 101) % 1009) as f32 / 500.0 - 1.0;
    let row =
        |len: usize| range.clone().flat_map(move |p| (0..len).map(move |i| value(p * len + i))).collect();
    (row(config.key_len()), row(config.value_len()))
}

fn fill(cache: &mut KvCache, config: &Config, end: usize, width: usize, seed: usize) {
    let (ops, pool) = (Ops::new(Isa::detect()), Pool::new(2));
    while cache.len() < end {
        let n = width.min(end - cache.len());
        cache.prepare(n).unwrap();
        for layer in 0..config.n_layers {
            let (keys, values) = rows(config, cache.len()..cache.len() + n, layer, seed);
            cache.store(layer, &keys, &values, &ops, &pool);
        }
        cache.advance(n).unwrap();
    }
}

/// All that a cache holds of a layer, block by block, wherever it is.
fn content(cache: &KvCache, layer: usize) -> Vec<Vec<u8>> {
    let (blocks, n) = (cache.layer(layer), cache.slabs.len() * cache.shape.slab_len() / ATTENTION_BLOCK);
    let (mut all, mut segments) = (Vec::new(), 0..n.div_ceil(SEGMENT_BLOCKS));
    while !segments.is_empty() {
        let end = segments.start + blocks.n_lent(segments.clone());
        let mut take = |lent: &[&[u8]]| all.extend(lent.iter().map(|block| block.to_vec()));
        blocks.lend(segments.start..end, &mut take).unwrap();
        segments.start = end;
    }
    all
}

#[test]
fn what_was_truncated_leaves_no_trace() {
    let config = config();
    for ty in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
        let mut plain = KvCache::new(&config, ty, 150);
        fill(&mut plain, &config, 70, 1, 1);
        fill(&mut plain, &config, 150, 1, 2);
        for width in [1, 7, 64, 150] {
            let mut cache = KvCache::new(&config, ty, 150);
            fill(&mut cache, &config, 150, width, 1);
            cache.truncate(200);
            assert_eq!(cache.len(), 150);
            cache.truncate(70);
            assert_eq!(cache.len(), 70);
            fill(&mut cache, &config, 150, width, 2);
            for layer in 0..config.n_layers {
                assert!(
                    content(&cache, layer) == content(&plain, layer),
                    "{ty}, {width} at a time, layer {layer}"
                );
            }
        }
    }
}

/// The file of a cache that is spilled as far as can be, or one that fails instead.
fn spilled(
    config: &Config,
    ty: KvType,
    capacity: usize,
    n_resident: usize,
) -> (KvCache, Arc<FaultyStorage<ScratchFile>>) {
    let folder = tempfile::tempdir().unwrap();
    let file = ScratchFile::create(folder.path()).unwrap();
    let storage = Arc::new(FaultyStorage::new(file, Duration::ZERO));
    let plan = KvCache::plan_spill(config, ty, capacity, 512, 0);
    let plan = SpillPlan { n_resident, ..plan };
    let boxed = Box::new(Arc::clone(&storage));
    (KvCache::spilled(config, ty, capacity, &plan, boxed).unwrap(), storage)
}

#[test]
fn spilled_pages_come_back_as_they_were() {
    let config = config();
    let capacity = 4000;
    let mut plain = KvCache::new(&config, KvType::F16, capacity);
    let ends = [(700, 1), (2048, 1), (3000, 1), (1100, 2), (1024, 3), (3900, 3), (1023, 4), (4000, 4)];
    let (mut cut, storage) = spilled(&config, KvType::F16, capacity, 1);
    for (end, seed) in ends {
        for cache in [&mut plain, &mut cut] {
            cache.truncate(end);
            fill(cache, &config, end, 300, seed);
            assert_eq!(cache.len(), end);
        }
        let in_memory = cut.slabs.iter().flatten().count();
        let n_segments = end.div_ceil(SEGMENT_LEN);
        assert!(in_memory <= 1 + 2 && (end < 1024 || in_memory < n_segments), "{in_memory} slabs");
        for layer in 0..config.n_layers {
            let (got, expected) = (content(&cut, layer), content(&plain, layer));
            // Past the last position lies what a slab held before.
            let n_full = end / ATTENTION_BLOCK;
            assert!(n_full > 0 && got.len() >= n_full && expected.len() >= n_full);
            for block in 0..n_full {
                assert!(got[block] == expected[block], "{end}: layer {layer}, block {block}");
            }
        }
    }
    assert!(storage.n_reads() > 0);
}

#[test]
fn a_full_disk_keeps_what_was_stored_and_a_bad_read_keeps_the_rest() {
    let config = config();
    let (mut cache, storage) = spilled(&config, KvType::F16, 4000, 0);
    fill(&mut cache, &config, 1500, 100, 1);
    let before = [content(&cache, 0), content(&cache, 1)];
    for after in 0..config.n_layers {
        storage.inject(Some(SpillFault::DiskFull { after }));
        cache.prepare(40).unwrap();
        assert!(matches!(cache.advance(40), Err(PassError::Spill(SpillError::Write { .. }))));
        assert_eq!(cache.len(), 1500);
        for (layer, before) in before.iter().enumerate() {
            assert!(content(&cache, layer)[..24] == *before);
        }
    }
    // Position 700 lies in a segment that has to come back to be written to.
    for fault in [SpillFault::ReadError { after: 1 }, SpillFault::ShortRead { after: 0 }] {
        fill(&mut cache, &config, 1500, 100, 1);
        cache.truncate(700);
        storage.inject(Some(fault));
        let error = cache.prepare(1).unwrap_err();
        assert!(matches!(error, PassError::Spill(SpillError::Read { .. } | SpillError::Short { .. })));
        assert_eq!(cache.len(), 700);
        storage.inject(None);
        assert!(content(&cache, 1)[..8] == before[1][..8]);
    }
    fill(&mut cache, &config, 1500, 100, 1);
    assert!(content(&cache, 0)[..16] == before[0][..16]);
}

#[test]
fn windows_read_no_page_that_they_do_not_see() {
    let config = config();
    let (mut cache, storage) = spilled(&config, KvType::F16, 8192, 0);
    fill(&mut cache, &config, 8192 - 100, 512, 1);
    (0..config.n_layers).for_each(|layer| cache.set_window(layer, 600));
    cache.prepare(1).unwrap();
    for layer in 0..config.n_layers {
        // Positions 7493 to 8092 lie in segments 14 and 15; the last is in memory.
        let blocks = cache.layer(layer);
        assert_eq!(blocks.n_lent(14..16), 1);
        blocks.lend(14..15, &mut |_| ()).unwrap();
    }
    drop(cache);
    let n_reads = storage.n_reads();
    assert!((2..=4).contains(&n_reads), "{n_reads} reads: a round of two, and what is ahead of the next");
}

#[test]
fn bytes_are_those_that_are_taken() {
    let config = config();
    for (ty, bits) in [(KvType::F16, 16.0), (KvType::Q8_0, 8.5), (KvType::Q4_0, 4.5)] {
        for len in [1, 64, 65, 511, 512, 513, 1000] {
            let mut cache = KvCache::new(&config, ty, 1000);
            cache.prepare(len).unwrap();
            let taken: usize = cache.slabs.iter().flatten().map(|slab| slab.bytes().len()).sum();
            assert_eq!(taken as u64, cache.bytes_for(len));
            assert_eq!(
                taken as u64,
                KvCache::bytes(&config, ty, len),
                "no more than a cache of that capacity"
            );
            // Whole blocks, of which each takes whole pages of the system's.
            let elements = len.next_multiple_of(ATTENTION_BLOCK) * 2 * 2 * (64 + 32);
            let least = (elements as f64 * bits / 8.0) as usize;
            let n_slabs = len.div_ceil(ATTENTION_BLOCK);
            assert!(taken >= least && taken < least + n_slabs * ALIGNMENT as usize, "{taken} for {least}");
            cache.truncate(0);
            assert!(cache.slabs.is_empty(), "slabs are given back");
        }
        assert_eq!(KvCache::new(&config, ty, 1000).bytes_for(5000), KvCache::bytes(&config, ty, 1000));
    }
    assert_eq!(KvCache::bytes(&config, KvType::F16, usize::MAX), u64::MAX);
}

/// What attention makes of the last `n_tokens` positions, as bits.
fn attend(cache: &KvCache, config: &Config, n_tokens: usize) -> Vec<u32> {
    let queries = rows(&Config { n_kv_heads: config.n_heads, ..config.clone() }, 0..n_tokens, 0, 9).0;
    let (layer, mut out) = (cache.layer(1), vec![0.0; n_tokens * config.attention_len()]);
    let job = Attention {
        layout: cache.layout(),
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        queries: &queries,
        cache: &layer,
        start: cache.len() - n_tokens,
        window_len: usize::MAX,
        scale: 0.1,
    };
    let (ops, pool) = (Ops::new(Isa::detect()), Pool::new(2));
    attend_all(vec![(job, &mut out)], &mut AttentionScratch::default(), &ops, &pool).unwrap();
    out.iter().map(|x| x.to_bits()).collect()
}

/// A cache in memory, whose slabs are a block each, and one whose slabs are whole segments give the same bits at every
/// length, and so does a copy.
#[test]
fn slabs_of_a_block_change_no_bit() {
    let config = config();
    for ty in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
        let capacity = 1200;
        let (mut whole, _) = spilled(&config, ty, capacity, 1);
        for width in [1, 30, 512] {
            let mut cache = KvCache::new(&config, ty, capacity);
            whole.truncate(0);
            for end in [1, 63, 64, 65, 127, 128, 130, 511, 512, 513, 576, 577, 1030] {
                fill(&mut cache, &config, end, width, 1);
                fill(&mut whole, &config, end, width, 1);
                let fork = cache.fork(end).unwrap().unwrap();
                assert_eq!(cache.slabs.len(), end.div_ceil(64));
                for n_tokens in [1, end.min(40)] {
                    let expected = attend(&whole, &config, n_tokens);
                    assert!(attend(&cache, &config, n_tokens) == expected, "{ty}, {n_tokens} before {end}");
                    assert!(attend(&fork, &config, n_tokens) == expected, "{ty}, copy at {end}");
                }
            }
        }
    }
}

#[test]
fn what_is_taken_out_is_put_in_as_it_was() {
    let config = config();
    for ty in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
        for end in [1, 64, 65, 500, 512, 513, 700] {
            let mut cache = KvCache::new(&config, ty, 700);
            fill(&mut cache, &config, end, 100, 1);
            let mut copy = KvCache::new(&config, ty, 700);
            let (mut whole, _) = spilled(&config, ty, 700, 2);
            for segment in 0..end.div_ceil(SEGMENT_LEN) {
                let n = SEGMENT_LEN.min(end - segment * SEGMENT_LEN);
                let (mut bytes, mut again) = (Vec::new(), Vec::new());
                assert!(cache.take_out(segment, n, &mut bytes));
                assert_eq!(bytes.len(), cache.segment_bytes(n));
                whole.put_in(n, &bytes).unwrap();
                assert!(whole.take_out(segment, n, &mut again) && again == bytes, "{ty}, {end}");
                copy.put_in(n, &again).unwrap();
            }
            assert_eq!((copy.len(), copy.slabs.len()), (end, cache.slabs.len()));
            for layer in 0..config.n_layers {
                assert!(content(&copy, layer) == content(&cache, layer), "{ty}, {end}, layer {layer}");
            }
        }
    }
}
