//! A client in a process of its own: what it says, line by line, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{DEADLINE, until};

type Lines = Arc<Mutex<Vec<String>>>;

pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    out: Lines,
    err: Lines,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Program {
    pub fn start(command: &mut Command) -> Program {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (out, reads_out) = collect(child.stdout.take().unwrap());
        let (err, reads_err) = collect(child.stderr.take().unwrap());
        Program { stdin: child.stdin.take(), child, out, err, readers: vec![reads_out, reads_err] }
    }

    /// The lines on its standard output so far.
    pub fn out(&self) -> Vec<String> {
        self.out.lock().unwrap().clone()
    }

    pub fn err(&self) -> String {
        self.err.lock().unwrap().join("\n")
    }

    pub fn type_line(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("its input is open"), "{line}").unwrap();
    }

    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    pub async fn until_lines(&self, count: usize) {
        until(&format!("{count} lines"), async || self.out.lock().unwrap().len() >= count || self.has_failed()).await;
        assert!(self.out().len() >= count, "it ended early: {}", self.err());
    }

    pub async fn until_err(&self, text: &str) {
        until(text, async || self.err().contains(text)).await;
    }

    fn has_failed(&self) -> bool {
        self.readers.iter().all(|reader| reader.is_finished())
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Its exit code, once it has ended and all is read.
    pub async fn end(&mut self) -> Option<i32> {
        self.end_input();
        let deadline = Instant::now() + 2 * DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.readers.drain(..).for_each(|reader| reader.join().unwrap());
                return status.code();
            }
            let (lines, err) = (self.out().len(), self.err());
            assert!(Instant::now() < deadline, "it does not end; {lines} lines, and: {err}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(from: impl Read + Send + 'static) -> (Lines, std::thread::JoinHandle<()>) {
    let lines = Lines::default();
    let into = lines.clone();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            into.lock().unwrap().push(line);
        }
    });
    (lines, reader)
}
