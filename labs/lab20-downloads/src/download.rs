//! One file: asked for, received into NAME.part, and called NAME once it is whole and its checksum holds.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::PoisonError,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use shared::{At, escaped};
use ureq::{Agent, Body, http::Response};

use crate::{
    job::{Job, Options, State},
    range,
};

/// Asked of one read.
const CHUNK: usize = 65_536;
/// How long a handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

impl Job {
    /// Gets the file; what came of it stands in the state.
    pub fn get(&self, agent: &Agent, options: &Options) {
        let thread = std::thread::current().name().unwrap_or("unnamed").to_string();
        *self.lock() = State { thread, asked: Some(Instant::now()), ..State::default() };
        let error = self.receive(agent, options).err();
        let mut state = self.lock();
        state.failure = error.as_ref().map(|error| format!("{error:#}"));
        state.ended = Some(Instant::now());
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn receive(&self, agent: &Agent, options: &Options) -> Result<()> {
        let whole = options.folder.join(&self.url.name);
        let part = part_of(&whole);
        if options.resume && whole.is_file() {
            self.lock().before = fs::metadata(&whole).map_or(0, |file| file.len());
            return Ok(());
        }
        let there = if options.resume { fs::metadata(&part).map_or(0, |file| file.len()) } else { 0 };
        let mut request = agent.get(self.url.text());
        if options.close {
            request = request.header("Connection", "close");
        }
        if there > 0 {
            request = request.header("Range", format!("bytes={there}-"));
        }
        let mut response = request.call().or_else(|error| self.explained(error))?;
        let length = header(&response, "Content-Length").and_then(|length| length.parse::<u64>().ok());
        let (from, size) = match response.status().as_u16() {
            200 => (0, length), // all of it, even if a part was asked for: not every server knows Range
            206 => match content_range(&response)? {
                (Some((from, _)), size) => (from, Some(size)),
                (None, _) => bail!("206 without a part"),
            },
            416 if content_range(&response).is_ok_and(|(_, size)| size == there) => (there, Some(there)),
            416 => bail!("the server has less than {}: remove it", part.display()),
            _ => bail!("the server answers {}", response.status()),
        };
        ensure!(from <= there, "the server sends bytes from {from} on, and only {there} are here");
        let mut file = File::options();
        let file = file.create(true).read(true).write(true).truncate(false).open(&part);
        let file = &mut file.at("open", part.display())?;
        file.set_len(from).at("ftruncate", part.display())?;
        file.seek(SeekFrom::Start(from)).at("lseek", part.display())?;
        let digest = header(&response, "Repr-Digest").and_then(range::digest_in);
        {
            let mut state = self.lock();
            (state.before, state.size) = (from, size);
        }
        if response.status() != 416 {
            self.copy(response.body_mut(), file, &part)?;
        }
        if let Some(size) = size {
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
                    state.first.get_or_insert_with(Instant::now);
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
    fn explained(&self, error: ureq::Error) -> Result<Response<Body>> {
        match error {
            ureq::Error::Io(error) if error.raw_os_error().is_some() => Ok(Err(error).at("connect", self.url.host())?),
            ureq::Error::Timeout(_) => bail!("no connection to {} in {CONNECT_LIMIT:?}", self.url.host()),
            error => bail!("{}", escaped(error.to_string().as_bytes())),
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
