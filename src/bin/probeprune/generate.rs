//! `probeprune generate`: continues prompts, dense or pruned by a probe of the prompt.

use std::{path::PathBuf, time::Instant};

use clap::Args;
use probeprune::{
    Error,
    backend::Backend,
    config::{ModelConfig, RopeScaling},
    output::check_writable,
    prune::{BatchShape, settings::Method},
    session::{GenerateOptions, Generated, Limits, Sampling, Session},
    tokenizer::Tokenizer,
};

use crate::{
    args::{MethodArgs, ModelArgs, at_least_one},
    device::{Task, with_model},
    failure::{Failure, Result, note, print},
    input::{Loaded, check_learns, note_empty_history, read_text, save_learned},
    probe, progress,
};

/// Flags of `generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Texts to continue; several run as one batch
    #[arg(
        long,
        value_name = "TEXT",
        num_args = 1..,
        required_unless_present = "prompt_file",
        help_heading = "Prompts"
    )]
    prompt: Vec<String>,
    /// Files with one prompt each
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Prompts")]
    prompt_file: Vec<PathBuf>,
    /// Wrap each prompt in the model's chat template, as a user message
    #[arg(long, help_heading = "Prompts")]
    chat: bool,
    /// Most tokens to generate per prompt
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one(), help_heading = "Sampling")]
    max_new_tokens: usize,
    /// Sampling temperature: 0 takes the most likely token, 1 samples from the model's distribution
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    temperature: f32,
    /// Sample from the K most likely tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0, help_heading = "Sampling")]
    top_k: usize,
    /// Sample from the most likely tokens with this total probability
    #[arg(
        long,
        value_name = "P",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    top_p: f32,
    #[command(flatten)]
    method: MethodArgs,
    /// Under pp, choose the MLP channels again after every N generated tokens
    #[arg(long, value_name = "N", value_parser = at_least_one(), help_heading = "Method")]
    reprobe_every: Option<usize>,
    /// A history file from `probeprune calibrate` for this model
    #[arg(long, value_name = "FILE", help_heading = "Method")]
    history: Option<PathBuf>,
    /// Save the history with what the prompts taught the fold (--adapt), for later runs to go on from
    #[arg(long, value_name = "FILE", help_heading = "Method")]
    save_history: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &GenerateArgs) -> Result<()> {
    if let Some(path) = &args.save_history {
        check_writable(path)?;
    }
    let mut texts = args.prompt.clone();
    for path in &args.prompt_file {
        texts.push(read_text(path)?);
    }
    if let Some(index) = texts.iter().position(String::is_empty) {
        let help = "Pass some text to continue.";
        return Err(Error::argument(format!("prompt {}", index + 1), "some text", "none", help).into());
    }
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: Sampling {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            seed: args.method.tuning.seed,
        },
        reprobe_every: args.reprobe_every,
        eos_token_ids: Vec::new(),
    };
    options.sampling.check()?;
    let model = &args.model;
    with_model(&model.model, !model.no_mmap, &model.compute, Generation { args, texts, options })
}

/// The command's arguments, after every check that needs no model.
struct Generation<'a> {
    args: &'a GenerateArgs,
    texts: Vec<String>,
    options: GenerateOptions,
}

impl Task for Generation<'_> {
    fn run<B: Backend>(self, loaded: Loaded<B>) -> Result<()> {
        let Self { args, texts, options } = self;
        let config = &loaded.model.config;
        let options = GenerateOptions { eos_token_ids: config.eos_token_ids.clone(), ..options };
        let settings = args.method.settings(config)?;
        check_learns(args.save_history.as_ref(), &settings)?;
        if args.reprobe_every.is_some() && settings.method != Method::ProbePruning {
            let help = "Other methods do not choose during generation.";
            return Err(Error::argument("--reprobe-every", "--method pp", settings.method, help).into());
        }
        let tokenizer = loaded.tokenizer()?;
        let prompts =
            texts.iter().map(|text| encode(text, &tokenizer, args.chat)).collect::<Result<Vec<_>>>()?;
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let capacity = capacity(config, longest, args.max_new_tokens)?;
        let history = args.history.as_ref().map(|path| loaded.history(path)).transpose()?;
        if history.is_none() && settings.method == Method::ProbePruning && settings.prune_ratio > 0.0 {
            note_empty_history();
        }
        let loaded = loaded.arranged(&settings, history.as_ref())?;
        let limits = Limits { samples: prompts.len(), tokens: longest, capacity };
        let mut session = Session::new(loaded.model.clone(), settings.clone(), limits, history.as_ref())?;
        let shape = BatchShape { samples: prompts.len(), tokens: longest };
        probe::note_large(loaded.model.config.num_hidden_layers, [(settings, shape)]);
        let start = Instant::now();
        let generated = match prompts.len() {
            1 => {
                let mut stream = Stream::new(&tokenizer, &options);
                let generated = session.generate(&prompts, &options, |_, token| stream.push(token))?;
                stream.finish()?;
                generated
            }
            _ => {
                let bar = progress::bar("generating", prompts.len() * args.max_new_tokens);
                let generated = session.generate(&prompts, &options, |_, _| bar.inc(1))?;
                bar.finish_and_clear();
                print_all(&texts, &generated, &tokenizer)?;
                generated
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        let tokens: usize = generated.tokens.iter().map(Vec::len).sum();
        note(&format!("{tokens} tokens in {seconds:.2} s, {:.1} per second", tokens as f64 / seconds));
        if let Some(path) = &args.save_history {
            save_learned(path, history, &session)?;
        }
        Ok(())
    }
}

/// The prompt's token ids; at least one.
fn encode(text: &str, tokenizer: &Tokenizer, chat: bool) -> Result<Vec<u32>> {
    let ids = if chat {
        let template = tokenizer.chat_template().ok_or_else(|| {
            Error::argument("--chat", "a model with a chat template", "one without", "Leave out --chat.")
        })?;
        tokenizer.encode(&template.render(&[("user", text)], true)?, false)?
    } else {
        tokenizer.encode(text, true)?
    };
    if ids.is_empty() {
        let help = "The tokenizer gives no tokens for it: pass another text.";
        return Err(Error::argument("prompt", "at least one token", "none", help).into());
    }
    Ok(ids)
}

/// Slots for prompt and new tokens, which must be within the model's context.
fn capacity(config: &ModelConfig, longest: usize, new_tokens: usize) -> Result<usize> {
    let total = longest.saturating_add(new_tokens);
    let context = match config.rope.as_ref().map(|rope| &rope.scaling) {
        // Grows with the sequence: the limit only catches typing errors.
        Some(RopeScaling::Dynamic { .. }) => config.max_position_embeddings.saturating_mul(64),
        _ => config.max_position_embeddings,
    };
    if total > context {
        let expected = format!("at most {context} tokens in all, the model's context");
        let got = format!("{longest} + {new_tokens}");
        let help = "Shorten the prompt or lower --max-new-tokens.";
        return Err(Error::argument("--prompt and --max-new-tokens", expected, got, help).into());
    }
    Ok(total)
}

/// Prints one sample token by token.
struct Stream<'a> {
    decoder: probeprune::tokenizer::DecodeStream<'a>,
    eos: &'a [u32],
    failure: Option<Failure>,
}

impl<'a> Stream<'a> {
    fn new(tokenizer: &'a Tokenizer, options: &'a GenerateOptions) -> Self {
        Self { decoder: tokenizer.stream(), eos: &options.eos_token_ids, failure: None }
    }

    fn push(&mut self, token: u32) {
        if self.eos.contains(&token) || self.failure.is_some() {
            return;
        }
        let piece = self.decoder.push(token).map_err(Failure::from);
        match piece.and_then(|piece| piece.map_or(Ok(()), |piece| print(&piece))) {
            Ok(()) => {}
            // The reader has left: the rest would go unread.
            Err(failure @ Failure::Output(_)) => std::process::exit(failure.report().into()),
            Err(failure) => self.failure = Some(failure),
        }
    }

    fn finish(self) -> Result<()> {
        match self.failure {
            Some(failure) => Err(failure),
            None => print(&format!("{}\n", self.decoder.finish()?)),
        }
    }
}

fn print_all(prompts: &[String], generated: &Generated, tokenizer: &Tokenizer) -> Result<()> {
    for (index, (prompt, tokens)) in prompts.iter().zip(&generated.tokens).enumerate() {
        print(&format!("--- {}: {prompt}\n{}\n", index + 1, tokenizer.decode(tokens, true)?))?;
    }
    Ok(())
}
