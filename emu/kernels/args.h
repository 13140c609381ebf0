// One plain struct per kernel: the kernel's whole ABI besides tensor maps.
#pragma once
#include <stdint.h>

typedef uint16_t bf16;  // bits

// x (n) -> out (1), partial (gridDim.x), counter (1) zero before the launch and after it
struct ReduceArgs { const float* x; float* partial; float* out; unsigned* counter; int n; };
// x (32) -> out (1)
struct WarpSumArgs { const float* x; float* out; };
// x (rows, n) -> values (rows, k), indices (rows, k); one block per row
struct TopkArgs { const float* x; float* values; int* indices; int n, k; };
// A (M, K), B (N, K) -> C (M, N) = A * B^T, row_max (M) = bits of max |C| per row, zero before the launch
struct GemmArgs { const bf16* a; const bf16* b; float* c; unsigned* row_max; int m, n, k; };
// the sm_90 kernel finds A, B and C in tensor maps
struct GemmTmaArgs { int m, n, k; };
// copies of rows * columns floats
struct TrafficArgs { const float* x; float* y; const int* index; int rows, columns, stride; };
