//! The models, a file each. All of them begin with the same calls; then each divides the work in its own way.

mod delegation;
mod heavy_request;
mod many_clients;
mod one_client;
mod pipeline;
mod poll_loop;
mod pool;
mod prefork;
mod processes;
mod reuseport;
mod thread_per_socket;

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, ValueEnum, error::ErrorKind};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{Cli, ServerArgs, Service, log::Log, serve::Serving};

/// How a server divides the work.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Model {
    /// Figure 4.3: one client, then the end
    OneClient,
    /// Figure 4.4: one client after the other
    ManyClients,
    /// One request after the other, each with work to do
    HeavyRequest,
    /// Delegation: a new thread for each client
    ThreadPerSocket,
    /// The lecture's "pre-fork": a fixed number of threads behind a queue
    Pool,
    /// Receivers, handlers and senders, with a queue between each two groups
    Pipeline,
    /// Three managers, and a new thread for each of their tasks
    Delegation,
    /// The pipeline, with processes for handlers
    Processes,
    /// Real pre-fork: processes that share the listening socket
    Prefork,
    /// A thread and a listening socket each, on the same port (SO_REUSEPORT)
    Reuseport,
    /// One thread, and poll(2) for all clients
    PollLoop,
}

impl Model {
    /// What the lecture's program of this model offers; ours beyond the lecture offer either.
    fn service(self) -> Service {
        use Model::*;
        match self {
            HeavyRequest | Pipeline | Delegation | Processes => Service::Requests,
            OneClient | ManyClients | ThreadPerSocket | Pool | Prefork | Reuseport | PollLoop => Service::Connections,
        }
    }

    /// Whether it takes the steps of a request apart: then there must be one.
    fn only_requests(self) -> bool {
        self.service() == Service::Requests
    }
}

/// Serves until Ctrl-C, or as the model ends by itself.
pub fn run(args: &ServerArgs) -> Result<()> {
    check(args);
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let log = Log::new(args.quiet, None);
    let serving = Serving { args, service: args.service.unwrap_or(args.model.service()), stop: &stop, log: &log };
    log.line("Application started");
    let listen_sock = listening(args, &mut pause)?;
    let local_addr = listen_sock.local_addr().at("getsockname", args.address)?.as_socket().context("no IP socket")?;
    log.always(format_args!("Socket {local_addr} is in listening state"));
    log.line("Falling to serving loop, press Ctrl+C to terminate ...");
    match args.model {
        Model::OneClient => one_client::serve(listen_sock, &serving, &mut pause),
        Model::ManyClients => many_clients::serve(listen_sock, &serving, &mut pause),
        Model::HeavyRequest => heavy_request::serve(listen_sock, &serving, &mut pause),
        Model::ThreadPerSocket => thread_per_socket::serve(listen_sock, &serving, &mut pause),
        Model::Pool => pool::serve(listen_sock, &serving, &mut pause),
        Model::Pipeline => pipeline::serve(listen_sock, &serving, &mut pause),
        Model::Delegation => delegation::serve(listen_sock, &serving, &mut pause),
        Model::Processes => processes::serve(listen_sock, &serving, &mut pause),
        Model::Prefork => prefork::serve(listen_sock, &serving, &mut pause),
        Model::Reuseport => reuseport::serve(listen_sock, &serving, &mut pause),
        Model::PollLoop => poll_loop::serve(listen_sock, &serving, &mut pause),
    }?;
    if stop.requested() {
        log.line("Ctrl+C issued closing server ...");
    }
    log.line("Terminating ...");
    Ok(())
}

/// What clap cannot see: options that mean nothing to this model.
fn check(args: &ServerArgs) {
    let wrong = match args.model {
        model if model.only_requests() && args.service == Some(Service::Connections) => {
            "this model takes the steps of a request apart: without --service connections"
        }
        model if model != Model::Pool && args.panic_on.is_some() => "--panic-on is for the model pool",
        _ => return,
    };
    Cli::command().error(ErrorKind::ArgumentConflict, wrong).exit()
}

/// The four calls that every model begins with.
pub fn listening(args: &ServerArgs, pause: &mut Pause) -> Result<Socket> {
    let addr = args.address;
    let mut screen = Screen::new();
    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let listen_sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();

    // So that the port is free again at once: see lab10-timewait.
    pause.before(&mut screen, format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    listen_sock.set_reuse_address(true).at("setsockopt", addr)?;

    if args.model == Model::Reuseport {
        pause.before(&mut screen, format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEPORT, 1)"));
        listen_sock.set_reuse_port(true).at("setsockopt", addr)?; // each of them, before bind: socket(7)
    }

    pause.before(&mut screen, format_args!("bind({listen_fd}, {addr})"));
    listen_sock.bind(&addr.into()).at("bind", addr)?;

    pause.before(&mut screen, format_args!("listen({listen_fd}, {})", args.backlog));
    listen_sock.listen(args.backlog).at("listen", addr)?;
    listen_sock.set_nonblocking(true).at("fcntl", addr)?; // accept(2): between poll and accept another may be faster
    Ok(listen_sock)
}

/// What `--pause` shows before each accept of the main thread.
fn before_accept(listen_sock: &Socket, serving: &Serving, pause: &mut Pause) {
    serving.log.line("Awaiting new clients ...");
    pause.before(&mut Screen::new(), format_args!("accept({})", listen_sock.as_raw_fd()));
}

/// A thread that cannot be started: EAGAIN.
const NO_THREAD: &str = "cannot start a thread; see the limit: ulimit -u";

/// Whether a worker ended in a panic: what it held is closed, and nobody does its work any more.
fn told_of_panics<T>(workers: Vec<std::thread::ScopedJoinHandle<T>>, serving: &Serving) -> Result<()> {
    let panicked = workers.into_iter().map(|worker| worker.join()).filter(Result::is_err).count();
    if panicked > 0 && serving.args.panic_on.is_none() {
        bail!("{panicked} threads panicked");
    }
    Ok(())
}
