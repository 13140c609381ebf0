//! Other programs that are measured in turns with this one; see tools/peers.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Map, Value};

use crate::{
    class::Class,
    samples::{Run, Samples, run},
};

/// The name that PyTorch has in the results.
pub const PYTORCH: &str = "PyTorch";

/// A process that measures another program: one line in, one line out.
pub struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts `command` and waits until it is ready.
    ///
    /// # Errors
    /// What it says if it cannot compute in its class.
    fn start(command: &str) -> Result<Self, String> {
        let mut child = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the peer's command starts");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut peer = Self { child, input, output: BufReader::new(output) };
        let said = peer.line();
        if said.starts_with("cannot ") {
            return Err(said);
        }
        assert_eq!(said, "ready", "the peer says when it is ready: {command}");
        Ok(peer)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line from the peer");
        line.trim().to_string()
    }

    /// Its answer to a line.
    fn ask(&mut self, what: &str) -> String {
        writeln!(self.input, "{what}").expect("the peer listens");
        self.line()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It only waits for input: nothing is lost.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peers of a class by name.
pub struct Peers {
    /// In cells, because runs that take turns share them.
    of: Vec<(String, RefCell<Peer>)>,
    /// Those that cannot compute in this class, and why.
    pub cannot: Map<String, Value>,
}

impl Peers {
    /// Starts NAME=COMMAND each, with `{dtype}` and `{threads}` filled in. A command without `{dtype}` is of class A.
    pub fn start<'a>(
        commands: impl Iterator<Item = (&'a str, &'a str)>,
        class: Class,
        threads: usize,
    ) -> Self {
        let mut peers = Self { of: Vec::new(), cannot: Map::new() };
        for (name, command) in
            commands.filter(|(_, command)| class == Class::A || command.contains("{dtype}"))
        {
            let command =
                command.replace("{dtype}", class.dtype()).replace("{threads}", &threads.to_string());
            match Peer::start(&command) {
                Ok(peer) => peers.of.push((name.to_string(), RefCell::new(peer))),
                Err(why) => _ = peers.cannot.insert(name.to_string(), why.into()),
            }
        }
        peers
    }

    /// All of them measuring `what`, under their names followed by `suffix`.
    pub fn runs<'a>(&'a self, what: &'a str, suffix: &str) -> Vec<Run<'a>> {
        self.of.iter().map(|(name, peer)| measured(format!("{name}{suffix}"), peer, what)).collect()
    }

    /// PyTorch's answer to a line; `None` where it is not there.
    pub fn ask_pytorch(&self, what: &str) -> Option<String> {
        self.pytorch().map(|peer| peer.borrow_mut().ask(what))
    }

    /// PyTorch alone measuring `what`, where it is there.
    pub fn pytorch_run<'a>(&'a self, name: &str, what: &'a str) -> Option<Run<'a>> {
        self.pytorch().map(|peer| measured(name.to_string(), peer, what))
    }

    fn pytorch(&self) -> Option<&RefCell<Peer>> {
        self.of.iter().find(|(name, _)| name == PYTORCH).map(|(_, peer)| peer)
    }

    /// How many times as fast as each peer the run called `ours` is.
    pub fn speed_over(&self, samples: &Samples, ours: &str, suffix: &str) -> Value {
        let over = |name: &String| samples.ratio(&format!("{name}{suffix}"), ours, 1.0);
        self.of.iter().map(|(name, _)| (name.clone(), over(name))).collect::<Map<_, _>>().into()
    }
}

fn measured<'a>(name: String, peer: &'a RefCell<Peer>, what: &'a str) -> Run<'a> {
    run(name.clone(), move || {
        let answer = peer.borrow_mut().ask(what);
        answer.parse().unwrap_or_else(|_| panic!("{name} answers {what} with seconds, not {answer:?}"))
    })
}
