// Running moments of a block's intermediate states for calibration (paper section 3.2; FLAP as its published code has it).
// a (B, S, C) element, n samples seen -> energy, mean, baseline, fluctuation (S, C) f32, in place; all but the first may be
//   null: energy = energy n/(n+B) + sum_b a^2/(n+B); mean = mean n/(n+B) + sum_b a/(n+B); baseline = baseline n/(n+B) +
//   mean_b a/(n+B); for n > 0
//   fluctuation = fluctuation (n-1)/(n+B-1) + sum_b (a - mean_s baseline)(a - mean_s baseline before)/(n+B)
// Launch: ceil(C / 64) blocks of 256 threads (ceil(C / 8) where C is no multiple of 8).
// Registers: at most 64. Static shared memory: 8192 bytes. Dynamic shared memory: 0.
// Bytes: reads 2 B S C + 4 S C (n > 0: 4 B S C + 16 S C with FLAP), writes 4 S C (12 S C with FLAP and n > 0);
//   with mean 4 S C of both more
// Bank conflicts: none.
// Accumulation: f32. Over samples ascending; means over slots: every 32nd slot ascending, a butterfly over four of these sums,
//        then the eight warps ascending.
// Test: gpu_ops::moments
#include "device.cuh"

constexpr int THREADS = 256;
constexpr int COLUMNS = 8;                // threads side by side, with V channels each
constexpr int SLOTS = THREADS / COLUMNS;  // slots at a time
constexpr int AHEAD = 4;                  // samples whose loads are under way together

__device__ __forceinline__ void load(const float* x, size_t at, size_t end, float (&v)[8]) { load8(x, at, end, v); }
__device__ __forceinline__ void load(const float* x, size_t at, size_t end, float (&v)[1]) { v[0] = at < end ? x[at] : 0.f; }
__device__ __forceinline__ void store(float* x, size_t at, size_t end, const float (&v)[8]) { store8(x, at, end, v); }
__device__ __forceinline__ void store(float* x, size_t at, size_t end, const float (&v)[1]) {
  if (at < end) x[at] = v[0];
}

template <class T> __device__ __forceinline__ Vector8<T> load_elements(const T* a, float (&)[8]) {
  return *reinterpret_cast<const Vector8<T>*>(a);
}
template <class T> __device__ __forceinline__ T load_elements(const T* a, float (&)[1]) { return *a; }
template <class T> __device__ __forceinline__ void unpack(T a, float (&x)[1]) { x[0] = to_float(a); }

// Calls f with the channels of each of N samples: all loads first, without a branch between them.
template <int N, class T, int V, class F> __device__ __forceinline__ void with_samples(const T* a, size_t plane, F f) {
  float x[V];
  decltype(load_elements(a, x)) loaded[N];
#pragma unroll
  for (int i = 0; i < N; i++) loaded[i] = load_elements(a + i * plane, x);
#pragma unroll
  for (int i = 0; i < N; i++) {
    unpack(loaded[i], x);
    f(x);
  }
}

template <class T, int V, class F> __device__ __forceinline__ void each_sample(const T* a, size_t plane, int batch, F f) {
  int b = 0;
#pragma unroll 1
  for (; b + AHEAD <= batch; b += AHEAD) with_samples<AHEAD, T, V>(a + b * plane, plane, f);
#pragma unroll 1
  for (; b < batch; b++) with_samples<1, T, V>(a + b * plane, plane, f);
}

// Means over all slots from each thread's sum over its own. `sums` is shared and used once.
template <int V> __device__ __forceinline__ void column_means(float (&x)[V], int tokens, float (*sums)[COLUMNS * 8]) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, column = lane % COLUMNS;
#pragma unroll
  for (int v = 0; v < V; v++) {
    x[v] += __shfl_xor_sync(FULL_WARP, x[v], 8);
    x[v] += __shfl_xor_sync(FULL_WARP, x[v], 16);
    // Quadruples of channels lie apart, so that neighbours write neighbouring 16 bytes.
    if (lane < COLUMNS) sums[warp][V == 1 ? column : v / 4 * 32 + column * 4 + v % 4] = x[v];
    x[v] = 0.f;
  }
  __syncthreads();
#pragma unroll 1
  for (int w = 0; w < THREADS / 32; w++)
#pragma unroll
    for (int v = 0; v < V; v++) x[v] += sums[w][V == 1 ? column : v / 4 * 32 + column * 4 + v % 4];
#pragma unroll
  for (int v = 0; v < V; v++) x[v] /= (float)tokens;
}

template <class T, int V> __device__ __forceinline__ void accumulate(const MomentsArgs& p) {
  __shared__ alignas(16) float sums[2][THREADS / 32][COLUMNS * 8];
  const int c = (blockIdx.x * COLUMNS + threadIdx.x % COLUMNS) * V, own = threadIdx.x / COLUMNS;
  const size_t plane = (size_t)p.tokens * p.channels;
  const float n = (float)p.seen, batch = (float)p.samples;
  const bool flap = p.baseline != nullptr, fluctuate = flap && p.seen > 0;
  // A slot's row ends where its channels do; slots that do not exist have none.
  const auto row = [&](int s) { return (size_t)s * p.channels; };
  const auto end = [&](int s) { return s < p.tokens ? (size_t)p.channels : 0; };

  float old_mean[V] = {};
  if (fluctuate) {
    for (int first = 0; first < p.tokens; first += SLOTS) {
      const int s = first + own;
      float x[V];
      load(p.baseline + row(s), c, end(s), x);
#pragma unroll
      for (int v = 0; v < V; v++) old_mean[v] += x[v];
    }
    column_means(old_mean, p.tokens, sums[0]);
  }

  float new_mean[V] = {};
  for (int first = 0; first < p.tokens; first += SLOTS) {
    const int s = first + own;
    float sum[V] = {}, squares[V] = {}, x[V];
    if (c < end(s)) {
      each_sample<T, V>((const T*)p.a + row(s) + c, plane, p.samples, [&](const float (&a)[V]) {
#pragma unroll
        for (int v = 0; v < V; v++) sum[v] += a[v], squares[v] += a[v] * a[v];
      });
    }
    load(p.energy + row(s), c, end(s), x);
#pragma unroll
    for (int v = 0; v < V; v++) x[v] = x[v] * (n / (n + batch)) + squares[v] / (n + batch);
    store(p.energy + row(s), c, end(s), x);
    if (p.mean) {
      load(p.mean + row(s), c, end(s), x);
#pragma unroll
      for (int v = 0; v < V; v++) x[v] = x[v] * (n / (n + batch)) + sum[v] / (n + batch);
      store(p.mean + row(s), c, end(s), x);
    }
    if (!flap) continue;
    load(p.baseline + row(s), c, end(s), x);
    // The published code adds the mean of the batch, not its sum.
#pragma unroll
    for (int v = 0; v < V; v++) {
      x[v] = x[v] * (n / (n + batch)) + sum[v] / batch / (n + batch);
      new_mean[v] += x[v];
    }
    store(p.baseline + row(s), c, end(s), x);
  }
  if (!fluctuate) return;
  column_means(new_mean, p.tokens, sums[1]);

  for (int first = 0; first < p.tokens; first += SLOTS) {
    const int s = first + own;
    float sum[V] = {}, x[V];
    if (c < end(s)) {
      each_sample<T, V>((const T*)p.a + row(s) + c, plane, p.samples, [&](const float (&a)[V]) {
#pragma unroll
        for (int v = 0; v < V; v++) sum[v] += (a[v] - new_mean[v]) * (a[v] - old_mean[v]);
      });
    }
    load(p.fluctuation + row(s), c, end(s), x);
#pragma unroll
    for (int v = 0; v < V; v++) x[v] = x[v] * ((n - 1.f) / (n + batch - 1.f)) + sum[v] / (n + batch);
    store(p.fluctuation + row(s), c, end(s), x);
  }
}

template <class T> __device__ __forceinline__ void moments(const MomentsArgs& p) {
  if (p.channels % 8 == 0) accumulate<T, 8>(p);
  else accumulate<T, 1>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) moments_bf16(MomentsArgs p) { moments<bf16>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) moments_f16(MomentsArgs p) { moments<f16>(p); }
