//! A client of MQTT 5, for publish and subscribe: rumqttc has a module of its own for it. An answer of MQTT 5 gives a
//! reason, and a session may have an end.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use kernel::Patience;
use rumqttc::{
    Outgoing,
    v5::{
        Client, ConnectionError, Event, MqttOptions, StateError,
        mqttbytes::{
            QoS, qos,
            v5::{Packet, PubAckReason, PubRecReason, Publish, SubscribeReasonCode},
        },
    },
};
use shared::Stop;

use crate::mqtt::{self, Stopped};

/// How long the broker keeps a session after its owner has left, in seconds: MQTT 5, 3.1.2.11.2.
pub const FOR_EVER: u32 = u32::MAX;

/// A connected client. Dropped, it says DISCONNECT, and waits until the broker has closed the connection.
pub struct Mqtt5<'a> {
    client: Client,
    events: Receiver<Result<Event, ConnectionError>>,
    /// Messages that came while something else was waited for.
    waiting: VecDeque<Publish>,
    addr: SocketAddr,
    stop: &'a Stop,
    over: bool,
    /// The broker had a session of this name.
    pub remembered: bool,
}

impl<'a> Mqtt5<'a> {
    /// CONNECT, and CONNACK is awaited. Without a session the broker forgets this client when it leaves.
    pub fn connect(addr: SocketAddr, name: &str, session_seconds: Option<u32>, stop: &'a Stop) -> Result<Mqtt5<'a>> {
        let mut options = MqttOptions::new(name, addr.ip().to_string(), addr.port());
        options
            .set_clean_start(session_seconds.is_none())
            .set_session_expiry_interval(session_seconds)
            .set_max_packet_size(u32::try_from(mqtt::PACKET).ok())
            .set_outgoing_inflight_upper_limit(mqtt::IN_FLIGHT);
        let (client, mut connection) = Client::new(options, mqtt::REQUESTS);
        let (sender, events) = channel();
        let turn = move || {
            for event in connection.iter() {
                let last = event.is_err();
                if sender.send(event).is_err() || last {
                    break;
                }
            }
        };
        thread::Builder::new().spawn(turn).context("cannot start a thread; see the limit: ulimit -u")?;
        let waiting = VecDeque::new();
        let mut client = Mqtt5 { client, events, waiting, addr, stop, over: false, remembered: false };
        client.remembered = client.await_event(|event| match event {
            Event::Incoming(Packet::ConnAck(connack)) => Some(connack.session_present),
            _ => None,
        })?;
        Ok(client)
    }

    /// SUBSCRIBE, and SUBACK is awaited.
    pub fn subscribe(&mut self, filter: &str, number: u8) -> Result<()> {
        self.client.subscribe(filter, quality(number))?;
        let codes = self.await_event(|event| match event {
            Event::Incoming(Packet::SubAck(suback)) => Some(suback.return_codes.clone()),
            _ => None,
        })?;
        let taken = codes.iter().all(|code| matches!(code, SubscribeReasonCode::Success(_)));
        ensure!(taken, "the broker refuses the subscription to {filter}: {codes:?}");
        Ok(())
    }

    /// PUBLISH, and what the broker answers: MQTT 5, 3.4.2.1 and 3.5.2.1.
    pub fn publish(&mut self, topic: &str, text: &[u8], number: u8, retain: bool) -> Result<&'static str> {
        ensure!(text.len() <= mqtt::LONGEST, "a text of {} bytes: at most {} are taken", text.len(), mqtt::LONGEST);
        self.client.publish(topic, quality(number), retain, text.to_vec())?;
        let answer = self.await_event(|event| match event {
            Event::Outgoing(Outgoing::Publish(_)) if number == 0 => Some(Ok("sent; at QoS 0 nobody answers")),
            Event::Incoming(Packet::PubAck(puback)) => Some(match puback.reason {
                PubAckReason::Success => Ok("PUBACK, reason 0x00: success"),
                PubAckReason::NoMatchingSubscribers => Ok("PUBACK, reason 0x10: no matching subscribers"),
                reason => Err(format!("{reason:?}")),
            }),
            Event::Incoming(Packet::PubRec(pubrec)) => Some(match pubrec.reason {
                PubRecReason::Success => Ok("PUBREC, reason 0x00: success; PUBCOMP"),
                PubRecReason::NoMatchingSubscribers => Ok("PUBREC, reason 0x10: no matching subscribers; PUBCOMP"),
                reason => Err(format!("{reason:?}")),
            }),
            _ => None,
        })?;
        let answer = answer.map_err(|reason| anyhow!("the broker {} refuses the message: {reason}", self.addr))?;
        if number == 2 {
            self.await_event(|event| matches!(event, Event::Incoming(Packet::PubComp(_))).then_some(()))?;
        }
        Ok(answer)
    }

    /// Waits for the next message.
    pub fn receive(&mut self) -> Result<Publish> {
        loop {
            if let Some(publish) = self.waiting.pop_front() {
                return Ok(publish);
            }
            self.await_event(|event| matches!(event, Event::Incoming(Packet::Publish(_))).then_some(()))?;
        }
    }

    /// Waits for an event that `look` takes, until Ctrl-C. Messages are kept meanwhile.
    fn await_event<T>(&mut self, look: impl Fn(&Event) -> Option<T>) -> Result<T> {
        while !self.stop.requested() {
            let event = match self.events.recv_timeout(mqtt::STEP) {
                Ok(Ok(event)) => event,
                Ok(Err(error)) => {
                    self.over = true;
                    return Err(told(error, self.addr));
                }
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => bail!("the connection to {} is over", self.addr),
            };
            if let Event::Incoming(Packet::Publish(publish)) = &event {
                self.waiting.push_back(publish.clone());
            }
            if let Some(found) = look(&event) {
                return Ok(found);
            }
        }
        Err(Error::new(Stopped))
    }
}

impl Drop for Mqtt5<'_> {
    fn drop(&mut self) {
        if self.over || self.client.try_disconnect().is_err() {
            return;
        }
        let mut patience = Patience::new(mqtt::GOODBYE);
        while !patience.is_over() {
            if let Err(RecvTimeoutError::Disconnected) = self.events.recv_timeout(patience.step()) {
                break;
            }
        }
    }
}

fn quality(number: u8) -> QoS {
    qos(number).unwrap_or(QoS::AtLeastOnce)
}

/// An error as the labs print it.
fn told(error: ConnectionError, addr: SocketAddr) -> Error {
    let lost = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionAborted && error.raw_os_error().is_none();
    let closed = || anyhow!("the broker {addr} has closed the connection; does it speak MQTT 5?");
    match error {
        ConnectionError::MqttState(StateError::ConnectionAborted) => closed(),
        ConnectionError::Io(error) | ConnectionError::MqttState(StateError::Io(error)) if lost(&error) => closed(),
        ConnectionError::Io(error) => mqtt::call("connect", error, addr),
        ConnectionError::MqttState(StateError::Io(error)) => mqtt::call("recv", error, addr),
        ConnectionError::Timeout(_) => anyhow!("connect {addr}: no answer in time; is it an MQTT broker?"),
        ConnectionError::ConnectionRefused(code) => anyhow!("the broker {addr} refuses this client: {code:?}"),
        error => anyhow!("the connection to {addr} failed; is it a broker of MQTT 5? {error}"),
    }
}
