// The key/value heads that kept query heads use, ascending, and the place of each kept query head's among them.
// heads (count) u32 ascending -> kv_heads (capacity) u32, entries after the last 0xffffffff, kv_head_of (count) u32.
// Launch: one block of 32 threads.
// Registers: at most 32. Static shared memory: 0 bytes. Dynamic shared memory: 0.
// Bytes: reads 4 count, writes 4 count + 4 capacity
// Bank conflicts: none.
// Accumulation: counts are integers.
// Test: gpu_ops::top_k
#include "device.cuh"

extern "C" __global__ void __launch_bounds__(32) keep_kv_heads(KeepKvHeadsArgs p) {
  const int lane = threadIdx.x;
  unsigned last = 0xffffffffu;  // the key/value head of the query head before
  int used = 0;
  for (int base = 0; base < p.count; base += 32) {
    const int i = base + lane;
    const unsigned kv = i < p.count ? p.heads[i] / (unsigned)p.gqa_group : 0xffffffffu;
    unsigned before = __shfl_up_sync(FULL_WARP, kv, 1);
    if (lane == 0) before = last;
    // Kept heads ascend, so equal key/value heads are neighbours.
    const bool fresh = i < p.count && kv != before;
    const unsigned all = __ballot_sync(FULL_WARP, fresh);
    const int place = used + __popc(all & (0xffffffffu >> (31 - lane))) - 1;
    if (i < p.count) p.kv_head_of[i] = place;
    if (fresh) p.kv_heads[place] = kv;
    used += __popc(all);
    last = __shfl_sync(FULL_WARP, kv, 31);
  }
  for (int i = used + lane; i < p.kv_capacity; i += 32) p.kv_heads[i] = 0xffffffffu;
}
