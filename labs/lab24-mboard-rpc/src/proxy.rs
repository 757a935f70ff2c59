//! The stub: a method of it looks like a function, and is a request and an answer. The library ureq makes its connections.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::{Error, anyhow};
use dxr::{Fault, Value};
use nix::errno::Errno;
use shared::{At, escaped};
use ureq::Agent;

use crate::{
    http::PATH,
    marshal::{answer_from_xml, call_to_xml},
};

/// The longest answer, in bytes.
const ANSWER_LIMIT: u64 = 1 << 28;

/// A server that is called as if it were here.
pub struct Proxy {
    agent: Agent,
    url: String,
    addr: SocketAddr,
}

/// Why a call has no result.
#[derive(Debug)]
pub enum Failure {
    /// The server answered: with a fault.
    Fault(Fault),
    /// No connection.
    Connect(Error, Option<Errno>),
    /// The connection ended without an answer, or no answer came in time. Nobody knows what the server did.
    Unknown(String),
    /// The answer is none.
    Malformed(Error),
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Fault(fault) => write!(f, "fault {}: {}", fault.code(), escaped(fault.string().as_bytes())),
            Failure::Connect(error, _) | Failure::Malformed(error) => write!(f, "{error:#}"),
            Failure::Unknown(how) => f.write_str(how),
        }
    }
}

impl Failure {
    /// The error as the labs print it: the call's own, where a call failed.
    pub fn into_error(self) -> Error {
        match self {
            Failure::Connect(error, _) => error,
            Failure::Unknown(how) => anyhow!("{how}; nobody knows whether the call was done"),
            failure => Error::new(failure),
        }
    }
}

impl Proxy {
    /// A proxy of the server at `addr`; with a limit for each call, or none.
    pub fn new(addr: SocketAddr, limit: Option<Duration>) -> Proxy {
        let config = Agent::config_builder()
            .proxy(None) // http_proxy in the environment counts for the library even on 127.0.0.1
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(limit);
        Proxy { agent: config.build().new_agent(), url: format!("http://{addr}{PATH}"), addr }
    }

    /// Marshals, sends, waits, unmarshals: steps 1 to 10 of the lecture.
    pub fn call(&self, name: &str, params: Vec<Value>) -> Result<Value, Failure> {
        let xml = call_to_xml(name, params).map_err(Failure::Malformed)?;
        let request = self.agent.post(&self.url).header("Content-Type", "text/xml");
        let mut response = request.send(&xml).map_err(|error| self.explained(error))?;
        if response.status() != 200 {
            return Err(Failure::Malformed(anyhow!(
                "the server answers HTTP {}, no XML-RPC answer",
                response.status()
            )));
        }
        let body = response.body_mut().with_config().limit(ANSWER_LIMIT);
        let answer = body.read_to_vec().map_err(|error| self.explained(error))?;
        answer_from_xml(&answer).map_err(Failure::Malformed)?.map_err(Failure::Fault)
    }

    /// What the library says. It does not name the call that failed: before a connection exists, only connect can.
    fn explained(&self, error: ureq::Error) -> Failure {
        match error {
            ureq::Error::Io(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(
                    errno @ (Errno::ECONNREFUSED
                    | Errno::EHOSTUNREACH
                    | Errno::ENETUNREACH
                    | Errno::ETIMEDOUT
                    | Errno::EADDRNOTAVAIL
                    | Errno::EACCES
                    | Errno::EMFILE),
                ) => {
                    let failed = Err::<(), _>(errno).at("connect", self.addr);
                    Failure::Connect(failed.err().map_or_else(|| anyhow!("connect"), Error::from), Some(errno))
                }
                Some(errno) => Failure::Unknown(format!("{errno:?} ({})", errno.desc())),
                None => Failure::Unknown("end of stream without an answer".into()),
            },
            ureq::Error::Timeout(ureq::Timeout::Connect) => Failure::Connect(anyhow!("no connection in time"), None),
            ureq::Error::Timeout(_) => Failure::Unknown("no answer in time".into()),
            error => Failure::Malformed(anyhow!("{}", escaped(error.to_string().as_bytes()))),
        }
    }
}
