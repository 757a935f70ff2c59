//! The broker of an experiment: a process of its own, gone with it. rumqttd from this binary, or an installed mosquitto.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, id},
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, bail};
use rumqttc::{Publish, QoS};
use shared::{Role, Stage, escaped};

use super::LIMIT;
use crate::mqtt::{As, Mqtt, Until};

/// The environment variable that chooses: `mosquitto`, or nothing.
const CHOICE: &str = "LAB27_BROKER";
/// A port that was free a moment ago may be taken now.
const ATTEMPTS: usize = 5;

/// A running broker; killed when dropped.
pub struct Broker {
    pub role: Role,
    pub addr: SocketAddr,
    folder: Option<Folder>,
}

impl Broker {
    /// Starts one on a port of its own, and says which.
    pub fn start(stage: &mut Stage) -> Result<Broker> {
        let mosquitto = match env::var(CHOICE).ok().as_deref() {
            None | Some("" | "rumqttd") => None,
            Some("mosquitto") => Some(Folder::new()?),
            Some(other) => bail!("{CHOICE} is {other}: rumqttd or mosquitto"),
        };
        let broker = Broker::on(mosquitto)?;
        let name = if broker.folder.is_some() { "mosquitto" } else { "rumqttd, embedded" };
        stage.say("broker", format_args!("{name}, is a process of its own at {}", broker.addr));
        Ok(broker)
    }

    fn on(folder: Option<Folder>) -> Result<Broker> {
        let Some(folder) = folder else {
            let mut role = Role::start(&["broker", "127.0.0.1:0"])?;
            let line = role.line_with("is the broker at ")?;
            let addr = line.rsplit(' ').next().and_then(|addr| addr.trim().parse().ok());
            return Ok(Broker { role, addr: addr.context("no address in the banner")?, folder: None });
        };
        for _ in 0..ATTEMPTS {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?; // closed again at once
            let mut role = Role::spawn(mosquitto(&folder.0, free)?.env("LC_ALL", "C"))?;
            if role.wait_for(" running").is_ok() {
                return Ok(Broker { role, addr: free, folder: Some(folder) });
            }
        }
        bail!("mosquitto does not start: mosquitto -c {}/mosquitto.conf", folder.0.display())
    }

    /// kill -9, and the same broker again; mosquitto with the folder it had.
    pub fn killed_and_started_again(self, stage: &mut Stage) -> Result<Broker> {
        stage.say("kill", format_args!("kill -9 {}  the broker", self.role.pid()));
        let Broker { role, folder, .. } = self;
        drop(role); // kill -9, and it is waited for
        let broker = Broker::on(folder)?;
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

/// All messages up to one with this text on each of so many topics.
pub fn up_to(client: &mut Mqtt, last: &str, topics: usize) -> Result<Vec<Publish>> {
    let (mut before, mut ends) = (Vec::new(), 0);
    while ends < topics {
        let publish = client.receive()?;
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

/// mosquitto keeps its data in the folder, and dies with this program.
fn mosquitto(folder: &Path, addr: SocketAddr) -> Result<Command> {
    let file = folder.join("mosquitto.conf");
    let text = format!(
        "listener {} {}\nallow_anonymous true\npersistence true\npersistence_location {}/\nlog_dest stdout\nuser root\n\
         max_queued_messages 0\n",
        addr.port(),
        addr.ip(),
        folder.display()
    );
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"].into_iter().find(|path| Path::new(path).exists());
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program.unwrap_or("mosquitto"), "-c"]).arg(file);
    Ok(command)
}

/// A new folder, gone with this value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lab27-{}-{}", id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = env::temp_dir().join(name);
        fs::create_dir(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // a folder of our own making
    }
}
