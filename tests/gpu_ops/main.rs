//! Every operation against f64: on the CPU backend; on the emulator, under several schedules with the race checker; and,
//! where there is a GPU, on the GPU as well. In GPU-only mode (tests/common/device.rs), nothing runs on the emulator.

#![allow(unreachable_pub)]

mod adapt;
mod argmax;
mod attention;
mod case;
mod channel_score;
mod column_statistic;
mod compensation;
mod cross_entropy;
#[path = "../common/device.rs"]
mod device;
mod embed;
#[path = "../common/emulator.rs"]
mod emulator;
mod energy;
mod gemv;
mod history;
mod linear;
mod moments;
mod norm;
#[path = "../operations/mod.rs"]
mod operations;
mod probe_gather;
mod probe_select;
mod project;
mod rope_cache;
mod steps;
mod top_k;
