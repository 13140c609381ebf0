//! The backend's operations in one table. A case is an operation with its sizes and options: it knows its input, how it
//! runs on a backend, its result in f64, and the bytes and floating-point operations it needs. tests/gpu_ops checks cases on
//! the CPU backend, the emulator and a GPU; benches/kernels.rs times them at the shapes of models.

// Every program compiles this module but uses only a part of it.
#![allow(dead_code, unreachable_pub)]

mod accumulate_product;
mod adapt;
mod argmax;
mod attention;
mod centre_energy;
mod channel_score;
mod check_finite;
mod column_statistic;
mod cross_entropy;
mod embed;
mod energy;
mod factor;
mod gather_pruned;
mod history_update;
mod keep_kv_heads;
mod linear;
mod moments;
pub mod near;
mod norm;
mod probe_gather;
mod probe_select;
pub mod product;
mod project;
mod put;
mod rope_cache;
pub mod source;
mod top_k;

use std::fmt::Debug;

pub use accumulate_product::ProductCase;
pub use adapt::AdaptCase;
pub use argmax::ArgmaxCase;
pub use attention::AttentionCase;
pub use centre_energy::CentreCase;
pub use channel_score::{Past, ScoreCase};
pub use check_finite::FiniteCase;
pub use column_statistic::StatisticCase;
pub use cross_entropy::CrossEntropyCase;
pub use embed::EmbedCase;
pub use energy::EnergyCase;
pub use gather_pruned::GatherPrunedCase;
pub use history_update::UpdateCase;
pub use keep_kv_heads::KvCase;
pub use linear::{Kind as LinearKind, LinearCase};
pub use moments::MomentsCase;
use near::{Near, Stored};
pub use norm::NormCase;
pub use probe_gather::ProbeGatherCase;
pub use probe_select::{Padding, SelectCase, Squares};
use probeprune::{Result, backend::Backend};
pub use project::ProjectCase;
pub use put::Put;
pub use rope_cache::RopeCase;
use source::Source;
pub use top_k::{Scores, TopKCase};

/// An output of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Activations or statistics.
    Floats(Vec<f32>),
    /// Indices.
    Indices(Vec<u32>),
}

/// The right outputs.
#[derive(Clone, Debug)]
pub enum Expected {
    /// What each value may be.
    Floats(Vec<Near>),
    /// These.
    Indices(Vec<u32>),
}

/// A prepared case: runs the operation once, and downloads every output if asked to.
pub type Ready<B> = Box<dyn FnMut(&B, bool) -> Result<Vec<Output>>>;

/// Global memory traffic of a kernel by its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The kernel's name without dtype.
    pub kernel: String,
    /// Bytes read.
    pub read: usize,
    /// Bytes written.
    pub written: usize,
}

impl Traffic {
    pub fn new(kernel: &str, read: usize, written: usize) -> Self {
        Self { kernel: kernel.to_string(), read, written }
    }
}

/// Bytes of an activation and of a weight.
#[derive(Clone, Copy, Debug)]
pub struct ElementBytes {
    pub activation: usize,
    pub weight: usize,
}

/// An operation with its sizes and options.
pub trait Case: Debug {
    /// Makes its buffers. A run downloads whole buffers, with the parts that must stay untouched.
    ///
    /// # Errors
    /// If the device has no room for them.
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>>;

    /// The outputs of one run, computed independently in f64, on a backend that stores activations like this.
    fn expected(&self, source: Source<'_>, stored: Stored) -> Vec<Expected>;

    /// The bytes it moves at least: every input and output once, without lists of indices beside matrices.
    fn bytes(&self, element: ElementBytes) -> usize;

    /// The bytes its kernel moves by the formula in the kernel's header, at whole tiles and sectors and with two bytes an
    /// activation.
    fn traffic(&self) -> Traffic;

    /// (rows, outputs, inputs) of its matrix product.
    fn product(&self) -> Option<[usize; 3]> {
        None
    }

    /// Floating-point operations, where they are the limit: products and attention.
    fn flops(&self) -> Option<f64> {
        self.product().map(|sizes| sizes.iter().fold(2.0, |flops, &size| flops * size as f64))
    }
}

/// The outputs, if they were asked for.
pub fn outputs(read: bool, download: impl FnOnce() -> Result<Vec<Output>>) -> Result<Vec<Output>> {
    if read { download() } else { Ok(Vec::new()) }
}

/// Declares [`Operation`]: a case of any kind, for lists of several.
macro_rules! operations {
    ($($kind:ident($case:ident)),* $(,)?) => {
        /// A case of any kind, for lists of several.
        #[derive(Clone, Debug)]
        pub enum Operation {
            $($kind($case)),*
        }

        $(impl From<$case> for Operation {
            fn from(case: $case) -> Self {
                Self::$kind(case)
            }
        })*

        impl Case for Operation {
            fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
                match self { $(Self::$kind(case) => case.prepare(backend, source)),* }
            }

            fn expected(&self, source: Source<'_>, stored: Stored) -> Vec<Expected> {
                match self { $(Self::$kind(case) => case.expected(source, stored)),* }
            }

            fn bytes(&self, element: ElementBytes) -> usize {
                match self { $(Self::$kind(case) => case.bytes(element)),* }
            }

            fn traffic(&self) -> Traffic {
                match self { $(Self::$kind(case) => case.traffic()),* }
            }

            fn product(&self) -> Option<[usize; 3]> {
                match self { $(Self::$kind(case) => case.product()),* }
            }

            fn flops(&self) -> Option<f64> {
                match self { $(Self::$kind(case) => case.flops()),* }
            }
        }
    };
}

operations! {
    ColumnStatistic(StatisticCase),
    Embed(EmbedCase),
    Norm(NormCase),
    ProbeSelect(SelectCase),
    ProbeGather(ProbeGatherCase),
    Linear(LinearCase),
    Project(ProjectCase),
    RopeCache(RopeCase),
    Attention(AttentionCase),
    Energy(EnergyCase),
    CentreEnergy(CentreCase),
    GatherPruned(GatherPrunedCase),
    ChannelScore(ScoreCase),
    TopKKeep(TopKCase),
    CheckFinite(FiniteCase),
    KeepKvHeads(KvCase),
    HistoryUpdate(UpdateCase),
    AccumulateMoments(MomentsCase),
    AccumulateProduct(ProductCase),
    Adapt(AdaptCase),
    Argmax(ArgmaxCase),
    CrossEntropy(CrossEntropyCase),
}
