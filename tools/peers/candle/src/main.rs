//! candle's speed on a LLaMA folder, float32 weights: dense prefill and decode.
//!
//! Usage: candle-peer FOLDER [THREADS]
//!
//! Prints "ready" and then answers every line of stdin, "prefill" or "decode", with the seconds of one run, as
//! tools/peers/pytorch.py --interactive does. candle's model computes the logits of the last token only; the product with
//! the head for the other rows is made apart and counted, as the other peers' logits are.

use std::{
    io::{BufRead, Write},
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use rand::{Rng, SeedableRng, rngs::StdRng};

const BATCH: usize = 4;
const SEQ: usize = 256;
const PROMPT: usize = 16;
const DECODE: usize = 64;

struct Bench {
    model: Llama,
    config: Config,
    /// (V, H).
    head: Tensor,
    tokens: Tensor,
    /// Stands for the hidden states of all rows but the last of each sample.
    rows: Tensor,
}

impl Bench {
    fn new(folder: &Path) -> Result<Self> {
        let device = Device::Cpu;
        let config: LlamaConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
        let config = config.into_config(false);
        // SAFETY: nobody changes the file while this runs.
        let weights =
            unsafe { VarBuilder::from_mmaped_safetensors(&[folder.join("model.safetensors")], DType::F32, &device) }?;
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let head = weights.get((vocab, hidden), "model.embed_tokens.weight")?;
        let mut rng = StdRng::seed_from_u64(0);
        let tokens: Vec<u32> = (0..BATCH * SEQ).map(|_| rng.random_range(0..vocab as u32)).collect();
        Ok(Self {
            model: Llama::load(weights, &config)?,
            head,
            tokens: Tensor::from_vec(tokens, (BATCH, SEQ), &device)?,
            rows: Tensor::randn(0f32, 1.0, (BATCH * (SEQ - 1), hidden), &device)?,
            config,
        })
    }

    fn cache(&self, used: bool) -> Result<Cache> {
        Ok(Cache::new(used, DType::F32, &self.config, &Device::Cpu)?)
    }

    fn prefill(&self) -> Result<f64> {
        let mut cache = self.cache(false)?;
        let begin = Instant::now();
        let _ = self.model.forward(&self.tokens, 0, &mut cache)?;
        let _ = self.rows.matmul(&self.head.t()?)?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// Of the steps alone; the prompt is not counted.
    fn decode(&self) -> Result<f64> {
        let mut cache = self.cache(true)?;
        let prompt = self.tokens.i((..1, ..PROMPT))?.contiguous()?;
        let next = |logits: Tensor| -> Result<Tensor> { Ok(logits.argmax(1)?.reshape((1, 1))?) };
        let mut token = next(self.model.forward(&prompt, 0, &mut cache)?)?;
        let begin = Instant::now();
        for i in 0..DECODE {
            token = next(self.model.forward(&token, PROMPT + i, &mut cache)?)?;
        }
        Ok(begin.elapsed().as_secs_f64())
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context("usage: candle-peer FOLDER [THREADS]")?;
    let threads = arguments.next().map_or(Ok(2), |threads| threads.parse()).context("THREADS is a number")?;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let bench = Bench::new(Path::new(&folder))?;
    bench.prefill()?;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let seconds = match line?.trim() {
            "prefill" => bench.prefill()?,
            "decode" => bench.decode()?,
            other => bail!("expected prefill or decode, got {other:?}"),
        };
        println!("{seconds:.9}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
