// The kernels' arguments: one plain struct per kernel, passed by value. This file is the kernel ABI: bindgen makes
// src/gpu/args.rs from it (tools/kernels/cuda.sh args), where every pointer is a u64.
//
// Letters in shapes: B samples, S tokens per sample, T = B*S rows, H hidden_size, I intermediate_size, N query heads,
// K key/value heads, D head_dim, C channels (N*D or I), V vocabulary; a subscript p means the probe's. All matrices are
// row-major. "element" is the kernel's dtype, bf16 or f16. Every struct's size is a multiple of 8 without padding.
#pragma once
#ifdef __CUDACC__
#define POINTER(type) type*
#else
#define POINTER(type) unsigned long long
#endif
typedef POINTER(const void) Elements;        // elements to read
typedef POINTER(void) ElementsOut;           // elements to write
typedef POINTER(const float) Floats;
typedef POINTER(float) FloatsOut;
typedef POINTER(const unsigned) Indices;
typedef POINTER(unsigned) IndicesOut;

// ---- norm ------------------------------------------------------------------------------------------------------------
// x (rows, hidden_size), weight and bias (hidden_size) or null -> out (rows, hidden_size), sum_squares (rows)
struct NormArgs {
  Elements x;
  Floats weight, bias;
  ElementsOut out;
  FloatsOut sum_squares;
  int rows, hidden_size;
  int kind;  // 0 copies x, 1 RMSNorm, 2 LayerNorm
  float eps;
};

// ---- embed -----------------------------------------------------------------------------------------------------------
// table (entries, embedding_dim), position_table (positions, embedding_dim) or null; tokens, positions (rows)
// -> out (rows, embedding_dim)
struct EmbedArgs {
  Elements table;
  Indices tokens;
  Elements position_table;
  Indices positions;
  ElementsOut out;
  int rows, embedding_dim;
};

// ---- probe_select ----------------------------------------------------------------------------------------------------
// sum_squares, positions, mask (B, S); mask may be null -> probe_samples (Bp),
// probe_slots (Sp), probe_positions and probe_mask (Bp, Sp)
struct ProbeSelectArgs {
  Floats sum_squares;
  Indices positions, mask;
  IndicesOut probe_samples, probe_slots, probe_positions, probe_mask;
  int samples, tokens;            // B, S
  int kept_samples, kept_tokens;  // Bp, Sp
  int tokens_first;               // 0: samples are chosen first
  int keep_leading_slot;          // 1: the first kept slot is the first that is a token in some sample
};

// ---- probe_gather ----------------------------------------------------------------------------------------------------
// x (B*tokens, hidden_size), probe_samples (Bp), probe_slots (probe_tokens) -> out (rows = Bp*probe_tokens, hidden_size)
struct ProbeGatherArgs {
  Elements x;
  Indices probe_samples, probe_slots;
  ElementsOut out;
  int rows, hidden_size;
  int tokens, probe_tokens;
};

// ---- linear, gated_linear, logits, project -----------------------------------------------------------------------------
// In all of them: kept lists blocks of block_width rows of the weight, ascending, or is null for all rows; raster_group is
// the number of row tiles that blocks go down before they go on to the next columns.
// samples = 0: tiles hold rows in order. Otherwise they hold whole token slots of `samples` rows each, and energy
// (tokens, out_features) is written; mask (samples, tokens) or null.
// x (rows, in_features), weight (., in_features), bias (.) or null, kept (ceil(out_features / block_width)) or null
// -> out (rows, out_features) or null; out_features counts the kept ones
struct LinearArgs {
  Elements x, weight;
  Floats bias;
  Indices kept, mask;
  ElementsOut out;
  FloatsOut energy;
  int rows, out_features, in_features, block_width, raster_group, samples, tokens;
  int activation;  // 0 none, 1 SiLU, 2 ReLU, 3 GELU, 4 GELU by tanh
  float scale;
  int reserved;
};

// As LinearArgs with two weights and no scale.
struct GatedLinearArgs {
  Elements x, gate, up;
  Floats gate_bias, up_bias;
  Indices kept, mask;
  ElementsOut out;
  FloatsOut energy;
  int rows, out_features, in_features, block_width, raster_group, samples, tokens, activation;
};

// x (rows, in_features), head (out_features, in_features) -> out (rows, out_features)
struct LogitsArgs {
  Elements x, head;
  FloatsOut out;
  int rows, out_features, in_features, raster_group;
};

// a (rows, in_features), weight (., out_features), stored transposed, kept (ceil(in_features / block_width)) or null, bias
// (out_features) or null, residual (rows, out_features) or null, low_rank (rank + 1, out_features) or null with
// z (rows, rank) -> out (rows, out_features); in_features counts the kept ones
struct ProjectArgs {
  Elements a, weight;
  Indices kept;
  Floats bias;
  Elements residual, z, low_rank;
  ElementsOut out;
  int rows, out_features, in_features, block_width, raster_group, rank;
};

// ---- linear_gemv, gated_linear_gemv, project_gemv ------------------------------------------------------------------------
// x (rows, in_features), weight (., in_features), bias (.) or null, kept (out_features / block_width) or null for all rows;
// up and up_bias likewise for gated_linear_gemv, else null -> out (rows, out_features) elements or, where it is not null,
// logits floats
struct LinearGemvArgs {
  Elements x, weight, up;
  Floats bias, up_bias;
  Indices kept;
  ElementsOut out;
  FloatsOut logits;
  int rows, in_features, out_features;
  int block_width;  // weight rows per entry of kept
  int activation;   // as in activation.cuh
  float scale;
};
// a (rows, in_features), weight (., out_features), stored transposed, kept (in_features / block_width) or null for all
// rows, bias (out_features) or null, residual (rows, out_features) or null, low_rank (rank + 1, out_features) or null with
// z (rows, rank) -> out (rows, out_features)
struct ProjectGemvArgs {
  Elements a, weight;
  Indices kept;
  Floats bias;
  Elements residual, z, low_rank;
  ElementsOut out;
  int rows, in_features, out_features;
  int block_width;  // weight rows per entry of kept
  int rank, reserved;
};

// ---- rope_cache --------------------------------------------------------------------------------------------------------
// q (T, heads, D), k (T, kv_heads, D) rotated in place; k and v (T, kv_heads, D) -> slots `at`.. of the cache
// (B, capacity, kv_heads, D) where it is not null. table (positions, D): D/2 cosines, then D/2 sines; null: no rotation.
struct RopeCacheArgs {
  ElementsOut q, k;
  Elements v;
  Floats table;
  Indices positions;
  ElementsOut cache_keys, cache_values;
  int tokens, heads, kv_heads, head_dim, capacity, at;
};

// ---- attention ---------------------------------------------------------------------------------------------------------
// q (B, tokens, heads, D), k and v (B, capacity, kv_heads, D), kv_head_of (heads), mask (B, capacity) or null,
// slots (keys, ascending) or null -> out (B, tokens, heads, D). Query i is key `keys - tokens + i`.
struct AttentionArgs {
  Elements q, k, v;
  ElementsOut out;
  Indices kv_head_of, mask, slots;
  int tokens, keys, capacity, heads, kv_heads, head_dim;
  int window;  // INT_MAX: none
  float scale;
};

// ---- energy, centre_energy ---------------------------------------------------------------------------------------------
// a (B, S, C) element, mask (B, S) or null -> out (S, C), sums (S, C) or null
struct EnergyArgs {
  Elements a;
  Indices mask;
  FloatsOut out, sums;
  int samples, tokens, channels;
  int reserved;
};
// energy (S, C) in place, sums (S, C), mask (B, S) or null, prior (C) or null -> mean (C)
struct CentreEnergyArgs {
  FloatsOut energy;
  Floats sums;
  Indices mask;
  Floats prior;
  FloatsOut mean;
  int samples, tokens, channels;
  float weight;  // of the tokens' mean against the prior
  float share;   // of the mean that energies are taken around
  int reserved;
};

// ---- gather_pruned -----------------------------------------------------------------------------------------------------
// kept (count), coefficients (rank, channels) or null, mean (channels) -> pruned (channels / block_width - count), out
// (rank + 1, channels - count * block_width)
struct GatherPrunedArgs {
  Indices kept;
  Floats coefficients, mean;
  IndicesOut pruned;
  ElementsOut out;
  int count;        // kept blocks
  int block_width;  // channels per block
  int channels;     // C
  int rank;
};

// ---- accumulate_product ------------------------------------------------------------------------------------------------
// a (rows, m), b (rows, n) -> out (m, n), in place
struct AccumulateProductArgs {
  Elements a, b;
  FloatsOut out;
  int rows, m, n;
  int reserved;
};

// ---- adapt -------------------------------------------------------------------------------------------------------------
// In all of them, fault is null or a word that is not 0 where nothing may be changed any more.
// x (rows, width), kept (columns / block_width) or null for all columns, mask (rows) or null, centre (columns), scale (columns)
// or null -> out (rows, columns), images (rows, columns) or null, ones (rows) or null
struct AdaptRowsArgs {
  Elements x;
  Indices kept, mask;
  Floats centre, scale;
  FloatsOut out, images, ones;
  int columns, block_width, width;
  int reserved;
};
// base (columns), x (rows), matrix (rows, columns) -> out (columns), which may be base
struct AdaptVectorArgs {
  Floats base, x, matrix;
  Indices fault;
  FloatsOut out;
  int rows, columns;
  float scale;
  int reserved;
};
// x (rows, columns) -> sums (rows)
struct AdaptSquaresArgs {
  Floats x;
  FloatsOut sums;
  int columns;
  int reserved;
};
// sums (rows), ones (rows) -> error (1), fault (1)
struct AdaptErrorArgs {
  Floats sums, ones;
  FloatsOut error;
  IndicesOut fault;
  int rows;
  int reserved;
};
// a (rows, depth), b (depth, columns), either of them possibly stored transposed, ones (rows) or null -> out (rows, columns)
struct AdaptProductArgs {
  Floats a, b, ones;
  Indices fault;
  FloatsOut out;
  int rows, columns, depth;
  int a_transposed, b_transposed;
  int add;        // 0: the old out has no part in the new one
  int symmetric;  // 1: a is b transposed and out symmetric
  float sign;     // of the product: 1 or -1
  float gain;     // of the product of ones with itself
  float divisor;  // of the result
};
// matrix (size, size), in place: rows and columns `first`..
struct AdaptFactorArgs {
  FloatsOut matrix;
  int size, first;
};
// factor (size, size), x (size, columns), in place: rows `first` to `end`. transposed: x is stored (columns, size).
struct AdaptSubstituteArgs {
  Floats factor;
  FloatsOut x;
  int size, columns, first, end;
  int transposed;
  int reserved;
};
// weight (count) -> out (count)
struct AdaptStoreArgs {
  Floats weight;
  Indices fault;
  ElementsOut out;
  long long count;
};

// ---- column_statistic --------------------------------------------------------------------------------------------------
// weight (channels, out_features), stored transposed -> out (channels)
struct ColumnStatisticArgs {
  Elements weight;
  FloatsOut out;
  int channels, out_features;
  int power;  // 1, 2 or 4
  int root;   // 1: the square root of the sum
};

// ---- channel_score -----------------------------------------------------------------------------------------------------
// p (tokens, channels), history (rows, channels) f32 or f16, slots (tokens), statistic (channels) -> out (a score
// per channel, group or head)
struct ChannelScoreArgs {
  Floats p;
  Elements history;
  Indices slots;
  Floats statistic;
  FloatsOut out;
  int tokens, channels;
  int span;           // channels of a block: head_dim, or 32
  int warps;          // warps side by side
  int heads;          // 1: one score per block
  int metric;         // 0 ppsp, 1 wanda-sp, 2 flap
  int history_kind;   // 0 none, 1 f32, 2 square roots in f16
  int history_slots;  // later ones have h = 0
  int bucket;         // slots per row of history
  int fixed;          // 1: fixed_weight in place of p / (p + h + 1e-6)
  float fixed_weight;
  int channel_group;  // channels scored together, 8 or 16; 0: each by itself
};

// ---- top_k_keep, keep_kv_heads, check_finite ---------------------------------------------------------------------------
// scores (of) -> kept (k), fault (1)
struct TopKKeepArgs {
  Floats scores;
  IndicesOut kept, fault;
  int of, k;
  unsigned tag;
  int reserved;
};
// heads (count) -> kv_heads (kv_capacity), kv_head_of (count)
struct KeepKvHeadsArgs {
  Indices heads;
  IndicesOut kv_heads, kv_head_of;
  int count, gqa_group, kv_capacity;
  int reserved;
};
// values (count) -> fault (1)
struct CheckFiniteArgs {
  Floats values;
  IndicesOut fault;
  long long count;
  unsigned tag;
  int reserved;
};

// ---- argmax ------------------------------------------------------------------------------------------------------------
// x (rows, vocab_size) -> out (rows)
struct ArgmaxArgs {
  Floats x;
  IndicesOut out;
  int rows, vocab_size;
};

// ---- history_update ----------------------------------------------------------------------------------------------------
// p (tokens, kept_channels), kept (kept_channels / block_width) -> history (rows, channels) f32 or f16, in place
struct HistoryUpdateArgs {
  Floats p;
  Indices kept;
  ElementsOut history;
  int kept_channels;  // columns of p
  int block_width;    // channels per block
  int channels;       // C
  int at, end;        // slots that are updated
  int bucket;         // slots per row
  int half;           // 1: square roots in f16
  float old_share, new_share;  // momentum and 1 - momentum
  int reserved;
};

// ---- moments -----------------------------------------------------------------------------------------------------------
// a (B, S, C) element -> energy, mean, baseline, fluctuation (S, C), in place
struct MomentsArgs {
  Elements a;
  FloatsOut energy, mean, baseline, fluctuation;  // the latter two are null without FLAP; mean may be null
  int samples, tokens, channels, seen;
};

// ---- cross_entropy -----------------------------------------------------------------------------------------------------
// x (rows, in_features), head (vocab_size, in_features), targets (rows) -> partial (tiles, rows, 2): the largest logit of
// a row's tile of columns and the sum of exp(logit - largest); target_logits (rows), where there is a target
struct CrossEntropyArgs {
  Elements x, head;
  Indices targets;
  FloatsOut partial, target_logits;
  int rows, vocab_size, in_features, raster_group;
};

// partial, target_logits, targets -> out (rows)
struct CrossEntropyCombineArgs {
  Floats partial, target_logits;
  Indices targets;
  FloatsOut out;
  int rows, tiles;
};
