//! Terminal 2: the lecture's client. It makes a proxy, calls publish, last and get, and knows of no socket.

use std::{
    io::{pipe, stdin},
    os::fd::AsFd,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use dxr::Value;
use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::read,
};
use shared::{At, Pause, Screen, Stop, escaped};

use crate::{
    ClientArgs,
    marshal::text_value,
    proxy::{Failure, Proxy},
    registration::lookup,
    service::{shown, text},
};

/// Bytes asked of one read.
const CHUNK: usize = 65_536;
/// Longer than anybody waits: no limit at all.
const FOREVER: Duration = Duration::from_secs(1 << 40);

/// Publishes, reads, or both, as the arguments say. Any error ends the client: the lecture's policy.
pub fn run(args: &ClientArgs) -> Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let pause = Pause::new(args.pause, &stop);
    let limit = if args.timeout == 0 { FOREVER } else { Duration::from_secs(args.timeout.into()) };
    let mut caller = Caller { stop: &stop, limit, pause, screen: Screen::new() };
    let message = match args.publish.as_deref() {
        Some("-") => match caller.standard_input()? {
            Some(message) => Some(message),
            None => return Ok(ExitCode::SUCCESS),
        },
        text => text.map(|text| text.as_bytes().to_vec()),
    };
    caller.calls(args, message).map(|_| ExitCode::SUCCESS)
}

struct Caller<'a> {
    stop: &'a Stop,
    /// For one call. Not the library's: its recv would fail after Ctrl-Z and fg, see signal(7).
    limit: Duration,
    pause: Pause<'a>,
    screen: Screen,
}

impl Caller<'_> {
    /// All calls; `None` after Ctrl-C.
    fn calls(&mut self, args: &ClientArgs, message: Option<Vec<u8>>) -> Result<Option<()>> {
        let addr = match args.name.clone() {
            None => args.address,
            Some(name) => {
                let names = Proxy::new(args.names, None);
                let told = format!("lookup(\"{name}\")");
                let Some(found) = self.beside(&told, move || lookup(&names, &name))? else { return Ok(None) };
                found.map_err(Failure::into_error).with_context(|| format!("ask the name server {}", args.names))?
            }
        };
        let proxy = Arc::new(Proxy::new(addr, None));
        let mut call = |name: &'static str, params: Vec<Value>| -> Result<Option<Value>> {
            let (proxy, told) = (Arc::clone(&proxy), format!("{name}({})", shown(&params)));
            let Some(result) = self.beside(&told, move || proxy.call(name, params))? else { return Ok(None) };
            match result {
                Ok(value) => Ok(Some(value)),
                Err(Failure::Connect(error, _)) => Err(error), // it names the address
                Err(failure) => Err(failure.into_error()).with_context(|| format!("{name} at {addr}")),
            }
        };
        let (mut lines, mut screen) = (Vec::new(), Screen::new());
        if args.methods {
            let Some(names) = call("system.listMethods", vec![])? else { return Ok(None) };
            for name in array(names)? {
                let Some(help) = call("system.methodHelp", vec![name.clone()])? else { return Ok(None) };
                let (name, help) = ([name], [help]);
                lines.push(format!("{}: {}", text_of(&name), text_of(&help)));
            }
        }
        if args.slow {
            screen.line("slow() returns once Enter is pressed at the server");
            let Some(_) = call("slow", vec![])? else { return Ok(None) };
            lines.push("slow() has returned".into());
        }
        if let Some(message) = &message {
            let Some(id) = call("publish", vec![text_value(message)])? else { return Ok(None) };
            lines.push(format!("Message published: id {}", shown(&[id]).trim_matches('"')));
        }
        if args.last.is_some() || (message.is_none() && !args.methods && !args.slow) {
            let count = i32::try_from(args.last.unwrap_or(0))?;
            let Some(ids) = call("last", vec![Value::Integer(count)])? else { return Ok(None) };
            let ids = array(ids)?;
            if ids.is_empty() {
                lines.push("The board has no messages".into());
            }
            for id in ids {
                let Some(message) = call("get", vec![id.clone()])? else { return Ok(None) };
                lines.push(line(&id, &array(message)?));
            }
        }
        for line in lines {
            self.screen.line(line);
        }
        Ok(Some(()))
    }

    /// Runs a call in a thread, as no signal interrupts the stub; `None` after Ctrl-C.
    fn beside<T: Send + 'static>(&mut self, call: &str, run: impl FnOnce() -> T + Send + 'static) -> Result<Option<T>> {
        self.pause.before(&mut self.screen, format_args!("{call}: connect, send and recv are in the stub"));
        let (done, held) = pipe().at("pipe", "")?;
        let running = thread::Builder::new().spawn(move || {
            let result = run();
            drop(held); // the reader sees the end
            result
        });
        let running = running.context("cannot start a thread; see the limit: ulimit -u")?;
        let mut patience = Patience::new(self.limit);
        loop {
            let mut fds =
                [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN), PollFd::new(done.as_fd(), PollFlags::POLLIN)];
            let woken = poll(&mut fds, PollTimeout::try_from(patience.step()).unwrap_or(PollTimeout::ZERO));
            if self.stop.requested() {
                return Ok(None); // the process ends, and the kernel closes its sockets
            }
            if woken.is_ok() && fds[1].any() == Some(true) {
                return running.join().map(Some).map_err(|_| anyhow::anyhow!("the stub's thread ended badly"));
            }
            ensure!(!patience.is_over(), "{call}: no answer in {:?}; nobody knows whether it was done", self.limit);
        }
    }

    /// Standard input, to its end; `None` after Ctrl-C.
    fn standard_input(&mut self) -> Result<Option<Vec<u8>>> {
        let (input, mut message, mut buffer) = (stdin(), Vec::new(), vec![0; CHUNK]);
        loop {
            let mut fds = [self.stop.as_fd(), input.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            if poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {
                continue;
            }
            if self.stop.requested() {
                return Ok(None);
            }
            match read(&input, &mut buffer) {
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(0) => return Ok(Some(message)),
                bytes_read => message.extend(&buffer[..bytes_read.at("read", "standard input")?]),
            }
        }
    }
}

fn array(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(values) => Ok(values),
        _ => anyhow::bail!("the answer is no array"),
    }
}

fn text_of(value: &[Value]) -> String {
    text(value, 0).map_or_else(|_| shown(value), |text| escaped(text.as_bytes()))
}

/// `7  1792512345.12  127.0.0.1:40000  Hello world!`
fn line(id: &Value, message: &[Value]) -> String {
    let (id, id_text) = (std::slice::from_ref(id), |id: &[Value]| text_of(id));
    let author = match message.get(1..3) {
        Some([Value::String(ip), Value::Integer(port)]) if *port >= 0 => format!("{}:{port}", escaped(ip.as_bytes())),
        _ => "(' ', -1)".into(), // whoever published told no address
    };
    let time = message.first().map_or_else(String::new, |time| shown(std::slice::from_ref(time)));
    let text = match message.get(3) {
        Some(Value::String(text)) => escaped(text.as_bytes()),
        Some(Value::Base64(bytes)) => escaped(bytes),
        _ => "?".into(),
    };
    format!("{}  {time}  {author}  {text}", id_text(id))
}
