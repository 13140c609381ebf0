// Shared by prefill and decode attention: which keys a query sees.
#pragma once
#include "device.cuh"

constexpr float MINUS_INFINITY = -__builtin_huge_valf();
constexpr int NO_WINDOW = 0x7fffffff;

// The first key within the window of the query that is key `query`; `query` + 1 if there is none. It sees those up to
// itself that the mask does not hide.
__device__ __forceinline__ int first_in_window(const AttentionArgs& p, int query) {
  if (p.window == NO_WINDOW) return 0;
  if (!p.slots) return max(query - p.window + 1, 0);
  // Slots ascend, so this is the first key whose slot is near enough.
  const int far = (int)p.slots[query] - p.window;
  int low = 0, high = query + 1;
  while (low < high) {
    const int middle = (low + high) >> 1;
    if ((int)p.slots[middle] > far)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

// The mask of key j, or of the last key where j lies past the end: a load without a branch, so it can stay under way.
__device__ __forceinline__ unsigned mask_at(const AttentionArgs& p, const unsigned* mask, int j) {
  return mask ? __ldg(mask + min(j, p.keys - 1)) : 1;
}

// Elements column .. column + 7 of a row of `head_dim`; any value past its end, where it would meet a 0. Rows are 16-byte
// aligned if VECTOR.
template <class T, bool VECTOR> __device__ __forceinline__ uint4 load8(const T* row, int column, int head_dim) {
  if constexpr (VECTOR) {
    return __ldg((const uint4*)(row + (column < head_dim ? column : 0)));
  } else {
    unsigned word[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int c = column + 2 * i;
      const unsigned lo = c < head_dim ? row[c].bits : 0, hi = c + 1 < head_dim ? row[c + 1].bits : 0;
      word[i] = lo | hi << 16;
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
  }
}
