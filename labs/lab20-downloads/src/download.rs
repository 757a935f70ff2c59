//! One file: asked for, received into NAME.part, and called NAME once it is whole and its checksum holds.

use std::{
    fmt,
    fs::{self, File},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, bail, ensure};
use sha2::{Digest, Sha256};
use shared::{At, escaped};
use ureq::{Agent, Body, http::Response};

use crate::range;

/// Asked of one read.
const CHUNK: usize = 65_536;
/// How long a handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Where a file is, and what it will be called here.
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

/// How a download was or will be done.
#[derive(Clone)]
pub struct Options {
    pub folder: PathBuf,
    pub resume: bool,
    pub close: bool,
}

/// What has come of a download so far.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The thread that does it.
    pub thread: String,
    /// When the request left.
    pub asked: Option<Instant>,
    /// When the first and the last byte came.
    pub first: Option<Instant>,
    pub last: Option<Instant>,
    /// When it was over, well or not.
    pub ended: Option<Instant>,
    /// Bytes that were there before.
    pub before: u64,
    /// Bytes that came now.
    pub received: u64,
    /// Bytes of the whole file, once known.
    pub size: Option<u64>,
    /// Whether the server told a checksum; a wrong one is a failure.
    pub checksum: bool,
    pub failure: Option<String>,
}

/// A file to get.
pub struct Job {
    pub url: Url,
    state: Mutex<State>,
}

impl Job {
    pub fn new(url: Url) -> Job {
        Job { url, state: Mutex::new(State::default()) }
    }

    pub fn state(&self) -> State {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets the file; what came of it stands in the state.
    pub fn get(&self, agent: &Agent, options: &Options) {
        let thread = std::thread::current().name().unwrap_or("unnamed").to_string();
        *self.lock() = State { thread, asked: Some(Instant::now()), ..State::default() };
        let got = self.receive(agent, options);
        let mut state = self.lock();
        state.failure = got.err().map(|error| format!("{error:#}"));
        state.ended = Some(Instant::now());
    }

    fn receive(&self, agent: &Agent, options: &Options) -> Result<()> {
        let whole = options.folder.join(&self.url.name);
        let part = part_of(&whole);
        if options.resume && whole.is_file() {
            self.lock().before = fs::metadata(&whole).map_or(0, |file| file.len());
            return Ok(());
        }
        let mut file = File::options().create(true).read(true).write(true).truncate(!options.resume).open(&part);
        let file = file.as_mut().map_err(|error| Error::msg(error.to_string()));
        let file = file.with_context(|| format!("open {}", part.display()))?;
        let there = file.seek(SeekFrom::End(0)).at("lseek", part.display())?;

        let mut request = agent.get(&self.url.text);
        if options.close {
            request = request.header("Connection", "close");
        }
        if there > 0 {
            request = request.header("Range", format!("bytes={there}-"));
        }
        let mut response = request.call().map_err(|error| self.explained(error))?;
        let from = match response.status().as_u16() {
            200 => 0, // all of it, even if a part was asked for: not every server knows Range
            206 => content_range(&response)?.0.context("206 without a Content-Range")?.0,
            416 if content_range(&response).is_ok_and(|(_, size)| size == there) => there, // nothing is missing
            416 => bail!("the server has less than {}: remove it", part.display()),
            _ => bail!("the server answers {}", response.status()),
        };
        ensure!(from <= there, "the server sends bytes from {from} on, and only {there} are here");
        file.set_len(from).at("ftruncate", part.display())?;
        file.seek(SeekFrom::Start(from)).at("lseek", part.display())?;
        let digest = header(&response, "Repr-Digest").and_then(range::digest_in);
        let length = header(&response, "Content-Length").and_then(|length| length.parse::<u64>().ok());
        {
            let mut state = self.lock();
            state.before = from;
            state.size = if response.status() == 416 { Some(there) } else { length.map(|length| from + length) };
        }
        if response.status() != 416 {
            self.copy(response.body_mut(), file, &part)?;
        }
        if let Some(size) = self.lock().size {
            let here = file.metadata().at("fstat", part.display())?.len();
            ensure!(here == size, "{here} of {size} bytes came");
        }
        if let Some(digest) = digest {
            if sha256(file, &part)? != digest {
                fs::remove_file(&part).at("unlink", part.display())?;
                bail!("the checksum is wrong: the file has changed meanwhile, or an error on the way; fetch it again");
            }
            self.lock().checksum = true;
        }
        Ok(fs::rename(&part, &whole).at("rename", whole.display())?)
    }

    /// From the connection into the file, a read at a time: what has come is kept, whatever happens next.
    fn copy(&self, body: &mut Body, file: &mut File, part: &Path) -> Result<()> {
        let (mut reader, mut buffer) = (body.as_reader(), vec![0; CHUNK]);
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(bytes_read) => {
                    file.write_all(&buffer[..bytes_read]).at("write", part.display())?;
                    let mut state = self.lock();
                    state.received += bytes_read as u64;
                    let now = Instant::now();
                    state.first.get_or_insert(now);
                    state.last = Some(now);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let State { before, received, size, .. } = self.state();
                    let size = size.map_or("?".into(), |size| size.to_string());
                    bail!("broken after {} of {size} bytes: {error}", before + received);
                }
            }
        }
    }

    /// What the library says, with the call and the address where a call failed.
    fn explained(&self, error: ureq::Error) -> Error {
        match error {
            ureq::Error::Io(error) if error.raw_os_error().is_some() => {
                Err::<(), _>(error).at("connect", &self.url.host).map_or_else(Error::new, |()| Error::msg("no error"))
            }
            ureq::Error::Timeout(_) => Error::msg(format!("no connection to {} in {CONNECT_LIMIT:?}", self.url.host)),
            error => Error::msg(escaped(error.to_string().as_bytes())),
        }
    }
}

/// The library's client. It keeps connections for the next request, as many as there are threads.
pub fn agent(threads: usize) -> Agent {
    let config = Agent::config_builder()
        .proxy(None) // http_proxy in the environment counts for the library even on 127.0.0.1
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT_LIMIT))
        .max_idle_connections(threads)
        .max_idle_connections_per_host(threads);
    config.build().new_agent()
}

/// Where a file grows until it is whole.
pub fn part_of(whole: &Path) -> PathBuf {
    let mut name = whole.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn content_range(response: &Response<Body>) -> Result<(Option<(u64, u64)>, u64)> {
    header(response, "Content-Range").and_then(range::told).context("the server's Content-Range is none")
}

/// The SHA-256 of a file, from its first byte on.
pub fn sha256(file: &mut File, path: &Path) -> Result<[u8; 32]> {
    file.seek(SeekFrom::Start(0)).at("lseek", path.display())?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; CHUNK]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(bytes_read) => hash.update(&buffer[..bytes_read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error).at("read", path.display())?),
        }
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
