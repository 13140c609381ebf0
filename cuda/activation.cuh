// Activations, in f32: within a few units in the last place, far below the rounding of their results.
#pragma once
#include "primitives.cuh"

// x / (1 + e^-a): SiLU for a = x.
PRIMITIVE float times_sigmoid(float x, float a) { return __fdividef(x, 1.f + exp2_approx(-LOG2_E * a)); }

// 0 none, 1 SiLU, 2 ReLU, 3 GELU, 4 GELU by tanh.
template <int N> PRIMITIVE void activate(int kind, float (&x)[N]) {
  if (kind == 0) return;
#pragma unroll
  for (int i = 0; i < N; i++) {
    const float v = x[i];
    if (kind == 1) x[i] = times_sigmoid(v, v);
    if (kind == 2) x[i] = v < 0.f ? 0.f : v;
    if (kind == 3) x[i] = v * 0.5f * (1.f + erff(v * 0.7071067811865476f));
    // 0.5 (1 + tanh u) = 1 / (1 + e^-2u)
    if (kind == 4) x[i] = times_sigmoid(v, 1.5957691216057308f * (v + 0.044715f * v * v * v));
  }
}

PRIMITIVE float activate(float x, int kind) {
  float v[1] = {x};
  activate(kind, v);
  return v[0];
}
