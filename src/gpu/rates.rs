//! What a GPU's work is expected to cost, from what its driver says. The figures here are those of the analytic model of
//! `cargo bench --bench kernels -- --predict`; they were not measured yet.

use crate::backend::Rates;

/// How fast a GPU is by its attributes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Floating-point operations per second of mma.sync on bfloat16 with float32 sums.
    pub flops: f64,
    /// Bytes per second from and to memory.
    pub memory: f64,
}

/// Share of mma.sync's rate that a product reaches, and of memory's. Assumed.
const PRODUCT: f64 = 0.85;
const COPY: f64 = 0.9;
/// The same of attention: FlashAttention-2's 350 TFLOP/s without a mask on an H100, whose mma.sync has 622.
const ATTENTION: f64 = 0.56;
/// Seconds between two kernels of a graph, and until the second has its first operands.
const OPERATION: f64 = 2.4e-6;
/// Seconds of the loads that choosing a probe and a kept set has to wait for, one after another.
const CHOICE: f64 = 15e-6;
/// Rows and columns of the smallest tile of a product, and how much longer its rows take than those of the largest.
const TILE: f64 = 32.0 * 128.0 * 33.0 / 20.0;

impl Speed {
    /// An A100's, for drivers that do not tell.
    pub const A100: Self = Self { multiprocessors: 108, flops: 312e12, memory: 2.039e12 };

    /// By attributes of the device: compute capability, multiprocessors, clock and memory clock in kHz, memory bus in bits. A
    /// device that tells no clock is taken for an A100 with its number of multiprocessors.
    pub fn of(capability: (u32, u32), multiprocessors: u32, [clock, memory_clock, bus]: [u32; 3]) -> Self {
        // Of one multiprocessor in a cycle: 312 TFLOP/s of an A100 by its datasheet, 622 of an H100 (Luo et al., arXiv
        // 2402.13499), 165 of an RTX 4090 (NVIDIA's Ada whitepaper).
        let per_cycle = match capability {
            (8, 0) => 2048.0,
            (9 | 10, _) => 2575.0,
            _ => 512.0,
        };
        let each = f64::from(multiprocessors);
        let of_a100 = Self::A100.flops / f64::from(Self::A100.multiprocessors) * each;
        Self {
            multiprocessors,
            flops: if clock > 0 { each * per_cycle * 1e3 * f64::from(clock) } else { of_a100 },
            // Two transfers in a cycle.
            memory: match 2.0 * 1e3 * f64::from(memory_clock) * f64::from(bus) / 8.0 {
                0.0 => Self::A100.memory,
                bytes => bytes,
            },
        }
    }

    /// In the unit of [`Rates`].
    pub(super) fn rates(self) -> Rates {
        let (flops, memory) = (PRODUCT * self.flops, COPY * self.memory);
        Rates {
            weight: 2.0 / memory * flops,
            kept_channel: 2.0 / memory * flops,
            few_rows: (0, 1.0),
            overlaps: true,
            least_outputs: f64::from(self.multiprocessors) * TILE,
            attention: PRODUCT / ATTENTION,
            entry: 4.0 / memory * flops,
            // The energy, and history before and after.
            update: 12.0 / memory * flops,
            operation: OPERATION * flops,
            choice: CHOICE * flops,
            doubt: 0.05,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::ModelConfig,
        prune::{
            BatchShape, cost,
            flops::LayerCounts,
            settings::{Method, Settings},
        },
    };

    #[test]
    fn attributes_give_what_datasheets_say() {
        let near = |got: f64, expected: f64| (got / expected - 1.0).abs() < 0.03;
        // Capability, multiprocessors, clocks in kHz, bits; TFLOP/s of mma.sync, TB/s.
        for (capability, multiprocessors, attributes, flops, memory) in [
            ((8, 0), 108, [1_410_000, 1_593_000, 5120], 312.0, 2.039),
            ((9, 0), 132, [1_830_000, 2_619_000, 5120], 622.0, 3.35),
            ((8, 9), 128, [2_520_000, 10_501_000, 384], 165.0, 1.008),
        ] {
            let speed = Speed::of(capability, multiprocessors, attributes);
            assert!(near(speed.flops / 1e12, flops) && near(speed.memory / 1e12, memory), "{speed:?}");
        }
        assert_eq!(Speed::of((8, 0), 108, [0; 3]), Speed::A100);
    }

    #[test]
    fn a_large_batch_of_a_large_model_is_pruned_and_one_short_prompt_is_not() {
        let text = r#"{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096,
            "intermediate_size": 11008, "num_attention_heads": 32, "max_position_embeddings": 4096,
            "vocab_size": 32000, "rms_norm_eps": 1e-5}"#;
        let config = ModelConfig::from_json("test".as_ref(), text, None).unwrap();
        let settings = Settings { method: Method::ProbePruning, prune_ratio: 0.4, ..Settings::default() };
        let layers = LayerCounts::by_settings(&config, &settings, None).unwrap();
        let pays = |samples, tokens| {
            let shape = BatchShape { samples, tokens };
            cost::expected(&config, &settings, &layers, shape, &Speed::A100.rates()).pays()
        };
        assert!(pays(20, 1024) && pays(4, 1024) && !pays(1, 16) && !pays(1, 128));
    }
}
