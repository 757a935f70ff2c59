//! The same questions to RabbitMQ, over AMQP 0-9-1: `LAB27_BROKER=rabbitmq`. It is started by the checkout's script.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Command, id},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::{Patience, State, need::Need, tcp_sockets, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use shared::{At, Predicts, Role, Stage, Verdict};

use super::{LIMIT, brokers::rabbitmq_wanted};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/broker.sh");
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// RabbitMQ needs about 4 seconds to start on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How often to look; the class is told in each hundredth look that it still starts.
const LOOK: Duration = Duration::from_millis(100);
/// From the port of MQTT to that of AMQP, in the script.
const APART: u16 = 5672 - 1883;
/// Ports below those that the kernel gives to others: so many, from here on.
const FIRST_PORT: u16 = 10_000;
const PORT_COUNT: u16 = 5000;
/// Each line it reads starts the broker. At the end of its input, also if the demo was killed, it stops the broker. A
/// session of its own: Ctrl-C reaches the demo alone.
const KEEPER: &str = "export TMPDIR=$(mktemp -d); while read -r; do \"$0\" rabbitmq start \"$1\" || echo failed; done
    \"$0\" rabbitmq stop; rmdir \"$TMPDIR\"";
/// Texts for the broker that is killed.
const LETTERS: usize = 10;
/// The text behind the last one.
const END: &str = "end";

/// Whoever asks for RabbitMQ has it.
pub const QUEUES: Need = Need {
    what: "rabbitmq-server and this checkout's scripts/broker.sh",
    provided_by: "apt-get install rabbitmq-server",
    met: || !rabbitmq_wanted() || Path::new(SERVER).exists() && Path::new(SCRIPT).exists(),
};

/// A running RabbitMQ; stopped when dropped, and its data removed.
struct Rabbit {
    keeper: Role,
    /// The process of the broker itself.
    pid: Pid,
    addr: SocketAddr,
}

impl Rabbit {
    fn start(stage: &mut Stage) -> Result<Rabbit> {
        stage.say("broker", format_args!("RabbitMQ starts, within {START_LIMIT:?}"));
        let port = free_port().context("no port is free for it")?;
        let mut command = Command::new("setsid");
        let keeper = Role::spawn(command.args(["bash", "-c", KEEPER, SCRIPT, &port.to_string()]))?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port + APART));
        let mut rabbit = Rabbit { keeper, pid: Pid::this(), addr };
        rabbit.up(stage)?;
        stage.say("broker", format_args!("RabbitMQ, process {}, is at {addr}", rabbit.pid));
        Ok(rabbit)
    }

    fn up(&mut self, stage: &mut Stage) -> Result<()> {
        self.keeper.type_line("")?;
        let (mut patience, mut looks) = (Patience::new(START_LIMIT), 0);
        while let Err(error) = self.keeper.wait_for_within("rabbitmq is up: process ", LOOK) {
            ensure!(!patience.is_over(), error);
            ensure!(
                !self.keeper.printed().contains("failed\n"),
                "scripts/broker.sh could not start RabbitMQ: see above"
            );
            looks += 1;
            if looks % 100 == 0 {
                stage.say("broker", "still starts");
            }
        }
        self.pid = Pid::from_raw(self.keeper.wait_for(",")?.parse().context("no process id")?);
        Ok(())
    }

    /// kill -9, and the same broker with the same folder again.
    fn killed_and_started_again(&mut self, stage: &mut Stage) -> Result<()> {
        stage.say("kill", format_args!("kill -9 {}  the broker", self.pid));
        kill(self.pid, Signal::SIGKILL).at("kill", self.pid)?;
        let ports = [self.addr.port(), self.addr.port() - APART];
        wait_until("the broker's end", LIMIT, || {
            for port in ports {
                if tcp_sockets(port)?.iter().any(|row| row.state == State::Listen) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })?;
        self.up(stage)?;
        stage.say("broker", format_args!("started again: process {}", self.pid));
        Ok(())
    }

    /// Puts texts into the queue; each one had the broker's ack.
    fn put(&self, stage: &mut Stage, label: &str, texts: &[&str]) -> Result<()> {
        self.put_into(stage, label, "jobs", texts)
    }

    fn put_into(&self, stage: &mut Stage, label: &str, queue: &str, texts: &[&str]) -> Result<()> {
        let addr = self.addr.to_string();
        let mut role = Role::start(&[&["queue", "put", "--queue", queue], texts, &["--broker", &addr]].concat())?;
        for text in texts {
            role.wait_for(&format!("ack      {text}\n"))?;
        }
        role.wait_for_end()?;
        if let [first, .., last] = texts {
            stage.say(label, format_args!("queue put x{}, \"{first}\" to \"{last}\": {0} acks", texts.len()));
        }
        Ok(())
    }

    /// A taker, with the first task in its hand.
    fn take(&self) -> Result<Role> {
        let mut role = Role::start(&["queue", "take", "--broker", &self.addr.to_string()])?;
        role.wait_for("Ctrl-C ends\n")?;
        Ok(role)
    }

    /// Takes and acknowledges all tasks up to the last one, which is put in first.
    fn take_all(&self, stage: &mut Stage) -> Result<Vec<String>> {
        self.put(stage, "", &[END])?;
        let mut taker = self.take()?;
        let mut got = Vec::new();
        while taker.wait_for("takes    ").is_ok() {
            let task = taker.wait_for("\n")?;
            taker.type_line("")?;
            taker.wait_for("acks     ")?;
            if task == END {
                break;
            }
            got.push(task);
        }
        Ok(got)
    }
}

/// Where RabbitMQ can listen for MQTT, and for AMQP.
fn free_port() -> Option<u16> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok(); // closed again at once
    let from = (id() * 613 % u32::from(PORT_COUNT)) as u16; // demos that start together look far apart
    let mut ports = (from..PORT_COUNT).chain(0..from).map(|port| FIRST_PORT + port);
    ports.find(|port| is_free(port) && is_free(&(port + APART)))
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        self.keeper.input = None; // the keeper stops the broker
        for _ in 0..6 {
            if self.keeper.wait_for_end().is_ok() {
                return;
            }
        }
    }
}

pub fn worker_killed(stage: &mut Stage) -> Result<Verdict> {
    let rabbit = Rabbit::start(stage)?;
    rabbit.put(stage, "boss", &["pay 100 euros", "sweep"])?;
    let mut first = rabbit.take()?;
    first.wait_for("takes    pay 100 euros\n")?;
    stage.say("worker A", "queue take: \"pay 100 euros\", and begins to pay");
    stage.say("kill", format_args!("kill -9 {}  worker A, before it acknowledges the task", first.pid()));
    drop(first); // kill -9, and it is waited for

    let (again, other) = ("pay 100 euros  (redelivered)".to_string(), "sweep".to_string());
    let question = stage.ask(
        "Worker B takes from the same queue, and acknowledges what it does. Which tasks does B get?",
        [
            ("\"sweep\": the other one was handed out", vec![other.clone()]),
            ("\"pay 100 euros\" again, then \"sweep\"", vec![again.clone(), other.clone()]),
            ("\"sweep\", then \"pay 100 euros\" again", vec![other.clone(), again.clone()]),
            ("no task: two were handed to A", vec![]),
        ],
        Predicts { source: None, kit: vec![again, other] },
    )?;
    let got = rabbit.take_all(stage)?;
    for task in &got {
        stage.say("worker B", format_args!("takes, does and acknowledges \"{task}\""));
    }
    stage.verdict(question, got, "no ack, so the task goes back to its place in the queue, marked as redelivered")
}

pub fn broker_killed(stage: &mut Stage) -> Result<Verdict> {
    let mut rabbit = Rabbit::start(stage)?;
    let letters: Vec<String> = (1..=LETTERS).map(|number| format!("letter {number}")).collect();
    rabbit.put(stage, "bob", &letters.iter().map(String::as_str).collect::<Vec<_>>())?;
    // RabbitMQ writes that a queue is there in two steps, and the second one may wait up to two seconds in its memory. The
    // next queue takes it to the disk: README.md, Why.
    rabbit.put_into(stage, "", "others", &["hello"])?;
    stage.say("bob", "queue put into another queue: 1 ack");

    let question = stage.ask(
        "The broker is killed with kill -9 and started again as before. Somebody takes from the first queue. How many of the ten letters are there?",
        [
            ("ten: each one was acknowledged", LETTERS),
            ("nine: the last one was on its way", LETTERS - 1),
            ("zero: they were in its memory", 0),
        ],
        Predicts { source: Some(LETTERS), kit: LETTERS },
    )?;
    rabbit.killed_and_started_again(stage)?;
    let got = rabbit.take_all(stage)?;
    stage.say("counted", format_args!("{} of {LETTERS} letters", got.len()));
    stage.verdict(question, got.len(), "persistent messages in a durable queue: on its disk before the ack")
}
