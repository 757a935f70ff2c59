//! Terminal 2, Figure 4.5: clients that want a service at once. Who gets it keeps the server busy for a while.

use std::{
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::socket::{MsgFlags, recv},
};
use shared::{Screen, Stop};

use crate::{
    ConnectionsArgs,
    serve::errno,
    simulator::{self, Client, End, Phase},
};

/// The lecture's DEFAULT_RECV_BUFSIZE.
const RECV_BYTES: usize = 1;

pub fn run(args: &ConnectionsArgs) -> Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let mut screen = Screen::new();
    let [timeout, stay] = [args.timeout, args.stay].map(|time| time.div_f64(args.simulator.speed));
    let (clients, addr) = (args.simulator.clients, args.simulator.address);
    screen.line("(MainThread) INFO Application start");
    screen.line(format_args!("(MainThread) INFO {clients} clients will connect to {addr} ..."));
    screen.line(format_args!("(MainThread) DEBUG Connection timeout {} sec", two_decimals(timeout)));
    screen.line(format_args!("(MainThread) DEBUG Stay connected for {} sec", two_decimals(stay)));
    simulator::run(&args.simulator, &stop, |client| connect_to_server(client, addr, timeout, stay))?;
    Ok(ExitCode::SUCCESS)
}

/// Seconds as people write them: 5, 1.25, 0.33.
pub fn two_decimals(time: Duration) -> f64 {
    (time.as_secs_f64() * 100.0).round() / 100.0
}

/// One client. Its patience counts for each call by itself, as the lecture's settimeout: first connect, then recv.
pub fn connect_to_server(
    client: &mut Client,
    server_addr: SocketAddr,
    timeout: Duration,
    stay: Duration,
) -> Result<(), End> {
    let sock = client.connect(server_addr, timeout)?;
    client.say("INFO", "Connected, waiting for service ...");

    client.wait(sock.as_fd(), PollFlags::POLLIN, timeout)?;
    match recv(sock.as_raw_fd(), &mut [0; RECV_BYTES], MsgFlags::MSG_DONTWAIT) {
        Ok(0) => return Err(End::Closed),
        Ok(_) => {}
        Err(errno) => return Err(End::Failed("recv", errno)),
    }
    client.begins(Phase::Served);
    client.say("INFO", format_args!("Service available! Keeping it busy for {} sec ...", two_decimals(stay)));
    client.stay(stay)?;
    client.say("INFO", "Finished using a service ...");
    match sock.shutdown(Shutdown::Write).map_err(errno) {
        Ok(()) => Ok(()), // close(2) follows, where the socket is dropped
        Err(Errno::ENOTCONN) => Err(End::Closed),
        Err(errno) => Err(End::Failed("shutdown", errno)),
    }
}
