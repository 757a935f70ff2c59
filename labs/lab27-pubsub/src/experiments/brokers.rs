//! The broker of an experiment: a process of its own, gone with it. rumqttd from this binary, or an installed mosquitto.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use kernel::{NotSeen, State, need::Need, tcp_sockets, wait_until};
use rumqttc::{Publish, QoS};
use shared::{Role, Stage, escaped};

use super::LIMIT;
use crate::mqtt::{As, Mqtt, Until};

/// The environment variable that chooses: `mosquitto`, `rabbitmq`, or nothing.
const CHOICE: &str = "LAB27_BROKER";
/// A port that was free a moment ago may be taken now.
const ATTEMPTS: usize = 2;

/// Whether the experiments with a queue shall ask RabbitMQ.
pub fn rabbitmq_wanted() -> bool {
    env::var(CHOICE).is_ok_and(|choice| choice == "rabbitmq")
}

/// What only a broker of MQTT can answer here.
pub const MQTT: Need = Need {
    what: "a broker of MQTT",
    provided_by: "LAB27_BROKER=mosquitto, or the embedded one: LAB27_BROKER=",
    met: || !rabbitmq_wanted(),
};

/// A running broker; killed when dropped.
pub struct Broker {
    pub role: Role,
    pub addr: SocketAddr,
    mosquitto: bool,
}

impl Broker {
    /// Starts one on a port of its own, and says which.
    pub fn start(stage: &mut Stage) -> Result<Broker> {
        let mosquitto = match env::var(CHOICE).ok().as_deref() {
            None | Some("" | "rumqttd") => false,
            Some("mosquitto") => true,
            Some(other) => bail!("{CHOICE} is {other}: rumqttd, mosquitto or rabbitmq"),
        };
        let broker = Broker::on(mosquitto)?;
        let pid = broker.role.pid();
        if broker.mosquitto {
            stage.say("broker", format_args!("mosquitto, process {pid}, is at {}", broker.addr));
        } else {
            stage.say("broker", format_args!("lab27-pubsub broker (rumqttd), process {pid}, is at {}", broker.addr));
        }
        Ok(broker)
    }

    fn on(mosquitto_wanted: bool) -> Result<Broker> {
        if !mosquitto_wanted {
            let mut role = Role::start(&["broker", "127.0.0.1:0"])?;
            let line = role.line_with("is the broker at ")?;
            let addr = line.rsplit(' ').next().and_then(|addr| addr.trim().parse().ok());
            return Ok(Broker { role, addr: addr.context("no address in the banner")?, mosquitto: false });
        }
        for _ in 0..ATTEMPTS {
            let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?; // closed again at once
            let role = mosquitto(addr)?;
            let listens = || Ok(tcp_sockets(addr.port())?.iter().any(|row| row.state == State::Listen).then_some(()));
            if wait_until("mosquitto listening", LIMIT, listens).is_ok() {
                return Ok(Broker { role, addr, mosquitto: true });
            }
        }
        bail!("mosquitto does not start; is it installed? apt-get install mosquitto")
    }

    /// kill -9, and the same broker again.
    pub fn killed_and_started_again(self, stage: &mut Stage) -> Result<Broker> {
        stage.say("kill", format_args!("kill -9 {}  the broker", self.role.pid()));
        let Broker { role, mosquitto, .. } = self;
        drop(role); // kill -9, and it is waited for
        let broker = Broker::on(mosquitto)?;
        stage.say("broker", format_args!("started again, at {}", broker.addr));
        Ok(broker)
    }

    /// A client of this broker, in this program.
    pub fn client(&self, who: As) -> Result<Mqtt<'static>> {
        Mqtt::connect(self.addr, who, Until::Limit(LIMIT))
    }

    /// `name` subscribes with a session, and goes off-line.
    pub fn has_subscribed(&self, stage: &mut Stage, name: &str, topic: &str) -> Result<()> {
        let mut client = self.client(As::session(name))?;
        client.subscribe(topic, QoS::AtLeastOnce)?;
        stage.say(name, format_args!("CONNECT, a session; SUBSCRIBE {topic}, QoS 1; DISCONNECT: off-line"));
        Ok(())
    }

    /// A program publishes a text and ends; it had the broker's PUBACK.
    pub fn published(&self, stage: &mut Stage, label: &str, topic: &str, text: &str, options: &[&str]) -> Result<()> {
        let addr = self.addr.to_string();
        let mut publisher = Role::start(&[&["publish", topic, text, "--broker", &addr], options].concat())?;
        publisher.wait_for("PUBACK\n")?;
        publisher.wait_for_end()?;
        let retained = if options.contains(&"--retain") { ", retained" } else { "" };
        stage.say(label, format_args!("PUBLISH {topic} \"{text}\"{retained}, QoS 1: PUBACK, and it ends"));
        Ok(())
    }
}

/// All messages up to one with this text on each of so many topics, or until none comes any more.
pub fn up_to(client: &mut Mqtt, last: &str, topics: usize) -> Result<Vec<Publish>> {
    let (mut before, mut ends) = (Vec::new(), 0);
    while ends < topics {
        let publish = match client.receive() {
            Err(error) if error.is::<NotSeen>() => break,
            publish => publish?,
        };
        if publish.payload == last.as_bytes() {
            ends += 1;
        } else {
            before.push(publish);
        }
    }
    Ok(before)
}

/// What a message says.
pub fn text(publish: &Publish) -> String {
    escaped(&publish.payload)
}

/// mosquitto reads its settings from standard input, keeps everything in memory, and dies with this program.
fn mosquitto(addr: SocketAddr) -> Result<Role> {
    let program =
        ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"].into_iter().find(|path| Path::new(path).exists());
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program.unwrap_or("mosquitto"), "-c", "/dev/stdin"]).stderr(Stdio::null());
    let mut role = Role::spawn(&mut command)?;
    role.type_line(&format!("listener {} {}", addr.port(), addr.ip()))?;
    role.type_line("allow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 100\nlog_type none\nuser root")?;
    role.input = None; // the end of the settings
    Ok(role)
}
