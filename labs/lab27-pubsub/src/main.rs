//! Publish and subscribe through a broker: what arrives when the other side is off-line?
//!
//! Terminal 1:     cargo run -p lab27-pubsub -- broker                         rumqttd, embedded
//!            or:  scripts/broker.sh mosquitto start                           an installed one
//! Terminal 2:     cargo run -p lab27-pubsub -- subscribe letters --session ann
//! Terminal 3:     cargo run -p lab27-pubsub -- publish letters 'Dear Ann'
//! A queue:        cargo run -p lab27-pubsub -- worker                         Enter confirms a task
//!                 cargo run -p lab27-pubsub -- task 'wash up' 'sweep'
//! In RabbitMQ:    scripts/broker.sh rabbitmq start                            AMQP 0-9-1
//!                 cargo run -p lab27-pubsub -- queue take                     Enter acknowledges a task
//!                 cargo run -p lab27-pubsub -- queue put 'wash up' 'sweep'
//! MQTT 5:         scripts/broker.sh mosquitto start                           the embedded one speaks MQTT 3.1.1
//!                 cargo run -p lab27-pubsub -- publish news rain --mqtt5      is anybody there?
//! The board:      cargo run -p lab27-pubsub -- board --publish 'Hello world!'
//!                 cargo run -p lab27-pubsub -- board
//! Watch:          scripts/states.sh 1883 --watch
//! Experiments:    cargo run -p lab27-pubsub
//!                 LAB27_BROKER=mosquitto cargo run -p lab27-pubsub            the same on an installed mosquitto
//!                 LAB27_BROKER=rabbitmq cargo run -p lab27-pubsub             worker-killed, broker-killed in RabbitMQ
//!
//! Compare with lab22-mboard-live (a server that notifies its clients itself) and lab05-multicast (no broker, but both
//! ends on-line).
//! Source: notes ch.6, Indirect communication; Tables 6.1 and 6.2; Publish-subscribe systems; Message queues.
//! Read: MQTT 3.1.1 (OASIS) 3.1.2.4 Clean Session, 3.3.1.3 RETAIN, 4.1 Storing state, 4.3 Quality of Service;
//! MQTT 5.0 (OASIS) 3.1.2.11.2 Session Expiry Interval, 3.4.2.1 PUBACK Reason Code;
//! AMQP 0-9-1, 1.8.3 The Basic Class; RabbitMQ: Consumer Acknowledgements and Publisher Confirms.

mod board;
mod broker;
mod experiments;
mod mqtt;
mod mqtt5;
mod on_hosts;
mod publish;
mod queue;
mod subscribe;
mod tell;
mod work;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, value_parser};
use shared::{DemoArgs, SheetArgs, address, destination};

const LAB: &str = env!("CARGO_PKG_NAME");
/// The port that IANA has given to MQTT.
const BROKER: &str = "127.0.0.1:1883";
/// The port that IANA has given to AMQP.
const AMQP: &str = "127.0.0.1:5672";
const EXAMPLES: &str = "\
Examples:
  lab27-pubsub                                     play all experiments
  lab27-pubsub demo worker-killed --pause          one, for the projector
  lab27-pubsub broker                              terminal 1: 127.0.0.1:1883
  lab27-pubsub subscribe letters                   terminal 2: until Ctrl-C
  lab27-pubsub subscribe 'home/+/light' 'board/#'  one level, and all below
  lab27-pubsub subscribe letters --session ann     the broker remembers ann
  lab27-pubsub publish letters 'Dear Ann'          terminal 3
  lab27-pubsub publish letters - < FILE            each line is a message
  lab27-pubsub publish state on --retain           kept for whoever comes later
  lab27-pubsub publish news rain --mqtt5           not by the embedded broker
  lab27-pubsub worker                              takes tasks; Enter confirms
  lab27-pubsub task 'wash up' 'sweep'              puts two into the queue
  lab27-pubsub queue take                          the same from RabbitMQ
  lab27-pubsub queue put 'wash up' 'sweep'         into a durable queue of it
  lab27-pubsub board --publish 'Hello world!'      the message board as topics
  lab27-pubsub tell 127.0.0.1:7777 Hello           the same without a broker

--broker ADDRESS:PORT takes any MQTT 3.1.1 broker instead of 127.0.0.1:1883.
--mqtt5 needs one that speaks MQTT 5: scripts/broker.sh mosquitto start";

#[derive(Parser)]
#[command(version, about = "Publish and subscribe through a broker (MQTT)", after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true)] // an experiment's name plays it, as after demo
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: DemoArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Play the experiments (also without any argument)
    Demo(DemoArgs),
    /// Print the sheet of this lab
    Sheet(SheetArgs),
    /// Terminal 1: a broker inside this program; what it holds is in its memory
    Broker(BrokerArgs),
    /// Publish a text, or each line of standard input
    Publish(PublishArgs),
    /// Show what is published, until Ctrl-C
    Subscribe(SubscribeArgs),
    /// The message board as topics: publish, or read on until Ctrl-C
    Board(BoardArgs),
    /// Put tasks into a queue
    Task(TaskArgs),
    /// Take tasks from a queue; Enter confirms one
    Worker(WorkerArgs),
    /// A queue in RabbitMQ (AMQP 0-9-1): put tasks in, or take them out
    #[command(subcommand)]
    Queue(Queue),
    /// The same without a broker: a TCP connection to whoever is on-line
    Tell(TellArgs),
    #[command(hide = true)]
    OnHosts { outside: String },
}

#[derive(Args)]
struct BrokerArgs {
    /// PORT, ADDRESS or ADDRESS:PORT to listen on; port 0 lets the kernel choose
    #[arg(default_value = BROKER, hide_default_value = false, value_parser = address(BROKER))]
    address: SocketAddr,
    /// Wait for Enter before each step
    #[arg(long)]
    pause: bool,
}

/// What every client of a broker has.
#[derive(Args)]
struct ClientArgs {
    /// PORT, ADDRESS, NAME or ADDRESS:PORT of the broker
    #[arg(long = "broker", value_name = "ADDRESS", default_value = BROKER, value_parser = destination(BROKER))]
    address: SocketAddr,
    /// Wait for Enter before each step
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct PublishArgs {
    /// A topic, such as letters or home/kitchen/light
    #[arg(value_parser = mqtt::topic)]
    topic: String,
    /// The text; - publishes each line of standard input
    text: String,
    /// 0: at most once, 1: at least once, 2: exactly once
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u8).range(0..=2))]
    qos: u8,
    /// The broker keeps it for whoever subscribes later, until the next one
    #[arg(long)]
    retain: bool,
    /// MQTT 5: the answer has a reason
    #[arg(long)]
    mqtt5: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct SubscribeArgs {
    /// Topics; + is any one level, # all that follow
    #[arg(required = true, value_name = "TOPIC", value_parser = mqtt::filter)]
    topics: Vec<String>,
    /// The broker keeps messages for this name while it is off-line
    #[arg(long, value_name = "NAME", value_parser = mqtt::name)]
    session: Option<String>,
    /// MQTT 5: a session may have an end
    #[arg(long)]
    mqtt5: bool,
    /// The broker forgets the session so long after its owner has left
    #[arg(long, value_name = "SECONDS", requires_all = ["mqtt5", "session"])]
    expires: Option<u32>,
    /// 0: at most once, 1: at least once, 2: exactly once
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u8).range(0..=2))]
    qos: u8,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct BoardArgs {
    /// PORT, ADDRESS, NAME or ADDRESS:PORT of the broker
    #[arg(default_value = BROKER, value_parser = destination(BROKER))]
    address: SocketAddr,
    /// Put this text on the board
    #[arg(long, value_name = "TEXT")]
    publish: Option<String>,
    /// Wait for Enter before each step
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct TaskArgs {
    /// The tasks
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
    /// The queue
    #[arg(long, value_name = "NAME", default_value = "jobs", value_parser = mqtt::name)]
    queue: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct WorkerArgs {
    /// The queue; a second worker takes it over
    #[arg(long, value_name = "NAME", default_value = "jobs", value_parser = mqtt::name)]
    queue: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Subcommand)]
enum Queue {
    /// Put tasks into a durable queue
    Put(PutArgs),
    /// Take tasks from it; Enter acknowledges one
    Take(AmqpArgs),
}

#[derive(Args)]
struct PutArgs {
    /// The tasks
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
    #[command(flatten)]
    amqp: AmqpArgs,
}

/// What every client of RabbitMQ has.
#[derive(Args)]
struct AmqpArgs {
    /// The queue; takers share it
    #[arg(long, value_name = "NAME", default_value = "jobs", value_parser = mqtt::name)]
    queue: String,
    /// PORT, ADDRESS, NAME or ADDRESS:PORT of the broker
    #[arg(long = "broker", value_name = "ADDRESS", default_value = AMQP, value_parser = destination(AMQP))]
    address: SocketAddr,
    /// Wait for Enter before each step
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct TellArgs {
    /// PORT, ADDRESS, NAME or ADDRESS:PORT of the receiver
    #[arg(value_parser = destination("127.0.0.1:7777"))]
    address: SocketAddr,
    /// The text
    text: String,
    /// While nobody listens, try again until Ctrl-C
    #[arg(long)]
    again: bool,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

fn main() -> ExitCode {
    let cli: Cli = shared::parse(&experiments::LESSON);
    shared::run(LAB, || dispatch(&cli))
}

fn dispatch(cli: &Cli) -> Result<ExitCode> {
    let done = match &cli.command {
        None => return shared::play(&experiments::LESSON, &cli.demo),
        Some(Command::Demo(args)) => return shared::play(&experiments::LESSON, args),
        Some(Command::Sheet(args)) => return shared::sheet(include_str!("../README.md"), args),
        Some(Command::Broker(args)) => broker::run(args),
        Some(Command::Publish(args)) => publish::run(args),
        Some(Command::Subscribe(args)) => subscribe::run(args),
        Some(Command::Board(args)) => board::run(args),
        Some(Command::Task(args)) => work::task(args),
        Some(Command::Worker(args)) => work::worker(args),
        Some(Command::Queue(Queue::Put(args))) => queue::put(args),
        Some(Command::Queue(Queue::Take(args))) => queue::take(args),
        Some(Command::Tell(args)) => tell::run(args),
        Some(Command::OnHosts { outside }) => on_hosts::run(outside),
    };
    match done {
        Err(error) if error.is::<mqtt::Stopped>() => Ok(ExitCode::SUCCESS), // Ctrl-C
        done => done.map(|()| ExitCode::SUCCESS),
    }
}
