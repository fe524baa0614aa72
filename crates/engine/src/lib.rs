//! A loaded model ([`Engine`]), one timeline of tokens ([`Session`]), the sampler and the generation loop; many
//! timelines that share each pass over the weights ([`Scheduler`]).
//!
//! ```no_run
//! use rawrz_engine::{Cancel, Engine, Event, GenerateOptions, OpenOptions, Session, generate};
//!
//! let engine = Engine::open("model.gguf".as_ref(), &OpenOptions::default())?;
//! let prompt = engine.tokenizer().encode("Once upon a time", Default::default())?;
//! let mut session = Session::new(&engine)?;
//! let mut print = |event: Event| {
//!     if let Event::Text(text) = event {
//!         print!("{text}");
//!     }
//! };
//! generate(&mut session, &prompt, &GenerateOptions::default(), &Cancel::default(), &mut print)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//! - An engine allocates only after its memory ledger was checked against the budget; what sessions add is
//!   counted too.
//! - A failed pass leaves the session at the last position that was computed well.
#![forbid(unsafe_code)]

mod batch;
mod cancel;
mod constraint;
mod engine;
mod error;
mod files;
mod generate;
mod generation;
mod logprobs;
mod memory;
mod sampler;
mod saved;
mod session;
mod stop;

pub use batch::{Rates, Request, Scheduler, SchedulerOptions, SchedulerStats, SubmitError, Update, Work};
pub use cancel::Cancel;
pub use constraint::Constraint;
pub use engine::{Engine, OpenOptions, Traffic};
pub use error::{OpenError, RunError};
pub use files::ModelFiles;
pub use generate::{Event, FinishReason, GenerateOptions, Generated, generate};
pub use logprobs::{Step, TokenLogprob, logprob_of, top_logprobs};
pub use rawrz_model::{Config, Isa, KvType, Precision, SpillPlan};
pub use rawrz_residency::budget::{Entry, Ledger, Size, default_budget_bytes};
pub use rawrz_residency::os::{ProcessMemory, process_memory};
pub use rawrz_residency::{ChoiceStats, Placement, StagePlacement, StreamStats};
pub use sampler::{Sampler, SamplerOptions};
pub use saved::SavedOptions;
pub use session::{Session, SyncStats};
