// The models' activation functions in f32.
#pragma once

enum Activation { ACTIVATION_NONE, ACTIVATION_SILU, ACTIVATION_RELU, ACTIVATION_GELU, ACTIVATION_GELU_TANH };

__device__ __forceinline__ float activate(float x, int activation) {
  switch (activation) {
    case ACTIVATION_SILU: return x / (1.f + expf(-x));
    // Not fmaxf: a NaN has to stay one.
    case ACTIVATION_RELU: return x < 0.f ? 0.f : x;
    case ACTIVATION_GELU: return x * (0.5f * (1.f + erff(x * 0.70710678f)));
    case ACTIVATION_GELU_TANH: return x * (0.5f * (1.f + tanhf(0.79788456f * (x + 0.044715f * x * x * x))));
    default: return x;
  }
}
