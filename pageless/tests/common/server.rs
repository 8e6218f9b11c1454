// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless serve` as a child process: started until it says `ready`, stopped politely or killed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{Scratch, eventually, ok};

/// The command line of a server that has not been started.
#[derive(Debug)]
pub(crate) struct Serve {
    args: Vec<String>,
    wrapper: Vec<String>,
    socket: Option<String>,
    tcp: bool,
    edge: &'static str,
}

impl Serve {
    /// Serves `spec`; at a unix socket of its own unless told otherwise.
    pub(crate) fn new(spec: &str) -> Serve {
        Serve { args: vec!["serve".into(), spec.into()], wrapper: Vec::new(), socket: None, tcp: false, edge: "nbd" }
    }

    /// Serves virtual machines in place of NBD clients.
    pub(crate) fn vhost_user(mut self) -> Serve {
        self.edge = "vhost-user";
        self
    }

    /// Listens on a free TCP port of the loopback address instead.
    pub(crate) fn tcp(mut self) -> Serve {
        self.tcp = true;
        self
    }

    /// Listens at this path instead.
    pub(crate) fn at(mut self, socket: &str) -> Serve {
        self.socket = Some(socket.to_owned());
        self
    }

    /// More arguments, as a user would type them.
    pub(crate) fn args(mut self, args: &[&str]) -> Serve {
        self.args.extend(args.iter().map(|a| (*a).to_owned()));
        self
    }

    /// Runs under another program that ends up *being* or executing the server with its own process id.
    pub(crate) fn under(mut self, wrapper: &[&str]) -> Serve {
        self.wrapper = wrapper.iter().map(|a| (*a).to_owned()).collect();
        self
    }

    fn command(&self, listen: &str) -> Command {
        let mut words = self.wrapper.clone();
        words.push(env!("CARGO_BIN_EXE_pageless").to_owned());
        words.extend(self.args.iter().cloned());
        words.extend([format!("--{}", self.edge), listen.to_owned()]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn listen(&self, dir: &Scratch) -> String {
        if self.tcp {
            return "tcp:127.0.0.1:0".to_owned();
        }
        let path = self.socket.clone().unwrap_or_else(|| dir.path("s"));
        if self.edge == "nbd" { format!("unix:{path}") } else { path }
    }

    /// Starts the server and waits until it accepts.
    pub(crate) fn start(self) -> Server {
        let dir = Scratch::short();
        let listen = self.listen(&dir);
        let mut child = self.command(&listen).spawn().unwrap_or_else(|e| panic!("{self:?}: {e}"));
        let output = Arc::new(Mutex::new(Vec::new()));
        let readers = vec![
            collect(child.stdout.take().expect("piped"), &output),
            collect(child.stderr.take().expect("piped"), &output),
        ];
        let mut server = Server { child, output, readers, uri: String::new(), socket: None, dir };
        let ready = eventually("the server says ready", || {
            if let Some(status) = server.child.try_wait().expect("wait for the server") {
                panic!("{self:?} ended before it was ready: {status}\n{}", server.said());
            }
            let lines = server.output.lock().expect("no panic while collecting");
            let line = lines.iter().find_map(|l| l.strip_prefix("ready ")?.strip_prefix(self.edge));
            line.map(|rest| rest.trim().to_owned())
        });
        if self.edge != "nbd" {
            server.socket = Some(ready);
        } else if let Some(path) = ready.strip_prefix("unix:") {
            server.uri = format!("nbd+unix:///?socket={path}");
            server.socket = Some(path.to_owned());
        } else {
            let address = ready.strip_prefix("tcp:").unwrap_or_else(|| panic!("ready line names an endpoint: {ready}"));
            server.uri = format!("nbd://{address}");
        }
        server
    }

    /// Starts a server that must refuse to serve; returns its exit code and what it said.
    pub(crate) fn refused(self) -> (i32, String) {
        let dir = Scratch::short();
        let listen = self.listen(&dir);
        let mut child = self.command(&listen).spawn().unwrap_or_else(|e| panic!("{self:?}: {e}"));
        let output = Arc::new(Mutex::new(Vec::new()));
        let readers = [
            collect(child.stdout.take().expect("piped"), &output),
            collect(child.stderr.take().expect("piped"), &output),
        ];
        let status = eventually("the server refuses", || {
            let lines = output.lock().expect("no panic while collecting");
            if lines.iter().any(|l: &String| l.starts_with("ready ")) {
                let _ = child.kill();
                panic!("{self:?} should have been refused and is ready");
            }
            drop(lines);
            child.try_wait().expect("wait for the server")
        });
        for reader in readers {
            reader.join().expect("the reader of a pipe ends");
        }
        let text = output.lock().expect("no panic while collecting").join("\n");
        (status.code().unwrap_or_else(|| panic!("{self:?} died of a signal: {status}\n{text}")), text)
    }
}

fn collect(pipe: impl std::io::Read + Send + 'static, into: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            into.lock().expect("no panic while collecting").push(line);
        }
    })
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    output: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    uri: String,
    socket: Option<String>,
    dir: Scratch,
}

impl Server {
    /// Serves `spec` at a unix socket of its own.
    pub(crate) fn start(spec: &str) -> Server {
        Serve::new(spec).start()
    }

    /// The NBD URI of the default export.
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// The path of the unix socket.
    pub(crate) fn socket(&self) -> &str {
        self.socket.as_deref().expect("a server on a unix socket")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far.
    pub(crate) fn said(&self) -> String {
        self.output.lock().expect("no panic while collecting").join("\n")
    }

    pub(crate) fn alive(&mut self) -> bool {
        self.child.try_wait().expect("wait for the server").is_none()
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server runs");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// How many files it has open.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server runs").count()
    }

    /// Sends SIGTERM without waiting.
    pub(crate) fn terminate(&self) {
        ok("kill", &["-TERM", &self.pid().to_string()]);
    }

    /// Waits for the process to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("the server ends", || self.child.try_wait().expect("wait for the server"))
    }

    /// Stops it as a service manager would: exit code 0, and the socket is gone.
    pub(crate) fn stop(self) {
        self.stop_and_say();
    }

    /// As [`stop`](Self::stop); returns everything it has printed.
    pub(crate) fn stop_and_say(mut self) -> String {
        self.terminate();
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{status} after SIGTERM\n{}", self.said());
        if let Some(socket) = &self.socket {
            assert!(!fs::exists(socket).expect("stat"), "{socket} is left behind");
        }
        self.readers.drain(..).for_each(|reader| reader.join().expect("the reader of a pipe ends"));
        self.said()
    }

    /// Kills it as the out-of-memory killer would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the server runs");
        assert_eq!(self.wait().signal(), Some(9));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let said = self.said();
            let lines: Vec<&str> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(20)..];
            super::note(&format!("--- the server said last:\n{}\n---", last.join("\n")));
        }
    }
}
