//! Other programs that are measured in turns with this one; see tools/peers.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// A process that measures another program: one line in, one line out.
pub struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts `command` and waits until it is ready.
    pub fn start(command: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the peer's command starts");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut peer = Self { child, input, output: BufReader::new(output) };
        assert_eq!(peer.line(), "ready", "the peer says when it is ready");
        peer
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line from the peer");
        line.trim().to_string()
    }

    /// Its answer to a line.
    pub fn ask(&mut self, what: &str) -> String {
        writeln!(self.input, "{what}").expect("the peer listens");
        self.line()
    }

    /// Its answer in seconds.
    pub fn measure(&mut self, what: &str) -> f64 {
        self.ask(what).parse().expect("seconds")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It only waits for input: nothing is lost.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
