//! `run`, `perplexity` and `demo` as users and scripts see them, on real models.

mod common;

use common::{Done, model, rawrz, run, run_with_input};
use rawrz_gguf::{Gguf, Header, Writer};
use std::path::Path;
use std::process::Stdio;

const GREEDY: [&str; 6] = ["run", "smollm2", "--temp", "0", "-n", "24"];

fn greedy(more: &[&str]) -> Vec<String> {
    GREEDY.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
}

#[test]
fn a_prompt_is_answered_the_same_way_each_time() {
    model("smollm2");
    let prompt = "What is the water cycle?";
    let done = run(greedy(&["-p", prompt]));
    assert!(done.stderr.contains("tok/s"), "{done:?}");
    assert!(!done.stderr.contains('\u{1b}'), "no colours where there is no terminal: {done:?}");
    let answer = done.ok();
    assert!(answer.contains("water cycle"), "{answer}");
    assert!(answer.ends_with('\n'));
    // The prompt may come on standard input, with the line end that `echo` adds.
    assert_eq!(run_with_input(greedy(&[]), format!("{prompt}\n").as_bytes()).ok(), answer);
    let json = run(greedy(&["-p", prompt, "--json"])).json();
    assert_eq!(json["text"], answer.trim_end_matches('\n'));
}

#[test]
fn json_has_the_fields_that_scripts_read() {
    model("smollm2");
    let json = run(greedy(&["-p", "Count to ten.", "--logprobs", "3", "--json"])).json();
    let tokens = json["tokens"].as_array().unwrap();
    assert!(!tokens.is_empty() && tokens.len() <= 24);
    assert!(json["prompt_tokens"].as_u64().unwrap() > 5);
    let steps = json["logprobs"].as_array().unwrap();
    assert_eq!(steps.len(), tokens.len());
    for (step, token) in steps.iter().zip(tokens) {
        let step = step.as_array().unwrap();
        assert_eq!(step.len(), 3);
        // Greedy takes the first of them, and they come in order.
        assert_eq!(step[0]["id"], *token);
        let logprobs: Vec<f64> = step.iter().map(|entry| entry["logprob"].as_f64().unwrap()).collect();
        assert!(logprobs.is_sorted_by(|a, b| a >= b) && logprobs[0] <= 0.0, "{logprobs:?}");
    }
    for field in ["load_ms", "prefill_tok_s", "decode_tok_s"] {
        assert!(json[field].as_f64().unwrap() > 0.0, "{field}");
    }
    if cfg!(any(target_os = "linux", windows, target_vendor = "apple")) {
        assert!(json["peak_memory_bytes"].as_u64().unwrap() > 10 << 20);
    }
    assert_eq!(run(greedy(&["-p", "x", "--json"])).json()["logprobs"], serde_json::json!([]));
}

#[test]
fn a_seed_repeats_a_draw() {
    model("smollm2");
    let draw = |seed: &str| {
        run([
            "run",
            "smollm2",
            "-p",
            "Tell me a story.",
            "-n",
            "16",
            "--temp",
            "1.5",
            "--top-k",
            "0",
            "--seed",
            seed,
            "--json",
        ])
        .json()
    };
    let first = draw("7");
    assert_eq!(first["seed"], 7);
    assert_eq!(first["tokens"], draw("7")["tokens"]);
    assert_ne!(first["tokens"], draw("8")["tokens"]);
    // A seed that was not given is told, and repeats the draw too.
    let args =
        ["run", "smollm2", "-p", "Tell me a story.", "-n", "16", "--temp", "1.5", "--top-k", "0", "--json"];
    let free = run(args).json();
    assert_eq!(free["tokens"], draw(&free["seed"].to_string())["tokens"]);
}

#[test]
fn text_ends_before_a_stop_string_and_at_the_token_limit() {
    model("smollm2");
    let base = ["run", "smollm2", "--raw", "-p", "1, 2, 3, 4, 5,", "--temp", "0", "--json"];
    let with = |more: &[&str]| run(base.iter().chain(more)).json();
    let limited = with(&["-n", "12"]);
    assert_eq!(limited["finish"], "length");
    assert_eq!(limited["tokens"].as_array().unwrap().len(), 12);
    let stopped = with(&["-n", "64", "--stop", " 9", "--stop", "never"]);
    assert_eq!(stopped["finish"], "stop");
    assert_eq!(stopped["text"], " 6, 7, 8,");
    assert_eq!(with(&["-n", "0"])["text"], "");
    let full = with(&["-n", "999", "--ctx", "32"]);
    assert_eq!(full["finish"], "context");
}

#[test]
fn a_system_message_and_raw_text_change_the_prompt() {
    model("smollm2");
    let n = |more: &[&str]| {
        run(greedy(&[&["-p", "Hi", "--json"], more].concat())).json()["prompt_tokens"].as_u64().unwrap()
    };
    let (chat, system, raw) = (n(&[]), n(&["--system", "Answer in French, always, please."]), n(&["--raw"]));
    assert!(raw < chat, "{raw} {chat}");
    assert_ne!(system, chat);
}

#[test]
fn a_model_without_a_template_gets_the_text_as_it_is_and_says_so() {
    model("gemma");
    let base = ["run", "gemma", "-p", "The capital of France is", "--temp", "0", "-n", "8", "--json"];
    let done = run(base);
    assert!(done.stderr.contains("no chat template"), "{done:?}");
    let plain = done.json();
    let raw = run(base.iter().chain(&["--raw"]));
    assert_eq!(raw.stderr, "");
    assert_eq!(plain["tokens"], raw.json()["tokens"]);
    let fallback = run(base.iter().chain(&["--chat-fallback"])).json();
    assert!(fallback["prompt_tokens"].as_u64() > plain["prompt_tokens"].as_u64());
    run(base.iter().chain(&["--system", "x"])).failed(2);
}

#[test]
fn a_broken_template_is_an_error_of_those_who_use_it() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tiny/llama-linear.gguf");
    let bytes = std::fs::read(tiny).unwrap();
    let gguf = Gguf::from_vec(bytes.clone()).unwrap();
    let mut header = Header::copy_of(&gguf).unwrap();
    header.set("tokenizer.chat_template", "{% if messages %}").unwrap();
    let mut writer = Writer::start(Vec::new(), &header).unwrap();
    for tensor in gguf.tensors() {
        let at = tensor.file_offset as usize;
        writer.write_tensor(tensor.name, &bytes[at..at + tensor.len_bytes as usize]).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.gguf");
    std::fs::write(&path, writer.finish().unwrap()).unwrap();
    let path = path.to_str().unwrap();

    let base = ["run", path, "-p", "Hi", "--temp", "0", "-n", "4", "--ctx", "64"];
    let error = run(base).failed(1);
    assert!(error.contains("chat template is not valid") && error.contains("--raw"), "{error}");
    run(base.iter().chain(&["--raw"])).ok();
    run(base.iter().chain(&["--chat-fallback"])).ok();
}

#[test]
fn a_budget_below_the_floor_is_refused_with_one_that_works() {
    model("smollm2");
    let error = run(greedy(&["-p", "Hi", "--memory", "20MiB"])).failed(1);
    for part in ["budget of 20.0 MiB", "floor", "weights", "KV cache", "scratch", "--memory "] {
        assert!(error.contains(part), "`{part}` is missing in: {error}");
    }
    let floor = error.split("--memory ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let bytes: u64 = floor.parse().unwrap();
    run(greedy(&["-p", "Hi", "--memory", &floor])).ok();
    let below = (bytes - 1).to_string();
    run(greedy(&["-p", "Hi", "--memory", &below])).failed(1);
    // No more context than the model was made for, either.
    run(greedy(&["-p", "Hi", "--ctx", "1000000"])).failed(1);
}

#[test]
fn a_cache_on_disk_or_in_8_bits_is_said_out_loud_and_the_former_changes_nothing() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/long/llama-262144.gguf");
    let folder = tempfile::tempdir().unwrap();
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123".repeat(100);
    let base = [
        "run",
        model.to_str().unwrap(),
        "--raw",
        "-p",
        &letters,
        "-n",
        "8",
        "--temp",
        "0",
        "--ctx",
        "262144",
    ];
    let with = |more: &[&str]| run(base.iter().chain(more).chain(&["--json", "--logprobs", "5"]));
    let roomy = with(&["--memory", "1GiB"]);
    assert_eq!(roomy.stderr, "");
    let roomy = roomy.json();
    assert_eq!((&roomy["kv_type"], &roomy["kv_resident_tokens"]), (&"f16".into(), &serde_json::Value::Null));

    let spilled = with(&["--memory", "32MiB", "--kv-spill", folder.path().to_str().unwrap()]);
    assert!(spilled.stderr.contains("stay in memory") && spilled.stderr.lines().count() == 1, "{spilled:?}");
    let spilled = spilled.json();
    assert!(spilled["kv_resident_tokens"].as_u64().unwrap() < 262_144 / 4);
    for field in ["tokens", "logprobs", "kv_type"] {
        assert_eq!(spilled[field], roomy[field], "{field}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let small = with(&["--memory", "120MiB"]);
    assert!(small.stderr.contains("q8_0") && small.stderr.lines().count() == 1, "{small:?}");
    assert_eq!(small.json()["kv_type"], "q8_0");
    let error = with(&["--memory", "32MiB"]).failed(1);
    assert!(error.contains("--kv-spill"), "{error}");
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    model("smollm2");
    let error = run(greedy(&["-p", &"word ".repeat(100), "--ctx", "64"])).failed(1);
    assert!(error.contains("--ctx"), "{error}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    model("smollm2");
    for args in [
        &["run", "smollm2", "-p", "Tell me a long story.", "-n", "4000"][..],
        &["run", "smollm2", "-p", "Hi", "-n", "4", "--json"],
        &["inspect", "smollm2", "--tensors"],
        &["inspect", "smollm2", "--tensors", "--json"],
        &["completions", "zsh"],
    ] {
        let mut child = rawrz().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let done = Done::from(child.wait_with_output().unwrap());
        assert_eq!(done.code, Some(0), "{args:?}: {done:?}");
        assert!(!done.stderr.contains("error") && !done.stderr.contains("panicked"), "{args:?}: {done:?}");
    }
}

/// Starts a run that goes on for minutes, and sends it a signal once it has begun to talk.
#[cfg(unix)]
fn interrupt(more: &[&str], signals: &[&str], wait_for_text: bool) -> Done {
    use std::io::Read;
    let mut child = rawrz()
        .args(["run", "smollm2", "--raw", "-p", "1, 2, 3, 4, 5,", "--temp", "0", "-n", "4000"])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut text = vec![0; if wait_for_text { 4 } else { 0 }];
    stdout.read_exact(&mut text).unwrap();
    if !wait_for_text {
        std::thread::sleep(std::time::Duration::from_secs(3));
    }
    for signal in signals {
        let status =
            std::process::Command::new("sh").args(["-c", &format!("kill {signal} {}", child.id())]).status();
        assert!(status.unwrap().success());
    }
    stdout.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    Done { stdout: String::from_utf8(text).unwrap(), ..Done::from(output) }
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_line_and_reports() {
    model("smollm2");
    for signal in ["-INT", "-TERM"] {
        let done = interrupt(&[], &[signal], true);
        assert_eq!(done.code, Some(130), "{done:?}");
        assert!(done.stdout.starts_with(" 6, ") && done.stdout.ends_with('\n'), "{done:?}");
        assert!(done.stderr.contains("tok/s"), "{done:?}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_still_gives_json_its_one_object() {
    model("smollm2");
    let done = interrupt(&["--json"], &["-INT"], false);
    assert_eq!(done.code, Some(130), "{done:?}");
    let object: serde_json::Value = serde_json::from_str(&done.stdout).expect("one JSON object");
    assert_eq!(object["finish"], "interrupted");
}

#[test]
fn perplexity_of_likely_text_is_low_and_of_noise_high() {
    model("smollm2");
    let folder = tempfile::tempdir().unwrap();
    let measure = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        run(["perplexity", "smollm2", path.to_str().unwrap(), "--ctx", "64", "--json"])
    };
    let sense =
        measure("sense.txt", &"The cat sat on the mat and the dog lay by the door. ".repeat(20)).json();
    assert!((1.0..4.0).contains(&sense["perplexity"].as_f64().unwrap()), "{sense}");
    // Of each chunk of 64 the tokens after position 32 are scored, as in llama.cpp.
    assert_eq!(sense["tokens"].as_u64().unwrap(), 31 * sense["chunks"].as_u64().unwrap());
    assert!(sense["stderr"].as_f64().unwrap() > 0.0);
    let mut state = 1_u32;
    let noise: String = (0..400)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'a' + (state >> 24) as u8 % 26)
        })
        .collect();
    let noise = measure("noise.txt", &noise).json();
    assert!(noise["perplexity"].as_f64() > Some(20.0), "{noise}");
    let error = measure("short.txt", "too short").failed(1);
    assert!(error.contains("two chunks"), "{error}");
    run(["perplexity", "smollm2", "no-such-file"]).failed(1);
}

#[test]
fn the_demo_answers_inside_its_budget() {
    model("smollm2");
    let shown = run(["demo"]).ok();
    assert!(shown.contains("evaporation"), "{shown}");
    assert!(shown.contains("memory, as planned") && shown.contains("KV cache"), "{shown}");
    if cfg!(target_os = "linux") {
        for part in ["peak, resident", "anonymous", "pages of files"] {
            assert!(shown.contains(part), "{shown}");
        }
        let peak = shown.lines().find(|line| line.contains("peak, resident")).unwrap();
        let mib: f64 = peak.split_whitespace().rev().nth(1).unwrap().parse().unwrap();
        assert!(peak.ends_with("MiB") && mib < 256.0, "{peak}");
    }
}
