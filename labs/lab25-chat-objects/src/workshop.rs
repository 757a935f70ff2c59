//! A hidden role: a server whose object does what the chat never should. The experiments start it.

use std::{
    io::{Read, stdin},
    net::{Ipv4Addr, SocketAddr},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::Result;
use remoc::{
    codec,
    rtc::{CallError, ServerShared, async_trait, remote},
};
use serde::{Deserialize, Serialize};
use shared::{At, Screen};
use socket2::{Domain, Socket, Type};
use tokio::{sync::watch, time::timeout};

use crate::{connection::offer, objects::ChatError};

/// How long a call of `meet` waits for the others.
const MEETING: Duration = Duration::from_secs(5);

/// Whoever has this object can ask in which process it runs.
#[remote]
pub trait Place {
    async fn process(&self) -> Result<u32, CallError>;
}

/// The object: a value that can be sent, or stay where it is and be called.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Here;

#[async_trait]
impl Place for Here {
    async fn process(&self) -> Result<u32, CallError> {
        Ok(process::id())
    }
}

/// Lives in the workshop's process.
#[remote]
pub trait Workshop {
    /// Calls the same method of two objects; returns the processes in which it ran.
    async fn ask_both(&self, reference: PlaceClient, copy: Here) -> Result<(u32, u32), CallError>;
    /// Returns once so many calls are inside at the same time, or one has waited in vain; how many were inside.
    async fn meet(&self, all: usize) -> Result<usize, CallError>;
    /// How many calls of `meet` are inside.
    async fn inside(&self) -> Result<usize, CallError>;
    /// Refuses, with a value.
    async fn refuse(&self) -> Result<(), ChatError>;
    /// Has a bug.
    async fn fail(&self) -> Result<(), ChatError>;
}

struct Bench {
    inside: watch::Sender<usize>,
    /// A call has waited in vain: no other waits any more.
    in_vain: AtomicBool,
}

#[async_trait]
impl Workshop for Bench {
    async fn ask_both(&self, reference: PlaceClient, copy: Here) -> Result<(u32, u32), CallError> {
        Ok((reference.process().await?, copy.process().await?))
    }

    async fn meet(&self, all: usize) -> Result<usize, CallError> {
        self.inside.send_modify(|inside| *inside += 1);
        let mut seen = self.inside.subscribe();
        let together = timeout(MEETING, seen.wait_for(|inside| *inside >= all));
        if self.in_vain.load(SeqCst) || together.await.is_err() {
            self.in_vain.store(true, SeqCst);
            let inside = *self.inside.borrow();
            self.inside.send_modify(|inside| *inside -= 1);
            return Ok(inside);
        }
        Ok(all)
    }

    async fn inside(&self) -> Result<usize, CallError> {
        Ok(*self.inside.borrow())
    }

    async fn refuse(&self) -> Result<(), ChatError> {
        Err(ChatError::NameTaken { name: "ann".into(), users: 3 })
    }

    async fn fail(&self) -> Result<(), ChatError> {
        panic!("no user 42"); // what the caller learns of it is the experiment
    }
}

/// Serves one client on a port of the kernel's choice, until its standard input ends.
pub fn run() -> Result<()> {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload().downcast_ref::<&str>().copied().unwrap_or_default();
        let line = panic.location().map(|place| place.line()).unwrap_or_default();
        Screen::new().line(format_args!("panic in process {}, line {line}: {text}", process::id()));
    }));
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(1).at("listen", any_port)?;
    let addr = listen_sock.local_addr().at("getsockname", any_port)?.as_socket();
    Screen::new().line(format_args!("workshop at {}", addr.map(|addr| addr.to_string()).unwrap_or_default()));

    let (conn_sock, _) = listen_sock.accept().at("accept", any_port)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let serving = runtime.spawn(async move {
        let bench = Arc::new(Bench { inside: watch::Sender::new(0), in_vain: AtomicBool::new(false) });
        let (server, workshop) = WorkshopServerShared::<_, codec::Default>::new(bench, 1);
        offer::<WorkshopClient>(conn_sock, workshop, None).await?;
        server.serve(true).await?;
        anyhow::Ok(())
    });
    let _ = stdin().read_to_end(&mut Vec::new()); // its owner closes it
    serving.abort();
    Ok(())
}
