//! candle's speed on a LLaMA folder: dense prefill and decode.
//!
//! Usage: candle-peer FOLDER [--dtype float32|bfloat16] [--threads 2]
//!
//! Prints "ready" and then answers every line of stdin, "prefill B S" or "decode B", with the seconds of one run, as
//! tools/peers/pytorch.py does; or instead of "ready" one line that begins with "cannot", and why. candle's model computes
//! the logits of the last token only; the product with the head for the other rows is made apart and counted, as the other
//! peers' logits are.

use std::{
    io::{BufRead, Write},
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use rand::{Rng, SeedableRng, rngs::StdRng};

const PROMPT: usize = 16;
const DECODE: usize = 32;

struct Bench {
    model: Llama,
    config: Config,
    dtype: DType,
    /// (V, H).
    head: Tensor,
}

impl Bench {
    fn new(folder: &Path, dtype: DType) -> Result<Self> {
        let config: LlamaConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
        let config = config.into_config(false);
        let file = folder.join("model.safetensors");
        // SAFETY: nobody changes the file while this runs.
        let weights = unsafe { VarBuilder::from_mmaped_safetensors(&[file], dtype, &Device::Cpu) }?;
        let head = weights.get((config.vocab_size, config.hidden_size), "model.embed_tokens.weight")?;
        Ok(Self { model: Llama::load(weights, &config)?, config, dtype, head })
    }

    fn tokens(&self, batch: usize, seq: usize) -> Result<Tensor> {
        let mut rng = StdRng::seed_from_u64(0);
        let vocabulary = self.config.vocab_size as u32;
        let tokens: Vec<u32> = (0..batch * seq).map(|_| rng.random_range(0..vocabulary)).collect();
        Ok(Tensor::from_vec(tokens, (batch, seq), &Device::Cpu)?)
    }

    fn cache(&self, used: bool) -> Result<Cache> {
        Ok(Cache::new(used, self.dtype, &self.config, &Device::Cpu)?)
    }

    fn prefill(&self, batch: usize, seq: usize) -> Result<f64> {
        let (tokens, mut cache) = (self.tokens(batch, seq)?, self.cache(false)?);
        // Stands for the hidden states of all rows but the last of each sequence.
        let shape = (batch * (seq - 1), self.config.hidden_size);
        let rows = Tensor::randn(0f32, 1.0, shape, &Device::Cpu)?.to_dtype(self.dtype)?;
        let begin = Instant::now();
        let _ = self.model.forward(&tokens, 0, &mut cache)?;
        let _ = rows.matmul(&self.head.t()?)?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// Of the steps alone; the prompts are not counted.
    fn decode(&self, batch: usize) -> Result<f64> {
        let (prompt, mut cache) = (self.tokens(batch, PROMPT)?, self.cache(true)?);
        let next = |logits: Tensor| -> Result<Tensor> { Ok(logits.argmax(1)?.reshape((batch, 1))?) };
        let mut token = next(self.model.forward(&prompt, 0, &mut cache)?)?;
        let begin = Instant::now();
        for i in 0..DECODE {
            token = next(self.model.forward(&token, PROMPT + i, &mut cache)?)?;
        }
        Ok(begin.elapsed().as_secs_f64())
    }

    fn answer(&self, line: &str) -> Result<f64> {
        let (what, numbers) = line.trim().split_once(' ').context("expected numbers")?;
        let numbers: Vec<usize> = numbers.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        match (what, &*numbers) {
            ("prefill", &[batch, seq]) => self.prefill(batch, seq),
            ("decode", &[batch]) => self.decode(batch),
            _ => bail!("expected prefill B S or decode B, got {line:?}"),
        }
    }
}

fn main() -> Result<()> {
    const USAGE: &str = "usage: candle-peer FOLDER [--dtype float32|bfloat16] [--threads N]";
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context(USAGE)?;
    let (mut dtype, mut threads) = (DType::F32, 2);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().context(USAGE)?;
        match (&*flag, &*value) {
            ("--dtype", "float32") => dtype = DType::F32,
            ("--dtype", "bfloat16") => dtype = DType::BF16,
            ("--threads", number) => threads = number.parse().context(USAGE)?,
            _ => bail!(USAGE),
        }
    }
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let bench = Bench::new(Path::new(&folder), dtype)?;
    // Some types can be loaded but not multiplied.
    if let Err(error) = bench.prefill(1, 2) {
        let error = error.to_string();
        println!("cannot compute in {dtype:?}: {}", error.lines().next().unwrap_or_default());
        return Ok(());
    }
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        println!("{:.9}", bench.answer(&line?)?);
        std::io::stdout().flush()?;
    }
    Ok(())
}
