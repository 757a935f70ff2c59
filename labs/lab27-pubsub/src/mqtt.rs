//! A client of a broker. rumqttc speaks MQTT 3.1.1; a thread of its own reads and answers, here each step waits for what
//! the broker says to it.

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use kernel::{NotSeen, Patience};
use rumqttc::{Client, ClientError, ConnectionError, Event, MqttOptions, Outgoing, Packet, Publish, QoS, StateError};
use shared::{At, Stop};

/// The longest text. The embedded broker takes no longer packet than 1 MiB.
pub const LONGEST: usize = 1_000_000;
/// The longest packet; a topic has at most 65,535 bytes.
pub const PACKET: usize = LONGEST + 70_000;
/// Messages that are sent and not acknowledged yet, at most.
pub const IN_FLIGHT: u16 = 100;
/// Requests that wait until rumqttc's thread takes them.
pub const REQUESTS: usize = 1000;
/// How often a program that waits looks whether it shall stop.
pub const STEP: Duration = Duration::from_millis(50);
/// How long a client that ends waits until its DISCONNECT is sent.
pub const GOODBYE: Duration = Duration::from_secs(1);
/// And then until the broker closes the connection, as MQTT 3.1.1 3.14.4 asks it to.
const CLOSED: Duration = Duration::from_secs(10);

/// Ctrl-C came.
#[derive(Debug)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped")
    }
}

impl std::error::Error for Stopped {}

/// When a client that waits gives up.
#[derive(Clone, Copy)]
pub enum Until<'a> {
    /// A program: at Ctrl-C.
    Stop(&'a Stop),
    /// An experiment: once this has passed.
    Limit(Duration),
}

/// How a client is known to the broker.
#[derive(Clone, Copy)]
pub struct As<'a> {
    /// Its client identifier. A second client with the same one takes its place.
    pub name: &'a str,
    /// The broker keeps its subscriptions and messages while it is off-line (CleanSession 0).
    pub session: bool,
    /// The program confirms each message itself.
    pub confirms: bool,
    /// After an error rumqttc connects again and repeats what was not acknowledged.
    pub again: bool,
}

impl<'a> As<'a> {
    /// Nobody is remembered.
    pub fn guest(name: &'a str) -> As<'a> {
        As { name, session: false, confirms: false, again: false }
    }

    /// The broker remembers this name.
    pub fn session(name: &'a str) -> As<'a> {
        As { session: true, ..As::guest(name) }
    }
}

/// A connected client. Dropped, it says DISCONNECT, and waits until the broker has closed the connection.
///
/// It must not close first. rumqttd 0.20 takes the connection's number back at DISCONNECT and gives it to the next client.
/// If it then sees the end of the old stream, it ends the connection of that number once more, and throws the newcomer out.
pub struct Mqtt<'a> {
    client: Client,
    events: Receiver<Result<Event, ConnectionError>>,
    /// Messages that came while something else was waited for.
    waiting: VecDeque<Publish>,
    addr: SocketAddr,
    until: Until<'a>,
    again: bool,
    /// How often the connection was lost.
    pub losses: usize,
    over: bool,
    /// The broker had a session of this name.
    pub remembered: bool,
}

impl<'a> Mqtt<'a> {
    /// CONNECT, and CONNACK is awaited.
    pub fn connect(addr: SocketAddr, who: As, until: Until<'a>) -> Result<Mqtt<'a>> {
        let mut options = MqttOptions::new(who.name, addr.ip().to_string(), addr.port());
        options
            .set_clean_session(!who.session)
            .set_manual_acks(who.confirms)
            .set_inflight(IN_FLIGHT)
            .set_max_packet_size(PACKET, PACKET)
            .set_keep_alive(Duration::from_secs(60));
        let (client, mut connection) = Client::new(options, REQUESTS);
        let (sender, events) = channel();
        let again = who.again;
        let turn = move || {
            let mut leaves = false;
            for event in connection.iter() {
                leaves |= matches!(event, Ok(Event::Outgoing(Outgoing::Disconnect)));
                let last = event.is_err() && (leaves || !again);
                if sender.send(event).is_err() || last {
                    break;
                }
            }
            drop(connection); // close(2), before whoever waits for the end of this thread goes on
            drop(sender);
        };
        thread::Builder::new().spawn(turn).context("cannot start a thread; see the limit: ulimit -u")?;
        let mut mqtt = Mqtt {
            client,
            events,
            waiting: VecDeque::new(),
            addr,
            until,
            again,
            losses: 0,
            over: false,
            remembered: false,
        };
        mqtt.remembered = mqtt.await_event("CONNACK", |event| match event {
            Event::Incoming(Packet::ConnAck(connack)) => Some(connack.session_present),
            _ => None,
        })?;
        Ok(mqtt)
    }

    /// SUBSCRIBE, and SUBACK is awaited.
    pub fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<()> {
        let sent = self.client.subscribe(filter, qos);
        self.taken(sent)?;
        let refused = self.await_event("SUBACK", |event| match event {
            Event::Incoming(Packet::SubAck(suback)) => {
                Some(suback.return_codes.contains(&rumqttc::SubscribeReasonCode::Failure))
            }
            _ => None,
        })?;
        ensure!(!refused, "the broker refuses the subscription to {filter}");
        Ok(())
    }

    /// PUBLISH; at QoS 1 the broker's PUBACK is awaited, at QoS 2 its PUBCOMP, at QoS 0 only that it is sent.
    pub fn publish(&mut self, topic: &str, text: &[u8], qos: QoS, retain: bool) -> Result<()> {
        self.hand_over(topic, text, qos, retain)?;
        let less = self.await_event("the acknowledgement", |event| {
            let puback = qos == QoS::ExactlyOnce && matches!(event, Event::Incoming(Packet::PubAck(_)));
            (puback || acknowledges(event, qos)).then_some(puback)
        })?;
        ensure!(!less, "the broker {} has no QoS 2: it answers PUBACK, as at QoS 1", self.addr);
        Ok(())
    }

    /// PUBLISH, and nothing is awaited.
    pub fn hand_over(&mut self, topic: &str, text: &[u8], qos: QoS, retain: bool) -> Result<()> {
        ensure!(text.len() <= LONGEST, "a text of {} bytes: at most {LONGEST} are taken", text.len());
        let sent = self.client.publish(topic, qos, retain, text);
        self.taken(sent)
    }

    /// Whether rumqttc's thread took a request. If it has ended, its last event says why.
    fn taken(&mut self, sent: Result<(), ClientError>) -> Result<()> {
        let Err(refused) = sent else { return Ok(()) };
        let mut patience = Patience::new(GOODBYE);
        while !patience.is_over() {
            self.next()?;
        }
        bail!(refused)
    }

    /// Waits for the next message.
    pub fn receive(&mut self) -> Result<Publish> {
        loop {
            if let Some(publish) = self.waiting.pop_front() {
                return Ok(publish);
            }
            self.await_event("a message", |event| matches!(event, Event::Incoming(Packet::Publish(_))).then_some(()))?;
        }
    }

    /// Tells the broker that this message need not be sent again.
    pub fn confirm(&mut self, publish: &Publish) -> Result<()> {
        let sent = self.client.ack(publish);
        self.taken(sent)?;
        let pkid = publish.pkid;
        self.await_event("PUBACK sent", |event| (*event == Event::Outgoing(Outgoing::PubAck(pkid))).then_some(()))
    }

    /// Waits for an event that `look` takes. Messages are kept meanwhile.
    pub fn await_event<T>(&mut self, what: &str, look: impl Fn(&Event) -> Option<T>) -> Result<T> {
        let mut patience = match self.until {
            Until::Limit(limit) => Some((limit, Patience::new(limit))),
            Until::Stop(_) => None,
        };
        loop {
            if let Some(event) = self.next()?
                && let Some(found) = look(&event)
            {
                return Ok(found);
            }
            if let Some((limit, patience)) = &mut patience
                && patience.is_over()
            {
                bail!(NotSeen { what: format!("{what} from {}", self.addr), limit: *limit, instead: String::new() });
            }
        }
    }

    /// The next event, if there is one within [`STEP`].
    fn next(&mut self) -> Result<Option<Event>> {
        if let Until::Stop(stop) = self.until
            && stop.requested()
        {
            return Err(Error::new(Stopped));
        }
        match self.events.recv_timeout(STEP) {
            Ok(Ok(Event::Incoming(Packet::Publish(publish)))) => {
                self.waiting.push_back(publish.clone());
                Ok(Some(Event::Incoming(Packet::Publish(publish))))
            }
            Ok(Ok(event)) => Ok(Some(event)),
            Ok(Err(_)) if self.again => {
                self.losses += 1;
                Ok(None)
            }
            Ok(Err(error)) => {
                self.over = true;
                Err(told(error, self.addr))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the connection to {} is over", self.addr),
        }
    }
}

impl Drop for Mqtt<'_> {
    fn drop(&mut self) {
        if self.over || self.client.try_disconnect().is_err() {
            return;
        }
        let mut patience = Patience::new(GOODBYE);
        while !patience.is_over() {
            match self.events.recv_timeout(patience.step()) {
                Err(RecvTimeoutError::Disconnected) => break,
                Ok(Ok(Event::Outgoing(Outgoing::Disconnect))) => patience = Patience::new(CLOSED),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// Whether this event ends a publish of that quality.
pub fn acknowledges(event: &Event, qos: QoS) -> bool {
    match qos {
        QoS::AtMostOnce => matches!(event, Event::Outgoing(Outgoing::Publish(_))),
        QoS::AtLeastOnce => matches!(event, Event::Incoming(Packet::PubAck(_))),
        QoS::ExactlyOnce => matches!(event, Event::Incoming(Packet::PubComp(_))),
    }
}

/// What a class calls it.
pub fn qos(number: u8) -> QoS {
    match number {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

/// An error as the labs print it.
fn told(error: ConnectionError, addr: SocketAddr) -> Error {
    let lost = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionAborted && error.raw_os_error().is_none();
    match error {
        ConnectionError::Io(error) if lost(&error) => anyhow!("the broker {addr} has closed the connection"),
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            anyhow!("the broker {addr} has closed the connection")
        }
        ConnectionError::MqttState(StateError::Io(error)) if lost(&error) => {
            anyhow!("the broker {addr} has closed the connection")
        }
        ConnectionError::Io(error) => call("connect", error, addr),
        ConnectionError::MqttState(StateError::Io(error)) => call("recv", error, addr),
        ConnectionError::NetworkTimeout => anyhow!("connect {addr}: no answer in time; is it an MQTT broker?"),
        ConnectionError::ConnectionRefused(code) => anyhow!("the broker {addr} refuses this client: {code:?}"),
        error => anyhow!("the connection to {addr} failed; is it a broker of MQTT 3.1.1? {error}"),
    }
}

/// A call that failed, as the labs print it.
pub fn call(name: &'static str, error: io::Error, addr: SocketAddr) -> Error {
    match Err::<(), _>(error).at(name, addr) {
        Err(error) => error.into(),
        Ok(()) => anyhow!("{name} {addr}"),
    }
}

/// A topic to publish to.
pub fn topic(text: &str) -> Result<String, String> {
    let good = rumqttc::valid_topic(text) && filter(text).is_ok();
    if good {
        Ok(text.into())
    } else {
        Err("a topic has 1 to 1000 bytes, no + and no #, and does not begin with $".into())
    }
}

/// A pattern to subscribe to.
pub fn filter(text: &str) -> Result<String, String> {
    let plain = !text.is_empty() && text.len() <= 1000 && !text.starts_with('$') && !text.contains('\0');
    if plain && rumqttc::valid_filter(text) {
        return Ok(text.into());
    }
    Err("a pattern is a topic such as home/kitchen; + stands for one whole level, # for all at its end".into())
}

/// The name of a session or a queue.
pub fn name(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if plain && (1..=20).contains(&text.len()) {
        return Ok(text.into());
    }
    Err("a name has 1 to 20 letters, digits, - and _".into())
}
