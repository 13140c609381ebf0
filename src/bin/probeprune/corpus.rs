//! `probeprune corpus`: synthetic text, as the bundled models were trained on.

use clap::Args;
use probeprune::corpus::{Corpus, Topic};

use crate::failure::{Result, print};

/// Flags of `corpus`.
#[derive(Debug, Args)]
pub(crate) struct CorpusArgs {
    /// A topic's name, or all
    #[arg(long, value_name = "NAME|all", default_value = "all")]
    topic: String,
    /// Seed of the text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Stop after the document that reaches N bytes
    #[arg(long, value_name = "N", required_unless_present = "lines")]
    bytes: Option<usize>,
    /// Stop after the document that reaches N lines, including the blank lines between documents
    #[arg(long, value_name = "N")]
    lines: Option<usize>,
}

/// Runs the command.
pub(crate) fn run(args: &CorpusArgs) -> Result<()> {
    let topics = match args.topic.as_str() {
        "all" => Topic::ALL.to_vec(),
        name => vec![name.parse()?],
    };
    let (mut bytes, mut lines) = (0, 0);
    for document in Corpus::new(&topics, args.seed) {
        if args.bytes.is_some_and(|limit| bytes >= limit) || args.lines.is_some_and(|limit| lines >= limit) {
            break;
        }
        let text = if bytes == 0 { document } else { format!("\n{document}") };
        bytes += text.len();
        lines += text.lines().count();
        print(&text)?;
    }
    Ok(())
}
