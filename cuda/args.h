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

// ---- probe_gather ----------------------------------------------------------------------------------------------------

// ---- linear, gated_linear, logits, project -----------------------------------------------------------------------------

// ---- linear_gemv, gated_linear_gemv, project_gemv ------------------------------------------------------------------------

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

// ---- energy ------------------------------------------------------------------------------------------------------------

// ---- column_statistic --------------------------------------------------------------------------------------------------

// ---- channel_score -----------------------------------------------------------------------------------------------------

// ---- top_k_keep, keep_kv_heads, check_finite ---------------------------------------------------------------------------

// ---- argmax ------------------------------------------------------------------------------------------------------------
// x (rows, width) -> out (rows)
struct ArgmaxArgs {
  Floats x;
  IndicesOut out;
  int rows, width;
};

// ---- history_update ----------------------------------------------------------------------------------------------------

// ---- moments -----------------------------------------------------------------------------------------------------------

// ---- cross_entropy -----------------------------------------------------------------------------------------------------
