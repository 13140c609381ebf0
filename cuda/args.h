// The kernels' arguments: one plain struct per kernel, passed by value. This file is the kernel ABI: bindgen makes
// src/gpu/args.rs from it (tools/cuda.sh args), where every pointer is a u64.
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

// ---- linear, gated_linear, logits, project -----------------------------------------------------------------------------

// ---- linear_gemv, gated_linear_gemv, project_gemv ------------------------------------------------------------------------

// ---- rope_cache --------------------------------------------------------------------------------------------------------

// ---- attention ---------------------------------------------------------------------------------------------------------

// ---- energy ------------------------------------------------------------------------------------------------------------
// a (B, S, C) element, mask (B, S) or null -> out (S, C)
struct EnergyArgs {
  Elements a;
  Indices mask;
  FloatsOut out;
  int batch, tokens, width;
  int reserved;
};

// ---- column_statistic --------------------------------------------------------------------------------------------------

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
  int reserved;
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
// a (B, S, C) element -> energy, baseline, fluctuation (S, C), in place
struct MomentsArgs {
  Elements a;
  FloatsOut energy, baseline, fluctuation;  // the latter two are null where FLAP is not asked for
  int batch, tokens, width, seen;
};

// ---- cross_entropy -----------------------------------------------------------------------------------------------------
