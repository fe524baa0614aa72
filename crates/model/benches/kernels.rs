//! Matrix products with weights in cache, one thread: every type, instruction set and 1, 8 or 64 rows of activations.
//!
//! `cargo bench -p rawrz-model --bench kernels` runs them under Criterion; with `-- --table [TYPE ..]` it prints one
//! Markdown table of the best times instead, in about a minute, with the share that they reach of what this machine
//! can do at most, measured in the same run. `--record` appends the same figures to `benches/record/kernels.csv`.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput};
use rawrz_gguf::TensorType;
use rawrz_model::Isa;
use rawrz_model::bench::{Product, element, peak_ops_per_s, types};
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Weights of a row, and rows: a part of a matrix of usual size that the second-level cache of current processors
/// holds, in most types.
const K: usize = 4096;
const N_ROWS: usize = 256;
const ACTIVATION_ROWS: [usize; 3] = [1, 8, 64];

/// The best of a few batches of at least this length each.
const BATCH: Duration = Duration::from_millis(8);
const BATCHES: usize = 5;

fn main() {
    // Cargo adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.iter().any(|arg| arg == "--table" || arg == "--record") {
        let names: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with("--")).collect();
        let lines = table(&names);
        if args.iter().any(|arg| arg == "--record") {
            record(&lines);
        }
        return;
    }
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .configure_from_args();
    products(&mut criterion);
    criterion.final_summary();
}

fn products(c: &mut Criterion) {
    for ty in types() {
        let mut group = c.benchmark_group(ty.name());
        for isa in Isa::available() {
            for n_acts in ACTIVATION_ROWS {
                let mut product = Product::new(ty, K, N_ROWS, n_acts, isa, 1);
                // Bytes tell at one row, operations at many.
                group.throughput(match n_acts {
                    1 => Throughput::Bytes(product.bytes()),
                    _ => Throughput::Elements(product.ops()),
                });
                group.bench_function(BenchmarkId::new(isa.name(), n_acts), |b| {
                    b.iter(|| {
                        black_box(product.run());
                    });
                });
            }
        }
        group.finish();
    }
}

/// One product on one path.
struct Line {
    ty: TensorType,
    isa: Isa,
    n_acts: usize,
    gb_s: f64,
    gop_s: f64,
    /// What reading the weights and the arithmetic units allow.
    bound_gb_s: f64,
    bound_gop_s: Option<f64>,
}

impl Line {
    fn measure(ty: TensorType, isa: Isa, n_acts: usize, peak_ops_per_s: Option<f64>) -> Line {
        let mut product = Product::new(ty, K, N_ROWS, n_acts, isa, 1);
        let mut batch = |n: u32| {
            let started = Instant::now();
            (0..n).for_each(|_| {
                black_box(product.run());
            });
            started.elapsed()
        };
        let mut n = 1;
        while batch(n) < BATCH {
            n *= 2;
        }
        let best = (0..BATCHES).map(|_| batch(n)).min().unwrap_or(Duration::MAX);
        let seconds = best.as_secs_f64() / f64::from(n);
        Line {
            ty,
            isa,
            n_acts,
            gb_s: product.bytes() as f64 / seconds / 1e9,
            gop_s: product.ops() as f64 / seconds / 1e9,
            bound_gb_s: product.bytes() as f64 / product.read_time().as_secs_f64() / 1e9,
            bound_gop_s: peak_ops_per_s.map(|ops| ops / 1e9),
        }
    }

    /// Of the harder of the two bounds.
    fn share(&self) -> Option<f64> {
        self.bound_gop_s.map(|bound| (self.gb_s / self.bound_gb_s).max(self.gop_s / bound))
    }
}

/// Prints the table as it is measured, of all types or of those in `names`.
fn table(names: &[&str]) -> Vec<Line> {
    let mut lines = Vec::new();
    println!("| type | path | GB/s at 1 row | GOP/s at 8 | GOP/s at 64 | share of bound at 1, 8, 64 |");
    println!("|---|---|---|---|---|---|");
    for ty in types().into_iter().filter(|ty| names.is_empty() || names.contains(&ty.name())) {
        for isa in Isa::available() {
            let peak = peak_ops_per_s(isa, element(ty));
            let new = ACTIVATION_ROWS.map(|n_acts| Line::measure(ty, isa, n_acts, peak));
            let shares: Vec<String> = new
                .iter()
                .map(|line| line.share().map_or("-".into(), |share| format!("{:.0} %", share * 100.0)))
                .collect();
            let [one, eight, many] = &new;
            let (gb_s, at_8, at_64) = (one.gb_s, eight.gop_s, many.gop_s);
            println!(
                "| {} | {isa} | {gb_s:.1} | {at_8:.0} | {at_64:.0} | {} |",
                ty.name(),
                shares.join(", ")
            );
            lines.extend(new);
        }
    }
    println!();
    println!("{K} x {N_ROWS} weights in cache, one thread, best of {BATCHES} batches of {BATCH:?} or more;");
    println!(
        "bounds: reading the weights without computing, and these peaks of the instructions for products:"
    );
    for isa in Isa::available() {
        use rawrz_model::bench::Element;
        let peak = |element| peak_ops_per_s(isa, element).map(|ops| ops / 1e9);
        if let (Some(integer), Some(float)) = (peak(Element::Integer), peak(Element::Float)) {
            println!("{isa}: {integer:.0} GOP/s on bytes, {float:.0} on floats");
        }
    }
    lines
}

const COLUMNS: &str = "date,cpu,version,type,path,activation_rows,gb_s,gop_s,bound_gb_s,bound_gop_s,share\n";

fn record(lines: &[Line]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/record/kernels.csv");
    let mut text = std::fs::read_to_string(&path).unwrap_or_else(|_| COLUMNS.to_owned());
    let [date, version] = [("date", vec!["-u", "+%F"]), ("git", vec!["describe", "--always", "--dirty"])]
        .map(|(program, args)| output(program, &args));
    let cpu = cpu();
    for line in lines {
        let Line { ty, isa, n_acts, gb_s, gop_s, bound_gb_s, .. } = line;
        let number = |x: Option<f64>, digits: usize| x.map_or(String::new(), |x| format!("{x:.digits$}"));
        let (bound, share) = (number(line.bound_gop_s, 0), number(line.share(), 3));
        let ty = ty.name();
        let _ = writeln!(
            text,
            "{date},{cpu},{version},{ty},{isa},{n_acts},{gb_s:.2},{gop_s:.1},{bound_gb_s:.1},{bound},{share}"
        );
    }
    std::fs::write(&path, text).expect("benches/record can be written");
}

/// What a program prints, or `unknown` where it is not there.
fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success());
    output.map_or("unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or("unknown", |(_, name)| name).replace(',', " ")
}
