//! Where a file is, and what it will be called here.

use std::{fmt, str::FromStr};

/// A file on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    /// The server's HOST:PORT.
    host: String,
    pub name: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Url, String> {
        if text.starts_with("https:") {
            return Err("this lab speaks HTTP without TLS: an address that begins with http://".into());
        }
        let with_scheme = if text.contains("://") { text.to_string() } else { format!("http://{text}") };
        let uri: ureq::http::Uri = with_scheme.parse().map_err(|error| format!("{error}"))?;
        let host = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or("not http://HOST:PORT/FILE")?;
        if uri.port_u16() == Some(0) {
            return Err("nobody is at port 0: a port from 1 to 65535".into());
        }
        let name = uri.path().rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("index");
        if matches!(name, "." | "..") || name.ends_with(".part") {
            return Err(format!("'{name}' is no name for a file here"));
        }
        let host = if uri.port().is_some() { host.to_string() } else { format!("{host}:80") };
        Ok(Url { host, name: name.into(), text: with_scheme })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Url {
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The server's HOST:PORT.
    pub fn host(&self) -> &str {
        &self.host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_called_as_the_last_part_of_its_path() {
        for (text, host, name) in [
            ("http://127.0.0.1:8020/1.bin", "127.0.0.1:8020", "1.bin"),
            ("localhost:8020/a/b.txt?c=/d", "localhost:8020", "b.txt"),
            ("http://[::1]:80/", "[::1]:80", "index"),
            ("http://example.org", "example.org:80", "index"),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.host.as_str(), url.name.as_str()), (host, name), "{text}");
        }
        for text in
            ["https://example.org/", "ftp://example.org/x", "", "http://", "a b", "http://h:0/x", "h/..", "h/a.part"]
        {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }
}
