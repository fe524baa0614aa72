//! `bench` as users and scripts see it, on a real model.

mod common;

use common::{model, run};

#[test]
fn json_has_the_fields_that_scripts_read_and_they_fit_together() {
    let weights = model("smollm2").metadata().unwrap().len();
    let base = ["bench", "smollm2", "-p", "32", "-n", "4", "--reps", "2", "--memory", "256MiB"];
    let json = run(base.iter().chain(&["--threads", "2", "--json"])).json();
    let number = |field: &str| json[field].as_f64().unwrap_or_else(|| panic!("{field} in {json}"));
    for field in ["load_ms", "first_token_ms", "prefill_tok_s", "decode_tok_s", "bound_decode_tok_s"] {
        assert!(number(field) > 0.0, "{field} in {json}");
    }
    assert!(number("first_token_ms") > number("load_ms"), "{json}");
    // All weights are read for a token, and the file is weights, a vocabulary and metadata.
    let per_token = number("weight_bytes_per_token");
    assert!(per_token < weights as f64 && per_token > 0.9 * weights as f64, "{json}");
    let bound = number("bound_decode_tok_s");
    assert!((bound * per_token / number("read_bytes_per_s") - 1.0).abs() < 1e-6, "{json}");
    // Memory that others use, too, may be faster for a spell than it is before and after.
    assert!((0.01..1.5).contains(&number("share_of_bound")), "{json}");
    for field in ["streamed_bytes_per_token", "pinned_bytes"] {
        assert_eq!(json[field], 0);
    }
    for (field, value) in [("prompt_tokens", 32), ("tokens", 4), ("reps", 2), ("threads", 2)] {
        assert_eq!(json[field], value);
    }
    assert!(json["kernels"].is_string());
    if cfg!(any(target_os = "linux", windows, target_vendor = "apple")) {
        let peak = number("peak_memory_bytes");
        assert!(peak > per_token && peak < (256 << 20) as f64, "{json}");
    }
}

#[test]
fn text_tells_the_same_and_what_is_left_out_is_not_there() {
    model("smollm2");
    let shown = run(["bench", "smollm2", "-p", "16", "-n", "2", "--reps", "1"]).ok();
    for part in ["load", "first token", "prefill", "decode", "bound", "share"] {
        assert!(shown.lines().any(|line| line.trim_start().starts_with(part)), "{part}: {shown}");
    }
    let base = ["bench", "smollm2", "-p", "0", "-n", "0", "--reps", "1"];
    let shown = run(base).ok();
    for part in ["prefill", "decode", "share"] {
        assert!(!shown.contains(part), "{part}: {shown}");
    }
    let json = run(base.iter().chain(&["--json"])).json();
    for field in ["prefill_tok_s", "decode_tok_s", "share_of_bound"] {
        assert!(json[field].is_null(), "{field} in {json}");
    }
    assert!(json["bound_decode_tok_s"].as_f64() > Some(0.0), "{json}");
}

#[test]
fn one_token_takes_its_share_of_what_it_was_measured_by() {
    model("smollm2");
    let json = run(["bench", "smollm2", "-p", "0", "-n", "1", "--reps", "1", "--json"]).json();
    let number = |field: &str| json[field].as_f64().unwrap_or_else(|| panic!("{field} in {json}"));
    // The bound is the better of the two readings, the share is of their mean.
    let ratio = number("share_of_bound") * number("bound_decode_tok_s") / number("decode_tok_s");
    assert!((1.0 - 1e-6..2.0).contains(&ratio), "{json}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    model("smollm2");
    run(["bench", "smollm2", "--reps", "0"]).failed(2);
    run(["bench", "smollm2", "--threads", "0"]).failed(2);
    let error = run(["bench", "smollm2", "--memory", "20MiB"]).failed(1);
    assert!(error.contains("--memory "), "{error}");
    // Longer than the model was made for.
    let error = run(["bench", "smollm2", "-p", "1000000"]).failed(1);
    assert!(error.contains("1000000"), "{error}");
}

#[test]
fn of_a_model_that_does_not_fit_the_disk_is_the_bound_and_the_plan_says_so() {
    let weights = model("smollm2").metadata().unwrap().len() as f64;
    let budget = ["--memory", "70MiB", "--threads", "2", "--json"];
    let bench = run(["bench", "smollm2", "-p", "0", "-n", "4", "--reps", "1"].iter().chain(&budget)).json();
    let plan = run(["plan", "smollm2", "--ctx", "128"].iter().chain(&budget)).json();
    assert_eq!(plan["route"], "streamed");
    for json in [&bench, &plan] {
        let number = |field: &str| json[field].as_f64().unwrap_or_else(|| panic!("{field} in {json}"));
        let (streamed, pinned) = (number("streamed_bytes_per_token"), number("pinned_bytes"));
        // Between them they hold the weights; pinned memory is counted in whole pages.
        assert!(streamed > 0.0 && pinned > 0.0 && streamed + pinned > 0.9 * weights, "{json}");
        assert!(streamed + pinned < 1.1 * weights, "{json}");
        let by_disk = number("disk_bytes_per_s") / streamed;
        assert!(number("bound_decode_tok_s") <= by_disk * 1.000_001, "{json}");
    }
    assert!(plan["floor_bytes"].as_u64() < Some(70 << 20), "{plan}");
    let stages = plan["stages"].as_array().unwrap();
    let streamed: u64 = stages.iter().map(|stage| stage["streamed"].as_u64().unwrap()).sum();
    assert_eq!(plan["streamed_bytes_per_token"].as_u64(), Some(streamed));
    let shown = run(["plan", "smollm2", "--memory", "70MiB"]).ok();
    for part in ["floor", "weights (ring)", "layer", "head", "disk", "bound"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let whole = run(["plan", "smollm2", "--memory", "2GiB", "--json"]).json();
    assert_eq!(
        (whole["route"].as_str(), whole["streamed_bytes_per_token"].as_u64()),
        (Some("mapped"), Some(0))
    );
}
