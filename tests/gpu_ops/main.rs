//! Every kernel through the emulator, under several schedules with the race checker, against f64; and, where there is
//! a GPU, on the GPU as well.

#![allow(unreachable_pub)]

mod case;
mod channel_score;
#[path = "../common/emulator.rs"]
mod emulator;
mod energy;
mod history;
mod moments;
mod norm;
mod probe_select;
mod top_k;
