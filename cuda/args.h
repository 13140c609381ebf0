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
// x (rows, width), weight and bias (width) or null -> out (rows, width), sum_squares (rows)
struct NormArgs {
  Elements x;
  Floats weight, bias;
  ElementsOut out;
  FloatsOut sum_squares;
  int rows, width;
  int kind;  // 0 copies x, 1 RMSNorm, 2 LayerNorm
  float eps;
};

// ---- embed -----------------------------------------------------------------------------------------------------------
// table (entries, width), position_table (positions, width) or null; tokens, positions (rows) -> out (rows, width)
struct EmbedArgs {
  Elements table;
  Indices tokens;
  Elements position_table;
  Indices positions;
  ElementsOut out;
  int rows, width;
};

// ---- probe_select ----------------------------------------------------------------------------------------------------
// sum_squares, positions, mask (B, S); mask may be null -> samples (Bp), slots (Sp), probe_positions and probe_mask (Bp, Sp)
struct ProbeSelectArgs {
  Floats sum_squares;
  Indices positions, mask;
  IndicesOut samples, slots, probe_positions, probe_mask;
  int batch, tokens;               // B, S
  int kept_samples, kept_tokens;   // Bp, Sp
  int tokens_first;                // 0: samples are chosen first
  int leading;                     // 1: the first kept slot is the first that is a token in some sample
};

// ---- probe_gather ----------------------------------------------------------------------------------------------------
// x (B*tokens, width), samples (B_p), slots (probe_tokens) -> out (rows = B_p*probe_tokens, width)
struct ProbeGatherArgs {
  Elements x;
  Indices samples, slots;
  ElementsOut out;
  int rows, width;
  int tokens, probe_tokens;
};

// ---- linear, gated_linear, logits, project -----------------------------------------------------------------------------
// In all of them: kept (ceil(columns / width)) indices of blocks of `width` rows of the weight, or null for all rows;
// group: row tiles that a group of blocks goes down before it goes on to the next columns.
// samples = 0: tiles hold rows in order. Otherwise they hold whole token slots of `samples` rows each, and energy
// (tokens, columns) is written; mask (samples, tokens) or null.
// x (rows, depth), weight (features, depth), bias (features) or null -> out (rows, columns) or null
struct LinearArgs {
  Elements x, weight;
  Floats bias;
  Indices kept, mask;
  ElementsOut out;
  FloatsOut energy;
  int rows, columns, depth, width, group, samples, tokens;
  int activation;  // 0 none, 1 SiLU, 2 ReLU, 3 GELU, 4 GELU by tanh
  float scale;
  int unused;
};

// As LinearArgs with two weights and no scale.
struct GatedLinearArgs {
  Elements x, gate, up;
  Floats gate_bias, up_bias;
  Indices kept, mask;
  ElementsOut out;
  FloatsOut energy;
  int rows, columns, depth, width, group, samples, tokens, activation;
};

// x (rows, depth), head (columns, depth) -> out (rows, columns)
struct LogitsArgs {
  Elements x, head;
  FloatsOut out;
  int rows, columns, depth, group;
};

// a (rows, depth), weight (channels, columns), kept (ceil(depth / width)) blocks of channels or null, bias (columns) or
// null, residual (rows, columns) or null, addition (rank + 1, columns) or null with z (rows, rank) -> out (rows, columns)
struct ProjectArgs {
  Elements a, weight;
  Indices kept;
  Floats bias;
  Elements residual, z, addition;
  ElementsOut out;
  int rows, columns, depth, width, group, rank;
};

// ---- linear_gemv, gated_linear_gemv, project_gemv ------------------------------------------------------------------------
// x (tokens, width), weight (., width), bias (.) or null, kept (features / block) or null for all rows; up and up_bias
// likewise for gated_linear_gemv, else null -> out (tokens, features) elements or, where it is not null, logits floats
struct LinearGemvArgs {
  Elements x, weight, up;
  Floats bias, up_bias;
  Indices kept;
  ElementsOut out;
  FloatsOut logits;
  int tokens, width, features;
  int block;       // rows that one entry of kept stands for
  int activation;  // as in activation.cuh
  float scale;
};
// a (tokens, channels), weight (., width), kept (channels / block) or null for all rows, bias (width) or null, residual
// (tokens, width) or null, addition (rank + 1, width) or null with z (tokens, rank) -> out (tokens, width)
struct ProjectGemvArgs {
  Elements a, weight;
  Indices kept;
  Floats bias;
  Elements residual, z, addition;
  ElementsOut out;
  int tokens, channels, width;
  int block;  // rows that one entry of kept stands for
  int rank, unused;
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
// q (B, tokens, heads, D), k and v (B, capacity, kv_heads, D), kv_slots (heads), mask (B, capacity) or null,
// slots (keys, ascending) or null -> out (B, tokens, heads, D). Query i is key `keys - tokens + i`.
struct AttentionArgs {
  Elements q, k, v;
  ElementsOut out;
  Indices kv_slots, mask, slots;
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
  int batch, tokens, width;
  int reserved;
};
// energy (S, C) in place, sums (S, C), mask (B, S) or null, prior (C) or null -> mean (C)
struct CentreEnergyArgs {
  FloatsOut energy;
  Floats sums;
  Indices mask;
  Floats prior;
  FloatsOut mean;
  int batch, tokens, width;
  float weight;  // of the tokens' mean against the prior
  float share;   // of the mean that energies are taken around
  int unused;
};

// ---- gather_pruned -----------------------------------------------------------------------------------------------------
// kept (count of blocks, ascending), rows (rank, channels) or null, last (channels) -> pruned (channels / width - count
// of blocks), out (rank + 1, channels - count * width)
struct GatherPrunedArgs {
  Indices kept;
  Floats rows, last;
  IndicesOut pruned;
  ElementsOut out;
  int count;     // blocks in kept
  int width;     // channels of a block
  int channels;  // C
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

// ---- column_statistic --------------------------------------------------------------------------------------------------
// weight (channels, width) -> out (channels)
struct ColumnStatisticArgs {
  Elements weight;
  FloatsOut out;
  int channels, width;
  int power;  // 1, 2 or 4
  int root;   // 1: the square root of the sum
};

// ---- channel_score -----------------------------------------------------------------------------------------------------
// p (tokens, width), history (rows, width) f32 or f16, slots (tokens), statistic (width) -> out (width or heads)
struct ChannelScoreArgs {
  Floats p;
  Elements history;
  Indices slots;
  Floats statistic;
  FloatsOut out;
  int tokens, width;
  int span;           // channels of a block: head_dim, or 32
  int groups;         // warps side by side
  int heads;          // 1: one score per block
  int metric;         // 0 ppsp, 1 wanda-sp, 2 flap
  int history_kind;   // 0 none, 1 f32, 2 square roots in f16
  int history_slots;  // later ones have h = 0
  int bucket;         // slots per row of history
  int fixed;          // 1: fixed_weight in place of p / (p + h + 1e-6)
  float fixed_weight;
  int group;          // channels of a group that has one score, 8 or 16; 0: none
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
// heads (count) -> kv_kept (kv_capacity), kv_slots (count)
struct KeepKvHeadsArgs {
  Indices heads;
  IndicesOut kv_kept, kv_slots;
  int count, group, kv_capacity;
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
// x (rows, width) -> out (rows)
struct ArgmaxArgs {
  Floats x;
  IndicesOut out;
  int rows, width;
};

// ---- history_update ----------------------------------------------------------------------------------------------------
// p (tokens, kept * block_width), kept (count of blocks) -> history (rows, width) f32 or f16, in place
struct HistoryUpdateArgs {
  Floats p;
  Indices kept;
  ElementsOut history;
  int channels;       // kept channels: columns of p
  int block_width;    // D or 1
  int width;          // C
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
  FloatsOut energy, mean, baseline, fluctuation;  // the latter two are null where FLAP is not asked for, mean may be
  int batch, tokens, width, seen;
};

// ---- cross_entropy -----------------------------------------------------------------------------------------------------
// x (rows, depth), head (vocab, depth), targets (rows) -> partial (tiles, rows, 2): the largest logit of a row's tile of
// columns and the sum of exp(logit - largest); target_logits (rows), where there is a target
struct CrossEntropyArgs {
  Elements x, head;
  Indices targets;
  FloatsOut partial, target_logits;
  int rows, vocab, depth, group;
};

// partial, target_logits, targets -> out (rows)
struct CrossEntropyCombineArgs {
  Floats partial, target_logits;
  Indices targets;
  FloatsOut out;
  int rows, tiles;
};
