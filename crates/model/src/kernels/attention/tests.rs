use super::*;
use crate::kernels::Isa;
use crate::kernels::float::tests::values;
use rawrz_gguf::TensorType;
use rawrz_gguf::quant::{decode_row, encode_row};

/// A timeline of `n` positions: queries of all, keys and values.
struct Timeline {
    layout: KvLayout,
    n_heads: usize,
    n_kv_heads: usize,
    n: usize,
    window_len: usize,
    /// `[position][head][key_dim]`
    queries: Vec<f32>,
    /// `[position][kv_head][key_dim]`
    keys: Vec<f32>,
    /// `[position][kv_head][value_dim]`
    values: Vec<f32>,
}

const SCALE: f32 = 0.3;

/// Blocks of which a few segments are lent at a time.
#[derive(PartialEq)]
struct TestBlocks {
    blocks: Vec<Vec<u8>>,
    most: usize,
}

impl TestBlocks {
    fn of(&self, segments: Range<usize>) -> Vec<&[u8]> {
        let end = (segments.end * SEGMENT_BLOCKS).min(self.blocks.len());
        self.blocks[segments.start * SEGMENT_BLOCKS..end].iter().map(Vec::as_slice).collect()
    }
}

impl Blocks for TestBlocks {
    fn n_lent(&self, segments: Range<usize>) -> usize {
        segments.len().min(self.most)
    }

    fn resident(&self, segments: Range<usize>) -> Option<Vec<&[u8]>> {
        (segments.len() <= self.most).then(|| self.of(segments))
    }

    fn lend(&self, segments: Range<usize>, work: &mut dyn FnMut(&[&[u8]])) -> Result<(), PassError> {
        assert!(!segments.is_empty() && segments.len() <= self.most);
        work(&self.of(segments));
        Ok(())
    }
}

impl Timeline {
    fn new(ty: KvType, heads: (usize, usize), dims: (usize, usize), n: usize) -> Timeline {
        let (n_heads, n_kv_heads) = heads;
        Timeline {
            layout: KvLayout { ty, key_dim: dims.0, value_dim: dims.1 },
            n_heads,
            n_kv_heads,
            n,
            window_len: usize::MAX,
            queries: values(n * n_heads * dims.0, 1, 1.0),
            keys: values(n * n_kv_heads * dims.0, 2, 3.0),
            values: values(n * n_kv_heads * dims.1, 3, 1.0),
        }
    }

    /// The cache with the first `n` positions stored; what is not stored is NaN.
    fn cache(&self, n: usize, isa: Isa) -> TestBlocks {
        let (layout, ops) = (self.layout, Ops::new(isa));
        let mut blocks = vec![vec![0xff; self.n_kv_heads * layout.block_bytes()]; self.n.div_ceil(BLOCK)];
        for i in 0..n * self.n_kv_heads {
            let (position, head) = (i / self.n_kv_heads, i % self.n_kv_heads);
            let block = &mut blocks[position / BLOCK][head * layout.block_bytes()..];
            let key = &self.keys[i * layout.key_dim..][..layout.key_dim];
            let value = &self.values[i * layout.value_dim..][..layout.value_dim];
            layout.store(block, position % BLOCK, key, value, &ops);
        }
        TestBlocks { blocks, most: usize::MAX }
    }

    /// Bits of the results of positions `start..end`, computed in batches of `width`.
    fn run(
        &self,
        cache: &TestBlocks,
        positions: Range<usize>,
        width: usize,
        isa: Isa,
        pool: &Pool,
    ) -> Vec<u32> {
        let query_len = self.n_heads * self.layout.key_dim;
        let mut scratch = AttentionScratch::default();
        let mut results = Vec::new();
        for start in positions.clone().step_by(width) {
            let n_tokens = width.min(positions.end - start);
            let mut out = vec![f32::NAN; n_tokens * self.n_heads * self.layout.value_dim];
            let job = Attention {
                layout: self.layout,
                n_heads: self.n_heads,
                n_kv_heads: self.n_kv_heads,
                queries: &self.queries[start * query_len..][..n_tokens * query_len],
                cache,
                start,
                window_len: self.window_len,
                scale: SCALE,
            };
            attend(&job, &mut out, &mut scratch, &Ops::new(isa), pool).unwrap();
            results.extend(out.iter().map(|x| x.to_bits()));
        }
        results
    }

    /// What the cache makes of rows of `dim`, by the codec of GGUF.
    fn rounded(&self, rows: &[f32], dim: usize) -> Vec<f32> {
        let ty = match self.layout.ty {
            KvType::F16 => TensorType::F16,
            KvType::Q8_0 => TensorType::Q8_0,
            KvType::Q4_0 => TensorType::Q4_0,
        };
        let mut bytes = vec![0; dim / ty.block_len() * ty.block_bytes()];
        let mut out = vec![0.0; rows.len()];
        for (row, out) in rows.chunks(dim).zip(out.chunks_mut(dim)) {
            encode_row(ty, row, &mut bytes).unwrap();
            decode_row(ty, &bytes, out).unwrap();
        }
        out
    }

    /// The result of head `head` at `position` by a softmax in f64.
    fn plain(&self, keys: &[f32], values: &[f32], position: usize, head: usize) -> Vec<f64> {
        let (key_dim, value_dim) = (self.layout.key_dim, self.layout.value_dim);
        let kv_head = head / (self.n_heads / self.n_kv_heads);
        let query = &self.queries[(position * self.n_heads + head) * key_dim..][..key_dim];
        let seen: Vec<usize> = ((position + 1).saturating_sub(self.window_len)..=position)
            .map(|position| position * self.n_kv_heads + kv_head)
            .collect();
        let score = |row: &usize| {
            let key = &keys[row * key_dim..][..key_dim];
            query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * f64::from(SCALE)
        };
        let scores: Vec<f64> = seen.iter().map(score).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let element = |v: usize| {
            let sum: f64 =
                weights.iter().zip(&seen).map(|(w, row)| w * f64::from(values[row * value_dim + v])).sum();
            sum / total
        };
        (0..value_dim).map(element).collect()
    }

    /// Checks the results of `positions` against the plain softmax, and that they are the same bits for all
    /// instruction sets, widths of batches and threads.
    fn check(&self, positions: Range<usize>) {
        let about = format!(
            "{:?}, {} heads on {}, window {}",
            self.layout, self.n_heads, self.n_kv_heads, self.window_len
        );
        let pools = [Pool::new(1), Pool::new(3)];
        let cache = self.cache(self.n, Isa::Scalar);
        let expected = self.run(&cache, positions.clone(), 1, Isa::Scalar, &pools[0]);
        let keys = self.rounded(&self.keys, self.layout.key_dim);
        let stored = self.rounded(&self.values, self.layout.value_dim);
        let value_dim = self.layout.value_dim;
        for (i, results) in expected.chunks(value_dim).enumerate().step_by(7) {
            let (position, head) = (positions.start + i / self.n_heads, i % self.n_heads);
            for (got, exact) in results.iter().zip(self.plain(&keys, &stored, position, head)) {
                let got = f64::from(f32::from_bits(*got));
                assert!(
                    (got - exact).abs() < 1e-5,
                    "{about}: position {position} head {head}: {got} {exact}"
                );
            }
        }
        for isa in Isa::available() {
            assert!(self.cache(self.n, isa) == cache, "{about}: {isa} stores other bytes");
            let widths: &[usize] = if isa == Isa::Scalar { &[7] } else { &[1, 2, 7, 64] };
            for (width, pool) in widths.iter().flat_map(|width| pools.iter().map(move |pool| (*width, pool)))
            {
                let got = self.run(&cache, positions.clone(), width, isa, pool);
                assert!(got == expected, "{about}: {isa}, {width} tokens, {} threads", pool.n_threads());
            }
        }
    }
}

#[test]
fn all_head_lengths_and_types_give_a_softmax_and_the_same_bits() {
    for dims in [(48, 48), (64, 64), (96, 96), (128, 128), (256, 256), (40, 72), (64, 32), (96, 160)] {
        for ty in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
            if ty.fits(dims.0) && ty.fits(dims.1) {
                Timeline::new(ty, (4, 2), dims, 140).check(0..140);
            }
        }
    }
}

#[test]
fn any_number_of_heads_shares_keys_and_values() {
    for heads in [(1, 1), (3, 3), (9, 3), (7, 1), (16, 2), (50, 1)] {
        Timeline::new(KvType::F16, heads, (32, 32), 100).check(30..100);
    }
}

#[test]
fn windows_begin_anywhere() {
    for window_len in [1, 5, 63, 64, 65, 100, 600] {
        for ty in [KvType::F16, KvType::Q8_0] {
            let mut timeline = Timeline::new(ty, (6, 2), (32, 32), 200);
            timeline.window_len = window_len;
            timeline.check(0..200);
        }
    }
    let mut timeline = Timeline::new(KvType::F16, (2, 1), (32, 32), 1300);
    timeline.window_len = 600;
    timeline.check(1190..1300);
}

#[test]
fn segments_are_joined_alike_by_one_task_and_by_many() {
    let n = 6000;
    let timeline = Timeline::new(KvType::F16, (6, 3), (32, 32), n);
    let cache = timeline.cache(n, Isa::detect());
    let expected = timeline.run(&cache, n - 5..n, 1, Isa::detect(), &Pool::new(1));
    for n_threads in [2, 3, 8] {
        for width in [1, 3, 5] {
            let got = timeline.run(&cache, n - 5..n, width, Isa::detect(), &Pool::new(n_threads));
            assert!(got == expected, "{n_threads} threads, {width} tokens");
        }
    }
    timeline.check(n - 2..n);
}

#[test]
fn segments_in_waves_change_no_bit() {
    let n = 6000;
    for (ty, window_len) in [(KvType::F16, usize::MAX), (KvType::Q8_0, usize::MAX), (KvType::F16, 1500)] {
        let mut timeline = Timeline::new(ty, (6, 3), (32, 32), n);
        timeline.window_len = window_len;
        let mut cache = timeline.cache(n, Isa::detect());
        let positions = n - 200..n;
        let expected = timeline.run(&cache, positions.clone(), 1, Isa::detect(), &Pool::new(1));
        for most in [1, 2, 5] {
            cache.most = most;
            for (width, n_threads) in [(1, 1), (1, 2), (3, 8), (200, 1), (200, 2), (130, 3)] {
                let got =
                    timeline.run(&cache, positions.clone(), width, Isa::detect(), &Pool::new(n_threads));
                assert!(got == expected, "{most} segments, {n_threads} threads, {width} tokens");
            }
        }
    }
}

#[test]
fn a_block_that_does_not_come_is_an_error_and_scratch_stays_usable() {
    struct Broken<'a>(&'a TestBlocks, usize);
    impl Blocks for Broken<'_> {
        fn n_lent(&self, _: Range<usize>) -> usize {
            1
        }
        fn resident(&self, _: Range<usize>) -> Option<Vec<&[u8]>> {
            None
        }
        fn lend(&self, segments: Range<usize>, work: &mut dyn FnMut(&[&[u8]])) -> Result<(), PassError> {
            match segments.start == self.1 {
                true => Err(PassError::NotFinite { position: 0 }),
                false => self.0.lend(segments, work),
            }
        }
    }
    let n = 2000;
    let timeline = Timeline::new(KvType::F16, (4, 2), (32, 32), n);
    let cache = timeline.cache(n, Isa::detect());
    let (pool, ops) = (Pool::new(2), Ops::new(Isa::detect()));
    for n_tokens in [1, 100] {
        let len = n_tokens * 4 * 32;
        let attend_to = |cache: &dyn Blocks, scratch: &mut AttentionScratch| {
            let job = Attention {
                layout: timeline.layout,
                n_heads: 4,
                n_kv_heads: 2,
                queries: &timeline.queries[..len],
                cache,
                start: n - n_tokens,
                window_len: usize::MAX,
                scale: SCALE,
            };
            let mut out = vec![0.0; len];
            attend(&job, &mut out, scratch, &ops, &pool).map(|()| out)
        };
        let mut scratch = AttentionScratch::default();
        let expected = attend_to(&cache, &mut scratch).unwrap();
        for failing in 0..4 {
            assert!(attend_to(&Broken(&cache, failing), &mut scratch).is_err());
            assert!(attend_to(&Broken(&cache, 9), &mut scratch).unwrap() == expected);
        }
    }
}

#[test]
fn scratch_stays_within_its_bound() {
    let n = 3000;
    for (heads, dim, n_threads) in [((9, 3), 64, 2), ((4, 4), 128, 3), ((64, 1), 32, 2)] {
        let timeline = Timeline::new(KvType::Q8_0, heads, (dim, dim), n);
        let mut cache = timeline.cache(n, Isa::detect());
        let pool = Pool::new(n_threads);
        let mut scratch = AttentionScratch::default();
        for (n_tokens, most) in [(1, usize::MAX), (20, usize::MAX), (80, usize::MAX), (80, 2)] {
            cache.most = most;
            let len = n_tokens * heads.0 * dim;
            let job = Attention {
                layout: timeline.layout,
                n_heads: heads.0,
                n_kv_heads: heads.1,
                queries: &timeline.queries[..len],
                cache: &cache,
                start: n - n_tokens,
                window_len: usize::MAX,
                scale: SCALE,
            };
            attend(&job, &mut vec![0.0; len], &mut scratch, &Ops::new(Isa::detect()), &pool).unwrap();
        }
        let of_threads = scratch.free.lock().unwrap();
        assert!(of_threads.len() <= n_threads);
        let floats = |s: &Scratch| {
            let lines = (s.keys.capacity() + s.values.capacity()) * LANES;
            lines
                + s.queries.capacity()
                + s.weights.capacity()
                + s.visible.capacity()
                + s.segment.capacity()
                + s.total.capacity()
        };
        let used = of_threads.iter().map(floats).sum::<usize>()
            + scratch.parts.capacity()
            + scratch.totals.capacity();
        let heads_per_kv = heads.0 / heads.1;
        let bound = AttentionScratch::bytes(timeline.layout, heads_per_kv, n_threads)
            + AttentionScratch::waves_bytes(timeline.layout, heads_per_kv, heads.1, 80);
        assert!(used as u64 * 4 <= bound, "{used} floats, at most {bound} bytes");
    }
}

#[test]
fn what_is_not_a_number_is_not_hidden() {
    for ty in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
        for (in_key, in_value) in [(true, false), (false, true)] {
            let mut timeline = Timeline::new(ty, (2, 1), (32, 32), 90);
            if in_key {
                timeline.keys[70 * 32 + 5] = f32::NAN;
            }
            if in_value {
                timeline.values[70 * 32 + 5] = f32::INFINITY;
            }
            for isa in Isa::available() {
                let cache = timeline.cache(90, isa);
                let got = timeline.run(&cache, 0..90, 64, isa, &Pool::new(1));
                let finite = |position: usize| {
                    let results = &got[position * 64..][..64];
                    results.iter().all(|bits| f32::from_bits(*bits).is_finite())
                };
                assert!((0..70).all(finite), "{ty} {isa}: positions before do not see it");
                assert!((70..90).all(|position| !finite(position)), "{ty} {isa}");
            }
        }
    }
}
