//! The RPC name server: services register where they are, clients look them up, and who is not heard of is forgotten.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use dxr::{Fault, Value};
use shared::{Screen, Stop};

use crate::{
    NamesArgs,
    marshal::NOT_FOUND,
    server::{Serving, serve_calls},
    service::{Method, Service, integer, text, wrong},
};

/// Names that are kept at once.
const MOST_NAMES: usize = 1000;
/// Bytes of a name.
const LONGEST_NAME: usize = 64;
/// The fault where another has the name.
pub const TAKEN: i32 = 3;
static METHODS: [Method; 4] = [
    Method {
        name: "register",
        signatures: &[&["int", "string", "string", "int"]],
        help: "name, address, port of a service; returns the seconds after which it is forgotten, unless it registers again",
    },
    Method {
        name: "unregister",
        signatures: &[&["boolean", "string", "string", "int"]],
        help: "name, address, port of a service that ends",
    },
    Method { name: "lookup", signatures: &[&["array", "string"]], help: "the address and the port of a service" },
    Method { name: "list", signatures: &[&["array"]], help: "name, address and port of all services" },
];

/// Serves until Ctrl-C.
pub fn run(args: &NamesArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let names = Names { lease: Duration::from_secs(args.lease.into()), known: Mutex::default() };
    let banner = format!("A name is kept for {} s", args.lease);
    let serving = Serving {
        address: args.address,
        deadline: args.deadline,
        threaded: true,
        pause: args.pause,
        ..Serving::default()
    };
    serve_calls(&serving, &names, &banner, &stop, |_| Ok(()), |_| {})
}

struct Entry {
    addr: SocketAddr,
    until: Instant,
}

struct Names {
    lease: Duration,
    known: Mutex<BTreeMap<String, Entry>>,
}

impl Service for Names {
    fn methods(&self) -> Vec<&'static Method> {
        METHODS.iter().collect()
    }

    fn run(&self, method: &str, params: &[Value], _: &Stop) -> Result<Value, Fault> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.retain(|name, entry| {
            if entry.until <= now {
                Screen::new().line(format_args!("{name} {} is forgotten: not heard of in time", entry.addr));
            }
            entry.until > now
        });
        match method {
            "list" => Ok(Value::Array(known.iter().map(|(name, entry)| place(Some(name), entry.addr)).collect())),
            "lookup" => {
                let name = text(params, 0)?;
                let found = known.get(name).map(|entry| place(None, entry.addr));
                found.ok_or_else(|| Fault::new(NOT_FOUND, format!("no service has the name {name:.64}")))
            }
            _ => {
                let (name, addr) = service_of(params)?;
                let other = known.get(name).map(|entry| entry.addr).filter(|other| *other != addr);
                if method == "unregister" {
                    return Ok(Value::Boolean(other.is_none() && known.remove(name).is_some()));
                }
                if let Some(other) = other {
                    return Err(Fault::new(TAKEN, format!("{other} has the name {name}")));
                }
                if known.len() >= MOST_NAMES && !known.contains_key(name) {
                    return Err(Fault::new(TAKEN, format!("there are {MOST_NAMES} names already")));
                }
                known.insert(name.into(), Entry { addr, until: now + self.lease });
                Ok(Value::Integer(i32::try_from(self.lease.as_secs()).unwrap_or(i32::MAX)))
            }
        }
    }
}

fn service_of(params: &[Value]) -> Result<(&str, SocketAddr), Fault> {
    let (name, ip, port) = (text(params, 0)?, text(params, 1)?, integer(params, 2)?);
    let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if name.is_empty() || name.len() > LONGEST_NAME || !plain(name) {
        return Err(wrong(format!("a name has 1 to {LONGEST_NAME} letters, digits, '-', '_' or '.'")));
    }
    let ip: IpAddr = ip.parse().map_err(|_| wrong("the address is none".into()))?;
    let port = u16::try_from(port).ok().filter(|port| *port != 0).ok_or_else(|| wrong("the port is none".into()))?;
    Ok((name, SocketAddr::new(ip, port)))
}

fn place(name: Option<&String>, addr: SocketAddr) -> Value {
    let name = name.map(|name| Value::String(name.clone()));
    let place = [Value::String(addr.ip().to_string()), Value::Integer(addr.port().into())];
    Value::Array(name.into_iter().chain(place).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{marshal::WRONG_PARAMETERS, service::dispatch};

    #[test]
    fn a_name_is_found_until_its_service_unregisters_or_is_not_heard_of() {
        let stop = Stop::on_signals().unwrap();
        let mut names = Names { lease: Duration::from_secs(60), known: Mutex::default() };
        let string = |text: &str| Value::String(text.into());
        let service = |name, port| vec![string(name), string("127.0.0.1"), Value::Integer(port)];
        let call = |names: &Names, method: &str, params: &[Value]| {
            dispatch(names, method, params, &stop).map_err(|fault| fault.code())
        };
        assert_eq!(call(&names, "register", &service("board", 4000)), Ok(Value::Integer(60)));
        assert_eq!(call(&names, "register", &service("board", 4000)), Ok(Value::Integer(60)));
        assert_eq!(call(&names, "register", &service("board", 4001)), Err(TAKEN));
        let there = Value::Array(vec![string("127.0.0.1"), Value::Integer(4000)]);
        assert_eq!(call(&names, "lookup", &[string("board")]), Ok(there));
        assert_eq!(call(&names, "unregister", &service("board", 4001)), Ok(Value::Boolean(false)));
        assert_eq!(call(&names, "unregister", &service("board", 4000)), Ok(Value::Boolean(true)));
        assert_eq!(call(&names, "lookup", &[string("board")]), Err(NOT_FOUND));
        for params in [service("", 1), service("a b", 1), service("board", 0), service("board", 65_536)] {
            assert_eq!(call(&names, "register", &params), Err(WRONG_PARAMETERS), "{params:?}");
        }
        names.lease = Duration::ZERO;
        assert!(call(&names, "register", &service("board", 4000)).is_ok());
        assert_eq!(call(&names, "list", &[]), Ok(Value::Array(vec![])));
    }
}
