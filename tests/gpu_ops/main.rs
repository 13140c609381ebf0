//! Every kernel through the emulator, under several schedules with the race checker, against f64; and, where there is
//! a GPU, on the GPU as well.

#![allow(unreachable_pub)]

mod argmax;
mod case;
#[path = "../common/emulator.rs"]
mod emulator;
mod norm;
