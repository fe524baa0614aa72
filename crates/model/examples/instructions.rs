//! Small products for `.ci/instructions`, which counts the instructions of [`measured`] under callgrind.
//!
//! `instructions TYPE ROWS` runs the product of that type with as many rows of activations, and prints how many groups
//! of 256 weights it has. Without arguments, prints a line for each product that there is to measure.

use rawrz_gguf::TensorType;
use rawrz_model::Isa;
use rawrz_model::bench::Product;
use std::hint::black_box;

/// Those that models in use are made of.
const TYPES: [TensorType; 8] = [
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q4K,
    TensorType::Q5K,
    TensorType::Q6K,
];

/// One row decodes; a few share the unpacking of the weights.
const ACTIVATION_ROWS: [usize; 2] = [1, 8];

/// Weights of a row, and rows: enough that the call itself hardly counts.
const K: usize = 2048;
const N_ROWS: usize = 64;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, n_acts] = args.as_slice() else {
        for ty in TYPES {
            ACTIVATION_ROWS.iter().for_each(|n_acts| println!("{} {n_acts}", ty.name()));
        }
        return;
    };
    let ty = TYPES.into_iter().find(|ty| ty.name() == name).expect("one of the types in the list");
    let n_acts = n_acts.parse().expect("a number of rows");
    let isa = match std::env::var("RAWRZ_ISA") {
        Ok(name) => name.parse().unwrap_or_else(|error| panic!("RAWRZ_ISA: {error}")),
        Err(_) => Isa::detect(),
    };
    // One thread: how several share the work is not the kernel's.
    let mut product = Product::new(ty, K, N_ROWS, n_acts, isa, 1);
    // What is set up once for all calls is left out.
    product.run();
    measured(&mut product);
    println!("{}", product.weights() / 256);
}

/// The one function that is counted.
#[inline(never)]
fn measured(product: &mut Product) {
    black_box(product.run());
}
