//! The pure core of the release agent: what a release is, who may ask for one, what will be done and what comes next.
//!
//! Nothing here reads a file, a clock, the environment or a socket; whatever the model has to know comes in as a value. Read in this order:
//!
//! 1. [`names`]: the words with rules, each parsed once where it enters;
//! 2. [`request`]: what is asked, and whether it may be taken now;
//! 3. [`grant`]: who asks, and what they may do;
//! 4. [`plan`]: the steps that answer a request, and the nature of each;
//! 5. [`run`]: the carrying-out of a plan, forward, backward and after a crash;
//! 6. [`keep`]: which releases may be removed.

pub mod grant;
pub mod keep;
pub mod names;
pub mod plan;
pub mod request;
pub mod run;
