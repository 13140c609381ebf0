//! Every kernel through the emulator, under several schedules with the race checker, against f64; and, where there is
//! a GPU, on the GPU as well.

#![allow(unreachable_pub)]

mod case;
mod column_statistic;
mod embed;
#[path = "../common/emulator.rs"]
mod emulator;
mod gemv;
mod norm;
mod probe_gather;
