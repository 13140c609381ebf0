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

// ---- attention ---------------------------------------------------------------------------------------------------------

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
