//! What is left when a worker, a broker, or a subscriber's attention ends.

use anyhow::Result;
use kernel::{Row, State, tcp_sockets, wait_until};
use nix::sys::signal::{Signal, kill};
use rumqttc::QoS;
use shared::{Predicts, Role, Stage, Verdict};

use super::{
    LIMIT,
    brokers::{Broker, rabbitmq_wanted, up_to},
    queue,
};
use crate::mqtt::{As, Mqtt, acknowledges};

/// Texts for the broker that is killed.
const TEXTS: usize = 10;
/// Messages to a subscriber that does not read, and their bytes.
const FLOOD: usize = 500;
const FLOOD_BYTES: usize = 500;

pub fn worker_killed(stage: &mut Stage) -> Result<Verdict> {
    if rabbitmq_wanted() {
        return queue::worker_killed(stage);
    }
    let broker = Broker::start(stage)?;
    let addr = broker.addr.to_string();
    let mut first = Role::start(&["worker", "--broker", &addr])?;
    first.wait_for("Enter confirms")?;
    stage.say("worker A", "SUBSCRIBE tasks/jobs, QoS 1, in the session queue-jobs");
    let mut boss = broker.client(As::guest("boss"))?;
    for task in ["pay 100 euros", "sweep"] {
        boss.publish("tasks/jobs", task.as_bytes(), QoS::AtLeastOnce, false)?;
        stage.say("boss", format_args!("PUBLISH tasks/jobs \"{task}\": PUBACK"));
    }
    first.wait_for("takes    pay 100 euros\n")?;
    stage.say("worker A", "takes \"pay 100 euros\", and begins to pay");
    stage.say("kill", format_args!("kill -9 {}  worker A, before it confirms the task", first.pid()));
    drop(first); // kill -9, and it is waited for

    let question = stage.ask(
        "Worker B takes the queue over, and confirms what it does. Which tasks does B get?",
        [
            ("\"sweep\": the other one was handed out", vec!["sweep".to_string()]),
            ("\"pay 100 euros\" again, then \"sweep\"", vec!["pay 100 euros".into(), "sweep".into()]),
            ("no task: two were handed to A", vec![]),
        ],
        Predicts { source: None, kit: vec!["pay 100 euros".into(), "sweep".into()] },
    )?;
    let mut second = Role::start(&["worker", "--broker", &addr])?;
    second.wait_for("Enter confirms")?;
    boss.publish("tasks/jobs", b"go home", QoS::AtLeastOnce, false)?;
    let mut got = Vec::new();
    while second.wait_for("takes    ").is_ok() {
        let task = second.wait_for("\n")?;
        second.type_line("")?;
        second.wait_for("confirms ")?;
        if task == "go home" {
            break;
        }
        stage.say("worker B", format_args!("takes, does and confirms \"{task}\""));
        got.push(task);
    }
    let again = if got.iter().any(|task| task.starts_with("pay")) { "and B does it, too" } else { "and nobody else" };
    stage.say("counted", format_args!("{} tasks to B; A began \"pay 100 euros\", {again}", got.len()));
    stage.verdict(question, got, "no confirmation, so the task comes again: at least once may be twice")
}

pub fn broker_killed(stage: &mut Stage) -> Result<Verdict> {
    if rabbitmq_wanted() {
        return queue::broker_killed(stage);
    }
    let broker = Broker::start(stage)?;
    broker.has_subscribed(stage, "ann", "letters")?;
    let mut bob = broker.client(As::guest("bob"))?;
    for number in 1..=TEXTS {
        bob.publish("letters", format!("letter {number}").as_bytes(), QoS::AtLeastOnce, number == TEXTS)?;
    }
    drop(bob);
    stage.say("bob", format_args!("PUBLISH letters x{TEXTS}, QoS 1: {TEXTS} PUBACKs; the last one is retained"));

    let question = stage.ask(
        "The broker is killed with kill -9 and started again as before. Ann comes back and subscribes. How many of the ten letters does she get?",
        [
            ("ten: each one was acknowledged", TEXTS),
            ("one: the retained one", 1),
            ("zero: they were in its memory", 0),
        ],
        Predicts { source: Some(TEXTS), kit: 0 },
    )?;
    let broker = broker.killed_and_started_again(stage)?;
    let mut ann = broker.client(As::session("ann"))?;
    stage.say(
        "ann",
        format_args!(
            "CONNECT, a session: the broker {} her",
            if ann.remembered { "remembers" } else { "does not know" }
        ),
    );
    ann.subscribe("letters", QoS::AtLeastOnce)?;
    broker.client(As::guest("marks"))?.publish("letters", b"end", QoS::AtLeastOnce, false)?;
    let got = up_to(&mut ann, "end", 1)?;
    stage.say("counted", format_args!("{} of {TEXTS} letters", got.len()));
    stage.verdict(question, got.len(), "PUBACK says that the broker has it, not where: ask what it writes, and when")
}

pub fn slow_subscriber(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Told {
        Publisher,
        Subscriber,
        Nobody,
        ReadsAll,
    }
    let broker = Broker::start(stage)?;
    let mut slow = Role::start(&["subscribe", "flood", "--broker", &broker.addr.to_string()])?;
    slow.wait_for("Ctrl-C ends\n")?;
    let established = || Ok(tcp_sockets(broker.addr.port())?.into_iter().find(|row| row.state == State::Established));
    let at_subscriber = wait_until("the subscriber's connection", LIMIT, established)?.pair.other_end();
    stage.say("reader", format_args!("process {}: SUBSCRIBE flood, QoS 1", slow.pid()));

    let question = stage.ask(
        "The reader gets kill -STOP, and reads nothing. The publisher sends 500 messages at QoS 1. Who is told that they are not read?",
        [
            ("the publisher: its PUBACKs stop", Told::Publisher),
            ("the subscriber: the broker cuts it off", Told::Subscriber),
            ("nobody: 500 PUBACKs, and no error", Told::Nobody),
        ],
        Predicts { source: None, kit: Told::Nobody },
    )?;
    kill(slow.pid(), Signal::SIGSTOP)?; // only now: fg after Ctrl-Z would let it go on
    stage.say("kill", format_args!("kill -STOP {}  the reader", slow.pid()));
    let mut publisher = broker.client(As::guest("publisher"))?;
    let acknowledged = flood(&mut publisher);
    stage.say("publisher", format_args!("PUBLISH flood x{FLOOD}, {FLOOD_BYTES} bytes each: {acknowledged} PUBACKs"));
    let not_read = |row: &Row| row.recv_queue > 0;
    let _ = wait_until("bytes", LIMIT, || Ok(kernel::tcp_socket(at_subscriber)?.filter(not_read))); // the broker may be late
    let row = kernel::tcp_socket(at_subscriber)?;
    let not_read = row.as_ref().map_or(0, |row| row.recv_queue as usize);
    let state = row.map_or("has no connection".to_string(), |row| row.state.to_string());
    stage.say("kernel", format_args!("reader {state}, {not_read} bytes received and not read"));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", slow.pid()))?;
    let process = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').next()).unwrap_or("?");
    let stands = process.eq_ignore_ascii_case("T"); // t: under a tracer, such as strace or --wire
    stage.say("", format_args!("/proc/{}/stat: {process}, {}", slow.pid(), if stands { "stopped" } else { "it runs" }));
    let in_kernel = not_read / FLOOD_BYTES;
    stage.say("counted", format_args!("about {in_kernel} messages in the reader's kernel, the others in the broker"));

    kill(slow.pid(), Signal::SIGCONT)?;
    let last = format!("flood  {:0FLOOD_BYTES$}\n", FLOOD - 1);
    let cut_off = slow.wait_for(&last).is_err();
    let shown = slow.printed().lines().filter(|line| line.starts_with("flood  ")).count();
    stage.say("reader", format_args!("goes on after kill -CONT, and shows {shown} messages"));
    let observed = match (acknowledged, cut_off, shown) {
        (FLOOD, false, FLOOD) if stands && (1..FLOOD).contains(&in_kernel) => Told::Nobody,
        (FLOOD, false, FLOOD) => Told::ReadsAll,
        (FLOOD, ..) => Told::Subscriber,
        _ => Told::Publisher,
    };
    stage.verdict(
        question,
        observed,
        "the broker's memory fills, and no one is told: give queues a limit, and watch it",
    )
}

/// Publishes, at most 50 at a time not acknowledged; how many were.
fn flood(publisher: &mut Mqtt) -> usize {
    let (mut sent, mut acknowledged) = (0, 0);
    while acknowledged < FLOOD {
        while sent < FLOOD && sent < acknowledged + 50 {
            let text = format!("{sent:0FLOOD_BYTES$}");
            if publisher.hand_over("flood", text.as_bytes(), QoS::AtLeastOnce, false).is_err() {
                return acknowledged; // its connection is over
            }
            sent += 1;
        }
        if publisher.await_event("PUBACK", |event| acknowledges(event, QoS::AtLeastOnce).then_some(())).is_err() {
            return acknowledged; // it waits in vain
        }
        acknowledged += 1;
    }
    acknowledged
}
