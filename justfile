# What CI runs, in one command.
ci:
    bash .ci/run

# The default model, end to end.
demo:
    cargo run --release -- demo

# Format, then the lints that CI insists on.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets -- -D warnings

# Tests of the whole workspace. The first run fetches the real models (about 850 MB) into the models folder.
test:
    cargo test

# Fetch every built-in model.
models:
    for model in smollm2 qwen gemma; do cargo run --release -- pull $model; done

# API documentation, warnings as errors.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Every fuzz target for SECONDS each.
fuzz SECONDS="600":
    bash .ci/fuzz {{SECONDS}}

# Alternate with llama.cpp's llama-bench and llama-completion (on PATH) on MODEL ..: see `benches/peer --help`.
bench-peer *ARGS:
    cargo build --release
    python3 benches/peer {{ARGS}}

# GB/s and GOP/s of every kernel on this machine, and the share of its bounds; `--record` and names of types may follow.
bench-kernels *ARGS:
    cargo bench -p rawrz-model --bench kernels -- --table {{ARGS}}

# Instructions of the hot kernels against benches/record/instructions.csv; `--record` writes the counts there.
instructions *ARGS:
    python3 .ci/instructions {{ARGS}}

# Manual pages and completions into target/.
man:
    cargo run --release -- man --out target/man
    for shell in bash elvish fish powershell zsh; do cargo run --release -- completions $shell > target/rawrz.$shell; done
