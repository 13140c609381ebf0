//! How fast a device is at what a batch does, for the expected cost of a batch ([`crate::prune::cost`]).

/// What a device's work costs, in floating-point operations of a product of many rows: only ratios of costs are compared. These
/// are constants of a kind of device, never measured at run time, so that equal batches are treated alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Reading a weight, and converting it, once per product.
    pub weight: f64,
    /// The same of single kept channels of a last projection, which do not lie side by side.
    pub kept_channel: f64,
    /// Products of at most so many rows read weights at this share of the two costs above.
    pub few_rows: (usize, f64),
    /// Whether weights are read while others are multiplied, so that the longer of the two counts, and not their sum.
    pub overlaps: bool,
    /// Outputs (rows × features) of the smallest product that takes less time than one of more.
    pub least_outputs: f64,
    /// An operation of attention.
    pub attention: f64,
    /// An entry of a pass over activations or energies.
    pub entry: f64,
    /// An entry of history that is updated.
    pub update: f64,
    /// Starting an operation.
    pub operation: f64,
    /// Choosing a probe's rows and, from the scores, a block's kept set, besides starting these operations.
    pub choice: f64,
    /// Share of a dense batch's cost that pruning by probes must save at least: for what these costs leave out, or were not
    /// measured.
    pub doubt: f64,
}
