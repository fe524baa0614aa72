//! Hit rates of the orders of eviction of a cache of experts, from traces of which experts each token takes, beside the
//! optimum: the cache that evicts what is used again last (Belady), which has to know what comes.
//!
//! ```text
//! cargo bench -p rawrz-engine --bench expert_cache -- [--record] [MODEL.gguf ..]
//! ```
//!
//! A trace of a model is taken while it reads README.md, token by token. Made traces have the shape of Qwen3-30B-A3B (48
//! layers, 8 of 128 experts): each layer draws from Zipf's law with exponent `s` over an order of its own, which is a new one
//! after `turn` tokens, as when a text turns to another matter; each expert of the token before is kept with probability
//! `stay`. `--record` appends to benches/record/expert-cache.csv.
#![allow(missing_docs)]

use rawrz_engine::{Cancel, Engine, OpenOptions, Session};
use rawrz_residency::{Arrived, Eviction, EvictionOrder, Extent, Lease, Planned, ReadError, Source};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

const N_LAYERS: usize = 48;
const N_EXPERTS: usize = 128;
const N_USED: usize = 8;

/// `s`, `stay` and `turn`.
const MADE: [(f64, f64, usize); 7] = [
    (0.0, 0.0, usize::MAX),
    (0.6, 0.0, usize::MAX),
    (1.0, 0.0, usize::MAX),
    (0.6, 0.4, usize::MAX),
    (1.0, 0.4, usize::MAX),
    (1.0, 0.0, 128),
    (1.0, 0.4, 128),
];

/// Sizes of the cache, as parts of what one token takes.
const SIZES: [f64; 7] = [0.5, 0.9, 1.1, 1.5, 2.0, 4.0, 8.0];

const ORDERS: [Eviction; 3] = [Eviction::LeastRecent, Eviction::MostRecent, Eviction::LeastFrequent];

const COLUMNS: &str = "date,version,trace,tokens,experts,experts_per_token,cache_experts,cache_over_token,\
                       least_recent,most_recent,least_frequent,optimum\n";

/// Which experts were taken: of each layer of each token, those that it takes together.
struct Trace {
    name: String,
    n_tokens: usize,
    n_items: usize,
    groups: Vec<Vec<usize>>,
}

impl Trace {
    fn made(s: f64, stay: f64, turn: usize, n_tokens: usize) -> Trace {
        let mut random = Random(1);
        // The sum of the weights up to each rank.
        let mut sums = vec![0.0; N_EXPERTS];
        let mut sum = 0.0;
        for (rank, at) in sums.iter_mut().enumerate() {
            sum += ((rank + 1) as f64).powf(-s);
            *at = sum;
        }
        let mut ranks = vec![Vec::new(); N_LAYERS];
        let mut groups: Vec<Vec<usize>> = Vec::with_capacity(n_tokens * N_LAYERS);
        for at in 0..n_tokens * N_LAYERS {
            let (token, layer) = (at / N_LAYERS, at % N_LAYERS);
            if token.is_multiple_of(turn) {
                ranks[layer] = random.order(N_EXPERTS);
            }
            let before = at.checked_sub(N_LAYERS).map_or(&[][..], |before| &groups[before]);
            let mut group: Vec<usize> = before.iter().copied().filter(|_| random.unit() < stay).collect();
            while group.len() < N_USED {
                let drawn = random.unit() * sum;
                let expert = ranks[layer][sums.partition_point(|at| *at < drawn).min(N_EXPERTS - 1)];
                let item = layer * N_EXPERTS + expert;
                if !group.contains(&item) {
                    group.push(item);
                }
            }
            groups.push(group);
        }
        let turns = if turn < n_tokens { format!(" turn {turn}") } else { String::new() };
        let name = format!("made: s {s} stay {stay}{turns}");
        Trace { name, n_tokens, n_items: N_LAYERS * N_EXPERTS, groups }
    }

    fn of_model(path: &Path, n_tokens: usize) -> Trace {
        let recorder = Arc::new(Mutex::new(None));
        let handle = Arc::clone(&recorder);
        let wrap = |inner: Arc<dyn Source>| -> Arc<dyn Source> {
            let recorder = Arc::new(Recorder { inner, groups: Mutex::default() });
            *handle.lock().unwrap() = Some(Arc::clone(&recorder));
            recorder
        };
        let options = OpenOptions { ctx_len: Some(n_tokens), ..OpenOptions::default() };
        let engine = Engine::open_through(path, &options, wrap).expect("the model opens");
        let text = std::fs::read_to_string(root().join("README.md")).expect("the text is there");
        let tokens = engine.tokenizer().encode_prompt(&text).expect("the text has tokens");
        let n_tokens = n_tokens.min(tokens.len());
        let mut session = Session::new(&engine).expect("a session begins");
        for n in 1..=n_tokens {
            session.sync(&tokens[..n], &Cancel::default()).expect("the model runs");
        }
        let recorder = recorder.lock().unwrap().take().expect("the source was wrapped");
        let groups = std::mem::take(&mut *recorder.groups.lock().unwrap());
        let mut items = HashMap::new();
        let groups: Vec<Vec<usize>> = groups
            .into_iter()
            .map(|group| {
                let number = |first| {
                    let next = items.len();
                    *items.entry(first).or_insert(next)
                };
                group.into_iter().map(number).collect()
            })
            .collect();
        assert!(!groups.is_empty(), "{} has experts", path.display());
        let name = path.file_name().unwrap_or_default().to_string_lossy().replace(',', " ");
        Trace { name, n_tokens, n_items: items.len(), groups }
    }

    fn n_uses(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }

    /// Part of the uses that a cache of `capacity` experts finds, as [`rawrz_residency::StreamedSource`] uses an order.
    fn replay(&self, eviction: Eviction, capacity: usize) -> f64 {
        let mut order = EvictionOrder::new(eviction, self.n_items);
        let (mut is_here, mut n_here, mut hits) = (vec![false; self.n_items], 0, 0);
        for group in &self.groups {
            group.iter().for_each(|item| order.keep(*item));
            for item in group {
                if std::mem::replace(&mut is_here[*item], true) {
                    hits += 1;
                } else if n_here < capacity {
                    n_here += 1;
                } else {
                    is_here[order.evict().expect("a cache holds more than a group")] = false;
                }
            }
            group.iter().for_each(|item| order.used(*item));
        }
        hits as f64 / self.n_uses() as f64
    }

    /// As [`Trace::replay`], by what comes.
    fn optimum(&self, capacity: usize) -> f64 {
        // Of each use, from the last on, the group in which the expert is used again.
        let mut next = vec![usize::MAX; self.n_items];
        let mut again: Vec<Vec<usize>> = Vec::with_capacity(self.groups.len());
        for (at, group) in self.groups.iter().enumerate().rev() {
            again.push(group.iter().map(|item| std::mem::replace(&mut next[*item], at)).collect());
        }
        let (mut here, mut keys) = (BTreeSet::new(), vec![None; self.n_items]);
        let mut hits = 0;
        for (group, again) in self.groups.iter().zip(again.iter().rev()) {
            // What is used now is not evicted now.
            let kept: Vec<bool> = group
                .iter()
                .map(|item| {
                    let key: Option<(usize, usize)> = keys[*item].take();
                    key.is_some_and(|key| here.remove(&key))
                })
                .collect();
            hits += kept.iter().filter(|kept| **kept).count();
            while here.len() + group.len() > capacity {
                let (_, item) = here.pop_last().expect("a cache holds more than a group");
                keys[item] = None;
            }
            for (item, again) in group.iter().zip(again) {
                keys[*item] = Some((*again, *item));
                here.insert((*again, *item));
            }
        }
        hits as f64 / self.n_uses() as f64
    }
}

/// Writes down what is requested.
struct Recorder {
    inner: Arc<dyn Source>,
    groups: Mutex<Vec<Vec<Extent>>>,
}

impl Source for Recorder {
    fn begin_pass(&self, reads: &[Planned]) -> Result<(), ReadError> {
        self.inner.begin_pass(reads)
    }

    fn lease_len(&self, extent: Extent, unit: u64) -> u64 {
        self.inner.lease_len(extent, unit)
    }

    fn max_held_bytes(&self) -> u64 {
        self.inner.max_held_bytes()
    }

    fn lease(&self, extent: Extent) -> Result<Lease<'_>, ReadError> {
        self.inner.lease(extent)
    }

    fn copy(&self, extents: &[Extent], out: &mut Vec<u8>) -> Result<(), ReadError> {
        self.inner.copy(extents, out)
    }

    fn request(&self, wanted: &[&[Extent]]) -> Result<usize, ReadError> {
        let n = self.inner.request(wanted)?;
        self.groups.lock().unwrap().push(wanted[..n].iter().map(|ranges| ranges[0]).collect());
        Ok(n)
    }

    fn take_any(&self, wanted: &[&[Extent]]) -> Result<Arrived<'_>, ReadError> {
        self.inner.take_any(wanted)
    }

    fn take_ready(&self, wanted: &[&[Extent]]) -> Result<Option<Arrived<'_>>, ReadError> {
        self.inner.take_ready(wanted)
    }

    fn end_pass(&self) -> Result<(), ReadError> {
        self.inner.end_pass()
    }
}

/// The same numbers every time (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to 1, without 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `0..n` in any order.
    fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            order.swap(last, self.next() as usize % (last + 1));
        }
        order
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --bench` comes without: then a short run shows that it works.
    let n_tokens = if args.iter().any(|arg| arg == "--bench") { 512 } else { 16 };
    let models = args.iter().filter(|arg| !arg.starts_with("--")).map(PathBuf::from);
    let mut traces: Vec<Trace> = models.map(|path| Trace::of_model(&path, n_tokens)).collect();
    traces.extend(MADE.map(|(s, stay, turn)| Trace::made(s, stay, turn, n_tokens)));
    let [date, version] = [("date", vec!["-u", "+%F"]), ("git", vec!["describe", "--always", "--dirty"])]
        .map(|(program, args)| output(program, &args));
    let mut rows = String::new();
    for trace in &traces {
        let Trace { name, n_tokens, n_items, .. } = trace;
        let per_token = trace.n_uses() / n_tokens;
        let largest = trace.groups.iter().map(Vec::len).max().unwrap_or(0);
        for size in SIZES {
            let capacity = ((per_token as f64 * size) as usize).max(largest);
            let hits = ORDERS.map(|order| trace.replay(order, capacity));
            let optimum = trace.optimum(capacity);
            assert!(hits.iter().all(|hits| *hits <= optimum), "{name}: no order beats the optimum");
            let [recent, last, frequent] = hits;
            println!(
                "{name:30} cache {size:3} of a token: least recent {recent:.3}, most recent {last:.3}, \
                 least frequent {frequent:.3}, optimum {optimum:.3}"
            );
            let _ = writeln!(
                rows,
                "{date},{version},{name},{n_tokens},{n_items},{per_token},{capacity},{size},{recent:.4},\
                 {last:.4},{frequent:.4},{optimum:.4}"
            );
        }
    }
    if args.iter().any(|arg| arg == "--record") {
        let path = root().join("benches/record/expert-cache.csv");
        let before = std::fs::read_to_string(&path).unwrap_or_else(|_| COLUMNS.to_owned());
        std::fs::write(&path, before + &rows).expect("benches/record can be written");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What a program prints, or `unknown` where it is not there.
fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success());
    output.map_or("unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
