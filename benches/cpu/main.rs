//! Speed of the CPU backend as ratios, each taken within one interleaved run so that a noisy machine cancels out.
//!
//! `cargo bench --bench cpu -- [--out FILE.json] [--model FOLDER [--pytorch "COMMAND"] [--peer "NAME=COMMAND"]…]`
//! `[--items LIST] [--classes LIST] [--rows FILE [--step NAME]]`
//!
//! In class A everything computes in float32 (or as accurately), in class B in bfloat16. In each, by item:
//!
//! - `mlp`: a pruned MLP block against the dense one, hidden 1024, intermediate 2816.
//! - `prefill`: a real model, dense and pruned by 40 %, against the peers, whose commands (tools/peers) measure one run per
//!   line of input; and the pruned one against the authors' operations in PyTorch.
//! - `decode`: the same at batch 1, 4 and 16, and against a plain read of the weights.
//! - `large`: decoding by two layers in LLaMA-2-7B's shape.
//! - `attention`: attention alone against PyTorch's.
//! - `single`: prompts of 256 to 4,096 tokens, pruned with `--probe-tokens auto`, against dense.
//! - `long`, only where it is asked for: one prompt of 32,768 tokens.
//!
//! With `--rows`, the CPU's goals among those of a GPU's machine are appended to a file as well, one JSON line each.

#![allow(unreachable_pub)]

mod attention;
mod class;
mod decode;
mod goals;
mod mlp;
mod peer;
mod prefill;
#[path = "../../src/bin/probeprune/sweep/quartiles.rs"]
mod quartiles;
mod read;
#[path = "../kernels/rows.rs"]
mod rows;
mod samples;

use std::{path::PathBuf, sync::Arc};

use clap::{Parser, ValueEnum};
use class::Class;
use peer::{PYTORCH, Peers};
use probeprune::{cpu::Cpu, model::Model, prune::BatchShape, source::ModelSource};
use rows::Rows;
use serde_json::{Map, Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Item {
    Mlp,
    Prefill,
    Decode,
    Large,
    Attention,
    Single,
    Long,
}

#[derive(Parser)]
struct Args {
    /// Where to write the results.
    #[arg(long)]
    out: Option<PathBuf>,
    /// A Hugging Face folder for prefill and decode.
    #[arg(long)]
    model: Option<String>,
    /// Command that measures PyTorch on the same model; {dtype} and {threads} are filled in.
    #[arg(long)]
    pytorch: Option<String>,
    /// Commands that measure other programs on the same model, each after its name and an equals sign, likewise; without
    /// {dtype} it is measured in class A only.
    #[arg(long)]
    peer: Vec<String>,
    /// What to measure, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "mlp,prefill,decode,large,attention,single")]
    items: Vec<Item>,
    /// The classes to measure it in, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "a,b")]
    classes: Vec<Class>,
    /// A file to append the goals' result rows to.
    #[arg(long)]
    rows: Option<PathBuf>,
    /// The step that these rows belong to.
    #[arg(long, default_value = "cpu")]
    step: String,
    /// Interleaved repetitions.
    #[arg(long, default_value_t = 9)]
    repeat: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn wants(&self, item: Item) -> bool {
        self.items.contains(&item)
    }

    fn peers(&self, class: Class) -> Peers {
        let pytorch = self.pytorch.iter().map(|command| (PYTORCH, command.as_str()));
        let others = self.peer.iter().map(|peer| peer.split_once('=').expect("--peer NAME=COMMAND"));
        Peers::start(pytorch.chain(others), class, self.threads)
    }

    fn load(&self, source: &ModelSource, backend: Arc<Cpu>) -> Model<Cpu> {
        Model::load(source, true, backend, |_| ()).expect("model")
    }
}

const SHAPES: [[usize; 2]; 3] = [[20, 64], [4, 256], [1, 128]];

/// Everything of one class.
fn measure(args: &Args, class: Class, source: Option<&ModelSource>) -> Value {
    let backend = class.backend(args.threads);
    let shapes = SHAPES.map(|[samples, tokens]| BatchShape { samples, tokens });
    let mut result = Map::new();
    let put = |result: &mut Map<String, Value>, item: Item, measured: &dyn Fn() -> Value| {
        if args.wants(item) {
            let name = item.to_possible_value().expect("a name").get_name().to_string();
            eprintln!("class {class:?}: {name}");
            result.insert(name, measured());
        }
    };
    put(&mut result, Item::Mlp, &|| {
        let one = |shape| mlp::measure(Arc::clone(&backend), args.repeat, shape);
        shapes[..2].iter().map(|&shape| one(shape)).collect()
    });
    put(&mut result, Item::Large, &|| decode::large(args.repeat, Arc::clone(&backend)));
    if let Some(source) = source {
        let model = Arc::new(args.load(source, Arc::clone(&backend)));
        // Long ones, of which a few rounds tell enough.
        let rounds = args.repeat.div_ceil(2);
        put(&mut result, Item::Single, &|| {
            [256, 1024, 4096].map(|tokens| prefill::single(rounds, &model, tokens)).into()
        });
        if ![Item::Prefill, Item::Decode, Item::Attention].into_iter().any(|item| args.wants(item)) {
            return result.into();
        }
        let peers = args.peers(class);
        put(&mut result, Item::Prefill, &|| {
            shapes.iter().map(|&shape| prefill::measure(args.repeat, &model, &peers, shape)).collect()
        });
        put(&mut result, Item::Decode, &|| {
            decode::measure(args.repeat, &model, &peers, read::weights(source), args.threads)
        });
        put(&mut result, Item::Attention, &|| {
            [1024, 4096].map(|tokens| attention::measure(3 * args.repeat, &backend, &peers, tokens)).into()
        });
        result.insert("cannot".to_string(), peers.cannot.into());
    }
    result.into()
}

fn main() {
    let args = Args::parse();
    let mut rows = Rows::new(args.rows.as_deref(), &args.step).expect("the file of rows is writable");
    let source = args.model.as_deref().map(|model| ModelSource::locate(model).expect("model"));
    let one = |&class: &Class| (format!("{class:?}"), measure(&args, class, source.as_ref()));
    let classes: Map<String, Value> = args.classes.iter().map(one).collect();
    goals::write(&mut rows, classes.get("A").unwrap_or(&Value::Null)).expect("the file of rows is writable");
    let long = source.as_ref().filter(|_| args.wants(Item::Long)).map(|source| {
        let model = args.load(source, Class::A.backend(args.threads));
        prefill::long(model)
    });
    let result = json!({ "threads": args.threads, "repeat": args.repeat, "classes": classes, "long": long });
    let text = serde_json::to_string_pretty(&result).expect("json");
    println!("{text}");
    if let Some(out) = &args.out {
        std::fs::write(out, text + "\n").expect("the results file is writable");
    }
}
