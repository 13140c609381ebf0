//! What the kernels can count: they hold sizes, and products of some of them, in 32 bits.

use super::attention::WIDEST_HEAD;
use crate::{
    config::ModelConfig,
    error::{Error, Result},
};

/// Most rows of a batch, slots of a cache, or entries of any width that the kernels take. The most blocks that a product
/// has, one per 32 rows and 64 columns, still fit a grid; `tests/kernel_indices.rs` has what the kernels compute from it.
pub const LARGEST_SIZE: usize = 2_000_000;

/// Refuses sizes above [`LARGEST_SIZE`].
pub(super) fn check_sizes(sizes: &[(&str, usize)]) -> Result<()> {
    sizes.iter().try_for_each(|&(name, size)| check(name, LARGEST_SIZE, size))
}

/// Refuses models with wider heads or layers than the kernels take.
pub(super) fn check_model(config: &ModelConfig) -> Result<()> {
    check("head_dim", WIDEST_HEAD, config.head_dim)?;
    check_sizes(&[
        ("vocab_size", config.vocab_size),
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("num_attention_heads × head_dim", config.num_attention_heads.saturating_mul(config.head_dim)),
        ("word_embed_proj_dim", config.word_embed_proj_dim),
    ])
}

fn check(name: &str, most: usize, got: usize) -> Result<()> {
    if got <= most {
        return Ok(());
    }
    Err(Error::argument(name, format!("at most {most} on a GPU"), got, "Run it on the CPU (`device` cpu)."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ModelSource;

    #[test]
    fn models_too_wide_are_refused() {
        let good = ModelConfig::load(&ModelSource::locate("bundled:tiny-llama").unwrap()).unwrap();
        check_model(&good).unwrap();
        let at = |size| ModelConfig { vocab_size: size, intermediate_size: size, ..good.clone() };
        check_model(&at(LARGEST_SIZE)).unwrap();
        let wide = LARGEST_SIZE + 1;
        for (config, name) in [
            (ModelConfig { vocab_size: wide, ..good.clone() }, "vocab_size"),
            (ModelConfig { hidden_size: wide, ..good.clone() }, "hidden_size"),
            (ModelConfig { intermediate_size: wide, ..good.clone() }, "intermediate_size"),
            (ModelConfig { word_embed_proj_dim: wide, ..good.clone() }, "word_embed_proj_dim"),
            // Neither is too large by itself.
            (
                ModelConfig { num_attention_heads: LARGEST_SIZE / 100, head_dim: 101, ..good.clone() },
                "num_attention_heads × head_dim",
            ),
            (ModelConfig { head_dim: WIDEST_HEAD + 1, ..good.clone() }, "head_dim"),
        ] {
            let error = check_model(&config).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}: expected at most ")), "{error}");
            assert!(error.contains("on a GPU, got ") && error.ends_with("(`device` cpu)."), "{error}");
        }
    }
}
