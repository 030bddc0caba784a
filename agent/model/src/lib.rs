//! The pure core of the release agent: what a release is, who may request one, which steps it takes and which comes next.
//!
//! Nothing here reads a file, a clock, the environment or a socket; the model gets all facts as values. Read in this order:
//!
//! 1. [`names`]: names with rules, each parsed once where it enters;
//! 2. [`request`]: the request, and whether it may be accepted now;
//! 3. [`grant`]: the caller, and its rights;
//! 4. [`plan`]: the steps that answer a request, and the nature of each;
//! 5. [`run`]: the execution of a plan, forward, backward and after a crash;
//! 6. [`keep`]: which releases may be removed.

pub mod grant;
pub mod keep;
pub mod names;
pub mod plan;
pub mod request;
pub mod run;
