//! Products of few rows, as in decoding: memory-bound, so every kept weight is read once and nothing else.

/// Most rows that these kernels take; more go to the tiled ones.
pub(super) const MAX_ROWS: usize = 0;
