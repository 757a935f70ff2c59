//! Where to bind or connect, as people type it: PORT, ADDRESS, ADDRESS:PORT, and names for addresses.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// What is said of a text that names no place.
const HELP: &str = "not PORT, ADDRESS, NAME or one of these with :PORT, such as 7777, 127.0.0.1:7777 or [::1]:7777";

/// A host, a port, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// An address or a name.
    pub host: Option<String>,
    /// A port; 0 lets the kernel choose.
    pub port: Option<u16>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let port = |digits: &str| digits.parse::<u16>().map(Some).map_err(|_| String::from(HELP));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let (host, port) = match text.rsplit_once(':') {
            _ if digits(text) => (None, port(text)?),
            _ if bare.parse::<IpAddr>().is_ok() => (Some(bare), None),
            Some((host, digits)) => (Some(host.trim_start_matches('[').trim_end_matches(']')), port(digits)?),
            None => (Some(text), None),
        };
        let named = |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte));
        match host {
            Some(host) if host.is_empty() || !named(host) => Err(HELP.into()),
            host => Ok(Place { host: host.map(String::from), port }),
        }
    }
}

impl Place {
    /// What several arguments name together, in any order, such as the handout's `4444 0.0.0.0`.
    ///
    /// # Errors
    /// Two hosts, or two ports.
    pub fn joined(places: &[Place]) -> Result<Place, String> {
        let mut whole = Place::default();
        for Place { host, port } in places.iter().cloned() {
            if host.is_some() && whole.host.is_some() || port.is_some() && whole.port.is_some() {
                return Err("two addresses, or two ports: one of each is enough".into());
            }
            whole = Place { host: whole.host.or(host), port: whole.port.or(port) };
        }
        Ok(whole)
    }

    /// The addresses of this place, in the resolver's order; what is missing comes from `default`.
    ///
    /// # Errors
    /// The name is unknown.
    pub fn resolved(&self, default: SocketAddr) -> Result<Vec<SocketAddr>, String> {
        let port = self.port.unwrap_or(default.port());
        let Some(host) = &self.host else { return Ok(vec![SocketAddr::new(default.ip(), port)]) };
        let unknown = |why| format!("{why}; see what the resolver says: getent hosts {host}");
        (host.as_str(), port).to_socket_addrs().map(Iterator::collect).map_err(|error| unknown(error.to_string()))
    }
}

/// A value parser for clap: an address and a port, what is missing taken from `default`. A name counts for the first
/// address it has.
pub fn address(default: &'static str) -> impl Fn(&str) -> Result<SocketAddr, String> + Clone + Send + Sync + 'static {
    move |text| {
        let default = default.parse().map_err(|_| String::from(HELP))?;
        let addresses = text.parse::<Place>()?.resolved(default)?;
        addresses.first().copied().ok_or_else(|| format!("{text} has no address"))
    }
}

/// As [`address`], for somebody who can be reached: nobody is at port 0.
pub fn destination(
    default: &'static str,
) -> impl Fn(&str) -> Result<SocketAddr, String> + Clone + Send + Sync + 'static {
    move |text| match address(default)(text)? {
        addr if addr.port() == 0 => Err("nobody is at port 0: a port from 1 to 65535".into()),
        addr => Ok(addr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_an_address_and_both_are_understood() {
        let parsed = |text| address("127.0.0.1:7777")(text).map(|addr| addr.to_string());
        for (text, meant) in [
            ("4444", "127.0.0.1:4444"),
            ("0", "127.0.0.1:0"),
            ("0.0.0.0", "0.0.0.0:7777"),
            ("127.0.0.2:80", "127.0.0.2:80"),
            ("::1", "[::1]:7777"),
            ("[::1]", "[::1]:7777"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(parsed(text).as_deref(), Ok(meant), "{text}");
        }
        assert!(parsed("localhost:80").is_ok_and(|addr| addr.ends_with(":80")));
        for text in ["", "65536", "127.0.0.1:65536", "127.0.0.1:", ":80", "a b", "7777x:"] {
            assert_eq!(parsed(text), Err(HELP.into()), "{text}");
        }
    }

    #[test]
    fn a_port_and_an_address_may_come_in_any_order() {
        let joined = |texts: [&str; 2]| Place::joined(&texts.map(|text| text.parse().unwrap()));
        let place = Place { host: Some("0.0.0.0".into()), port: Some(4444) };
        assert_eq!(joined(["4444", "0.0.0.0"]), Ok(place.clone()));
        assert_eq!(joined(["0.0.0.0", "4444"]), Ok(place));
        assert!(joined(["4444", "127.0.0.1:4445"]).is_err());
    }
}
