//! A loaded model (Engine), one timeline (Session), the sampler and the generation loop.
#![forbid(unsafe_code)]
