//! The work queue in a broker that knows queues: AMQP 0-9-1 with lapin, for RabbitMQ. Many takers may share a queue. The
//! broker hands each task to one of them, and to another one if that taker's connection ends before its ack.

use std::{
    future::Future,
    net::SocketAddr,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use kernel::Patience;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind,
    message::{Delivery, DeliveryResult},
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};
use shared::{At, Pause, Screen, Stop, escaped};
use tokio::{
    runtime::{Builder, Runtime},
    select,
    time::sleep,
};

use crate::{AmqpArgs, PutArgs, mqtt::Stopped, work::enter};

/// How often a program that waits looks whether it shall stop.
const STEP: Duration = Duration::from_millis(50);
/// From connect to an open channel, at most. RabbitMQ takes a connection before it can serve it, and then needs seconds.
const CONNECT: Duration = Duration::from_secs(10);
/// Delivery mode 2 of AMQP: the broker writes the message to its disk before it acknowledges it.
const PERSISTENT: u8 = 2;
/// Tasks that a taker has and has not acknowledged, at most.
const IN_HAND: u16 = 1;
const SUCCESS: u16 = 200;

/// Puts tasks into a durable queue.
pub fn put(args: &PutArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.amqp.pause, &stop);
    let mut screen = Screen::new();
    let queue = &args.amqp.queue;
    let amqp = Amqp::connect(&args.amqp, &stop, &mut pause, &mut screen)?;

    pause.before(&mut screen, "confirm.select");
    amqp.wait(amqp.channel.confirm_select(ConfirmSelectOptions::default()))?;
    for text in &args.texts {
        pause.before(&mut screen, format_args!("basic.publish to {queue}, {} bytes", text.len()));
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let options = BasicPublishOptions::default();
        let published =
            amqp.channel.basic_publish("".into(), queue.as_str().into(), options, text.as_bytes(), properties);
        let confirmed = amqp.wait(async { published.await?.await })?;
        ensure!(confirmed.is_ack(), "the broker {} answers basic.nack: it does not keep the task", args.amqp.address);
        screen.line(format_args!("ack      {}", escaped(text.as_bytes())));
    }
    amqp.close(&mut pause, &mut screen)
}

/// Takes tasks until Ctrl-C or the end of input; each Enter acknowledges the one in hand.
pub fn take(args: &AmqpArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let queue = &args.queue;
    let amqp = Amqp::connect(args, &stop, &mut pause, &mut screen)?;

    pause.before(&mut screen, format_args!("basic.qos({IN_HAND})"));
    amqp.wait(amqp.channel.basic_qos(IN_HAND, BasicQosOptions::default()))?;
    pause.before(&mut screen, format_args!("basic.consume {queue}"));
    let options = BasicConsumeOptions::default(); // no_ack: false
    let consumer =
        amqp.wait(amqp.channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()))?;
    let (sender, tasks) = channel();
    consumer.set_delegate(move |delivery: DeliveryResult| {
        let _ = sender.send(delivery); // nobody waits any more
        async {}
    });
    screen.line(format_args!("queue {queue}: Enter acknowledges a task, Ctrl-C ends"));

    while let Some(task) = amqp.next(&tasks)? {
        let again = if task.redelivered { "  (redelivered)" } else { "" };
        screen.line(format_args!("takes    {}{again}", escaped(&task.data)));
        if !enter(&stop)? {
            break; // no ack: the broker keeps the task
        }
        amqp.wait(task.ack(BasicAckOptions::default()))?;
        screen.line(format_args!("acks     {}", escaped(&task.data)));
    }
    amqp.close(&mut pause, &mut screen)
}

/// A connection with one channel. A thread of its own reads and answers, also the broker's heartbeats.
struct Amqp<'a> {
    runtime: Runtime,
    connection: Connection,
    channel: Channel,
    addr: SocketAddr,
    stop: &'a Stop,
}

impl<'a> Amqp<'a> {
    /// Connects, opens a channel, and declares the queue: it is made if it is not there.
    fn connect(args: &AmqpArgs, stop: &'a Stop, pause: &mut Pause, screen: &mut Screen) -> Result<Amqp<'a>> {
        let addr = args.address;
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().context("cannot start a thread")?;
        pause.before(screen, format_args!("connect to {addr}; connection.open, channel.open"));
        let uri = format!("amqp://guest:guest@{addr}/%2f");
        let opened = async {
            let connection = Connection::connect(&uri, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            Ok((connection, channel))
        };
        let (connection, channel) = wait(&runtime, stop, addr, Some(CONNECT), opened)?;
        let amqp = Amqp { runtime, connection, channel, addr, stop };
        pause.before(screen, format_args!("queue.declare {}, durable", args.queue));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        amqp.wait(amqp.channel.queue_declare(args.queue.as_str().into(), options, FieldTable::default()))?;
        Ok(amqp)
    }

    fn wait<T>(&self, step: impl Future<Output = lapin::Result<T>>) -> Result<T> {
        wait(&self.runtime, self.stop, self.addr, None, step) // AMQP's heartbeats notice a broker that is silent
    }

    /// The next task; `None` once the broker sends no more.
    fn next(&self, tasks: &Receiver<DeliveryResult>) -> Result<Option<Delivery>> {
        loop {
            if self.stop.requested() {
                return Err(Error::new(Stopped));
            }
            match tasks.recv_timeout(STEP) {
                Ok(delivery) => return delivery.map_err(|error| told(&error, self.addr)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the connection to {} is over", self.addr),
            }
        }
    }

    fn close(self, pause: &mut Pause, screen: &mut Screen) -> Result<()> {
        pause.before(screen, "connection.close");
        self.wait(self.connection.close(SUCCESS, "".into()))
    }
}

/// Waits until a step is done, and for Ctrl-C and the limit beside it.
fn wait<T>(
    runtime: &Runtime,
    stop: &Stop,
    addr: SocketAddr,
    limit: Option<Duration>,
    step: impl Future<Output = lapin::Result<T>>,
) -> Result<T> {
    let mut patience = limit.map(Patience::new);
    let given_up = async {
        while !stop.requested() {
            if patience.as_mut().is_some_and(Patience::is_over) {
                return anyhow!("connect {addr}: no answer within {CONNECT:?}; is it a broker of AMQP 0-9-1?");
            }
            sleep(STEP).await;
        }
        Error::new(Stopped)
    };
    runtime.block_on(async {
        select! {
            done = step => done.map_err(|error| told(&error, addr)),
            error = given_up => Err(error),
        }
    })
}

/// An error as the labs print it.
fn told(error: &lapin::Error, addr: SocketAddr) -> Error {
    if let ErrorKind::IOError(error) = error.kind()
        && let Some(number) = error.raw_os_error()
        && let Err(error) = Err::<(), _>(std::io::Error::from_raw_os_error(number)).at("connect", addr)
    {
        return error.into();
    }
    anyhow!("the connection to {addr} failed; is it a broker of AMQP 0-9-1? {error}")
}
