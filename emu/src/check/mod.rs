//! The happens-before checker: vector clocks over threads and asynchronous units, and a shadow of every byte.

pub(crate) mod clock;
pub(crate) mod shadow;
pub(crate) mod vc;
